"""ONNX files as bytes, and locks on files. This package imports nothing but `errors`, so everything may import it."""
