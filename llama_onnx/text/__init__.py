"""Text to token ids and back: tokenizers, chat templates, and streaming text."""
