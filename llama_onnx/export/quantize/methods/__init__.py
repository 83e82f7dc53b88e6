"""Quantises matrices, with one module for each method."""
