"""Reads `config.json` into a `DecoderSpec`, with one small module for each model family."""
