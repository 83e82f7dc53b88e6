"""Open the tokenizer in a directory, whichever kind it is.

Two kinds share one interface: `tokenizer.model` (sentencepiece) and `tokenizer.json` (the optional package
`tokenizers`, see `fast.py`). If a directory has both, `tokenizer.model` is used, because it needs no optional package;
tokens that only the JSON files define are added to it. If `tokenizer.model` is not a sentencepiece model (Llama 3 ships
a tiktoken file under that name), or has another size than the model, `tokenizer.json` is used.

In a prompt, the text of a special token is encoded as ordinary text, so that no text can pass for a control token. Only
with `special=True`, and where a chat template wrote it (`control.py`), is it encoded as the token's id. Added tokens
that are not special are words and always encoded as their ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ..config import ModelConfig
from ..errors import ModelDirectoryError
from ..tokenizer import Detokenizer, Tokenizer
from .added_tokens import FAST, read_tokenizer_files
from .sentencepiece import SentencePieceTokenizer


class NoTokenizer(Tokenizer):
    """The tokenizer of a directory without tokenizer files: prompts must be token ids, and answers have no text."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._path = directory / "tokenizer.model"

    vocab_size = base_size = 0

    def missing(self) -> ModelDirectoryError:
        """Return the error for requests that need text."""
        return ModelDirectoryError(f"{self._path}: missing; copy the tokenizer from the checkpoint, or use token ids")

    def decode(self, ids: Iterable[int]) -> str:
        """Raise the error: ids have no text here."""
        raise self.missing()

    def detokenizer(self, prompt: Sequence[int] = ()) -> Detokenizer:
        """Return a detokenizer whose text is always empty."""
        return Detokenizer(self)

    def _encode(self, text: str, special: bool) -> list[int]:
        raise self.missing()

    def _token_bytes(self, token: int) -> bytes:
        return b""


def load_tokenizer(config: ModelConfig) -> Tokenizer:
    """Load the tokenizer of a model directory (see `open_tokenizer`), or a `NoTokenizer` if there are no files."""
    if not any((config.directory / name).exists() for name in ("tokenizer.model", FAST)):
        return NoTokenizer(config.directory)
    return open_tokenizer(
        config.directory, config.vocab_size, config.bos_token_id if config.add_bos else None, config.eos_token_ids
    )


def open_tokenizer(
    directory: Path, vocab_size: int, bos_token_id: int | None, eos_token_ids: Sequence[int] = ()
) -> Tokenizer:
    """Load the tokenizer in a directory and check that it belongs to the model.

    Models pad their vocabulary a little, so the tokenizer may have up to 5 % (or 64) fewer tokens than the model, but
    not more. Added tokens beyond the model's vocabulary are the exception (Gemma 3 lists an image token): they are left
    out.

    Args:
        directory: the folder with `tokenizer.model` or `tokenizer.json`, and the JSON files that list added tokens.
        vocab_size: how many tokens the model has.
        bos_token_id: the token to put before every text, unless the tokenizer's files name another; None for no token.
        eos_token_ids: the tokens that end an answer. They are special even if the files do not say so.

    Raises:
        ModelDirectoryError: the tokenizer is missing, damaged, or has another vocabulary than the model.
        MissingDependencyError: there is only a `tokenizer.json`, and `tokenizers` is not installed.
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
        f"{path}: it has {tokenizer.vocab_size} tokens, but the model has {vocab_size}: it belongs to another model; "
        "copy the file from the checkpoint"
    )
