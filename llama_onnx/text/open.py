"""Opens the tokenizer that lies in a directory, whichever kind it is.

Two kinds share one interface: `tokenizer.model` (sentencepiece) and `tokenizer.json` (the optional `tokenizers`
package, `fast.py`). Where a directory has both, `tokenizer.model` is taken, which needs no extra; tokens that only the
JSON files know are put on top of it. A `tokenizer.model` that is of another kind or size (Llama 3 ships a tiktoken file
under that name) is passed over for `tokenizer.json`.

The text of a special token in a prompt is ordinary text, so that no text can pass for a control token; only with
`special=True`, as for what a chat template rendered, does it become the token's id. Added tokens that are not special
are words and always become their ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..config import ModelConfig
from ..errors import ModelDirectoryError
from ..tokenizer import Tokenizer
from .added_tokens import FAST, read_tokenizer_files
from .sentencepiece import SentencePieceTokenizer


def load_tokenizer(config: ModelConfig) -> Tokenizer:
    """Load the tokenizer of a model directory; see `open_tokenizer`."""
    return open_tokenizer(
        config.directory, config.vocab_size, config.bos_token_id if config.add_bos else None, config.eos_token_ids
    )


def open_tokenizer(
    directory: Path, vocab_size: int, bos_token_id: int | None, eos_token_ids: Sequence[int] = ()
) -> Tokenizer:
    """Load the tokenizer that lies in a directory and check that it is the model's own.

    Args:
        directory: with `tokenizer.model` or `tokenizer.json`, and what tells of added tokens.
        vocab_size: how many tokens the model has.
        bos_token_id: put before every text, unless the tokenizer's files name another; None means nothing is.
        eos_token_ids: what ends an answer, special whatever the files say.

    Models pad their vocabulary a little, so the tokenizer may have up to 5 % (or 64) tokens fewer, but none more,
    except added ones that the model has no place for (Gemma 3 lists a picture token): those are left out.

    Raises:
        ModelDirectoryError: missing, damaged, or of another vocabulary.
        MissingDependencyError: it is a `tokenizer.json` and `tokenizers` is not installed.
    """
    path, fast = directory / "tokenizer.model", directory / FAST
    files = read_tokenizer_files(directory).for_model(vocab_size, tuple(eos_token_ids))
    bos = bos_token_id if bos_token_id is None or files.bos_token_id is None else files.bos_token_id
    if path.is_file() or not fast.is_file():
        try:
            return _of_size(SentencePieceTokenizer(path, bos, files), path, vocab_size)
        except ModelDirectoryError:
            if not fast.is_file():
                raise
    from .fast import JsonTokenizer

    return _of_size(JsonTokenizer(fast, bos, files), fast, vocab_size)


def _of_size(tokenizer: Tokenizer, path: Path, vocab_size: int) -> Tokenizer:
    padding = vocab_size - max(tokenizer.base_size, min(tokenizer.vocab_size, vocab_size))
    if 0 <= padding <= max(64, vocab_size // 20):
        return tokenizer
    raise ModelDirectoryError(
        f"{path}: {tokenizer.vocab_size} tokens, but the model has {vocab_size}: it belongs to another model; copy the "
        "checkpoint's own"
    )
