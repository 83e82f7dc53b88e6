"""Run a few tokens through one decoder shard, to check that a session computes what it should."""

from __future__ import annotations

import numpy as np

from ..config import ModelConfig
from ..decoder import Stretch, run_layer
from ..session import Session

FEW = 3  # with a single token, the result of attention does not depend on queries and keys


def compute(session: Session, config: ModelConfig, tokens: int = FEW) -> np.ndarray:
    """Return the output of a decoder shard for fixed inputs at the start of a sequence, float32 [1, tokens, H]."""
    key, value = (np.zeros((1, config.num_kv_heads, tokens, config.head_dim), np.float32) for _ in range(2))
    stretch = Stretch(config, np.zeros((1, tokens), np.int64), tokens).start([0], [0])
    stretch.hidden[:] = np.random.default_rng(0).standard_normal(stretch.hidden.shape, np.float32)
    run_layer(session, stretch, key, value)
    return stretch.hidden
