"""Locks between processes: one holds for as long as its file is open, and goes with a process that is killed."""

from __future__ import annotations

from typing import IO


def lock(file: IO[bytes] | IO[str] | int, wait: bool = False) -> bool:
    """Lock an open file, or a descriptor, against everybody else who does.

    Args:
        file: to be kept open while the lock is wanted.
        wait: until it is free, however long that takes.

    Returns:
        Whether it is ours now. Where the system has no such locks, everything is.
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
