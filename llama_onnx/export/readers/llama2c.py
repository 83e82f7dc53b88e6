"""llama2.c `.bin` files, versions 0 to 2, and their `tokenizer.bin`.

Version 0: seven int32 (dim, hidden_dim, layers, heads, key-value heads, vocabulary, context; the vocabulary is
negative if the classifier is not the embedding), then float32 tensors, each kind for all layers in a row. Versions 1
and 2: a header of 256 bytes, with the magic number "ak42" before the same seven numbers; then the tensors, norms first.
Version 2 stores matrices as int8 in groups that share a float32 scale: all values of a matrix, then its scales
(runq.c).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ModelDirectoryError
from ..nbits import BLOCK_SIZES, NBits
from ..progress import report
from .json_files import json_bytes
from .raw import DAMAGED, check_sizes, read_array
from .rotary import rows_in_halves
from .sentencepiece_model import BYTE, BYTE_PIECE, CONTROL, NORMAL, UNKNOWN, Piece, sentencepiece_model

MAGIC = 0x616B3432
HEADER = 256  # bytes, from version 1 on
SIZES = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len")
BOS, EOS = 1, 2  # constants in run.c, like the two numbers below
NORM_EPSILON, ROPE_THETA = 1e-5, 10000.0


class Llama2cCheckpoint:
    """See `Checkpoint`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = self._read_header()
        # name: (byte offset, shape, whether it is quantised)
        self._place = self._lay_out()
        size = self._size
        self.config: dict[str, Any] = {
            "model_type": "llama",
            "hidden_size": size["dim"],
            "intermediate_size": size["hidden_dim"],
            "num_hidden_layers": size["n_layers"],
            "num_attention_heads": size["n_heads"],
            "num_key_value_heads": size["n_kv_heads"],
            "vocab_size": size["vocab_size"],
            "max_position_embeddings": size["seq_len"],
            "rms_norm_eps": NORM_EPSILON,
            "rope_theta": ROPE_THETA,
            "hidden_act": "silu",
            "bos_token_id": BOS,
            "eos_token_id": [EOS, BOS],  # run.c also stops at BOS, which separates the training texts
            "tie_word_embeddings": self._tied,
        }
        self.files: dict[str, Path | bytes] = {"config.json": json_bytes(self.config)}
        self.source = [path]
        tokenizer = _find_tokenizer(path.parent, size["vocab_size"])
        if tokenizer:
            self.source.append(tokenizer[0])
            self.files["tokenizer.model"] = tokenizer[1]
        else:
            report(
                f"{path.parent}: no tok*.bin with {size['vocab_size']} tokens and no tokenizer.model beside {path.name}"
            )

    def names(self) -> frozenset[str]:
        """Return the names of all tensors."""
        return frozenset(self._place)

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor as float32."""
        offset, shape, quantised = self._find(name)
        count = int(np.prod(shape))
        if quantised:
            groups = read_array(self._path, offset, count, np.int8).reshape(-1, self._group).astype(np.float32)
            groups *= read_array(self._path, offset + count, count // self._group, "<f4")[:, None]
            array = groups.reshape(shape)
        else:
            array = read_array(self._path, offset, count, "<f4").reshape(shape)
        return self._reordered(name, array)

    def stored_bits(self, name: str) -> int | None:
        """Return 8 for a quantised tensor, else None."""
        return 8 if self._find(name)[2] else None

    def parts(self, name: str) -> Iterator[np.ndarray]:
        """See `Checkpoint`."""
        yield self.tensor(name)

    def quantized(self, name: str) -> NBits | None:
        """Return an int8 matrix of version 2 if its groups are blocks of a row, else None."""
        offset, shape, quantised = self._find(name)
        if not quantised or self._group not in BLOCK_SIZES or shape[1] % self._group:
            return None
        count = shape[0] * shape[1]
        values = read_array(self._path, offset, count, np.uint8) ^ np.uint8(128)  # int8 + 128
        scales = read_array(self._path, offset + count, count // self._group, "<f4").reshape(shape[0], -1)
        packed = values.reshape(shape[0], -1, self._group)
        return NBits(self._reordered(name, packed), self._reordered(name, scales), None, 8, shape[1])

    def _find(self, name: str) -> tuple[int, tuple[int, ...], bool]:
        if name not in self._place:
            raise ModelDirectoryError(f"{self._path}: the checkpoint has no tensor {name}")
        return self._place[name]

    def _reordered(self, name: str, array: np.ndarray) -> np.ndarray:
        return rows_in_halves(name, array, self._size["n_heads"], self._size["n_kv_heads"])

    def _read_header(self) -> dict[str, int]:
        try:
            with self._path.open("rb") as file:
                header = file.read(HEADER)
        except OSError as error:
            raise ModelDirectoryError(f"{self._path}: cannot be read ({error.strerror})") from None
        self._version = self._group = 0
        try:
            if struct.unpack_from("<I", header)[0] == MAGIC:
                self._version, *numbers, tied, self._group = struct.unpack_from("<i7iBi", header, 4)
                self._tied = bool(tied)
            else:
                numbers = list(struct.unpack_from("<7i", header))
                self._tied = numbers[5] > 0
                numbers[5] = abs(numbers[5])
        except struct.error:
            raise ModelDirectoryError(f"{self._path}: is shorter than its header: {DAMAGED}") from None
        if not 0 <= self._version <= 2:
            raise ModelDirectoryError(f"{self._path}: llama2.c version {self._version}; only 0 to 2 are supported")
        size = dict(zip(SIZES, numbers, strict=True))
        check_sizes(self._path, size | ({"group_size": self._group} if self._version == 2 else {}))
        if size["dim"] % size["n_heads"] or size["n_heads"] % size["n_kv_heads"]:
            raise ModelDirectoryError(f"{self._path}: not a llama2.c checkpoint (its heads do not divide its width)")
        return size

    def _lay_out(self) -> dict[str, tuple[int, tuple[int, ...], bool]]:
        place: dict[str, tuple[int, tuple[int, ...], bool]] = {}
        offset = HEADER if self._version else 4 * len(SIZES)
        for name, shape in self._order():
            quantised = self._version == 2 and len(shape) == 2
            count = int(np.prod([*shape], dtype=object))
            if quantised and count % self._group:
                raise ModelDirectoryError(f"{self._path}: {name} is not whole groups of {self._group}: {DAMAGED}")
            if name:
                place[name] = offset, shape, quantised
            offset += count + 4 * (count // self._group) if quantised else 4 * count
            if offset > self._path.stat().st_size:
                raise ModelDirectoryError(
                    f"{self._path}: ends before {name or 'its rotary tables'}: truncated, or not a llama2.c checkpoint"
                )
        if offset != self._path.stat().st_size:
            raise ModelDirectoryError(
                f"{self._path}: {self._path.stat().st_size} bytes, but its header implies {offset}: "
                "damaged, or not a llama2.c checkpoint"
            )
        return place

    def _order(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield the name and the shape of each tensor in the order of the file; one without a name is skipped."""
        size = self._size
        dim, hidden, head = size["dim"], size["hidden_dim"], size["dim"] // size["n_heads"]
        keys = size["n_kv_heads"] * head

        def layers(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
            return ((f"model.layers.{i}.{name}.weight", shape) for i in range(size["n_layers"]))

        embedding = ("model.embed_tokens.weight", (size["vocab_size"], dim))
        norm = ("model.norm.weight", (dim,))
        if self._version:
            yield from layers("input_layernorm", dim)
            yield from layers("post_attention_layernorm", dim)
            yield norm
            yield embedding
        else:
            yield embedding
            yield from layers("input_layernorm", dim)
        yield from layers("self_attn.q_proj", dim, dim)
        yield from layers("self_attn.k_proj", keys, dim)
        yield from layers("self_attn.v_proj", keys, dim)
        yield from layers("self_attn.o_proj", dim, dim)
        if not self._version:
            yield from layers("post_attention_layernorm", dim)
        yield from layers("mlp.gate_proj", hidden, dim)
        yield from layers("mlp.down_proj", dim, hidden)
        yield from layers("mlp.up_proj", hidden, dim)
        if not self._version:
            yield norm
            yield "", (2 * size["seq_len"] * (head // 2),)  # rotary tables, which the export computes itself
        if not self._tied:
            yield "lm_head.weight", (size["vocab_size"], dim)


def _find_tokenizer(folder: Path, vocab_size: int) -> tuple[Path, Path | bytes] | None:
    """Return the tokenizer with this vocabulary: the file that was found, and the path or bytes for the export."""
    named = [folder / f"tok{vocab_size}.bin", folder / "tokenizer.bin"]
    for path in (*named, *sorted(set(folder.glob("tok*.bin")) - set(named))):
        if path.is_file():
            pieces = read_tokenizer_bin(path)
            if len(pieces) == vocab_size:
                return path, sentencepiece_model(pieces, BOS, EOS)
    path = folder / "tokenizer.model"
    return (path, path) if path.is_file() else None


def read_tokenizer_bin(path: Path) -> list[Piece]:
    """Read a vocabulary of llama2.c: the length of the longest token, then score, length and bytes of each token.

    Raises:
        ModelDirectoryError: the file is damaged.
    """
    data = path.read_bytes()
    pieces: list[Piece] = []
    position = 4
    try:
        (longest,) = struct.unpack_from("<i", data)
        while position < len(data):
            score, length = struct.unpack_from("<fi", data, position)
            position += 8 + length
            if not 0 <= length <= longest or position > len(data):
                raise ValueError
            pieces.append(_piece(len(pieces), data[position - length : position].decode(), score))
    except (struct.error, ValueError):
        raise ModelDirectoryError(f"{path}: not a tokenizer of llama2.c, or damaged; get it again") from None
    return pieces


def _piece(token: int, text: str, score: float) -> Piece:
    if token == 0:
        return Piece("<unk>", score, UNKNOWN)
    if token in (BOS, EOS):  # stored with line breaks around them
        return Piece(text.strip(), score, CONTROL)
    return Piece(text.replace(" ", "\u2581"), score, BYTE if BYTE_PIECE.fullmatch(text) else NORMAL)
