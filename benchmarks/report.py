"""What all benchmarks report: machine, versions and command; tables and JSON; bandwidth of memory and disk."""

from __future__ import annotations

import importlib.metadata
import json
import mmap
import os
import platform
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = ("onnxruntime", "numpy", "llama-cpp-python", "xllamacpp", "onnxruntime-genai")
OURS, THEIRS = "#2a78b5", ("#c06a2b", "#7d8a96", "#8a5fa8")


def about() -> dict[str, Any]:
    """Return how the figures were measured: command, date, machine and versions."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "command": " ".join(["python", os.path.relpath(sys.argv[0]), *map(_shown, sys.argv[1:])]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
        "versions": versions,
    }


def _shown(argument: str) -> str:
    """Return an argument of the command as others may read it: of a path on this machine, the name only."""
    return Path(argument).name if Path(argument).is_absolute() else argument


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def save(path: Path | None, figures: dict[str, Any]) -> None:
    """Write the figures as JSON if a path is given."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def memory_bandwidth(size: int = 1 << 28, repeats: int = 5) -> float:
    """Return the bytes per second that all cores together read from memory: the best of `repeats` measurements."""
    data = np.ones(size // 4, np.float32)
    parts = np.array_split(data, os.cpu_count() or 1)
    best = np.inf
    for _ in range(repeats):
        threads = [threading.Thread(target=part.max) for part in parts]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        best = min(best, time.perf_counter() - began)
    return data.nbytes / best


def disk_bandwidth(paths: Sequence[Path], readers: int = 2, piece: int = 8 << 20) -> float:
    """Return the bytes per second of direct reads of whole files in large pieces, `readers` files at a time."""

    def read(path: Path) -> int:
        memory = mmap.mmap(-1, piece)
        memory.write(bytes(piece))  # so that the pages exist before the measurement
        descriptor, place = os.open(path, os.O_RDONLY | os.O_DIRECT), 0
        try:
            while count := os.preadv(descriptor, [memory], place):
                place += count
                if count % mmap.PAGESIZE:
                    break
        finally:
            os.close(descriptor)
        return place

    with ThreadPoolExecutor(readers) as pool:
        began = time.perf_counter()
        return sum(pool.map(read, paths)) / (time.perf_counter() - began)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as info:
            return next((line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), "")
    except OSError:
        return platform.machine()
