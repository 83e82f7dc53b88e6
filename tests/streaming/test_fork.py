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
    for _ in range(3000):
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


# Whole models


USES = """
import llama_onnx
from llama_onnx import ModelStateError, SamplingParams

params = SamplingParams(temperature=0, max_tokens=6)
os.sched_setaffinity(0, range(os.cpu_count()))
lm = llama_onnx.load(sys.argv[1], poolsize={poolsize})
expected = lm.generate([5, 6, 7], params)
assert lm.stats()["pool"]["streams_through"] == {streams!r}
chat = lm.conversation()
chat.append([5, 6, 7])
begun, many = lm.stream_generate([5, 6, 7], params), lm.generate_many([[5, 6, 7]], params)
first = next(begun)
never = lm.stream_generate([5, 6, 7], params)
uses = {
    "stream_generate": lambda: lm.stream_generate([5]),
    "generate": lambda: lm.generate([5], params),
    "generate_many": lambda: list(lm.generate_many([[5]], params)),
    "logits": lambda: lm.logits([5]),
    "conversation": lambda: lm.conversation(),
    "stream": lambda: chat.stream([5]),
    "append": lambda: chat.append([5]),
    "rewind": lambda: chat.rewind(1),
    "a stream that was begun": lambda: next(begun),
    "a stream that was not": lambda: next(never),
    "many": lambda: next(many),
    "load": lambda: llama_onnx.load(sys.argv[1]),
    "load, another size": lambda: llama_onnx.load(sys.argv[1], poolsize="63GB"),
    "load, the smallest": lambda: llama_onnx.load(sys.argv[1], poolsize="min"),
}

def child():
    for name, use in uses.items():
        try:
            use()
        except ModelStateError as error:
            if "forked" not in str(error) or "\\n" in str(error):
                os.write(1, f"{name}: {error}\\n".encode())
        except BaseException as error:
            os.write(1, f"{name}: {type(error).__name__} {error}\\n".encode())
        else:
            os.write(1, f"{name}: no error\\n".encode())
    chat.close()
    lm.close()
    lm.stats()
    {end}
"""

FORGET = """
    import gc
    for name in ("lm", "chat", "uses", "begun", "many", "never"):
        del globals()[name]
    gc.collect()
"""

UNHARMED = """
assert fork_and_wait(child) == 0
assert lm.generate([5, 6, 7], params) == expected
assert [first.token, *[step.token for step in begun]] == [step.token for step in never]
np = __import__("numpy")
np.testing.assert_allclose(chat.append([8]), lm.logits([5, 6, 7, 8])[-1], atol=1e-3)
assert [c.text for c in many] == [expected]
folder = lm.decoder.pool._slots and lm.decoder.pool._slots.path
assert folder is None or folder.is_dir()
lm.close()
assert folder is None or not folder.exists()
print("unharmed")
"""


@pytest.mark.parametrize("end", ["sys.exit(0)", FORGET], ids=["exit", "forget"])
@pytest.mark.parametrize(("poolsize", "streams"), [(None, "nothing"), ("'min'", "slots"), ("'min'", "sessions")])
def test_a_forked_child_cannot_use_a_model_and_leaves_it_to_its_parent(
    model: Path, end: str, poolsize: str | None, streams: str
) -> None:
    if streams == "slots" and (sys.platform != "linux" or not slots.MEMORY.is_dir()):
        pytest.skip("slots need Linux and a memory file system")
    code = USES.replace("{poolsize}", str(poolsize)).replace("{streams!r}", repr(streams)).replace("{end}", end.strip())
    if streams == "sessions":
        code = "from llama_onnx.streaming.slots import SlotFolder\nSlotFolder.works = lambda *_: False\n" + code
    done = run("-c", FORK + code + UNHARMED, model)
    assert (done.stdout, done.stderr) == ("unharmed\n", "")


BUSY = """
import threading

stop = threading.Event()

def work():
    while not stop.is_set():
        lm.generate([5, 6, 7], params)

thread = threading.Thread(target=work)
thread.start()
for _ in range(20):
    time.sleep(0.01)
    assert fork_and_wait(child) == 0
stop.set()
thread.join(60)
assert lm.generate([5, 6, 7], params) == expected
print("unharmed")
"""


@needs_slots
def test_a_fork_at_any_moment_neither_hangs_nor_harms(model: Path) -> None:
    """While another thread computes and layers are read: the child's copies of their locks stay locked."""
    code = USES.replace("{poolsize}", "'min'").replace("{streams!r}", "'slots'").replace("{end}", "sys.exit(0)")
    done = run("-c", FORK + code + BUSY, model)
    assert (done.stdout, done.stderr) == ("unharmed\n", "")


AFTER_IMPORT = """
import llama_onnx
params = llama_onnx.SamplingParams(temperature=0, max_tokens=4)

def child():
    with llama_onnx.load(sys.argv[1]) as lm:
        os.write(1, lm.generate("fox", params).encode() + b"\\n")

assert fork_and_wait(child) == 0
with llama_onnx.load(sys.argv[1]) as lm:
    print(lm.generate("fox", params))
"""


def test_a_process_may_fork_before_it_loads_a_model(model: Path) -> None:
    done = run("-c", FORK + AFTER_IMPORT, model)
    assert done.stderr == ""
    child, parent = done.stdout.splitlines()
    assert child == parent
