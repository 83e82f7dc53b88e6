#!/usr/bin/env python3
"""Speed with the whole model in memory, compared with llama.cpp and onnxruntime-genai if they are installed.

    python benchmarks/speed.py --json docs/speed.json --plot docs/speed.png

Every engine runs the same random checkpoint in its own process. The engines take turns in every round, and each is
suspended while others run. Figures are medians over the rounds. The first run makes the models (about 20 GB).
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import subjects
from engine import Engine, random_prompt
from peer_models import installed
from random_checkpoint import SHAPES
from report import OURS, THEIRS, about, memory_bandwidth, save, table

from llama_onnx.files.onnx_file import read_graph

OURS_BY_DTYPE = ("int4", "int8", "fp32")
PEERS = (("llama.cpp", "Q4_K_M"), ("llama.cpp", "Q8_0"), ("genai", "int4"))
PACKAGES = {"llama.cpp": "llama_cpp", "genai": "onnxruntime_genai"}
# figure, our engine, the peer, the speedup to aim for
RATIOS = (
    ("decode", "ours int4", "llama.cpp Q4_K_M", 1.25),
    ("decode", "ours int4", "genai int4", 1.35),
    ("prefill", "ours int4", "llama.cpp Q4_K_M", 1.2),
    ("prefill", "ours int4", "genai int4", 1.2),
    ("decode", "ours int8", "llama.cpp Q8_0", 1.4),
)


def engines(work: Path, shape: str, threads: int) -> dict[str, dict[str, Any]]:
    """Return the descriptions of the engines by name, and make the models that are missing."""
    source = subjects.checkpoint(work, shape)
    found: dict[str, dict[str, Any]] = {}
    for dtype in OURS_BY_DTYPE:
        found[f"ours {dtype}"] = {"engine": "ours", "path": str(subjects.model_directory(work, source, dtype))}
    for engine, kind in PEERS:
        if not installed(PACKAGES[engine], engine):
            continue
        path = subjects.genai(work, source, threads) if engine == "genai" else subjects.gguf(work, source, kind)
        found[f"{engine} {kind}"] = {"engine": engine, "path": str(path)}
    return found


def weight_bytes(description: dict[str, Any]) -> int:
    """Return the bytes of weights that one token reads: all layers and the head, but only a row of the embedding."""
    path = Path(description["path"])
    if path.is_file():
        import gguf

        theirs = gguf.GGUFReader(path).tensors
        return sum(int(tensor.n_bytes) for tensor in theirs if tensor.name != "token_embd.weight")
    if (path / "model.onnx").exists():  # onnxruntime-genai keeps everything in one file
        tensors = read_graph(path / "model.onnx").initializers
        return sum(tensor.location[2] for tensor in tensors if "embed_tokens" not in tensor.name)
    return sum(file.stat().st_size for file in path.glob("*.bin") if not file.name.startswith("embed"))


def measure(started: dict[str, Engine], prompt: list[int], new: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return the prefill and decode tokens per second of every round, after one round to warm up.

    A different engine starts each round.
    """
    figures: dict[str, dict[str, list[float]]] = {name: {"prefill": [], "decode": []} for name in started}
    names = list(started)
    for done in range(rounds + 1):
        first = done % len(names)
        for name in names[first:] + names[:first]:
            answer = started[name].ask(prompt=prompt, new=new)
            if done:
                figures[name]["prefill"].append(len(prompt) / answer["prompt_seconds"])
                figures[name]["decode"].append((answer["new"] - 1) / answer["new_seconds"])
    return figures


def plot(path: Path, result: dict[str, Any]) -> None:
    """Plot decode and prefill speed of every engine as bars."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = result["engines"]
    figure, axes = plt.subplots(1, 2, figsize=(10, 0.5 * len(rows) + 1.2), layout="constrained", sharey=True)
    for axis, what, title in zip(axes, ("decode", "prefill"), ("Decode, tokens/s", "Prefill, tokens/s"), strict=True):
        values = [row[what] for row in rows]
        colours = [OURS if row["name"].startswith("ours") else THEIRS[0] for row in rows]
        bars = axis.barh([row["name"] for row in rows], values, color=colours, height=0.65)
        axis.bar_label(bars, fmt="%.1f", padding=3, fontsize=9)
        axis.set_title(title, loc="left", fontsize=11)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
        axis.set_xticks([])
        axis.spines["bottom"].set_visible(False)
        axis.margins(x=0.12)
    axes[0].invert_yaxis()
    figure.suptitle(
        f"{result['shape']}, {result['prompt']} + {result['new']} tokens, {result['threads']} threads",
        x=0.01,
        ha="left",
    )
    figure.savefig(path, dpi=130)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shape",
        choices=SHAPES,
        default="tinyllama-1.1b",
        help="shape of the model (default: %(default)s)",
    )
    parser.add_argument("--work", type=Path, default=subjects.WORK, metavar="DIR", help="folder for the models")
    parser.add_argument("--prompt", type=int, default=128, metavar="N", help="prompt tokens (default: %(default)s)")
    parser.add_argument("--new", type=int, default=33, metavar="N", help="new tokens (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=6, metavar="N", help="rounds (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N", help="default: %(default)s")
    parser.add_argument("--prepare", action="store_true", help="only make the models")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="plot the figures to FILE (needs matplotlib)")
    options = parser.parse_args()
    descriptions = engines(options.work, options.shape, options.threads)
    if options.prepare:
        return
    prompt = random_prompt(options.prompt, SHAPES[options.shape][-1])
    bandwidth = memory_bandwidth()
    started = {name: Engine(threads=options.threads, **description) for name, description in descriptions.items()}
    try:
        figures = measure(started, prompt, options.new, options.rounds)
    finally:
        for engine in started.values():
            engine.close()
    bandwidth = max(bandwidth, memory_bandwidth())
    rows: list[dict[str, Any]] = []
    for name, runs in figures.items():
        size = weight_bytes(descriptions[name])
        decode = float(np.median(runs["decode"]))
        rows.append(
            {
                "name": name,
                "prefill": float(np.median(runs["prefill"])),
                "decode": decode,
                "decode_range": [min(runs["decode"]), max(runs["decode"])],
                "bytes_per_token": size,
                "share_of_bandwidth": decode * size / bandwidth,
            }
        )
    by_name = {row["name"]: row for row in rows}
    ratios = [
        {"figure": what, "of": ours, "to": theirs, "ratio": by_name[ours][what] / by_name[theirs][what], "aim": aim}
        for what, ours, theirs, aim in RATIOS
        if ours in by_name and theirs in by_name
    ]
    result = {
        "about": about(),
        "shape": options.shape,
        "prompt": options.prompt,
        "new": options.new,
        "threads": options.threads,
        "rounds": options.rounds,
        "memory_bandwidth": bandwidth,
        "engines": rows,
        "ratios": ratios,
    }
    print(f"memory bandwidth {bandwidth / 1e9:.1f} GB/s\n")
    print(
        table(
            ("", "prefill tok/s", "decode tok/s", "from … to", "GB per token", "of the bandwidth"),
            [
                (
                    row["name"],
                    f"{row['prefill']:.1f}",
                    f"{row['decode']:.2f}",
                    "{:.2f} … {:.2f}".format(*row["decode_range"]),
                    f"{row['bytes_per_token'] / 1e9:.2f}",
                    f"{100 * row['share_of_bandwidth']:.0f} %",
                )
                for row in rows
            ],
        )
    )
    print()
    for ratio in ratios:
        print(f"{ratio['figure']}: {ratio['of']} is {ratio['ratio']:.2f} x {ratio['to']} (aim {ratio['aim']})")
    save(options.json, result)
    if options.plot:
        plot(options.plot, result)


if __name__ == "__main__":
    main()
