"""Fixtures that all tests share, and what a test process needs before its first test."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

# Each of several workers runs on one core: if all workers had threads on all cores, these would wait for one another.
# This must be set before numpy is imported, because numpy starts one thread per core.
if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})

import pytest
from helpers import STORIES, make_checkpoint

from llama_onnx.export.exporter import export
from llama_onnx.streaming import promise

# A shell that starts the tests in the background ignores this signal, and every process they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _skip_fsync() -> Iterator[None]:
    """Skip fsync: test files need not survive a power cut, and hundreds of exports would wait for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint of three layers. Read only."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "random")


@pytest.fixture(scope="session")
def model(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its fp32 export. Read only."""
    out = tmp_path_factory.mktemp("model") / "random"
    export(checkpoint, out)
    return out


@pytest.fixture(scope="session")
def stories() -> Path:
    """The trained model beside the project, if it is there."""
    if not STORIES.is_dir():
        pytest.skip(f"the trained model is not there: {STORIES}")
    return STORIES


@pytest.fixture(autouse=True)
def _forget_earlier_poolsizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the poolsize that models of fixtures fixed for the process, so that a test can choose another."""
    monkeypatch.setattr(promise, "_current", None)
