"""What a forked child must not do."""

from __future__ import annotations

import contextlib
import ctypes
import os


def exit_without_destructors() -> None:
    """Make this process, a forked child, exit without C++ destructors: ONNX Runtime's would wait for its threads.

    Only the parent has those threads. Python itself has finished and flushed its files by then.
    """
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        libc = ctypes.CDLL(None)
        libc.on_exit(libc._exit, None)


def watch_forks() -> None:
    """Let every child that is forked from now on exit without destructors."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=exit_without_destructors)
