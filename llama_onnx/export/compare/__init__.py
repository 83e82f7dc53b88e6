"""Compares models of the same shape: layer by layer, at the logits, and weight by weight."""
