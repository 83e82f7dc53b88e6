"""The decoder loop over the shards of the original llama.onnx; see `legacy.py` for their layout."""

from __future__ import annotations

import numpy as np

from ..config import ModelConfig, Shard
from ..decoder import Counts, Decoder
from ..errors import ModelDirectoryError
from ..kv_cache import KVCache
from ..pool import Pool

# Positions that go through a layer at once. These graphs hold several copies of all scores, so they get fewer.
CHUNK = 128


class LegacyDecoder(Decoder):
    """Runs an original llama.onnx directory behind the same `forward`.

    A layer gives back keys and values of the past and the new tokens together, in arrays of its own, which take the
    place of those in the cache. Types follow the inputs of each graph, so halves and floats may meet.
    """

    def __init__(self, config: ModelConfig, pool: Pool, chunk: int = CHUNK) -> None:
        super().__init__(config, pool, chunk)
        if config.norm is None:
            raise ModelDirectoryError(f"{config.directory}: not in the layout of the original llama.onnx")
        self._norm = config.norm

    def forward(self, ids: np.ndarray, cache: KVCache, every_position: bool = False) -> np.ndarray:
        """Append tokens to the cache and return logits; see `Decoder.forward`."""
        config, count = self.config, ids.shape[1]
        cache.check_room(count)
        cache.ids[:, cache.length : cache.length + count] = ids
        # While a layer runs, its old keys and values are there beside the new ones.
        self.pool.reserve(cache.used_bytes_after(count) * (config.num_layers + 1) // config.num_layers)
        hidden = self.embed(ids)
        for i in range(config.num_layers):
            key, value = cache.keys[i][:, :, : cache.length], cache.values[i][:, :, : cache.length]
            hidden, cache.keys[i], cache.values[i] = self._layer(i, hidden, key, value)
        cache.advance(count)
        return self.head(self.norm(hidden if every_position else hidden[:, -1:]))

    def embed(self, ids: np.ndarray) -> np.ndarray:
        """Return [batch, sequence, hidden_size] in the type of the graph; see `Decoder.embed`."""
        return self._run_one(self.config.embed, ids)

    def layer(
        self, i: int, hidden: np.ndarray, key: np.ndarray, value: np.ndarray, past: Counts = 0, rope_offset: Counts = 0
    ) -> np.ndarray:
        """Return what layer `i` alone makes of a stretch of a sequence, row by row; see `Decoder.layer`."""
        rows = []
        for b, start in enumerate(np.broadcast_to(past, len(hidden)).tolist()):
            row = slice(b, b + 1)
            made, keys, values = self._layer(i, hidden[row], key[row, :, :start], value[row, :, :start])
            for filled, grown in ((key, keys), (value, values)):
                filled[row, :, start : grown.shape[2]] = grown[:, :, start:]
            rows.append(made.astype(np.float32, copy=False))
        return rows[0] if len(rows) == 1 else np.concatenate(rows)

    def norm(self, hidden: np.ndarray) -> np.ndarray:
        """Return what the last layer made, normed; see `Decoder.norm`."""
        return self._run_one(self._norm, hidden)

    def head(self, hidden: np.ndarray) -> np.ndarray:
        """Return the logits; see `Decoder.head`."""
        return self._run_one(self.config.head, hidden).astype(np.float32, copy=False)

    def _layer(self, i: int, hidden: np.ndarray, key: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return hidden_out, past_key and past_value of a stretch that follows the keys and values given."""
        batch, count = hidden.shape[:2]
        total = key.shape[2] + count
        made = []
        with self.pool.use(self.config.layers[i]) as shard:
            for start in range(0, count, self.chunk):
                part, past = hidden[:, start : start + self.chunk], key.shape[2]
                given = {
                    "hidden_in": part,
                    "attn_mask": causal_mask(part.shape[1], past, batch, shard.inputs["attn_mask"]),
                    "position_ids": position_ids(part.shape[1], past, batch),
                    "past_key_in": key,
                    "past_value_in": value,
                }
                result = shard.compute(given)
                key, value = result["past_key"], result["past_value"]
                made.append(result["hidden_out"])
        if key.shape[2] != total:
            raise ModelDirectoryError(
                f"{self.config.layers[i].path}: its past_key holds {key.shape[2]} tokens after {total}; "
                "it is not a part of a llama.onnx model"
            )
        return made[0] if len(made) == 1 else np.concatenate(made, axis=1), key, value

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
