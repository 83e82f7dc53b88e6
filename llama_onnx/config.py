"""The description of a model and its shards that the runtime works with; `model_directory` reads and checks it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

TEMPLATES = ("plain", "alpaca", "chat")
CAPABILITIES = ("bit_planes", "block_minima", "rope_rows", "scale_factors")  # what graphs have only where it is needed


@dataclass(frozen=True)
class Shard:
    """One ONNX file and the weight files beside it."""

    name: str
    path: Path
    data_files: tuple[str, ...]  # some are shared between shards: rope tables, tied embeddings
    loaded_bytes: int  # of the weights in memory
    file_bytes: int = 0  # of its own files
    quantized: bool = False  # it has block-quantised matrices, which must be packed when they are loaded
    copied: bool = False  # its weights are inside the ONNX file and are copied out of it
    kind: str = ""  # shards of one kind have the same graph and shapes
    digest: str = ""  # identifies the contents

    @property
    def mapped_bytes(self) -> int:
        """Bytes it takes if float weights stay mapped from the file; quantised ones are always packed."""
        smallest = self.loaded_bytes if self.quantized else max(self.file_bytes, self.loaded_bytes // 2)
        return min(self.loaded_bytes, smallest)


@dataclass(frozen=True)
class ModelConfig:
    """The description of a model. Sizes are counts of elements."""

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
    rope_switch_length: int | None = None  # all positions of longer sequences are rotated by other factors (LongRoPE)
    template: str | None = None  # the built-in prompt template that the model was trained on, if any
    copies: tuple[int, int] = (0, 1)  # of scores float32 [heads, chunk, total] and of logits that a running shard holds
    norm: Shard | None = None  # the final norm, in the layout of the original llama.onnx, whose head has none

    @property
    def shards(self) -> tuple[Shard, ...]:
        """All shards in the order a step runs them."""
        return (self.embed, *self.layers, *([self.norm] if self.norm else []), self.head)
