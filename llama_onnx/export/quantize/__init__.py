"""2, 4 and 8 bits: the path from any checkpoint to a quantised model directory."""
