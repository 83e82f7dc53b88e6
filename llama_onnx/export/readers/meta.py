"""Meta's own checkpoints: `params.json` and `consolidated.*.pth`, one for each GPU of the original code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ModelDirectoryError
from ..nbits import NBits
from ..progress import report
from .byte_level import llama3_tokenizer
from .hugging_face import AUXILIARY
from .json_files import json_bytes, read_json
from .raw import check_sizes
from .rotary import LLAMA3_ROPE, rows_in_halves
from .torch_file import TorchFile

NAMES = {
    "tok_embeddings": "model.embed_tokens",
    "norm": "model.norm",
    "output": "lm_head",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
}
SPLIT_BY_COLUMNS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")
LLAMA3_VOCABULARY = 128256


class MetaCheckpoint:
    """See `Checkpoint`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        paths = sorted(directory.glob("consolidated.*.pth"))
        self._shards = [TorchFile(path) for path in paths]
        self._check_shards(paths)
        self._name_of = {}
        for name in self._shards[0].names():
            known = _hugging_face_name(name)
            if known:
                self._name_of[known] = name
        self.source = [directory / "params.json", *paths]
        self._params = _read_params(directory / "params.json")
        self.config: dict[str, Any] = self._make_config()
        self.files: dict[str, Path | bytes] = {
            "config.json": json_bytes(self.config),
            **_auxiliary_files(directory, self.config["vocab_size"]),
        }

    def names(self) -> frozenset[str]:
        """Return the names of all tensors."""
        return frozenset(self._name_of)

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor in its stored type, joined from all shards."""
        if name not in self._name_of:
            raise ModelDirectoryError(f"{self._directory}: the checkpoint has no tensor {name}")
        parts = [shard.tensor(self._name_of[name]) for shard in self._shards]
        array = _join(parts, self._axis(name, parts[0].shape)) if len(parts) > 1 else parts[0]
        return rows_in_halves(name, array, self._params["n_heads"], self._params["n_kv_heads"])

    def parts(self, name: str) -> Iterator[np.ndarray]:
        """See `Checkpoint`."""
        yield self.tensor(name)

    def quantized(self, name: str) -> NBits | None:
        """Return None: these files hold floats."""
        return None

    def stored_bits(self, name: str) -> int | None:
        """Return None: these files hold floats."""
        return None

    def _axis(self, name: str, shape: Sequence[int]) -> int | None:
        """Return the axis along which a tensor is split over shards, None if every shard has all of it."""
        if len(shape) == 1:
            return None
        if name == "model.embed_tokens.weight":  # Llama 3 splits the vocabulary, Llama 1 and 2 the width
            return 0 if shape[1] == self._params["dim"] else 1
        return 1 if name.endswith(SPLIT_BY_COLUMNS) else 0

    def _shape(self, name: str) -> list[int]:
        """Return the shape of a whole tensor, without reading it."""
        if name not in self._name_of:
            raise ModelDirectoryError(f"{self._directory}: the checkpoint lacks {name}")
        shape = list(self._shards[0].tensors[self._name_of[name]].shape)
        axis = self._axis(name, shape)
        if axis is not None:
            shape[axis] *= len(self._shards)
        return shape

    def _check_shards(self, paths: list[Path]) -> None:
        if not paths:
            raise ModelDirectoryError(f"{self._directory}: no consolidated.00.pth in it; download the weights as well")
        numbers = [path.name.split(".")[1] for path in paths]
        if numbers != [f"{i:02d}" for i in range(len(paths))]:
            raise ModelDirectoryError(
                f"{self._directory}: shards {', '.join(numbers)} leave a gap; download all of them"
            )
        for path, shard in zip(paths, self._shards, strict=True):
            if shard.names() != self._shards[0].names():
                raise ModelDirectoryError(f"{path}: has different tensors than {paths[0].name}; download both again")

    def _make_config(self) -> dict[str, Any]:
        params = self._params
        vocab_size, _ = self._shape("model.embed_tokens.weight")
        if params.get("vocab_size", -1) not in (-1, vocab_size):
            raise ModelDirectoryError(
                f"{self._directory}: the embedding has {vocab_size} rows, but params.json says {params['vocab_size']} "
                "(or a shard is missing); download the checkpoint again"
            )
        llama3 = vocab_size >= LLAMA3_VOCABULARY
        theta = float(params.get("rope_theta", 10000.0))
        config: dict[str, Any] = {
            "model_type": "llama",
            "hidden_size": params["dim"],
            "intermediate_size": self._shape("model.layers.0.mlp.gate_proj.weight")[0],
            "num_hidden_layers": params["n_layers"],
            "num_attention_heads": params["n_heads"],
            "num_key_value_heads": params["n_kv_heads"],
            "vocab_size": vocab_size,
            "rms_norm_eps": params.get("norm_eps", 1e-5),
            "rope_theta": theta,
            "hidden_act": "silu",
            "bos_token_id": 128000 if llama3 else 1,
            "eos_token_id": [128001, 128008, 128009] if llama3 else 2,
            "tie_word_embeddings": self._tied(),
        }
        if params.get("use_scaled_rope"):
            # Unless the file has it: 32 for Llama 3.2 (1B and 3B), 8 for Llama 3.1 (8B and larger).
            factor = float(params.get("rope_scaling_factor") or (32.0 if params["dim"] < 4096 else 8.0))
            config["rope_scaling"] = {"rope_type": "llama3", **LLAMA3_ROPE, "factor": factor}
        config["max_position_embeddings"] = params.get("max_seq_len") or _context_length(params, theta)
        return config

    def _tied(self) -> bool:
        """Return whether the head is the embedding: missing, or (as torch saves it) another name for the same data."""
        if "lm_head.weight" not in self._name_of:
            return True
        first = self._shards[0].tensors
        return first["output.weight"] == first["tok_embeddings.weight"]


def _hugging_face_name(name: str) -> str | None:
    if name == "rope.freqs":  # a buffer that is computed
        return None
    match = re.fullmatch(r"(?:layers\.(\d+)\.)?([a-z0-9_.]+)\.weight", name)
    if not match or match[2] not in NAMES:
        raise ModelDirectoryError(f"{name}: unknown tensor, which Meta's Llama checkpoints do not have")
    return ("" if match[1] is None else f"model.layers.{match[1]}.") + NAMES[match[2]] + ".weight"


def _join(parts: list[np.ndarray], axis: int | None) -> np.ndarray:
    return parts[0] if axis is None else np.concatenate(parts, axis)


def _read_params(path: Path) -> dict[str, Any]:
    params = read_json(path)
    params.setdefault("n_kv_heads", None)
    params["n_kv_heads"] = params["n_kv_heads"] or params.get("n_heads")
    check_sizes(path, {name: params.get(name) for name in ("dim", "n_layers", "n_heads", "n_kv_heads")})
    if params.get("moe") or params.get("quantization_args"):
        raise ModelDirectoryError(f"{path}: experts or quantised weights, which are not supported in this format")
    return params


def _context_length(params: dict[str, Any], theta: float) -> int:
    """Return the context length of the published models, which is not in Meta's files."""
    if params.get("use_scaled_rope"):
        return 131072
    if theta >= 1e6:
        return 16384  # Code Llama
    if theta >= 5e5:
        return 8192  # Llama 3
    return 2048 if float(params.get("norm_eps", 1e-5)) < 5e-6 else 4096  # Llama 1, 2


def _auxiliary_files(directory: Path, vocab_size: int) -> dict[str, Path | bytes]:
    """Return the tokenizer and other auxiliary files, which are beside the weights or one level up."""
    files: dict[str, Path | bytes] = {}
    for name in AUXILIARY:
        for folder in (directory, directory.parent):
            if name != "config.json" and name not in files and (folder / name).is_file():
                files[name] = folder / name
    model = files.get("tokenizer.model")
    if isinstance(model, Path) and not _is_sentencepiece(model):
        del files["tokenizer.model"]
        if "tokenizer.json" not in files:
            files["tokenizer.json"] = llama3_tokenizer(model, vocab_size)
    elif not files:
        report(f"{directory}: no tokenizer.model there or one level up; the export will have no tokenizer")
    return files


def _is_sentencepiece(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == b"\n"  # the first field of a ModelProto; a tiktoken file begins with base64
