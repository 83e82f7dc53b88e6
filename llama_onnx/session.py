"""Makes all ONNX Runtime sessions.

All sessions share one thread pool: one for each would leave dozens of threads spinning on a few cores. Where others
need the cores, none spins, and each session has a pool of its own; see docs/speed.md for what that costs and gains.
Float shards stay mapped from the file. Quantised ones must be packed, or every call dequantises the whole matrix.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Mapping
from operator import is_
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .config import Shard
from .errors import ModelDirectoryError, ModelStateError, RequestError
from .files.fork import keep_in_forks, watch_forks
from .files.threads import OtherProcesses, checked_threads
from .memory import return_what_is_freed

if TYPE_CHECKING:
    import onnxruntime

SESSION_BYTES = 3 << 19  # besides its weights: graph, kernels, binding, fragmented heap (measured: 1 to 1.7 MB)
WARM_UP_BYTES = 24 << 20  # added by the first session: code and tables of the runtime (measured: 16 to 20 MB)

_threads: int | None = None
_shared, _process = True, 0  # whether sessions share a pool; the process whose threads they are, and no fork of it


def start_runtime(threads: int | None = None) -> None:
    """Choose the thread pools, once per process, with `threads` threads (default: one per core).

    Raises:
        RequestError: the number is out of range, or differs from an earlier one (ONNX Runtime cannot change it).
        ModelStateError: this process is a fork of one that has loaded a model.
    """
    global _threads, _shared, _process
    wanted = checked_threads(threads)
    if _threads is not None:
        if _process != os.getpid():
            raise ModelStateError("this process was forked after a model was loaded; use 'spawn', or load it later")
        if threads not in (None, _threads):
            raise RequestError(f"this process already uses {_threads} threads; set threads with the first model")
        return
    others = OtherProcesses()
    import onnxruntime as ort

    return_what_is_freed()
    _threads, _shared, _process = wanted, not others.need_cores(), os.getpid()
    if _shared:
        ort.set_global_thread_pool_sizes(_threads, 1)
    ort.set_default_logger_severity(4)  # errors are raised, and reported once
    watch_forks()


class Session:
    """One loaded shard. Inputs and outputs are bound by address, so a run copies nothing."""

    def __init__(self, shard: Shard, path: Path | None = None, fold: bool = True, given: Any = None) -> None:
        """Load a shard, perhaps from another `path`, with OrtValues `given` for some tensors.

        With `fold`, float16 weights become float32 now. Otherwise they stay mapped, and runs convert them.
        """
        self.shard, self._given = shard, given or {}  # the runtime does not keep them
        fold |= shard.mapped_bytes == shard.loaded_bytes  # nothing to fold
        options = session_options(shard.quantized, fold)
        for name in self._given:
            options.add_initializer(name, self._given[name])
        self.runtime = open_session(path or shard.path, options, [] if fold else ["ConstantFolding"])
        self._binding = self.runtime.io_binding()
        self._inputs = {value.name for value in self.runtime.get_inputs()}
        self._outputs = {value.name for value in self.runtime.get_outputs()}
        keep_in_forks(self)
        self._bound: tuple[weakref.ref[np.ndarray], ...] = ()  # weak, so that they do not keep a KV cache in memory

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> None:
        """Compute outputs from inputs. Every array must be C-contiguous; outputs are written into the given arrays.

        An output may be the same array as an input and is then updated in place (present keys and values).
        If all arrays are those of the previous run, as in decoding, they stay bound.
        """
        # weakref.ref returns the same object for the same array.
        arrays = tuple(map(weakref.ref, (*inputs.values(), *outputs.values())))
        if len(arrays) != len(self._bound) or not all(map(is_, arrays, self._bound)):
            self._bind(inputs, outputs)
            self._bound = arrays
        try:
            self.runtime.run_with_iobinding(self._binding)
        except Exception as error:
            raise ModelDirectoryError(f"{self.shard.path}: cannot be run: {one_line(error)}") from None

    def _bind(self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> None:
        for kind, wanted, given in (("inputs", self._inputs, inputs), ("outputs", self._outputs, outputs)):
            if wanted != given.keys():
                what = f"its {kind} are {', '.join(sorted(wanted))}, not {', '.join(given)}"
                raise ModelDirectoryError(f"{self.shard.path}: {what}; export the model again")
        for name, array in inputs.items():
            self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            self._binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)


class Guard:
    """Lets one thread at a time use a model, only in the process that loaded it, until the model is closed."""

    def __init__(self) -> None:
        self.closed = False
        self._lock = threading.RLock()
        self.process = os.getpid()

    @property
    def gone(self) -> bool:
        """Whether the model cannot be used here any more: it is closed, or this process is a fork."""
        return self.closed or os.getpid() != self.process

    def __enter__(self) -> None:
        if os.getpid() != self.process:  # a fork has neither the threads nor the files of its parent
            raise ModelStateError("the model was loaded before this process was forked; use 'spawn', and load it there")
        if not self._lock.acquire(blocking=False):
            raise ModelStateError("another thread is using the model; wait for it, or use a lock between the threads")
        if self.closed:
            self._lock.release()
            raise ModelStateError("the model is closed; load it again")

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def open_session(
    path: Path, options: onnxruntime.SessionOptions, disabled: list[str] | None = None
) -> onnxruntime.InferenceSession:
    """Load an ONNX file, or raise a ModelDirectoryError with the reason."""
    import onnxruntime as ort

    try:
        return ort.InferenceSession(str(path), options, ["CPUExecutionProvider"], disabled_optimizers=disabled or [])
    except Exception as error:  # ONNX Runtime raises a family of its own exceptions
        raise ModelDirectoryError(f"{path}: cannot be loaded: {one_line(error)}") from None


def session_options(prepack: bool, fold: bool = True) -> onnxruntime.SessionOptions:
    """Return the options of all sessions; see the top of this file."""
    import onnxruntime as ort

    start_runtime()
    options = ort.SessionOptions()
    if not fold:  # higher levels would change the Cast of a weight too
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.use_per_session_threads, options.intra_op_num_threads = not _shared, _threads or 0
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # of its own pool
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False  # which would keep freed memory
    entry = "session.prepack.enable_parallel" if prepack else "session.disable_prepacking"
    options.add_session_config_entry(entry, "1")
    return options


def one_line(error: Exception) -> str:
    """Return the message of an ONNX Runtime error as one line of bounded length."""
    return " ".join(str(error).split())[:300]
