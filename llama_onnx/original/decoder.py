"""Runs the shards of the original llama.onnx; see `layout.py` for their inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from ..config import ModelConfig
from ..decoder import Decoder, Stretch
from ..errors import ModelDirectoryError
from ..kv_cache import KVCache
from ..pool import Pool
from ..session import Guard, Session, one_line

# Positions that go through a layer at once. These graphs hold several copies of all scores, so it is lower than usual.
CHUNK = 128
NUMPY_TYPES = {
    f"tensor({name})": np.dtype(kind)
    for name, kind in (("float", "f4"), ("float16", "f2"), ("double", "f8"), ("int64", "i8"), ("int32", "i4"))
}


class LegacyDecoder(Decoder):
    """The decoder loop for an original llama.onnx directory. Inputs are converted to the types that a graph expects."""

    def __init__(
        self,
        config: ModelConfig,
        pool: Pool,
        chunk: int = CHUNK,
        cache_type: str = "fp32",
        guard: Guard | None = None,
    ) -> None:
        super().__init__(config, pool, chunk, cache_type, guard)
        if config.norm is None:
            raise ModelDirectoryError(f"{config.directory}: not in the layout of the original llama.onnx")
        self._norm = config.norm

    def new_cache(self, capacity: int, rows: int = 1, one_layer: bool = False) -> KVCache:
        """Return an empty cache; see `GrowingCache`."""
        return GrowingCache(self.config, capacity, rows, one_layer=one_layer)

    @staticmethod
    def run_layer(session: Session, stretch: Stretch, key: Any, value: Any, more: Any = None) -> None:
        """Run a layer on a stretch, row by row and chunk by chunk.

        A layer returns the keys and values of past and new tokens together in new arrays, which replace those in the
        cache: `key` and `value` are lists with one array per row.
        """
        mask_type = input_types(session)["attn_mask"]
        first = stretch.rows.start if stretch.rows else 0
        pasts = (stretch.inputs[0]["seqlens_k"] + 1 - stretch.cuts[0].stop).tolist()
        for row, past in enumerate(pasts):
            own = slice(row, row + 1)
            keys, values = (grown[first + row][:, :, :past] for grown in (key, value))
            for cut in stretch.cuts:
                count, past = cut.stop - cut.start, keys.shape[2]
                made = compute(
                    session,
                    {
                        "hidden_in": stretch.hidden[own, cut],
                        "attn_mask": causal_mask(count, past, mask_type),
                        "position_ids": position_ids(count, past),
                        "past_key_in": keys,
                        "past_value_in": values,
                    },
                )
                stretch.hidden[own, cut] = made["hidden_out"]
                keys, values = made["past_key"], made["past_value"]
                if keys.shape[2] != past + count:
                    raise ModelDirectoryError(
                        f"{session.shard.path}: its past_key holds {keys.shape[2]} tokens after {past + count}; "
                        "it is not a part of a llama.onnx model"
                    )
            key[first + row], value[first + row] = keys, values

    def embed(self, stretch: Stretch) -> None:
        """Turn the ids of a stretch into its hidden states; see `Decoder.embed`."""
        with self.pool.use(self.config.embed) as session:
            stretch.hidden[:] = run_one(session, stretch.ids)

    def norm(self, hidden: np.ndarray) -> np.ndarray:
        """Return the output of the last layer after the final norm; see `Decoder.norm`."""
        with self.pool.use(self._norm) as session:
            return run_one(session, hidden)

    def head(self, hidden: np.ndarray) -> np.ndarray:
        """Return the logits; see `Decoder.head`."""
        with self.pool.use(self.config.head) as session:
            return run_one(session, hidden).astype(np.float32, copy=False)


class GrowingCache(KVCache):
    """A KV cache whose arrays are replaced by the layers: one per row, [1, kv_heads, tokens, head_dim]."""

    def _allocate(self, rows: int) -> None:
        super()._allocate(rows)
        layers = self._layers
        self._grown = [self._empty(rows) for _ in range(layers)] * (self._config.num_layers // layers)

    def _zeros(self, rows: int) -> np.ndarray:
        return np.empty((rows, 0, 0), np.float32)  # the arrays of `KVCache` are not used

    def layer(self, i: int) -> AbstractContextManager[Any]:
        """Return the lists of keys and values of layer `i`, with one array per row."""
        return nullcontext(self._grown[i])

    def rearrange(self, order: Any) -> None:
        """Make the current row order[i] the new row i; see `KVCache.rearrange`."""
        for i, (keys, values) in enumerate(self._grown):
            empty = self._empty(1)
            self._grown[i] = (
                [empty[0][0] if row is None else keys[row] for row in order],
                [empty[1][0] if row is None else values[row] for row in order],
            )
        super().rearrange(order)

    def bytes_with(self, lengths: Any) -> int:
        """Return the bytes in use. While a layer runs, both its old and its new keys and values exist."""
        layers = self._layers
        return super().bytes_with(lengths) * (layers + 1) // layers

    def _empty(self, rows: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        shape = (1, self._config.num_kv_heads, 0, self._config.head_dim)
        return [np.zeros(shape, np.float32)] * rows, [np.zeros(shape, np.float32)] * rows


def input_types(session: Session) -> dict[str, np.dtype]:
    """Return the types of a graph's inputs by name, in the order of the graph."""
    inputs = {value.name: value.type for value in session.runtime.get_inputs()}
    for name, kind in inputs.items():
        if kind not in NUMPY_TYPES:
            raise ModelDirectoryError(f"{session.shard.path}: its input {name} has the unsupported type {kind}")
    return {name: NUMPY_TYPES[kind] for name, kind in inputs.items()}


def compute(session: Session, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run a graph that allocates its outputs, and return them by name. Inputs are converted to the graph's types."""
    types = input_types(session)
    given = {name: np.ascontiguousarray(array, types.get(name)) for name, array in inputs.items()}
    names = [value.name for value in session.runtime.get_outputs()]
    try:
        return dict(zip(names, session.runtime.run(None, given), strict=True))
    except Exception as error:
        raise ModelDirectoryError(f"{session.shard.path}: cannot be run: {one_line(error)}") from None


def run_one(session: Session, array: np.ndarray) -> np.ndarray:
    """Run a shard that has one input and one output, whatever their names."""
    return next(iter(compute(session, {next(iter(input_types(session))): array}).values()))


def causal_mask(count: int, past: int, dtype: np.dtype) -> np.ndarray:
    """Return [1, 1, count, past + count] to add to scores: 0 where a token sees, else the lowest number."""
    return np.triu(np.full((count, past + count), np.finfo(dtype).min, dtype), past + 1)[None, None]


def position_ids(count: int, past: int) -> np.ndarray:
    """Return int64 [1, count], counting from `past`."""
    return np.arange(past, past + count, dtype=np.int64)[None]
