"""Scripts over llama_onnx.export: export, convert, quantise, compare; and the maker of the demo model."""
