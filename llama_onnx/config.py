"""What the runtime knows about a model and its shards; `model_directory` checks it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

TEMPLATES = ("plain", "alpaca", "chat")


@dataclass(frozen=True)
class Shard:
    """One ONNX file and the weight files beside it."""

    name: str
    path: Path
    data_files: tuple[str, ...]  # some are shared between shards: rope tables, tied embeddings
    loaded_bytes: int  # of the weights in memory
    file_bytes: int = 0  # of its own files
    quantized: bool = False  # it has block-quantised matrices, which must be packed when they are loaded
    copied: bool = False  # its weights lie inside the ONNX file and are copied out of it
    kind: str = ""  # shards of one kind have the same graph and shapes
    digest: str = ""  # identifies the contents

    @property
    def mapped_bytes(self) -> int:
        """Bytes it takes when its float weights stay as they are in the file; packed ones as loaded."""
        smallest = self.loaded_bytes if self.quantized else max(self.file_bytes, self.loaded_bytes // 2)
        return min(self.loaded_bytes, smallest)


@dataclass(frozen=True)
class ModelConfig:
    """What the runtime knows about a model. Sizes are counts of elements."""

    directory: Path
    architecture: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    context_length: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    add_bos: bool
    weights: str
    embed: Shard
    layers: tuple[Shard, ...]
    head: Shard
    rope_switch_length: int | None = None  # longer sequences are rotated by other factors, from the start (LongRoPE)
    template: str | None = None  # of prompts, where the model was trained on one that is built in
    score_copies: int = 0  # of the attention scores float32 [heads, chunk, total] that a layer holds while it runs
    norm: Shard | None = None  # the final norm, in the layout of the original llama.onnx, where the head has none

    @property
    def shards(self) -> tuple[Shard, ...]:
        """All shards in the order a step runs them."""
        return (self.embed, *self.layers, *([self.norm] if self.norm else []), self.head)
