#!/usr/bin/env python3
"""Compare precisions: bytes, perplexity, KL divergence from float32 and speed of a model, as a Markdown table.

    python benchmarks/precision_table.py [models/demo]

The text is sampled from the float32 model at temperature 1; methods that need calibration text use other samples.
Blocks have 32 weights; embedding and lm_head have 8 bits (one table if they are tied). For the speed, each model runs
in its own process, the processes take turns, and figures are medians over the rounds. The last column is the KL
divergence with activations left in float32, which is the loss from the weights alone; the rest of the KL comes from
int8 activations.
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

import numpy as np
import onnx
from divergence import Reference, Scores, open_decoder
from engine import Engine
from report import about, save, table

from llama_onnx.export.exporter import export
from llama_onnx.export.quantize.quantizer import quantize
from llama_onnx.export.quantize.settings import Options, Settings
from llama_onnx.model_directory import read_config

BLOCK_SIZE = 32
METHODS = ("rtn", "hqq", "k_quant", "awq_lite", "awq_clip", "awq_full", "gptq")
PROMPTS, PROMPT, NEW = 6, 64, 129  # number of prompts (starts of samples), tokens per prompt, tokens per answer
IN_FLOATS = 1  # accuracy_level of MatMulNBits: activations stay in float32


@dataclass(frozen=True)
class Row:
    """A model directory and its scores; `weights_only` are those with float32 activations, if it is quantised."""

    name: str
    folder: Path
    scores: Scores
    weights_only: Scores | None

    @property
    def bytes(self) -> int:
        """Bytes of the shards."""
        return sum(path.stat().st_size for path in self.folder.iterdir() if path.suffix in (".bin", ".onnx"))


def make(source: Path, work: Path, reference: Reference) -> list[Row]:
    """Make every precision of a model and score it."""
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
    """Copy a quantised model to `out`, and change it to leave activations in float32."""
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
    """Return the median tokens per second of every model while it continues the starts of samples.

    Answers may be short, so the speed of a round is the tokens of all its answers over their seconds.
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
    parser.add_argument("--samples", type=int, default=32, metavar="N", help="256 tokens each (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="rounds of speed (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N", help="default: one per core")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
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
    """Return mean and standard error as text, with as many digits as are significant."""
    if scores.loss < 1e-5:
        return f"{scores.loss:.0e}" if scores.loss > 1e-9 else "0"
    digits = -int(np.floor(np.log10(scores.error)))
    return f"{scores.loss:.{digits}f} ± {scores.error:.{digits}f}"


if __name__ == "__main__":
    main()
