"""What makes and examines model directories: export, conversion, quantisation, comparison."""
