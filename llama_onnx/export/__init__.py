"""Checkpoint to model directory: export, fp16 conversion, quantisation, comparison. Needs the extra 'tools'."""
