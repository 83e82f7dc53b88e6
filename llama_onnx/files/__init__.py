"""ONNX files as bytes, and locks on files: the floor, which imports nothing but `errors`."""
