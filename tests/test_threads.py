"""Threads spin while they wait only where nobody else needs the cores."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llama_onnx.errors import RequestError
from llama_onnx.files import threads
from llama_onnx.files.threads import OtherProcesses, checked_threads, usable_cores

ROOT = Path(__file__).parents[1]
SPIN = "while True: pass"
CHOICE = """
import llama_onnx.session as session
from llama_onnx.files.threads import OtherProcesses
OtherProcesses.cores = lambda self: {busy}
import llama_onnx
with llama_onnx.load("models/demo", threads=2) as lm:
    text = lm.generate("hello", llama_onnx.SamplingParams(temperature=0, max_tokens=8))
print(session._shared, text)
"""


def choice(busy: float) -> tuple[str, str]:
    command = [sys.executable, "-c", CHOICE.format(busy=busy)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    shared, _, text = done.stdout.partition(" ")
    return shared, text


def test_pools_are_chosen_by_what_others_use_and_the_text_is_the_same() -> None:
    (quiet, text), (busy, same) = choice(0.0), choice(threads.BUSY * usable_cores())
    assert (quiet, busy) == ("True", "False")
    assert text == same != "\n"


@pytest.mark.parametrize(("of_all", "own"), [(5.0, 2.0), (6.0, 3.0), (3.0, 0.0)])
def test_own_work_does_not_count(of_all: float, own: float, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = f"0 0 {of_all * os.sysconf('SC_CLK_TCK'):.0f} 77 88 0 0 0 0 0"  # the two are idle
    stat = f"cpu  9 9 9\ncpu0 {ticks}\ncpu1 1 2 3 4 5 6 7 8 9 10\n"
    monkeypatch.setattr("builtins.open", lambda *args, **options: io.StringIO(stat))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    monkeypatch.setattr(time, "process_time", lambda: own)
    assert threads._seconds_of_others() == 3.0


@pytest.mark.skipif(not Path("/proc/stat").is_file(), reason="the system does not tell how busy it is")
def test_a_busy_process_is_noticed() -> None:
    with subprocess.Popen([sys.executable, "-c", SPIN]) as other:
        try:
            measured = OtherProcesses()
            time.sleep(0.5)
            beside = measured.cores()
        finally:
            other.kill()
    assert beside > 0.3  # other tests may run meanwhile


def test_a_system_that_does_not_tell_counts_as_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_seconds_of_others", lambda: None)
    assert OtherProcesses().cores() == 0.0
    assert not OtherProcesses().need_cores()


@pytest.mark.parametrize("number", [0, -1, 1 << 20, 1.5, True, "2"])
def test_number_of_threads_out_of_range_is_refused(number: object) -> None:
    with pytest.raises(RequestError, match="threads must be 1 to"):
        checked_threads(number)  # type: ignore[arg-type]
    assert checked_threads(None) == usable_cores()
