"""Reads the `config.json` of a model family, one small module for each, into a `DecoderSpec`."""
