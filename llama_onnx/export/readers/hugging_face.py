"""Hugging Face directories: `config.json`, and weights in one file, or in several with an index."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from ...errors import ModelDirectoryError
from ...text.added_tokens import read_tokenizer_files
from ..checkpoint import row_slices
from ..nbits import NBits
from ..progress import report
from .byte_level import gpt2_tokenizer
from .json_files import read_json, read_text_config
from .sentencepiece_model import lacks_tokens
from .tensor_names import usual_names

# Files that are copied beside the shards, for the runtime and its users.
AUXILIARY = (
    "config.json",
    "generation_config.json",
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


class TensorFile(Protocol):
    """One file of named tensors."""

    def names(self) -> frozenset[str]:
        """Return the names of the tensors in this file."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""

    def tensor(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """Return a tensor, or `rows` of a matrix, in its stored type."""


class HuggingFaceCheckpoint:
    """See `Checkpoint`."""

    def __init__(self, directory: Path, weights: str, open_file: Callable[[Path], TensorFile]) -> None:
        """Open a directory.

        Args:
            directory: with `config.json` and the weights.
            weights: name of the single file; with `.index.json` appended, that of the index of several.
            open_file: opens one file and reads its header.

        Raises:
            ModelDirectoryError: a file is missing or damaged, or index and files disagree.
        """
        self.config = read_text_config(directory / "config.json")
        self.files: dict[str, Path | bytes] = {
            name: directory / name for name in AUXILIARY if (directory / name).is_file()
        }
        if not self.config.get("quantization_config") and (directory / "quantize_config.json").is_file():
            # The first GPTQ checkpoints have their settings there only.
            settings = read_json(directory / "quantize_config.json")
            self.config["quantization_config"] = {"quant_method": "gptq", **settings}
        self._add_tokenizer(directory)
        self._directory = directory
        files = _open_files(directory, weights, open_file)
        self._file_of = {usual: (name, *files[name]) for name, usual in usual_names(files).items()}
        self.source = [directory / "config.json", *sorted({path for path, _ in files.values()})]

    def _add_tokenizer(self, directory: Path) -> None:
        """Leave out a `tokenizer.model` older than the `tokenizer.json` beside it; make the latter where it lacks."""
        if {"tokenizer.model", "tokenizer.json"} <= self.files.keys():
            if lacks_tokens(directory / "tokenizer.model", read_json(directory / "tokenizer.json")):
                report(f"{directory / 'tokenizer.model'}: lacks tokens of tokenizer.json, which is used in its place")
                del self.files["tokenizer.model"]
        elif not {"tokenizer.model", "tokenizer.json"} & self.files.keys():
            vocabulary, merges = directory / "vocab.json", directory / "merges.txt"
            if vocabulary.is_file() and merges.is_file():
                added = {token.id: token.text for token in read_tokenizer_files(directory).added}
                cut = "qwen2" if str(self.config.get("model_type")).startswith("qwen") else "gpt-2"
                self.files["tokenizer.json"] = gpt2_tokenizer(vocabulary, merges, cut, added)

    def names(self) -> frozenset[str]:
        """Return the names of all tensors."""
        return frozenset(self._file_of)

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor in its stored type."""
        stored, file = self._find(name)
        return file.tensor(stored)

    def parts(self, name: str) -> Iterator[np.ndarray]:
        """See `Checkpoint`."""
        stored, file = self._find(name)
        for rows in row_slices(file.shape(stored)):
            yield file.tensor(stored, rows)

    def quantized(self, name: str) -> NBits | None:
        """Return None: these files hold floats."""
        return None

    def stored_bits(self, name: str) -> int | None:
        """Return None: these files hold floats."""
        return None

    def _find(self, name: str) -> tuple[str, TensorFile]:
        """Return the name of a tensor in its file, and the file."""
        if name not in self._file_of:
            raise ModelDirectoryError(f"{self._directory}: the checkpoint has no tensor {name}")
        stored, _, file = self._file_of[name]
        return stored, file


def _open_files(
    directory: Path, weights: str, open_file: Callable[[Path], TensorFile]
) -> dict[str, tuple[Path, TensorFile]]:
    """Return the path and the opened file for each tensor. A single file counts before an index, which may be old."""
    index, path = directory / f"{weights}.index.json", directory / weights
    if path.is_file() or not index.is_file():
        file = open_file(path)
        return dict.fromkeys(file.names(), (path, file))
    file_of = read_json(index).get("weight_map")
    if not isinstance(file_of, dict) or not file_of:
        raise ModelDirectoryError(f"{index}: has no weight_map; download it again")
    opened: dict[str, tuple[Path, TensorFile]] = {}
    for name, file_name in file_of.items():
        if not isinstance(file_name, str) or Path(file_name).name != file_name:
            raise ModelDirectoryError(f"{index}: {file_name!r} is not a file name; download it again")
        if file_name not in opened:
            path = directory / file_name
            if not path.is_file():
                raise ModelDirectoryError(f"{path}: missing, although {index.name} lists it; download it")
            opened[file_name] = path, open_file(path)
        if name not in opened[file_name][1].names():
            raise ModelDirectoryError(
                f"{directory / file_name}: lacks {name}, although {index.name} lists it there; download both again"
            )
    return {name: opened[file_name] for name, file_name in file_of.items()}
