"""GGUF checkpoints, with names, metadata and row order translated from llama.cpp to Hugging Face."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ModelDirectoryError
from ..checkpoint import row_slices
from ..nbits import NBits
from .gguf_blocks import bits_of, read_blocks
from .gguf_config import FAMILIES, make_config
from .gguf_parts import open_gguf
from .gguf_tokenizer import tokenizer_files
from .json_files import json_bytes
from .rotary import rows_in_halves

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
        """Return a matrix in the blocks of the file; see `gguf_blocks`."""
        matrix = read_blocks(self._file.tensors[self._find(name)])
        return None if matrix is None else matrix.rows(lambda array: self._reordered(name, array))

    def stored_bits(self, name: str) -> int | None:
        """Return the bits of a quantised tensor, without those of its scales; else None."""
        return bits_of(self._file.tensors[self._find(name)])

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
