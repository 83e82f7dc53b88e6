"""The decoder loop over the shards of the original llama.onnx; see `legacy.py` for their layout."""

from __future__ import annotations

import numpy as np

from .config import ModelConfig, Shard
from .decoder import Decoder
from .errors import ModelDirectoryError
from .kv_cache import KVCache
from .pool import MemoryPool

# Positions that go through a layer at once. These graphs hold several copies of all scores, so they get fewer.
CHUNK = 128


class LegacyDecoder(Decoder):
    """Runs an original llama.onnx directory behind the same `forward`.

    A layer gives back keys and values of the past and the new tokens together, in arrays of its own, which take the
    place of those in the cache. Types follow the inputs of each graph, so halves and floats may meet.
    """

    def __init__(self, config: ModelConfig, pool: MemoryPool, chunk: int = CHUNK) -> None:
        super().__init__(config, pool, chunk)
        if config.norm is None:
            raise ModelDirectoryError(f"{config.directory}: not in the layout of the original llama.onnx")
        self._norm = config.norm

    def forward(self, ids: np.ndarray, cache: KVCache, every_position: bool = False) -> np.ndarray:
        """Append tokens to the cache and return logits; see `Decoder.forward`."""
        config, count, past = self.config, ids.shape[1], cache.length
        cache.check_room(count)
        # While a layer runs, its old keys and values are there beside the new ones.
        self.pool.reserve(cache.used_bytes_after(count) * (config.num_layers + 1) // config.num_layers)
        starts = range(0, count, self.chunk)

        # 1. Tokens become vectors.
        hidden = self._run_one(config.embed, ids)

        # 2. Each layer replaces them, chunk by chunk, and its keys and values grow with each.
        for i, layer in enumerate(config.layers):
            key, value = cache.keys[i][:, :, :past], cache.values[i][:, :, :past]
            chunks = []
            with self.pool.use(layer) as shard:
                for start in starts:
                    part = hidden[:, start : start + self.chunk]
                    given = {
                        "hidden_in": part,
                        "attn_mask": causal_mask(part.shape[1], past + start, len(ids), shard.inputs["attn_mask"]),
                        "position_ids": position_ids(part.shape[1], past + start, len(ids)),
                        "past_key_in": key,
                        "past_value_in": value,
                    }
                    result = shard.compute(given)
                    key, value = result["past_key"], result["past_value"]
                    chunks.append(result["hidden_out"])
            if key.shape[2] != past + count:
                raise ModelDirectoryError(
                    f"{layer.path}: its past_key holds {key.shape[2]} tokens after {past + count}; "
                    "it is not a part of a llama.onnx model"
                )
            cache.keys[i], cache.values[i] = key, value
            hidden = chunks[0] if len(chunks) == 1 else np.concatenate(chunks, axis=1)
        cache.advance(count)

        # 3. The last vectors become scores for the next token.
        hidden = self._run_one(self._norm, hidden if every_position else hidden[:, -1:])
        return self._run_one(config.head, hidden).astype(np.float32, copy=False)

    def _run_one(self, shard: Shard, array: np.ndarray) -> np.ndarray:
        """Run a shard of one input and one output, whatever they are called."""
        with self.pool.use(shard) as session:
            return next(iter(session.compute({next(iter(session.inputs)): array}).values()))


def causal_mask(count: int, past: int, batch: int, dtype: np.dtype) -> np.ndarray:
    """Return [batch, 1, count, past + count] to add to scores: 0 for what a token sees, the least number elsewhere."""
    mask = np.triu(np.full((count, past + count), np.finfo(dtype).min, dtype), past + 1)
    return np.broadcast_to(mask, (batch, 1, *mask.shape))


def position_ids(count: int, past: int, batch: int) -> np.ndarray:
    """Return int64 [batch, count], counting from `past`."""
    return np.broadcast_to(np.arange(past, past + count, dtype=np.int64), (batch, count))
