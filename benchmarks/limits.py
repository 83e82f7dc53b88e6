"""A memory limit that counts all a process makes the kernel hold, page cache too: a cgroup, which needs root."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Limit:
    """A memory cgroup. `prefix` in front of a command runs it inside."""

    folder: Path

    @property
    def prefix(self) -> list[str]:
        """Words that move a process into the group and then become the command."""
        return ["sh", "-c", f'echo $$ >{self.folder}/cgroup.procs; exec "$@"', "sh"]

    def peak(self) -> int:
        """Return the most bytes that were held at one time, page cache included (0 where the kernel does not tell)."""
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
    """Make a cgroup of `size` bytes, and remove it when what ran inside has ended."""
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
    """Empty the page cache, so that every file comes from the disk."""
    os.sync()
    with contextlib.suppress(OSError):
        Path("/proc/sys/vm/drop_caches").write_text("3")
