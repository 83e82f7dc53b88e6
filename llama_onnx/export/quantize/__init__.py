"""Makes a quantised model directory (2, 4 or 8 bits) from a checkpoint."""
