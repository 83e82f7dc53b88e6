"""The models to measure: random weights in real shapes, made once, for this project and for the peers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import peer_models
from random_checkpoint import write_checkpoint

from llama_onnx.export.exporter import export

WORK = Path("build/benchmarks")


def checkpoint(work: Path, shape: str, cycle: int | None = None) -> Path:
    """Return a random checkpoint of a shape that `benchmarks/random_checkpoint.py` defines."""
    name = shape if cycle is None else f"{shape}-cycle{cycle}"
    return _made(work / name, "model.safetensors.index.json", lambda out: write_checkpoint(shape, out, cycle=cycle))


def model_directory(work: Path, source: Path, dtype: str) -> Path:
    """Return a model directory of this project, exported from a checkpoint."""
    out = work / f"{source.name}-{dtype}"
    return _made(out, "manifest.json", lambda out: export(source, out, dtype))


def gguf(work: Path, source: Path, kind: str) -> Path:
    """Return a GGUF file quantised by llama.cpp."""
    half = work / f"{source.name}-f16.gguf"
    out = work / f"{source.name}-{kind}.gguf"
    if not out.exists():
        if not half.exists():
            _say(half)
            peer_models.write_gguf(source, half.with_suffix(".tmp"))
            half.with_suffix(".tmp").rename(half)
        _say(out)
        peer_models.quantize_gguf(half, out.with_suffix(".tmp"), kind)
        out.with_suffix(".tmp").rename(out)
    return out


def genai(work: Path, source: Path, threads: int) -> Path:
    """Return a 4-bit model folder of onnxruntime-genai."""
    out = work / f"{source.name}-genai"
    return _made(out, "genai_config.json", lambda out: peer_models.build_genai(source, out, threads))


def _made(out: Path, last: str, make: Callable[[Path], None]) -> Path:
    if not (out / last).exists():
        _say(out)
        make(out)
    return out


def _say(path: Path) -> None:
    print(f"making {path}", file=sys.stderr, flush=True)
