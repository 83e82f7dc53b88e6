"""Model directories of this project, fp32 or fp16, read back as a checkpoint.

Shards hold weights as their graphs need them: heads padded, offsets added to norms, fused tensors split. This is undone
here, so that the tensors can be exported again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...errors import ModelDirectoryError
from ...model_directory import MANIFEST, read_config
from ..families.registry import read_spec
from ..families.spec import HEAD, expected_names
from ..graphs.blocks import ROPE_FILE
from ..graphs.heads import norm_heads, pad_heads, positions_of
from ..graphs.stored import read_graph, read_parts, read_tensor
from ..nbits import NBits
from ..packages import onnx
from .hugging_face import AUXILIARY
from .json_files import read_json, read_text_config


class ModelDirectoryCheckpoint:
    """See `Checkpoint`."""

    def __init__(self, directory: Path) -> None:
        """Raises: ModelDirectoryError: the model is incomplete, already quantised, or has no config.json."""
        model = read_config(directory)
        if model.weights not in ("fp32", "fp16"):
            raise ModelDirectoryError(
                f"{directory}: its weights are {model.weights} already; give the model in fp32 or fp16"
            )
        if not (directory / "config.json").is_file():
            raise ModelDirectoryError(f"{directory}: has no config.json beside the shards; give the checkpoint instead")
        self.config = read_text_config(directory / "config.json")
        listed = read_json(directory / MANIFEST)["files"]
        own = {f"{shard.name}{end}" for shard in model.shards for end in (".onnx", ".bin")} | {ROPE_FILE}
        self.files: dict[str, Path | bytes] = {
            name: directory / name for name in listed if name not in own or name in AUXILIARY
        }
        self.source = [directory / MANIFEST, *(shard.path.with_suffix(".bin") for shard in model.shards)]
        self._directory = directory
        self._tensors: dict[str, onnx.TensorProto] = {}
        for shard in model.shards:
            for tensor in read_graph(shard.path).initializer:
                if tensor.data_location == onnx.TensorProto.EXTERNAL:
                    self._tensors[tensor.name] = tensor
        spec = read_spec(self.config)
        self._spec = replace(spec, tied_embeddings=HEAD not in self._tensors)
        self._names = expected_names(self._spec)

    def names(self) -> frozenset[str]:
        """Return the names of all tensors."""
        return self._names

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor in its stored type."""
        if name not in self._names:
            raise ModelDirectoryError(f"{self._directory}: the model has no tensor {name}")
        place, _, kind = name.rpartition(".")
        layer, _, module = place.partition(".layers.")[2].partition(".")
        if not layer:
            return self._plain(name, kind) if "norm" in place else self._read(name)
        if module.endswith(("q_norm", "k_norm")):
            return self._head_norm(name)
        if "norm" in module:
            return self._plain(name, kind)
        parts = [part for part, p in self._spec.projections.items() if p.tensor == module]
        found = [self._projection(f"model.layers.{layer}.{part}.{kind}", part, kind) for part in parts]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def parts(self, name: str) -> Iterator[np.ndarray]:
        """See `Checkpoint`."""
        if name in self._tensors and ".layers." not in name and "norm" not in name:
            yield from read_parts(self._tensors[name], self._directory)
        else:
            yield self.tensor(name)

    def quantized(self, name: str) -> NBits | None:
        """Return None: these directories hold floats."""
        return None

    def stored_bits(self, name: str) -> int | None:
        """Return None: these directories hold floats."""
        return None

    def _plain(self, name: str, kind: str) -> np.ndarray:
        array = self._read(name)
        offset = self._spec.norm_offset if kind == "weight" else 0
        return array - np.float32(offset) if offset else array

    def _head_norm(self, name: str) -> np.ndarray:
        gamma = self._read(name) / np.float32(norm_heads(self._spec)[0])
        return self._unpadded(gamma, 1, True) - np.float32(self._spec.norm_offset)

    def _projection(self, name: str, projection: str, kind: str) -> np.ndarray:
        spec, array = self._spec, self._read(name)
        short = projection.rpartition(".")[2]
        if short in ("q_proj", "k_proj", "v_proj"):
            return self._unpadded(array, spec.num_heads if short == "q_proj" else spec.num_kv_heads, short != "v_proj")
        if short == "o_proj" and kind == "weight":
            return np.ascontiguousarray(self._unpadded(array.T, spec.num_heads, False).T)
        return array

    def _unpadded(self, array: np.ndarray, heads: int, rotary: bool) -> np.ndarray:
        count = heads * self._spec.head_dim
        return array[positions_of(lambda rows: pad_heads(rows, heads, self._spec, rotary), count)]

    def _read(self, name: str) -> np.ndarray:
        if name not in self._tensors:
            raise ModelDirectoryError(f"{self._directory}: its shards lack {name}, which config.json requires")
        return read_tensor(self._tensors[name], self._directory)
