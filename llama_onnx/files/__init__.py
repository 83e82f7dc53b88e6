"""The floor, which imports nothing but `errors`: ONNX files as bytes, locks on files, what a fork must not do."""
