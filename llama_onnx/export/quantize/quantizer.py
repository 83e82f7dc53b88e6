"""Quantises a whole model from any checkpoint, with any method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from ...errors import RequestError
from ...text.open import open_tokenizer
from ..checkpoint import Checkpoint
from ..families.spec import DecoderSpec
from ..graphs.blocks import ROPE_FILE, write_rope
from ..graphs.styles import get_ops
from ..graphs.weights import Precision, Weights
from ..progress import report
from ..readers.json_files import read_json
from ..readers.open import open_checkpoint
from ..shards import checked_spec, fingerprint, manifest_model, write_shards
from ..writer import ModelWriter, write_json
from . import auto_bits, calibration
from .bits import FLOAT_BITS, HEAD, SENSITIVE, STORED, matrix_sizes, mean_bits, plan, stored_bits
from .blas import one_blas_thread
from .layer import LayerQuantizer
from .methods.registry import CALIBRATED
from .settings import FORMATS, PORTABLE, Options, Settings, check
from .table import FILE, check_plot, plot, read_table
from .weights import QuantizedWeights


@one_blas_thread()
def quantize(
    source: str | Path,
    out: str | Path,
    settings: Settings,
    options: Options | None = None,
    picture: Path | None = None,
) -> None:
    """Write the quantised model directory `out`.

    Args:
        source: a checkpoint in any format that `open_checkpoint` reads, such as an fp32 or fp16 model directory.
        out: the directory to make. An existing model there is replaced once the new one is complete. It also gets a
            `quant_table.csv`.
        settings: the method and its parameters.
        options: everything else; None means the defaults.
        picture: the file to draw the quant table into; None draws nothing.

    Raises:
        ModelDirectoryError: the checkpoint cannot be read.
        RequestError: an option has an invalid value, or the plot cannot be written.
        MissingDependencyError: a plot needs matplotlib.
    """
    out, options = Path(out), options or Options()
    check(settings, options)
    if picture:
        check_plot(picture)  # before hours of work
    if settings.algo == PORTABLE:
        settings, options = replace(settings, algo="rtn"), replace(options, form="qdq")
    checkpoint = open_checkpoint(source)
    spec = checked_spec(checkpoint)
    default = options.bits if options.mixed != "auto" else 4  # auto chooses the bits later: for qdq, 4 or more
    stored = stored_bits(spec, checkpoint)
    bits = plan(spec, default, options.head_bits, options.layers_8bit, options.mixed, stored, options.keep)
    if options.form == "qdq" and (2 in bits.values() or options.embedding_bits == 4):
        raise RequestError("qdq supports matrices of 4 or 8 bits and embeddings of 8 or 16; use --format nbits")
    reads_text = settings.algo in CALIBRATED or options.mixed == "auto"
    text = calibration.read_texts(options.dataset) if reads_text else ""
    key = {"source": fingerprint(checkpoint), "settings": asdict(settings), "options": asdict(options), "bits": bits}
    needed = sum(size * (bits[name] or 2) for name, size in matrix_sizes(spec).items() if name != HEAD) // 8
    with ModelWriter(out, {**key, "text": text}, checkpoint.source, needed) as writer:
        wide = Weights(checkpoint, Precision("fp32"), report)

        def samples() -> np.ndarray:
            writer.copy(checkpoint.files)  # the tokenizer among them
            return _samples(checkpoint, spec, writer.folder, text, options)

        if options.mixed == "auto":
            bits = _auto_bits(spec, wide, settings, options, writer, samples)
        quantizer = LayerQuantizer(spec, wide, bits, settings, writer, samples)
        share = spec.tied_embeddings and options.form == "nbits" and options.embedding_bits == bits[HEAD]
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
            options.keep,
        )
        model = write_shards(
            writer, checkpoint, spec, weights, get_ops(FORMATS[options.form]), share, _title(out, settings)
        )
        writer.copy({FILE: (writer.folder / FILE).read_bytes()})
        writer.finish(spec.family, model, _precision(settings, options, bits, spec))
    if picture:
        plot(read_table(out / FILE), picture)


def _auto_bits(
    spec: DecoderSpec,
    weights: Weights,
    settings: Settings,
    options: Options,
    writer: ModelWriter,
    samples: Callable[[], np.ndarray],
) -> dict[str, int]:
    """Measure the matrices and choose their bits. A resumed run keeps the choice of the first run."""
    path = writer.folder / "auto_bits.json"
    if writer.resumed and path.is_file():
        return dict(read_json(path))
    lowest = 4 if options.budget >= 4 or options.form == "qdq" else 2
    fixed = {name: bits for name, bits in plan(spec, 0, options.head_bits, options.layers_8bit).items() if bits}
    rope = writer.data_file(ROPE_FILE, lambda file: write_rope(file, spec))
    tried = [bits for bits in (2, 4) if bits >= lowest]
    found = auto_bits.measure(spec, weights, settings, writer.folder, samples(), rope, tried)
    costs = {name: auto_bits.Cost(size, found[name]) for name, size in matrix_sizes(spec).items()}
    bits = auto_bits.spend(costs, lowest, options.budget, fixed)
    write_json(path, bits)
    return bits


def _samples(checkpoint: Checkpoint, spec: DecoderSpec, folder: Path, text: str, options: Options) -> np.ndarray:
    model = manifest_model(checkpoint, spec)
    tokenizer = open_tokenizer(
        folder, spec.vocab_size, model["bos_token_id"] if model["add_bos"] else None, model["eos_token_ids"]
    )
    length = min(options.calib_length, spec.context_length)
    found = calibration.samples_of(text, tokenizer, options.calib_size, length)
    if len(found) < options.calib_size:
        report(f"the calibration text has {len(found)} samples of {found.shape[1]} tokens, not {options.calib_size}")
    return found


def _title(out: Path, settings: Settings) -> str:
    return f"{settings.algo} to {out.name}"


def _precision(settings: Settings, options: Options, bits: dict[str, int], spec: DecoderSpec) -> dict[str, str]:
    inside = {number for name, number in bits.items() if name != HEAD}
    alike = options.mixed in (SENSITIVE, STORED) or (len(inside) == 1 and inside != {FLOAT_BITS})
    weights = f"int{min(inside)}" if alike else "mixed"
    return {
        "weights": weights,
        "activations": "fp32",
        "kv_cache": "fp32",
        "ops": FORMATS[options.form],
        "algorithm": settings.algo,
        "block_size": str(settings.block_size),
        "mean_bits": f"{mean_bits(bits, matrix_sizes(spec)):.3g}",
    }
