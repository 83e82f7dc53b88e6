"""The memory of this process: how much it uses, how it is returned to the system, and how sizes are written."""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import re
import sys
from typing import Any

import numpy as np

from .errors import RequestError

MIB = 1 << 20
GIB = 1 << 30
M_MMAP_THRESHOLD = -3  # of malloc.h
MAP_NORESERVE = 0x4000  # of mman.h: more than the machine has may be mapped, because most of it is never written
UNITS = {"b": 1, "kb": 1 << 10, "mb": MIB, "gb": GIB, "tb": 1 << 40}


def parse_size(size: str | float) -> int:
    """Return bytes for a size: a number of GiB, or a text such as '512MB' or '2 GiB' (units of 1024)."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([kmgt]?i?b?)\s*", str(size).lower())
    unit = match[2].replace("i", "").removesuffix("b") + "b" if match and match[2] else "gb"
    number = float(match[1]) * UNITS[unit] if match else math.nan
    if not (math.isfinite(number) and number >= 1):
        raise RequestError(f"'{size}' is not a memory size: give GiB (2, 0.5) or a number with a unit ('512MB', '2GB')")
    return int(number)


def format_size(size: float) -> str:
    """Return a readable size: '512 MB', '3.5 GB' (units of 1024)."""
    for unit, scale in (("GB", GIB), ("MB", MIB), ("KB", 1 << 10)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}" if size < 1000 * scale else f"{size / scale:.0f} {unit}"
    return f"{size:.0f} B"


def process_bytes() -> int:
    """Return the resident memory of this process in bytes; without /proc, the peak so far."""
    return _status_bytes("VmRSS") or peak_bytes()


def peak_bytes() -> int:
    """Return the peak resident memory of this process in bytes (0 if the system does not report it)."""
    if peak := _status_bytes("VmHWM"):
        return peak
    with contextlib.suppress(ImportError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return 0


def return_what_is_freed() -> None:
    """Make glibc return every freed block of 1 MB or more; by default it keeps many when shards cast their weights."""
    _glibc("mallopt", M_MMAP_THRESHOLD, MIB)


def lazy_zeros(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """Return zeros that take memory only for the 4 KB pages that are written; numpy's may use pages of 2 MB."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if sys.platform != "linux":
        return np.zeros(shape, dtype)
    pages = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    with contextlib.suppress(OSError, AttributeError):  # a kernel without huge pages
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, dtype, math.prod(shape)).reshape(shape)


def trim() -> None:
    """Return freed heap memory to the system (glibc would keep it)."""
    _glibc("malloc_trim", 0)


def _glibc(function: str, *arguments: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            getattr(ctypes.CDLL(None), function)(*arguments)


def _status_bytes(field: str) -> int:
    """Return a field of /proc/self/status in bytes, or 0 if it is missing."""
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return 0
