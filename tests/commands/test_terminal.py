"""Exit codes and output on the terminal, whatever happens in a command."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

from llama_onnx.commands.terminal import guard, progress_bar, read_text, show_progress
from llama_onnx.errors import RequestError


class Screen(io.StringIO):
    """A terminal that records what was written since it was last read."""

    def isatty(self) -> bool:
        return True

    def new(self) -> str:
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        return text


def new_screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    return screen


def fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (RequestError("no"), 1, "error: no\n"),
        (KeyboardInterrupt(), 130, "\ninterrupted\n"),
        (BrokenPipeError(), 0, ""),
        (OSError(28, "No space left on device"), 1, "error: the output: No space left on device\n"),
        (OSError(28, "No space left on device", "out.json"), 1, "error: out.json: No space left on device\n"),
    ],
)
def test_errors_that_a_user_may_cause_are_one_line_and_an_exit_code(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guard(lambda: fail(error)) == code
    assert capsys.readouterr().err == message


def test_bugs_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        guard(lambda: fail(ZeroDivisionError()))


def test_progress_is_shown_on_a_terminal_and_wiped_when_done(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = new_screen(monkeypatch)
    show_progress("loading", 1, 4)
    assert screen.new() == "\r\x1b[K█████░░░░░░░░░░░░░░░ loading, 1 of 4"
    show_progress("loading", 4, 4)
    assert screen.new() == "\r\x1b[K"
    show_progress("loading", 4, 4)
    assert screen.new() == ""  # no bar is left to wipe, so later text stays
    with progress_bar("reading") as show:
        show(0.5)
        show(0.5)
    assert screen.new() == "\r\x1b[K██████████░░░░░░░░░░ reading, 50 %\r\x1b[K"


def test_error_message_replaces_the_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = new_screen(monkeypatch)

    def command() -> None:
        show_progress("loading", 1, 4)
        raise RequestError("no")

    assert guard(command) == 1
    assert screen.new().endswith("\r\x1b[Kerror: no\n")


def test_no_progress_where_stderr_is_not_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show_progress("loading", 1, 4)
    with progress_bar("reading") as show:
        show(0.5)
    assert capsys.readouterr().err == ""


def test_error_names_the_text_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "bytes").write_bytes(b"ab\xff")
    (tmp_path / "bom").write_bytes("\ufeffé".encode())
    for name, message in (("empty", "is empty"), ("bytes", r"not valid UTF-8 text \(byte 2\)"), ("none", "cannot be")):
        with pytest.raises(RequestError, match=f"{name}: {message}"):
            read_text(str(tmp_path / name))
    assert read_text(str(tmp_path / "bom")) == "é"


@pytest.mark.parametrize("program", [["-m", "llama_onnx", "generate", "-p", "hello"], ["demo.py", "hello"]])
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(program: list[str], closed: str) -> None:
    command = shlex.join([sys.executable, *program, *(["-n", "3"] if "-m" in program else ["--max", "3"])])
    done = subprocess.run(["bash", "-c", f"{command} {closed}"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_a_prompt_from_closed_standard_input_is_one_line() -> None:
    command = shlex.join([sys.executable, "-m", "llama_onnx", "generate", "-p", "-"])
    done = subprocess.run(["bash", "-c", f"{command} <&-"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: stdin: is empty\n")


@pytest.mark.parametrize("program", [["-m", "llama_onnx", "generate", "-p", "你好"], ["demo.py", "你好"]])
def test_text_that_the_terminal_cannot_show_is_replaced(program: list[str]) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run([sys.executable, *program], cwd=ROOT, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert b"?" in done.stdout
