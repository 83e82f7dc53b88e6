"""What a forked child must not do."""

from __future__ import annotations

import contextlib
import ctypes
import os
from weakref import WeakSet


def exit_without_destructors() -> None:
    """Make this process, a forked child, exit without C++ destructors: ONNX Runtime's would wait for its threads.

    Only the parent has those threads. Python itself has finished and flushed its files by then.
    """
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        libc = ctypes.CDLL(None)
        libc.on_exit(libc._exit, None)


_of_parent: WeakSet[object] = WeakSet()
_kept: list[object] = []


def keep_in_forks(thing: object) -> None:
    """Never destroy a thing in a forked child: its destructor would wait for threads that only the parent has."""
    _of_parent.add(thing)


def watch_forks() -> None:
    """Let every child that is forked from now on keep those things, and exit without destructors."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_begin_child)


def _begin_child() -> None:
    _kept.extend(_of_parent)
    exit_without_destructors()
