"""Tells whether a checkpoint is quantised already, so that rounding it to 4 bits would lose more than it need."""

from __future__ import annotations

from ..checkpoint import Checkpoint
from .gguf import GgufCheckpoint
from .gguf_parts import open_gguf

FLOATS = (0, 1, 28, 30)  # GGUF's numbers for F32, F16, F64 and BF16


def is_quantised(checkpoint: Checkpoint) -> bool:
    """Return whether the matrices are in blocks of GGUF. Those of GPTQ and AWQ do not count: int4 keeps them."""
    if not isinstance(checkpoint, GgufCheckpoint):
        return False
    return any(entry.type not in FLOATS for entry in open_gguf(checkpoint.source[0]).tensors.values())
