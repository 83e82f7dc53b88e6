"""Run a few tokens through one decoder shard, to check that a session computes what it should."""

from __future__ import annotations

import numpy as np

from ..config import ModelConfig
from ..session import Session

FEW = 3  # with a single token, the result of attention does not depend on queries and keys


def compute(session: Session, config: ModelConfig, tokens: int = FEW) -> np.ndarray:
    """Return the output of a decoder shard for fixed inputs at the start of a sequence, float32 [1, tokens, H]."""
    key, value = (np.zeros((1, config.num_kv_heads, tokens, config.head_dim), np.float32) for _ in range(2))
    inputs: dict[str, np.ndarray] = {
        "hidden": np.random.default_rng(0).standard_normal((1, tokens, config.hidden_size), dtype=np.float32),
        "past_key": key,
        "past_value": value,
        "seqlens_k": np.full(1, tokens - 1, np.int32),
        "total_sequence_length": np.full(1, tokens, np.int32),
    }
    if config.rope_switch_length is not None:
        inputs["rope_rows"] = np.arange(tokens)[None]
    hidden_out = np.empty((1, tokens, config.hidden_size), np.float32)
    session.run(inputs, {"hidden_out": hidden_out, "present_key": key, "present_value": value})
    return hidden_out
