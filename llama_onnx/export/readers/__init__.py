"""Reads checkpoints, one module for each file format."""
