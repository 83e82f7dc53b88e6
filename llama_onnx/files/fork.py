"""What a forked child must not do."""

from __future__ import annotations

import contextlib
import ctypes


def exit_without_destructors() -> None:
    """Make this process, a forked child, exit without C++ destructors: ONNX Runtime's would wait for its threads.

    Only the parent has those threads. Python itself has finished and flushed its files by then.
    """
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        libc = ctypes.CDLL(None)
        libc.on_exit(libc._exit, None)
