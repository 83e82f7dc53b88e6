"""Compares models of one architecture: layer by layer, at the logits, and weight by weight."""
