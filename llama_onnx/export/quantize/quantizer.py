"""Quantising a whole model: one path from any checkpoint to a model directory, whatever the method."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from ...errors import ModelDirectoryError, RequestError
from ...text.open import open_tokenizer
from ..checkpoint import Checkpoint
from ..exporter import checked_spec, fingerprint, manifest_model, write_shards
from ..families.spec import DecoderSpec
from ..graphs.blocks import ROPE_FILE, write_rope
from ..graphs.graph import WeightFile
from ..graphs.styles import get_ops
from ..graphs.weights import Precision, Weights
from ..nbits import BITS, check_format
from ..progress import report
from ..readers.json_files import read_json
from ..readers.open import open_checkpoint
from ..writer import ModelWriter, write_json
from . import auto_bits, calibration
from .bits import FLOAT_BITS, HEAD, matrix_sizes, mean_bits, plan
from .layer import LayerQuantizer, Settings
from .methods.registry import CALIBRATED, check_method
from .table import FILE
from .weights import QuantizedWeights

FORMATS = {"nbits": "ort", "qdq": "onnx"}  # and the style of graph that writes each
FINEST_STEP = 0.001  # of a search: a matrix is quantised at every step
PORTABLE = "rtn_dq"  # a method by name, in fact rtn written as qdq


@dataclass(frozen=True)
class Options:
    """What `quantize` is asked for besides the method.

    Attributes:
        bits: of all matrices that nothing else is said of.
        head_bits, embedding_bits: of lm_head and embedding; 16 is float16, None is `bits`. Where both are one table of
            the checkpoint and get the same bits, they are one table here, quantised without looking at inputs.
        layers_8bit, mixed: see `bits.plan`.
        budget: mean bits of a weight for `mixed` 'auto'.
        form: 'nbits' (MatMulNBits) or 'qdq' (DequantizeLinear + MatMul).
        dataset: text files; the built-in text if there are none.
        calib_size, calib_length: samples, and tokens of each.
    """

    bits: int = 4
    head_bits: int | None = None
    embedding_bits: int = FLOAT_BITS
    layers_8bit: str | None = None
    mixed: str | None = None
    budget: float = 5.0
    form: str = "nbits"
    dataset: tuple[str, ...] = ()
    calib_size: int = 32
    calib_length: int = 256


def quantize(source: str | Path, out: str | Path, settings: Settings, options: Options | None = None) -> None:
    """Write the quantised model directory `out`.

    Args:
        source: a checkpoint of any kind that `readers.open_checkpoint` knows, an fp32 or fp16 model directory
            among them.
        out: the directory to make, replaced when the new one is whole. Holds `quant_table.csv` as well.
        settings: the method and its parameters.
        options: everything else.

    Raises:
        ModelDirectoryError: the checkpoint cannot be read.
        RequestError: an option that cannot be used.
    """
    out, options = Path(out), options or Options()
    _check(settings, options)
    if settings.algo == PORTABLE:
        settings, options = replace(settings, algo="rtn"), replace(options, form="qdq")
    checkpoint = open_checkpoint(source)
    if out.exists() and Path(source).exists() and out.samefile(source):
        raise ModelDirectoryError(f"{out}: is the input itself; name another directory for the output")
    spec = checked_spec(checkpoint)
    bits = plan(spec, options.bits, options.head_bits, options.layers_8bit, options.mixed)
    if options.form == "qdq" and (2 in bits.values() or options.embedding_bits == 4):
        raise RequestError("qdq holds matrices of 4 or 8 bits and embeddings of 8 or 16; use --format nbits")
    reads_text = settings.algo in CALIBRATED or options.mixed == "auto"
    text = calibration.read_texts(options.dataset) if reads_text else ""
    key = {"source": fingerprint(checkpoint), "settings": asdict(settings), "options": asdict(options), "bits": bits}
    with ModelWriter(out, {**key, "text": text}, checkpoint.source) as writer:
        wide = Weights(checkpoint, Precision("fp32"), report)

        def samples() -> np.ndarray:
            writer.copy(checkpoint.files)  # the tokenizer among them
            return _samples(checkpoint, spec, writer.folder, text, options)

        if options.mixed == "auto":
            bits = _auto_bits(spec, wide, settings, options, writer, samples)
        quantizer = LayerQuantizer(spec, wide, bits, settings, writer, samples)
        share = (
            spec.tied_embeddings
            and options.form == "nbits"
            and options.embedding_bits == bits[HEAD]
            and (bits[HEAD] == FLOAT_BITS or spec.hidden_size % settings.block_size == 0)
        )
        weights = QuantizedWeights(
            checkpoint,
            spec,
            bits,
            options.embedding_bits,
            settings,
            report,
            writer.folder,
            quantizer if settings.algo in CALIBRATED else None,
            share,
        )
        model = write_shards(
            writer, checkpoint, spec, weights, get_ops(FORMATS[options.form]), share, _title(out, settings)
        )
        writer.copy({FILE: (writer.folder / FILE).read_bytes()})
        writer.finish(spec.family, model, _precision(settings, options, bits, spec))


def _auto_bits(
    spec: DecoderSpec,
    weights: Weights,
    settings: Settings,
    options: Options,
    writer: ModelWriter,
    samples: Callable[[], np.ndarray],
) -> dict[str, int]:
    """Measure and choose; a run that is resumed goes on with the choice of the first one."""
    path = writer.folder / "auto_bits.json"
    if writer.resumed and path.is_file():
        return dict(read_json(path))
    lowest = 4 if options.budget >= 4 or options.form == "qdq" else 2
    fixed = {name: bits for name, bits in plan(spec, 0, options.head_bits, options.layers_8bit).items() if bits}
    rope_file = WeightFile(writer.folder / ROPE_FILE)
    rope = write_rope(rope_file, spec)
    rope_file.close()
    tried = [bits for bits in (2, 4) if bits >= lowest]
    found = auto_bits.measure(spec, weights, settings, writer.folder, samples(), rope, tried)
    costs = {name: auto_bits.Cost(size, found[name]) for name, size in matrix_sizes(spec).items()}
    bits = auto_bits.spend(costs, lowest, options.budget, fixed)
    write_json(path, bits)
    return bits


def _check(settings: Settings, options: Options) -> None:
    check_method(settings.algo)
    for bits in (options.bits, options.head_bits):
        if bits not in (None, FLOAT_BITS):
            check_format(int(bits or 0), settings.block_size)
    if options.mixed == "auto" and not BITS[0] <= options.budget < math.inf:
        raise RequestError(f"a budget of {options.budget} bits a weight: give at least {BITS[0]}")
    if options.embedding_bits not in (4, 8, FLOAT_BITS):
        raise RequestError(f"an embedding of {options.embedding_bits} bits: use 4, 8, or 16 for float16")
    if options.form not in FORMATS:
        raise RequestError(f"format {options.form!r} is not known; use one of {', '.join(FORMATS)}")
    for name in ("alpha_step", "clip_step", "clip_min"):
        if not FINEST_STEP <= getattr(settings, name) <= 1:
            raise RequestError(f"{name} is {getattr(settings, name)}; use a number from {FINEST_STEP} to 1")
    if not 0 < settings.damp < math.inf:
        raise RequestError(f"a damping of {settings.damp}: use a number above 0, such as 0.01")


def _samples(checkpoint: Checkpoint, spec: DecoderSpec, folder: Path, text: str, options: Options) -> np.ndarray:
    model = manifest_model(checkpoint, spec)
    tokenizer = open_tokenizer(
        folder, spec.vocab_size, model["bos_token_id"] if model["add_bos"] else None, model["eos_token_ids"]
    )
    length = min(options.calib_length, spec.context_length)
    found = calibration.samples_of(text, tokenizer, options.calib_size, length)
    if len(found) < options.calib_size:
        report(f"the calibration text makes {len(found)} samples of {found.shape[1]} tokens, not {options.calib_size}")
    return found


def _title(out: Path, settings: Settings) -> str:
    return f"{settings.algo} to {out.name}"


def _precision(settings: Settings, options: Options, bits: dict[str, int], spec: DecoderSpec) -> dict[str, str]:
    inside = {number for name, number in bits.items() if name != HEAD}
    weights = f"int{inside.pop()}" if len(inside) == 1 and inside != {FLOAT_BITS} else "mixed"
    return {
        "weights": weights,
        "activations": "fp32",
        "kv_cache": "fp32",
        "ops": FORMATS[options.form],
        "algorithm": settings.algo,
        "block_size": str(settings.block_size),
        "mean_bits": f"{mean_bits(bits, matrix_sizes(spec)):.3g}",
    }
