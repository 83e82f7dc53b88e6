"""ONNX Runtime sessions: the one place that makes them.

All sessions share one global thread pool (a pool per session would leave dozens of threads spinning on a few cores).
Float shards are not prepacked: weights then stay where they are mapped, loading takes a millisecond, and the resident
size of a float32 shard is the size of its file. Matrices are stored [out, in], the layout in which the unpacked product
is fast. Quantised shards must be packed: without it the whole matrix is dequantised at every call.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import weakref
from collections.abc import Mapping, Sequence
from operator import is_
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .config import Shard
from .errors import ModelDirectoryError, RequestError
from .memory import return_what_is_freed

if TYPE_CHECKING:
    import onnxruntime

# What a session takes besides its weights: graph, kernels, binding, heap it leaves in pieces (measured: 1 to 1.7 MB).
SESSION_BYTES = 3 << 19
# What the first session brings into the process: code pages and tables of the runtime (measured: 16 to 20 MB).
WARM_UP_BYTES = 24 << 20

_NUMPY_TYPES = {
    f"tensor({name})": np.dtype(kind)
    for name, kind in (("float", "f4"), ("float16", "f2"), ("double", "f8"), ("int64", "i8"), ("int32", "i4"))
}

_threads: int | None = None


def start_runtime(threads: int | None = None) -> None:
    """Make the global thread pool; called once per process, before the first session.

    Args:
        threads: how many threads compute; None means one for each core this process may use.

    Raises:
        RequestError: threads is below 1 or far above what the cores can use, or another number was set before (ONNX
            Runtime cannot change it).
    """
    global _threads
    if threads is not None and threads < 1:
        raise RequestError(f"threads must be at least 1, not {threads}")
    most = max(64, 4 * _usable_cores())
    if threads is not None and threads > most:  # making them takes longer with each
        raise RequestError(f"threads must be at most {most} on {_usable_cores()} cores, not {threads}")
    if _threads is not None:
        if threads not in (None, _threads):
            raise RequestError(f"this process already computes with {_threads} threads; set it before the first model")
        return
    import onnxruntime as ort

    return_what_is_freed()
    _threads = threads or _usable_cores()
    ort.set_global_thread_pool_sizes(_threads, 1)
    ort.set_default_logger_severity(4)  # what goes wrong is raised, and told once
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_exit_without_destructors)


def _exit_without_destructors() -> None:
    """Have this process, a forked child, exit without C++ destructors: ONNX Runtime's would wait for its threads.

    Only the parent has those threads. Python itself has finished and flushed its files by then.
    """
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        libc = ctypes.CDLL(None)
        libc.on_exit(libc._exit, None)


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Session:
    """One loaded shard. Arrays are bound by address, so a step copies nothing."""

    def __init__(self, shard: Shard, path: Path | None = None, fold: bool = True) -> None:
        """Load a shard.

        Args:
            shard: what to load.
            path: the ONNX file, if it is not the shard's own.
            fold: turn float16 weights into float32 now; otherwise they stay mapped and every run turns them anew.

        Raises:
            ModelDirectoryError: ONNX Runtime cannot load the file.
        """
        self.shard = shard
        fold = fold or shard.mapped_bytes == shard.loaded_bytes  # nothing to fold
        self._session = _load(path or shard.path, _options(shard.quantized, fold), () if fold else ("ConstantFolding",))
        self._binding = self._session.io_binding()
        self._inputs = {value.name: value for value in self._session.get_inputs()}
        self._outputs = {value.name: value for value in self._session.get_outputs()}
        self._bound: tuple[weakref.ref[np.ndarray], ...] = ()  # which must not keep a KV cache in memory

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> None:
        """Compute outputs from inputs, in place: every array is C-contiguous and already has its shape.

        An output bound to the same array as an input is updated in place (present keys and values over past ones).
        Binding is skipped while the same array objects come again, as they do from one decode step to the next.
        """
        # An array has one reference of this kind, so that what was bound before is known by it.
        arrays = tuple(map(weakref.ref, (*inputs.values(), *outputs.values())))
        if len(arrays) != len(self._bound) or not all(map(is_, arrays, self._bound)):
            self._bind(inputs, outputs)
            self._bound = arrays
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            raise ModelDirectoryError(f"{self.shard.path}: cannot be run: {_one_line(error)}") from None

    @property
    def inputs(self) -> dict[str, np.dtype]:
        """The types of the inputs by name, in the order of the graph."""
        for name, value in self._inputs.items():
            if value.type not in _NUMPY_TYPES:
                raise ModelDirectoryError(f"{self.shard.path}: its input {name} is a {value.type}, not one of numbers")
        return {name: _NUMPY_TYPES[value.type] for name, value in self._inputs.items()}

    def compute(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return new outputs by name, for graphs whose shapes are theirs to say. Inputs take the types of the graph."""
        types = self.inputs
        given = {name: np.ascontiguousarray(array, types.get(name)) for name, array in inputs.items()}
        try:
            return dict(zip(self._outputs, self._session.run(None, given), strict=True))
        except Exception as error:
            raise ModelDirectoryError(f"{self.shard.path}: cannot be run: {_one_line(error)}") from None

    def _bind(self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> None:
        for kind, wanted, given in (("inputs", self._inputs, inputs), ("outputs", self._outputs, outputs)):
            if wanted.keys() != given.keys():
                raise ModelDirectoryError(
                    f"{self.shard.path}: its {kind} are {', '.join(wanted)}, not {', '.join(given)}; "
                    "export the model again"
                )
        for name, array in inputs.items():
            self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            self._binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)


def pack(shard: Shard, graph: Path, data_name: str) -> None:
    """Write a quantised shard with its matrices packed for this CPU: the ONNX file `graph`, its data beside it.

    Raises:
        ModelDirectoryError: ONNX Runtime cannot load the shard.
    """
    options = _options(prepack=True)
    options.optimized_model_filepath = str(graph)
    for name, value in (
        ("session.save_external_prepacked_constant_initializers", "1"),
        ("session.optimized_model_external_initializers_file_name", data_name),
        ("session.optimized_model_external_initializers_min_size_in_bytes", "16"),
    ):
        options.add_session_config_entry(name, value)
    _load(shard.path, options)


def _load(
    path: Path, options: onnxruntime.SessionOptions, disabled: Sequence[str] = ()
) -> onnxruntime.InferenceSession:
    import onnxruntime as ort

    try:
        return ort.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled)
        )
    except Exception as error:  # ONNX Runtime raises a family of its own exceptions
        raise ModelDirectoryError(f"{path}: cannot be loaded: {_one_line(error)}") from None


def _options(prepack: bool, fold: bool = True) -> onnxruntime.SessionOptions:
    import onnxruntime as ort

    start_runtime()
    options = ort.SessionOptions()
    if not fold:  # what later levels do to a Cast of a weight is not wanted either
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.use_per_session_threads = False
    options.enable_cpu_mem_arena = False  # an arena keeps what it once had: the pool promises memory back
    options.enable_mem_pattern = False
    entry = "session.prepack.enable_parallel" if prepack else "session.disable_prepacking"
    options.add_session_config_entry(entry, "1")
    return options


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
