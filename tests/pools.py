"""Pools with room for some layers, and a short generation with them, for tests and their child processes."""

from __future__ import annotations

import numpy as np

from llama_onnx.config import ModelConfig, Shard
from llama_onnx.decoder import Decoder
from llama_onnx.kv_cache import KVCache
from llama_onnx.session import SESSION_BYTES
from llama_onnx.streaming.pool import StreamingPool


def pool_for(config: ModelConfig, staying: int, use_slots: bool = True) -> StreamingPool:
    """Return a pool with room for embed, head and `staying` layers (and a little KV cache)."""
    ends, layer = mapped(config.embed) + mapped(config.head), mapped(config.layers[0])
    return StreamingPool(config, ends + int((staying + 0.9) * layer), use_slots=use_slots)


def mapped(shard: Shard) -> int:
    """Return what the pool charges for a shard that is not widened to float32."""
    return shard.mapped_bytes + SESSION_BYTES


def generate(decoder: Decoder, count: int = 6) -> np.ndarray:
    """Return the logits of a prefill and some greedy steps, float32 [count, vocab]."""
    cache = KVCache(decoder.config, 40)
    logits = [decoder.forward(np.arange(5, 25)[None], cache)[0, 0]]
    while len(logits) < count:
        logits.append(decoder.forward(np.array([[int(np.argmax(logits[-1]))]]), cache)[0, 0])
    return np.array(logits)
