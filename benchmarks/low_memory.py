#!/usr/bin/env python3
"""Speed and memory of a model that does not fit in memory.

    python benchmarks/low_memory.py peers    # compare with llama.cpp at 2 GB and at 1 GB, and with the disk
    python benchmarks/low_memory.py sizes    # pool sizes from 0.75 to 8 GB, with the default policy and with plain LRU
    python benchmarks/low_memory.py promise  # prompt 256 + 64 tokens: int4 in 2 GB and in 1 GB, fp16 in 2 GB
    python benchmarks/low_memory.py lookup   # prompt lookup, for text that repeats its input and for new text

As root, each engine runs in a cgroup of the pool's size; otherwise --poolsize is the only limit. Every engine runs in
its own process, which starts with a cold page cache. In `peers` and `lookup` the engines take turns in every round, and
figures are medians. The first run makes the models (7B: a checkpoint of 13 GB, and 4 GB for each model).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import limits
import numpy as np
import subjects
from limited_engine import GIB, engine, ours, prompt_of, say, seconds_per_token
from lookup import lookup
from peer_models import installed
from random_checkpoint import SHAPES
from report import about, disk_bandwidth, save, table

from llama_onnx.model_directory import read_config
from llama_onnx.streaming.images import Images

SIZES = (0.75, 1, 1.25, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 8)


def pass_bytes(path: Path) -> int:
    """Return the bytes of weights that one token reads: the layers, packed, and the head."""
    config = read_config(path)
    images = Images(config)
    return sum(images.get(shard).bytes for shard in config.layers) + config.head.loaded_bytes


def image_files(path: Path) -> list[Path]:
    """Return the files that streaming reads."""
    config = read_config(path)
    images = Images(config)
    return [images.get(shard).path for shard in config.layers]


def peers(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Compare with llama.cpp in the same memory, and with the speed that the disk allows."""
    source = subjects.checkpoint(work, options.shape)
    path = subjects.model_directory(work, source, "int4")
    images = image_files(path)
    needed = pass_bytes(path)
    prompt = prompt_of(options)
    rows = []
    for memory in options.memory:
        with contextlib.ExitStack() as stack:
            sides = {"ours int4": stack.enter_context(engine(memory, options.ctx, **ours(path, memory)))}
            if installed("llama_cpp"):
                gguf = str(subjects.gguf(work, source, "Q4_0"))
                sides["llama.cpp Q4_0"] = stack.enter_context(
                    engine(memory, options.ctx, engine="llama.cpp", path=gguf, repack=False)
                )
            answers: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
            disk = []
            for _ in range(options.rounds):
                disk.append(disk_bandwidth(images[:12]))
                for name, (side, _) in sides.items():
                    answers[name].append(side.ask(prompt=prompt, new=options.new))
                    say(f"{memory} GB, {name}: {seconds_per_token(answers[name][-1]):.2f} s/token")
            bandwidth = float(np.median(disk))
            for name, (_, limit) in sides.items():
                row: dict[str, Any] = {
                    "memory": memory,
                    "name": name,
                    "seconds_per_token": float(np.median([seconds_per_token(answer) for answer in answers[name]])),
                    "prompt_seconds": float(np.median([answer["prompt_seconds"] for answer in answers[name]])),
                    "cgroup_peak": limit.peak() if limit else None,
                    "disk_bandwidth": bandwidth,
                }
                if name.startswith("ours"):
                    last = answers[name][-1]
                    row["bytes_per_token"] = bytes_per_token(answers[name])
                    row["floor"] = row["bytes_per_token"] / bandwidth
                    row["floor_of_promise"] = max(0.0, needed - memory * GIB) / bandwidth
                    row["peak_memory"] = last["peak_memory"]
                rows.append(row)
    print(
        table(
            ("memory", "", "s/token", "vs llama.cpp", "vs the disk's floor", "read per token", "disk", "peak"),
            [
                (
                    f"{row['memory']} GB",
                    row["name"],
                    f"{row['seconds_per_token']:.2f}",
                    *_beside(row, rows),
                    f"{row['bytes_per_token'] / 1e9:.2f} GB" if "bytes_per_token" in row else "",
                    f"{row['disk_bandwidth'] / 1e9:.2f} GB/s",
                    f"{row['cgroup_peak'] / GIB:.2f} GB" if row["cgroup_peak"] else "",
                )
                for row in rows
            ],
        )
    )
    return {"rows": rows, "bytes_of_a_pass": needed}


def bytes_per_token(answers: list[dict[str, Any]]) -> float:
    """Return the median bytes loaded per pass, without the first round, which loads the residents."""
    return float(np.median([answer["loaded_bytes"] / answer["new"] for answer in answers[1:] or answers]))


def _beside(row: dict[str, Any], rows: list[dict[str, Any]]) -> tuple[str, str]:
    if "floor" not in row:
        return "", ""
    theirs = [other for other in rows if other["memory"] == row["memory"] and other is not row]
    ratio = f"{row['seconds_per_token'] / theirs[0]['seconds_per_token']:.2f} x" if theirs else ""
    return ratio, f"{row['seconds_per_token'] / row['floor']:.2f} x" if row["floor"] else ""


def sizes(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure all pool sizes with the default policy, then some of them with plain LRU."""
    path = subjects.model_directory(work, subjects.checkpoint(work, options.shape), "int4")
    prompt = prompt_of(options)
    rows = []
    for policy, memory in [*(("resident", size) for size in options.sizes), *(("lru", size) for size in options.lru)]:
        try:
            with engine(memory, options.ctx, **ours(path, memory, policy=policy)) as (side, limit):
                first = side.ask(prompt=prompt, new=2)
                answers = [side.ask(prompt=prompt, new=options.new) for _ in range(options.rounds)]
        except RuntimeError as error:
            say(f"{policy}, {memory} GB: {error}")
            continue
        last = answers[-1]
        rows.append(
            {
                "policy": policy,
                "memory": memory,
                "first_token_seconds": first["prompt_seconds"],
                "seconds_per_token": float(np.median([seconds_per_token(answer) for answer in answers])),
                "residents": last["pool"].get("residents", 0),
                "hit_rate": last["hits"] / (last["hits"] + last["misses"]),
                "bytes_per_token": last["loaded_bytes"] / last["new"],
                "peak_memory": last["peak_memory"],
                "cgroup_peak": limit.peak() if limit else None,
            }
        )
        say(f"{policy}, {memory} GB: {rows[-1]['seconds_per_token']:.2f} s/token")
    print(
        table(
            ("policy", "poolsize", "tokens/s", "hits", "read per token", "first token", "peak"),
            [
                (
                    row["policy"],
                    f"{row['memory']} GB",
                    f"{1 / row['seconds_per_token']:.2f}",
                    f"{100 * row['hit_rate']:.0f} %",
                    f"{row['bytes_per_token'] / 1e9:.2f} GB",
                    f"{row['first_token_seconds']:.1f} s",
                    f"{(row['cgroup_peak'] or row['peak_memory']) / GIB:.2f} GB",
                )
                for row in rows
            ],
        )
    )
    if options.plot:
        plot(options.plot, rows)
    return {"rows": rows}


def plot(path: Path, rows: list[dict[str, Any]]) -> None:
    """Plot seconds per token over the pool size."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from report import OURS, THEIRS

    figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
    for policy, colour in (("resident", OURS), ("lru", THEIRS[0])):
        points = [(row["memory"], row["seconds_per_token"]) for row in rows if row["policy"] == policy]
        if points:
            axis.plot(*zip(*points, strict=True), "o-", color=colour, label=policy)
            axis.annotate(policy, points[-1], (8, 0), textcoords="offset points", color=colour, va="center")
    axis.set_xlabel("poolsize, GB")
    axis.set_ylabel("seconds per token")
    axis.set_ylim(0)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title("7B int4: seconds per token over the memory it may use", loc="left", fontsize=11)
    axis.margins(x=0.1)
    figure.savefig(path, dpi=130)


def promise(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run prompt 256 + 64 tokens in a cgroup of exactly the pool size."""
    source = subjects.checkpoint(work, options.shape)
    rows = []
    for dtype, memory in (("int4", 2.0), ("int4", 1.0), ("fp16", 2.0)):
        if dtype not in options.dtype:
            continue
        path = subjects.model_directory(work, source, dtype)
        with engine(memory, 512, **ours(path, memory)) as (side, limit):
            answer = side.ask(prompt=prompt_of(options), new=options.new)
            rows.append(
                {
                    "dtype": dtype,
                    "memory": memory,
                    "prompt": options.prompt,
                    "new": options.new,
                    "first_token_seconds": answer["prompt_seconds"],
                    "seconds_per_token": seconds_per_token(answer),
                    "peak_memory": answer["peak_memory"],
                    "cgroup_peak": limit.peak() if limit else None,
                }
            )
            say(json.dumps(rows[-1]))
    print(
        table(
            ("", "poolsize", "prompt + new", "first token", "s/token", "peak of the process", "peak of the cgroup"),
            [
                (
                    row["dtype"],
                    f"{row['memory']} GB",
                    f"{row['prompt']} + {row['new']}",
                    f"{row['first_token_seconds']:.1f} s",
                    f"{row['seconds_per_token']:.2f}",
                    f"{row['peak_memory'] / GIB:.2f} GB",
                    f"{row['cgroup_peak'] / GIB:.2f} GB" if row["cgroup_peak"] else "",
                )
                for row in rows
            ],
        )
    )
    return {"rows": rows}


def main() -> None:
    """Measure what was asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("peers", "sizes", "promise", "lookup"))
    parser.add_argument("--shape", choices=SHAPES, default="llama-7b", help="shape of the model (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=subjects.WORK, metavar="DIR", help="folder for the models")
    parser.add_argument("--prompt", type=int, metavar="N", help="prompt tokens (default: 16; promise: 256)")
    parser.add_argument("--new", type=int, metavar="N", help="new tokens (default: 9; promise and lookup: 64)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds (default: %(default)s)")
    parser.add_argument("--ctx", type=int, default=512, metavar="N", help="context (default: %(default)s)")
    parser.add_argument("--memory", type=float, nargs="*", default=[2, 1], metavar="GB", help="for peers and lookup")
    parser.add_argument("--sizes", type=float, nargs="*", default=SIZES, metavar="GB", help="pool sizes for sizes")
    parser.add_argument("--lru", type=float, nargs="*", default=[2, 4], metavar="GB", help="pool sizes for plain LRU")
    parser.add_argument("--dtype", nargs="*", default=["int4", "fp16"], help="precisions for promise")
    parser.add_argument("--no-peer", dest="peer", action="store_false", help="leave llama.cpp out of lookup")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="plot sizes to FILE (needs matplotlib)")
    options = parser.parse_args()
    options.prompt = options.prompt or (256 if options.what == "promise" else 16)
    options.new = options.new or (64 if options.what in ("promise", "lookup") else 9)
    if not limits.possible():
        say("not root: --poolsize is the only limit, and the page cache is warm")
    measure = {"peers": peers, "sizes": sizes, "promise": promise, "lookup": lookup}[options.what]
    result = measure(options.work, options)
    save(options.json, {"about": about(), "shape": options.shape, **result})


if __name__ == "__main__":
    main()
