"""ONNX files as bytes, and locks on files: the floor that everything may stand on."""
