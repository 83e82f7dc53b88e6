"""Directories in the layout of the original llama.onnx, run unchanged."""
