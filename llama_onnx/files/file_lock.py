"""Locks between processes. A lock is held while its file is open; the system releases it if the process is killed."""

from __future__ import annotations

from typing import IO


def lock(file: IO[bytes] | IO[str] | int, wait: bool = False) -> bool:
    """Lock an open file, or a file descriptor, against every other process that locks it.

    Args:
        file: keep it open while the lock is needed.
        wait: wait until the lock is free, however long that takes.

    Returns:
        Whether this process now has the lock; always true on systems without such locks.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True
