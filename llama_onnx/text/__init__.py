"""Text to token ids and back: tokenizers, chat templates, and text as it streams."""
