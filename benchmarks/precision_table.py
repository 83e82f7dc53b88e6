#!/usr/bin/env python3
"""What each precision costs: bytes, perplexity, KL divergence from float32 and speed of a model, as a Markdown table.

    python benchmarks/precision_table.py [models/demo]

The text is what the float32 model writes at temperature 1; methods that read a text read other samples. Blocks are of
32 weights, embedding and lm_head have 8 bits (one table where they are tied). Every model computes in a process of its
own for the speed; they take turns, and the medians of the rounds are shown. The last column has the same integers
multiplied in float32, which is what the weights alone cost: the difference to KL is what activations in int8 do.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # see tools/quantize.py

import numpy as np
import onnx
from divergence import Reference, Scores, open_decoder
from engine import Engine
from report import about, save, table

from llama_onnx.export.exporter import export
from llama_onnx.export.quantize.layer import Settings
from llama_onnx.export.quantize.quantizer import Options, quantize
from llama_onnx.model_directory import read_config

BLOCK_SIZE = 32
METHODS = ("rtn", "hqq", "k_quant", "awq_lite", "awq_clip", "awq_full", "gptq")
PROMPTS, PROMPT, NEW = 6, 64, 129  # beginnings of samples, their tokens, and those of an answer
IN_FLOATS = 1  # accuracy_level of MatMulNBits: activations stay in float32


@dataclass(frozen=True)
class Row:
    """A model directory and what was found of it; `weights_only` where it is quantised."""

    name: str
    folder: Path
    scores: Scores
    weights_only: Scores | None

    @property
    def bytes(self) -> int:
        """Of its shards."""
        return sum(path.stat().st_size for path in self.folder.iterdir() if path.suffix in (".bin", ".onnx"))


def make(source: Path, work: Path, reference: Reference) -> list[Row]:
    """Return every precision of a model."""
    rows = [_row(reference, "fp32", reference.folder)]
    export(source, work / "fp16", "fp16")
    rows.append(_row(reference, "fp16", work / "fp16"))
    ways = [("int8, k_quant", "k_quant", 8), *((f"int4, {algo}", algo, 4) for algo in METHODS)]
    for name, algo, bits in ways:
        options = replace(Options(bits=bits, head_bits=8, embedding_bits=8), **reference.calibration)
        quantize(source, work / name, Settings(algo, BLOCK_SIZE), options)
        rows.append(_row(reference, name, work / name))
    return rows


def _row(reference: Reference, name: str, folder: Path) -> Row:
    scores, weights_only = reference.score(open_decoder(folder).logits), None
    if any(shard.quantized for shard in read_config(folder).shards):
        exact = in_floats(folder, folder.with_name("exact"))
        weights_only = reference.score(open_decoder(exact).logits)
        shutil.rmtree(exact)
    return Row(name, folder, scores, weights_only)


def in_floats(folder: Path, out: Path) -> Path:
    """Copy a quantised model to `out` and have it leave the activations in float32."""
    shutil.copytree(folder, out)
    for path in out.glob("*.onnx"):
        model = onnx.load(str(path), load_external_data=False)
        for node in model.graph.node:
            for attribute in node.attribute:
                if attribute.name == "accuracy_level":
                    attribute.i = IN_FLOATS
        path.write_bytes(model.SerializeToString(deterministic=True))
    return out


def speeds(rows: list[Row], samples: np.ndarray, rounds: int, threads: int) -> list[float]:
    """Return the median tokens per second of every model while it goes on with the beginnings of samples.

    An answer may be short: that of a round are the tokens of all its answers over their seconds.
    """
    prompts = [ids[:PROMPT].tolist() for ids in samples[:PROMPTS]]
    with ExitStack() as stack:
        engines = [stack.enter_context(Engine(engine="ours", path=str(row.folder), threads=threads)) for row in rows]
        found: list[list[float]] = [[] for _ in rows]
        for done in range(rounds + 1):
            for engine, its in zip(engines, found, strict=True):
                answers = [engine.ask(prompt=prompt, new=NEW) for prompt in prompts]
                if done:  # the first round warms up
                    tokens = sum(answer["new"] - 1 for answer in answers)
                    its.append(tokens / sum(answer["new_seconds"] for answer in answers))
    return [float(np.median(its)) for its in found]


def main() -> None:
    """Make the models, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=Path("models/demo"), help="default: %(default)s")
    parser.add_argument("--samples", type=int, default=32, metavar="N", help="of 256 tokens (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="of the speeds (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N", help="default: one per core")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        reference = Reference(options.model, Path(work), options.samples)
        rows = make(options.model, Path(work), reference)
        rates = speeds(rows, reference.samples, options.rounds, options.threads)
        lines: list[list[str]] = []
        figures: list[dict[str, Any]] = []
        for row, rate in zip(rows, rates, strict=True):
            alone = row.weights_only
            lines.append([
                row.name, f"{row.bytes / 1e6:.2f} MB", f"{row.scores.perplexity:.4f}", _loss(row.scores),
                f"{rate:.0f}", _loss(alone) if alone else "",
            ])  # fmt: skip
            figures.append({
                "name": row.name, "bytes": row.bytes, "perplexity": row.scores.perplexity, "kl": row.scores.loss,
                "standard_error": row.scores.error, "tokens_per_second": rate,
                "kl_of_weights_alone": alone.loss if alone else None,
            })  # fmt: skip
    print(table(["", "bytes", "perplexity", "KL, nats", "tokens/s", "KL of the weights alone"], lines))
    save(options.json, {**about(), "samples": options.samples, "rows": figures})


def _loss(scores: Scores) -> str:
    """Return mean and standard error, which says how many digits mean something."""
    if scores.loss < 1e-5:
        return f"{scores.loss:.0e}" if scores.loss > 1e-9 else "0"
    digits = -int(np.floor(np.log10(scores.error)))
    return f"{scores.loss:.{digits}f} ± {scores.error:.{digits}f}"


if __name__ == "__main__":
    main()
