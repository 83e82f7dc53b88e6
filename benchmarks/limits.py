"""Limit the memory of a process, including its page cache, with a cgroup. This needs root."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Limit:
    """A memory cgroup. Put `prefix` before a command to run it inside."""

    folder: Path

    @property
    def prefix(self) -> list[str]:
        """The words of a shell command that enters the group and then runs the command that follows."""
        return ["sh", "-c", f'echo $$ >{self.folder}/cgroup.procs; exec "$@"', "sh"]

    def peak(self) -> int:
        """Return the peak memory in bytes, including page cache (0 if the kernel does not report it)."""
        for name in ("memory.max_usage_in_bytes", "memory.peak"):
            with contextlib.suppress(OSError):
                return int((self.folder / name).read_text())
        return 0


def possible() -> bool:
    """Return whether this user may limit memory."""
    root = V1 if V1.is_dir() else V2
    return hasattr(os, "geteuid") and os.geteuid() == 0 and os.access(root, os.W_OK)


@contextlib.contextmanager
def limited(size: int) -> Iterator[Limit]:
    """Make a cgroup of `size` bytes, and remove it at the end, when the commands inside have ended."""
    v1 = V1.is_dir()
    folder = (V1 if v1 else V2) / f"benchmark.{os.getpid()}.{size}.{os.urandom(3).hex()}"
    folder.mkdir()
    try:
        (folder / ("memory.limit_in_bytes" if v1 else "memory.max")).write_text(str(size))
        yield Limit(folder)
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()


def drop_caches() -> None:
    """Empty the page cache, so that files are read from the disk."""
    os.sync()
    with contextlib.suppress(OSError):
        Path("/proc/sys/vm/drop_caches").write_text("3")
