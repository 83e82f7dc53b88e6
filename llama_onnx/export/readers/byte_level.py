"""Makes a `tokenizer.json` of byte-level BPE from a bare vocabulary, as in GGUF and tiktoken files."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...errors import ModelDirectoryError
from .json_files import json_bytes, read_json
from .pre_tokenizers import BYTE_LEVEL, WHOLE_WORDS, normalizer, pre_tokenizer

MOST_ADDED = 10_000  # tokens that are not in `vocab.json`
LLAMA3_SPECIAL = {  # offsets from the end of the vocabulary; all others are reserved
    0: "begin_of_text",
    1: "end_of_text",
    4: "finetune_right_pad_id",
    6: "start_header_id",
    7: "end_header_id",
    8: "eom_id",
    9: "eot_id",
    10: "python_tag",
}


def byte_level_tokenizer(tokens: Sequence[str], merges: Sequence[str], cut: str, added: Mapping[int, bool]) -> bytes:
    """Return a `tokenizer.json` as the `tokenizers` package reads it.

    Args:
        tokens: in the order of their ids, with bytes written as GPT-2 characters.
        merges: pairs of tokens separated by a space, in order of priority.
        cut: the rule by which a text is cut first, a key of `RULE_OF`.
        added: ids of the tokens that are matched before a text is split, and whether they are special.
    """
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return json_bytes(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                {"id": i, "content": tokens[i], **plain, "special": special} for i, special in added.items()
            ],
            "normalizer": normalizer(cut),
            "pre_tokenizer": pre_tokenizer(cut),
            "post_processor": None,
            "decoder": BYTE_LEVEL,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": cut in WHOLE_WORDS,
                "vocab": {token: i for i, token in enumerate(tokens)},
                "merges": list(merges),
            },
        }
    )


def gpt2_tokenizer(vocabulary: Path, merges: Path, cut: str, added: Mapping[int, str]) -> bytes:
    """Return a `tokenizer.json` for the files `vocab.json` and `merges.txt` of GPT-2's kind.

    Args:
        vocabulary: the tokens and their ids.
        merges: a pair of tokens in each line, in order of priority.
        cut: the rule by which a text is cut first, a key of `RULE_OF`.
        added: tokens that other files list, by their ids.

    Raises:
        ModelDirectoryError: a file is damaged.
    """
    ids = read_json(vocabulary)
    text_of = {i: text for text, i in ids.items() if isinstance(i, int)} | dict(added)
    if len(text_of) < len(ids) or not text_of or min(text_of) < 0 or max(text_of) >= len(ids) + MOST_ADDED:
        raise ModelDirectoryError(f"{vocabulary}: its ids are not those of {len(ids)} tokens; download it again")
    tokens = [text_of.get(i, f"<unused-{i}>") for i in range(max(text_of) + 1)]
    try:
        lines = merges.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        raise ModelDirectoryError(f"{merges}: cannot be read; download it again") from None
    pairs = [line for line in lines if line and not line.startswith("#version")]
    if any(len(line.split(" ")) != 2 for line in pairs):
        raise ModelDirectoryError(f"{merges}: a line is not a pair of tokens; download it again")
    return byte_level_tokenizer(tokens, pairs, cut, dict.fromkeys(added, True))


def llama3_tokenizer(path: Path, vocab_size: int) -> bytes:
    """Return a `tokenizer.json` for the tiktoken vocabulary that Meta publishes with Llama 3.

    Args:
        path: a file with a token in base64 and its rank on each line.
        vocab_size: of the model; tokens beyond those in the file are special.

    Raises:
        ModelDirectoryError: the file is not such a vocabulary, or belongs to another model.
    """
    try:
        pairs = [line.split() for line in path.read_bytes().splitlines() if line.strip()]
        rank_of = {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
    except (ValueError, binascii.Error, OSError):
        raise ModelDirectoryError(f"{path}: neither a sentencepiece model nor a tiktoken vocabulary") from None
    tokens = sorted(rank_of, key=rank_of.__getitem__)
    if [rank_of[token] for token in tokens] != list(range(len(pairs))) or not 256 <= len(tokens) <= vocab_size:
        raise ModelDirectoryError(f"{path}: {len(pairs)} ranks do not fit the {vocab_size} tokens of the model")
    written = [_written(token) for token in tokens]
    merges = []
    for token in tokens:  # every way to join it from two tokens, lowest ranks first
        cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
        known = [(left, right) for left, right in cuts if left in rank_of and right in rank_of]
        known.sort(key=lambda pair: (rank_of[pair[0]], rank_of[pair[1]]))
        merges += [f"{_written(left)} {_written(right)}" for left, right in known]
    count = vocab_size - len(tokens)
    special = [f"<|{LLAMA3_SPECIAL.get(i, f'reserved_special_token_{i}')}|>" for i in range(count)]
    added = dict.fromkeys(range(len(tokens), vocab_size), True)
    return byte_level_tokenizer(written + special, merges, "llama-bpe", added)


def _written(token: bytes) -> str:
    return "".join(_CHARACTERS[byte] for byte in token)


def _characters() -> list[str]:
    """Return the character for each byte, as in GPT-2: itself if it is visible, else one from 256 on."""
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [byte for byte in range(256) if byte not in visible]
    return [chr(byte if byte in visible else 256 + others.index(byte)) for byte in range(256)]


_CHARACTERS = _characters()
