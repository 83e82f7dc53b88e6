"""Export a checkpoint to a model directory, one ONNX shard per decoder layer, two tensors in memory at a time."""

from __future__ import annotations

from pathlib import Path

from ..errors import RequestError
from .families.registry import read_spec
from .graphs.styles import get_ops
from .graphs.weights import Precision, Weights, least_bytes
from .progress import report
from .quantize.quantizer import quantize
from .quantize.settings import ROUNDED, recipe
from .readers.open import open_checkpoint
from .shards import checked_spec, fingerprint, is_quantized, write_shards
from .writer import ModelWriter

NARROWEST = 640  # columns of a model that 'fast' makes faster: in smaller ones, a token costs more than its bytes


def export(
    source: str | Path, out: str | Path, dtype: str | None = None, block_size: int | None = None, ops: str = "ort"
) -> None:
    """Write the model directory `out` from the checkpoint `source`.

    Args:
        source: a checkpoint in any format that `open_checkpoint` reads.
        out: the directory to make. An existing model there is replaced once the new one is complete.
        dtype: how matrices are stored: 'auto' (as the checkpoint stores them), 'fp32', 'fp16', or rounded to 'int8' or
            'int4', or 'fast' (for small models, that is 'auto'), by the `recipe` of each. Norm weights and biases are
            always float32. None means 'auto' for a quantised checkpoint, else 'fp32'.
        block_size: how many weights share a scale in int8 and int4; None is the recipe's.
        ops: 'ort' for ONNX Runtime's fused operators, 'onnx' for standard operators only.

    Raises:
        ModelDirectoryError: the checkpoint is damaged, in an unknown format, or does not match its configuration.
        RequestError: the options do not go together.
    """
    out, style = Path(out), get_ops(ops)
    if dtype is None:
        dtype = "auto" if ops == "ort" and is_quantized(open_checkpoint(source)) else "fp32"
    if dtype == "fast":
        dtype = _fast_or_auto(source, ops)
    if dtype in ROUNDED:
        quantize(source, out, *recipe(dtype, block_size, ops))
        return
    if dtype == "auto" and ops != "ort":
        raise RequestError("standard operators have no place for all blocks of a quantised file: use --dtype int8")
    precision = Precision(dtype)
    checkpoint = open_checkpoint(source)
    spec = checked_spec(checkpoint)
    key = {"source": fingerprint(checkpoint), "precision": vars(precision), "ops": ops}
    with ModelWriter(out, key, checkpoint.source, least_bytes(spec, dtype)) as writer:
        weights = Weights(checkpoint, precision, report)
        model = write_shards(writer, checkpoint, spec, weights, style, spec.tied_embeddings, f"exporting {out.name}")
        writer.finish(spec.family, model, {"weights": dtype, "activations": "fp32", "kv_cache": "fp32", "ops": ops})


def _fast_or_auto(source: str | Path, ops: str) -> str:
    """Return 'auto' for a small model, which 'fast' would not make faster."""
    checkpoint = open_checkpoint(source)
    if not is_quantized(checkpoint):
        raise RequestError(f"{source} holds floats, and 'fast' is for quantised weights; use --dtype int4")
    if ops != "ort" or read_spec(checkpoint.config).hidden_size >= NARROWEST:
        return "fast"
    report("this model is so small that rounding again would not make it faster: kept as it is, as 'auto' does")
    return "auto"
