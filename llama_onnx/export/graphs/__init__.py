"""Builds the ONNX graphs of embedding, layer and head, from either of two sets of operators."""
