"""Which tokens of a GGUF file begin a text and which end one, where the file names too few of them."""

from __future__ import annotations

from typing import Any

from .pre_tokenizers import WHOLE_WORDS, rule_name

# What chat models write at the end of a turn or a text, whatever the file says about it; as in llama.cpp.
END_TEXTS = frozenset(
    """<|eot_id|> <|eom_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn> <turn|>
    <|endoftext|> <|end_of_text|> </s> <eos> <EOT> _<EOT> [EOT] [EOS] <end_of_utterance> <|tool_response>
    <｜end▁of▁sentence｜> <|fim_pad|> <|repo_name|> <|file_sep|>""".split()
)
SENTENCEPIECE = {"bos": 1, "eos": 2, "unknown": 0}  # where such a file names none


def token_id(metadata: dict[str, Any], name: str) -> int | None:
    """Return the id of "bos", "eos", "eot", "eom", "unknown" or "padding", None if there is no such token."""
    value = metadata.get(f"tokenizer.ggml.{name}_token_id")
    if value is None and metadata.get("tokenizer.ggml.model") == "llama":
        value = SENTENCEPIECE.get(name)
    tokens = metadata.get("tokenizer.ggml.tokens")
    fits = not isinstance(tokens, list) or (isinstance(value, int) and 0 <= value < len(tokens))
    return value if isinstance(value, int) and fits else None


def end_ids(metadata: dict[str, Any]) -> list[int]:
    """Return the ids of all tokens that end a text: those the file names first, then those whose text says so."""
    named = [token_id(metadata, name) for name in ("eos", "eot", "eom")]
    tokens = metadata.get("tokenizer.ggml.tokens")
    by_text = [i for i, text in enumerate(tokens) if text in END_TEXTS] if isinstance(tokens, list) else []
    return list(dict.fromkeys([*(i for i in named if i is not None), *by_text]))


def adds_bos(metadata: dict[str, Any]) -> bool:
    """Return whether a text begins with BOS: what the file says, otherwise the habit of its kind of tokenizer."""
    added = metadata.get("tokenizer.ggml.add_bos_token")
    if added is None:
        added = metadata.get("tokenizer.ggml.model") == "llama" or rule_name(metadata)[0] in WHOLE_WORDS
    return bool(added) and token_id(metadata, "bos") is not None
