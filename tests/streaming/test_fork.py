"""A forked child that exits does not touch its parent's folders, slots and loader thread."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from helpers import make_checkpoint, run

from llama_onnx.export.exporter import export
from llama_onnx.streaming import slots

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
needs_slots = pytest.mark.skipif(
    sys.platform != "linux" or not slots.MEMORY.is_dir(), reason="slots need Linux and a memory file system"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight layers in int4, whose residents are in slots too. Read only, except for packed images."""
    folder = tmp_path_factory.mktemp("fork")
    checkpoint = make_checkpoint(folder / "checkpoint", num_hidden_layers=8, intermediate_size=160)
    export(checkpoint, folder / "model", "int4", block_size=32)
    return folder / "model"


FORK = """
import os, sys, time

def fork_and_wait(child):
    pid = os.fork()
    if pid == 0:
        child()
        sys.exit(0)
    for _ in range(1000):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, 9)
    sys.exit("the child hangs")
"""

STREAMING = """
sys.path[:0] = ["tests", "tests/streaming"]
from test_streaming import Decoder, LlamaOnnxError, decoder_of, generate, np, pool_for, read_config
from llama_onnx.session import start_runtime

os.sched_setaffinity(0, range(os.cpu_count()))  # a test may have been given one core
start_runtime(2)
config = read_config(sys.argv[1])
pool = pool_for(config, 3)
assert pool.streams_through == "slots" and pool._slots_stay
decoder = Decoder(config, pool)
expected = generate(decoder)
folder = pool._slots.path

def child():
    {child}

code = fork_and_wait(child)
assert folder.is_dir(), "the child removed the folder"
np.testing.assert_array_equal(generate(decoder), expected)
pool.close()
assert not folder.exists()
print("unharmed", code)
"""


@needs_slots
@pytest.mark.parametrize(
    ("child", "code"),
    [
        ("pass", 0),
        ("sys.exit(3)", 3),
        ("pool.close()", 0),
        ("pool._evict(pool._plan.residents)", 0),
    ],
)
def test_slots_still_work_after_a_forked_child_has_ended(model: Path, child: str, code: int) -> None:
    done = run("-c", FORK + STREAMING.replace("{child}", child), model)
    assert (done.stdout, done.stderr) == (f"unharmed {code}\n", "")


@needs_slots
def test_a_forked_child_cannot_load_into_the_slots_of_its_parent(model: Path) -> None:
    child = """
    try:
        pool._window[0].place.fill(config.layers[0])
    except LlamaOnnxError as error:
        os.write(1, f"{error}\\n".encode())
    """
    done = run("-c", FORK + STREAMING.replace("{child}", child.strip()), model)
    assert done.stdout == (
        "a forked process cannot use the layers of its parent; load the model after the fork\nunharmed 0\n"
    ), done.stderr


PACKING = """
from pathlib import Path
from llama_onnx.streaming import images

with images._scratch_folder(Path(sys.argv[1])) as folder:
    fork_and_wait(sys.exit)
    assert folder.is_dir()
assert not folder.exists()
print("unharmed")
"""


def test_a_forked_child_leaves_the_shard_that_is_being_packed(tmp_path: Path) -> None:
    done = run("-c", FORK + PACKING, tmp_path)
    assert (done.stdout, done.stderr) == ("unharmed\n", "")
