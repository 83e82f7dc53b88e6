"""The ONNX graphs of embedding, layer and head, in two styles of operators."""
