#!/usr/bin/env python3
"""Quality of 4-bit quantisation: KL divergence from float32 over bits per weight, compared with the peers.

    python benchmarks/quantisation_quality.py models/demo CHECKPOINT --json docs/quantisation.json

The peers are llama.cpp and onnxruntime-genai; those that are not installed are left out. Every tool quantises the same
weights and is scored on the same text: samples of the float32 model at temperature 1. Our methods that need calibration
text use other samples. Bits per weight count everything that is stored, including scales, zero points, embedding,
lm_head and norms.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from divergence import LENGTH, Reference, Scores, open_decoder
from pareto import COLOURS, draw, rivals
from peer_logits import genai_logits, gguf_logits
from peer_models import build_genai, installed, quantize_gguf, write_gguf, write_hugging_face
from report import about, save, table
from stored_bits import genai_bits, gguf_bits, norm_weights, our_bits

from llama_onnx.export.families.registry import read_spec
from llama_onnx.export.quantize.bits import matrix_sizes
from llama_onnx.export.quantize.quantizer import quantize
from llama_onnx.export.quantize.settings import Options, Settings
from llama_onnx.export.readers.open import open_checkpoint
from llama_onnx.scoring.perplexity import standard_error

# Bits per weight for `auto`, up to those of llama.cpp's mixed format in models as small as these.
BUDGETS = (5.0, 5.5, 6.0, 6.5, 7.0)


@dataclass(frozen=True)
class Point:
    """One way to quantise the model.

    Attributes:
        tool: 'ours', 'genai' or 'llama.cpp'.
        method: the quantisation method and its options.
        bits: stored bits per weight, everything counted.
        scores: KL divergence from float32.
        note: what else a reader must know.
    """

    tool: str
    method: str
    bits: float
    scores: Scores
    note: str = ""

    @property
    def loss(self) -> float:
        """Mean KL divergence in nats."""
        return self.scores.loss

    def as_dict(self) -> dict[str, Any]:
        """Return the entry for the JSON file."""
        return {
            "tool": self.tool, "method": self.method, "bits": round(self.bits, 4), "kl": self.loss,
            "standard_error": self.scores.error, "note": self.note,
        }  # fmt: skip


class Subject(Reference):
    """A model that all tools quantise."""

    def __init__(self, source: Path, work: Path, count: int) -> None:
        """See `Reference`."""
        super().__init__(source, work, count)
        self.source, self.work = source, work
        self.checkpoint = open_checkpoint(source)
        self.spec = read_spec(self.checkpoint.config)

    @property
    def weights(self) -> int:
        """The number of weights; a tied table counts once."""
        spec = self.spec
        table = 0 if spec.tied_embeddings else spec.vocab_size * spec.hidden_size
        return sum(matrix_sizes(spec).values()) + table + norm_weights(spec)


# --- ours ---


def ours(subject: Subject) -> Iterator[Point]:
    """Yield our methods: those that need no calibration text, and gptq, the best of those that do."""
    spec = subject.spec
    blocks = [size for size in (32, 64, 128) if spec.hidden_size % size == 0]
    for algo in ("rtn", "k_quant", "gptq"):
        for block_size in blocks:
            for zero_point in (False, True):
                for table_bits in (4, 8) if algo == "gptq" else (4,):
                    settings = Settings(algo, block_size, zero_point)
                    options = Options(head_bits=table_bits, embedding_bits=table_bits)
                    yield _ours(subject, settings, options, f"table {table_bits}")
    for budget in BUDGETS:
        options = Options(head_bits=8, embedding_bits=8, mixed="auto", budget=budget)
        yield _ours(subject, Settings("gptq", blocks[-1], True), options, f"table 8, auto {budget:g}")


def _ours(subject: Subject, settings: Settings, options: Options, what: str) -> Point:
    out = subject.work / "ours"
    quantize(subject.source, out, settings, replace(options, **subject.calibration))
    zero = ", zero points" if settings.zero_point else ""
    return Point(
        "ours",
        f"{settings.algo}, block {settings.block_size}{zero}, {what}",
        our_bits(subject.spec, out, settings) / subject.weights,
        subject.score(open_decoder(out).logits),
    )


# --- onnxruntime-genai ---


def genai(subject: Subject) -> Iterator[Point]:
    """Yield the models that onnxruntime-genai's model builder makes."""
    if not installed("onnxruntime_genai", "onnxruntime-genai"):
        return
    folder = subject.work / "hugging-face"
    note = write_hugging_face(subject.checkpoint, folder)
    for algo in ("rtn", "k_quant"):
        for block_size in (32, 64, 128):
            for symmetric in ("true", "false") if algo == "rtn" else ("false",):
                out = subject.work / f"genai-{algo}-{block_size}-{symmetric}"
                zero = ", zero points" if algo == "rtn" and symmetric == "false" else ""
                try:
                    build_genai(folder, out, 1, algo_config=algo, block_size=block_size, is_symmetric=symmetric)
                except subprocess.CalledProcessError:  # e.g. with zero points and an odd number of blocks in a row
                    print(f"genai {algo}, block {block_size}{zero}: its builder fails", file=sys.stderr)
                    continue
                yield Point(
                    "genai",
                    f"{algo}, block {block_size}{zero}",
                    genai_bits(out / "model.onnx", subject.spec) / subject.weights,
                    subject.score(genai_logits(out / "model.onnx", subject.spec)),
                    note,
                )


# --- llama.cpp ---


def llama_cpp(subject: Subject) -> Iterator[Point]:
    """Yield the models that llama.cpp makes from the same float32 weights."""
    if not installed("llama_cpp", "llama.cpp"):
        return
    floats = subject.work / "float.gguf"
    write_gguf(subject.source, floats, half=False)
    for kind in ("Q4_0", "Q4_K_M"):
        out = subject.work / f"{kind}.gguf"
        quantize_gguf(floats, out, kind)
        bits, note = gguf_bits(out)
        yield Point("llama.cpp", kind, bits / subject.weights, subject.score(gguf_logits(out)), note)


# --- results ---


def plot(path: Path, results: dict[str, list[Point]]) -> None:
    """Plot KL divergence over bits per weight, with one panel per model."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(results), figsize=(5.4 * len(results), 4.4), layout="constrained")
    for panel, (name, points) in zip(np.atleast_1d(panels), results.items(), strict=True):
        draw(panel, name, points, lambda point: point.bits, "bits per weight, everything counted")
        for point in points:
            bar = 2 * point.scores.error
            panel.errorbar(point.bits, point.loss, bar, fmt="none", lw=1, color=COLOURS[point.tool], alpha=0.5)
    first = np.atleast_1d(panels)[0]
    first.set_ylabel("KL divergence from float32, nats (bars: two standard errors)")
    first.legend(frameon=False)
    figure.savefig(path, dpi=130)


def report(points: list[Point]) -> str:
    """Return the tables of one model."""
    rows = [
        [p.tool, p.method, f"{p.bits:.2f}", f"{p.loss:.4f} ± {p.scores.error:.4f}", p.note]
        for p in sorted(points, key=lambda point: (point.tool, point.bits))
    ]
    text = table(["tool", "method", "bits per weight", "KL, nats", ""], rows)
    rows = []
    for point, own in rivals(points, lambda point: point.bits):
        if own is None:
            continue
        gap = point.scores.losses - own.scores.losses
        rows.append([
            f"{point.tool} {point.method}", f"{point.bits:.2f}", f"{point.loss:.4f}", own.method, f"{own.bits:.2f}",
            f"{own.loss:.4f}", f"{gap.mean():+.4f} ± {standard_error(gap):.4f}",
        ])  # fmt: skip
    header = ["peer", "bits", "KL", "ours with no more bits", "bits", "KL", "peer's KL minus ours"]
    return f"{text}\n\n{table(header, rows)}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="checkpoints, or model directories")
    parser.add_argument("--samples", type=int, default=32, metavar="N", help="256 tokens each (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="plot the figures to FILE (needs matplotlib)")
    options = parser.parse_args()
    results: dict[str, list[Point]] = {}
    for model in options.models:
        with tempfile.TemporaryDirectory() as work:
            subject = Subject(model, Path(work), options.samples)
            points = []
            for tool in (llama_cpp, genai, ours):
                for point in tool(subject):
                    print(f"{point.tool} {point.method}: {point.bits:.3f} bits, {point.loss:.5f}", file=sys.stderr)
                    points.append(point)
        results[model.name] = points
        print(f"{model.name}: {subject.weights} weights, {subject.samples.size} tokens\n\n{report(points)}\n")
    figures = {
        **about(),
        "tokens": options.samples * LENGTH,
        "models": {name: [point.as_dict() for point in points] for name, points in results.items()},
    }
    save(options.json, figures)
    if options.plot:
        plot(options.plot, results)


if __name__ == "__main__":
    main()
