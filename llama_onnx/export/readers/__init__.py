"""Reads checkpoints, with one module for each file format."""
