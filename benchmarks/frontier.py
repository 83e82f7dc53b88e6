#!/usr/bin/env python3
"""Quality over size and speed of every way to quantise a real model: ours, llama.cpp's and onnxruntime-genai's.

    python tests/real/models.py REAL_MODELS
    python benchmarks/frontier.py REAL_MODELS --json docs/frontier.json --plot docs/frontier.png        # takes an hour

All tools start from the same float32 weights, those of the GGUF file, and are scored on the same texts: KL divergence
of the next token from float32, in windows of 500 tokens of prose, code, French and Chinese. The methods that calibrate
read the built-in text, which is another one. Sizes are of all files, tokenizer included. Engines take turns in every
round, each in its own process, and are suspended while others run; speeds are medians. Models that were made before are
kept in REAL_MODELS/exports. The files are written after every point, so that what is interrupted is not lost. Peers
that are not installed (llama-cpp-python, onnxruntime-genai with torch) are left out.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from divergence import Logits, open_decoder
from pareto import draw, rivals
from peer_logits import genai_logits, gguf_logits
from peer_models import build_genai, dequantized_gguf, installed, quantize_gguf, write_safetensors
from real_models import WINDOW, compared, made, size, speeds, windows
from report import about, save, table

import llama_onnx
from llama_onnx.export.compare.metrics import log_softmax
from llama_onnx.export.exporter import export
from llama_onnx.export.families.registry import read_spec
from llama_onnx.export.quantize.quantizer import quantize
from llama_onnx.export.quantize.settings import Options, Settings
from llama_onnx.export.readers.open import open_checkpoint

MODELS = "smollm2-135m", "qwen-0.5b"
TEMPORARY = ".part"
GGUF = "Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0"
ROUNDED, CALIBRATED = Settings("k_quant", 32, minima=True), Settings("gptq", 32, minima=True)
BUDGET = 5  # of --mixed auto


@dataclass(frozen=True)
class Point:
    """One way to quantise a model.

    Attributes:
        tool, method: who does it, and how.
        bytes: of all files.
        loss: KL divergence from float32 in nats.
        same_token: share of positions with the same likeliest token.
        decode, prefill: tokens a second; 0 if the speed was not measured.
    """

    tool: str
    method: str
    bytes: int
    loss: float
    same_token: float
    decode: float = 0.0
    prefill: float = 0.0


@dataclass(frozen=True)
class Way:
    """A way to quantise: `make` writes a file or a folder, `logits` runs it, and `engine` is its name in `engine`."""

    tool: str
    method: str
    make: Callable[[Path], object]
    logits: Callable[[Path], Logits]
    engine: str


class Subject:
    """A model that all tools quantise, in the forms they read, and what it says on the texts in float32."""

    def __init__(self, source: Path, work: Path) -> None:
        """Write the float32 forms of `source` into the folder `work`, unless they are there."""
        self.work, self.fp32 = work, made(source, work.parent, "fp32")
        checkpoint = open_checkpoint(source)
        self.spec = read_spec(checkpoint.config)
        work.mkdir(exist_ok=True)
        self.gguf = kept(work / "float32.gguf", partial(dequantized_gguf, source))
        self.hugging_face = kept(work / "hugging-face", partial(write_safetensors, checkpoint))
        with llama_onnx.load(self.fp32, ctx_size=WINDOW) as lm:
            self.windows = [np.array(ids) for ids in windows(lm)]
            self._wanted = [log_softmax(lm.logits(ids.tolist())) for ids in self.windows]

    def score(self, logits: Logits) -> tuple[float, float]:
        """Return the mean KL divergence of a model, and the share of positions with the same likeliest token."""
        pairs = zip(self.windows, self._wanted, strict=True)
        losses, same = zip(*(compared(wanted, logits(ids)) for ids, wanted in pairs), strict=True)
        return float(np.concatenate(losses).mean()), float(np.concatenate(same).mean())


def kept(path: Path, make: Callable[[Path], object]) -> Path:
    """Return a file or folder, made unless it is there; one that was interrupted is made again."""
    if not path.exists():
        part = path.with_name(path.name + TEMPORARY)
        if part.is_dir():
            shutil.rmtree(part)
        make(part)
        part.rename(path)
    return path


def ways(subject: Subject) -> Iterator[Way]:
    """Yield every way to quantise that is compared; the one that takes longest comes last."""
    for dtype in ("int4", "int8"):
        yield _ours(f"--dtype {dtype}", partial(export, subject.gguf, dtype=dtype))
    eight, four = Options(head_bits=8, embedding_bits=8), Options(head_bits=4, embedding_bits=4)
    for settings in (Settings("k_quant", 128), Settings("k_quant", 32), ROUNDED):
        yield _quantized(subject, settings, eight, "tables 8")
    yield _quantized(subject, ROUNDED, four, "tables 4")
    if installed("llama_cpp", "llama.cpp"):
        for kind in GGUF:
            make = partial(quantize_gguf, subject.gguf, kind=kind)
            yield Way("llama.cpp", kind, make, partial(gguf_logits, length=WINDOW), "llama.cpp")
    if installed("onnxruntime_genai", "onnxruntime-genai"):
        for algo in ("rtn", "k_quant"):
            make = partial(build_genai, subject.hugging_face, threads=2, algo_config=algo, block_size=32)
            yield Way("genai", f"{algo}, block 32", make, partial(_genai, spec=subject.spec), "genai")
    yield _quantized(subject, CALIBRATED, replace(eight, mixed="auto", budget=BUDGET), f"tables 8, auto {BUDGET}")


def _quantized(subject: Subject, settings: Settings, options: Options, what: str) -> Way:
    minima = ", minima" if settings.minima else ""
    make = partial(quantize, subject.fp32, settings=settings, options=options)
    return _ours(f"{settings.algo}, block {settings.block_size}{minima}, {what}", make)


def _ours(method: str, make: Callable[..., object]) -> Way:
    return Way("ours", method, make, lambda path: open_decoder(path).logits, "ours")


def _genai(path: Path, spec: Any) -> Logits:
    return genai_logits(path / "model.onnx", spec)


def measure(subject: Subject, rounds: int, keep: Callable[[list[Point]], object]) -> list[Point]:
    """Return the points of one model. `keep` is called with those that there are whenever there is one more."""
    points: dict[str, Point] = {}
    sides: dict[str, dict[str, Any]] = {}
    for way in ways(subject):
        name = f"{way.tool} {way.method}"
        file = "".join(c if c.isalnum() or c in ".-" else "_" for c in name)
        try:
            path = kept(subject.work / (file + (".gguf" if way.tool == "llama.cpp" else "")), way.make)
        except (subprocess.CalledProcessError, SystemExit) as error:
            print(f"{name}: left out ({error})", file=sys.stderr)
            continue
        sides[name] = {"engine": way.engine, "path": str(path)}
        points[name] = Point(way.tool, way.method, _size(path), *subject.score(way.logits(path)))
        print(f"{name}: {_megabytes(points[name])}, KL {points[name].loss:.5f}", file=sys.stderr)
        keep(list(points.values()))
    if not rounds:
        return list(points.values())
    rates = speeds(sides, subject.spec.vocab_size, rounds)
    return [replace(p, decode=rates[n]["decode"], prefill=rates[n]["prefill"]) for n, p in points.items()]


def _size(path: Path) -> int:
    return size(path) if path.is_dir() else path.stat().st_size


def plot(path: Path, results: dict[str, list[Point]]) -> None:
    """Plot KL divergence over bytes, and over the time of a token where it was measured, one row per model."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        len(results), 2, figsize=(11, 4.2 * len(results)), layout="constrained", squeeze=False
    )
    for (size_panel, time_panel), (name, points) in zip(panels, results.items(), strict=True):
        draw(size_panel, name, points, lambda point: point.bytes / 1e6, "megabytes, all files")
        size_panel.set_ylabel("KL divergence from float32, nats")
        if all(point.decode for point in points):
            draw(time_panel, name, points, lambda point: 1000 / point.decode, "milliseconds a token")
        else:
            time_panel.set_axis_off()
    panels[0][0].legend(frameon=False)
    figure.savefig(path, dpi=130)


def report(points: list[Point]) -> str:
    """Return the tables of one model."""
    ordered = sorted(points, key=lambda point: (point.tool, point.bytes))
    rows = [
        [p.tool, p.method, _megabytes(p), f"{p.loss:.2g}", f"{100 * p.same_token:.1f} %", *_rates(p)] for p in ordered
    ]
    text = table(["tool", "method", "on disk", "KL, nats", "same token", "decode", "prefill"], rows)
    rows = [
        [f"{p.tool} {p.method}", _megabytes(p), f"{p.loss:.2g}", *_cells(own)]
        for p, own in sorted(rivals(points, lambda point: point.bytes), key=lambda pair: pair[0].bytes)
    ]
    header = ["peer", "on disk", "KL", "ours that is no larger", "on disk", "KL"]
    return f"{text}\n\n{table(header, rows)}"


def _megabytes(point: Point) -> str:
    return f"{point.bytes / 1e6:.0f} MB"


def _rates(point: Point) -> tuple[str, str]:
    return (f"{point.decode:.1f}", f"{point.prefill:.0f}") if point.decode else ("", "")


def _cells(own: Point | None) -> tuple[str, str, str]:
    return (own.method, _megabytes(own), f"{own.loss:.2g}") if own else ("none", "", "")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, metavar="REAL_MODELS", help="folder of GGUF files")
    parser.add_argument("--only", nargs="+", default=MODELS, metavar="NAME", help="models (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of the speeds; 0 leaves them out (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="plot the figures to FILE (needs matplotlib)")
    args = parser.parse_args()
    results: dict[str, list[Point]] = {}

    def keep(name: str, points: list[Point]) -> None:
        results[name] = points
        save(args.json, {**about(), "models": {n: [asdict(point) for point in found] for n, found in results.items()}})
        if args.plot:
            plot(args.plot, results)

    for name in args.only:
        subject = Subject(args.models / f"{name}.gguf", args.models / "exports" / f"frontier-{name}")
        keep(name, measure(subject, args.rounds, partial(keep, name)))
        print(f"{name}\n\n{report(results[name])}\n", flush=True)


if __name__ == "__main__":
    main()
