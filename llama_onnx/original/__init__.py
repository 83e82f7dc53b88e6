"""Reads and runs directories in the layout of the original llama.onnx, unchanged."""
