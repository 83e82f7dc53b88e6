"""GGUF checkpoints, with names, metadata and row order translated from llama.cpp to Hugging Face."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ModelDirectoryError
from ..checkpoint import row_slices
from ..nbits import NBits, pack_bits, unpack_bits
from .gguf_config import FAMILIES, make_config
from .gguf_parts import open_gguf
from .gguf_tokenizer import tokenizer_files
from .json_files import json_bytes
from .raw import read_array
from .rotary import rows_in_halves

Q4_0, Q8_0 = 2, 8  # block types that MatMulNBits supports directly
BLOCK = 32
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
FOUR_NORMS = {  # Gemma 2 and 3 have norms before and after attention and MLP
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
DIFFERENT_NAMES = {"gemma2": FOUR_NORMS, "gemma3": FOUR_NORMS, "phi3": {"ffn_up": "mlp.gate_up_proj"}}
COMPUTED = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


class GgufCheckpoint:
    """See `Checkpoint`."""

    def __init__(self, path: Path) -> None:
        self._file = open_gguf(path)
        metadata = self._file.metadata
        self._family = str(metadata.get("general.architecture"))
        if self._family not in FAMILIES:
            raise ModelDirectoryError(
                f"{path}: architecture {self._family!r} is not supported, only {', '.join(sorted(FAMILIES))}"
            )
        self._name_of = {self._known_name(name): name for name in self._file.tensors if name not in COMPUTED}
        self.config: dict[str, Any] = make_config(self._file)
        self.files: dict[str, Path | bytes] = {
            "config.json": json_bytes(self.config),
            **tokenizer_files(path, metadata, self.config),
        }
        self.source = self._file.paths

    def names(self) -> frozenset[str]:
        """Return the names of all tensors."""
        return frozenset(self._name_of)

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor in its stored float type; a quantised tensor as float32."""
        array = self._file.tensor(self._find(name))
        if self._family.startswith("gemma") and name.endswith("norm.weight"):
            return array.astype(np.float32) - np.float32(1)  # llama.cpp stores 1 + weight
        return self._reordered(name, array)

    def parts(self, name: str) -> Iterator[np.ndarray]:
        """See `Checkpoint`. Norms and the matrices of layers, whose rows may have another order, are one part."""
        found = self._find(name)
        if ".layers." in name or "norm" in name:
            yield self.tensor(name)
            return
        for rows in row_slices(self._file.tensors[found].shape):
            yield self._file.tensor(found, rows)

    def quantized(self, name: str) -> NBits | None:
        """Return a matrix of type Q4_0 or Q8_0 in its blocks of 32: (q - 8) or q, times a float16 scale."""
        entry = self._file.tensors[self._find(name)]
        if entry.type not in (Q4_0, Q8_0) or len(entry.shape) != 2 or entry.shape[1] % BLOCK:
            return None
        rows, columns = entry.shape
        bits = 4 if entry.type == Q4_0 else 8
        width = 2 + BLOCK * bits // 8
        count = rows * columns // BLOCK
        data = read_array(entry.path, entry.offset, count * width, np.uint8).reshape(count, width)
        scales = data[:, :2].copy().view("<f2").astype(np.float32).reshape(rows, -1)
        packed = data[:, 2:] ^ np.uint8(128)  # int8 + 128
        if bits == 4:  # the low halves of the bytes are the first 16 values, the high halves the last 16
            halves = unpack_bits(data[:, 2:], 4).reshape(count, -1, 2)
            packed = pack_bits(np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(count, BLOCK), 4)
        packed = packed.reshape(rows, columns // BLOCK, -1)
        return NBits(self._reordered(name, packed), self._reordered(name, scales), None, bits, columns)

    def _find(self, name: str) -> str:
        if name not in self._name_of:
            raise ModelDirectoryError(f"{self._file.path}: the checkpoint has no tensor {name}")
        return self._name_of[name]

    def _reordered(self, name: str, array: np.ndarray) -> np.ndarray:
        """Undo the order in which llama.cpp stores rows of queries and keys, in the llama family only."""
        if self._family != "llama":
            return array
        return rows_in_halves(name, array, self.config["num_attention_heads"], self.config["num_key_value_heads"])

    def _known_name(self, name: str) -> str:
        known = hugging_face_name(self._family, name)
        if known is None:
            raise ModelDirectoryError(
                f"{self._file.path}: {name}: unknown tensor (models of experts are not supported)"
            )
        return known


def hugging_face_name(family: str, name: str) -> str | None:
    """Return the Hugging Face name of a tensor of a GGUF architecture, None if it is not known."""
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?([a-z_]+)\.(weight|bias)", name)
    known = (NAMES | DIFFERENT_NAMES.get(family, {})).get(match[2]) if match else None
    if not match or not known:
        return None
    return ("" if match[1] is None else f"model.layers.{match[1]}.") + f"{known}.{match[3]}"
