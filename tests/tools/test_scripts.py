"""The scripts do the same as the verbs of the command line."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from helpers import ROOT, run

from llama_onnx.commands.command_line import main

SCRIPTS = {
    "export": "export_onnx.py", "convert": "convert_fp16.py", "quantize": "quantize.py",
    "compare": "compare_precision.py",
}  # fmt: skip


def run_script(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | None:
    monkeypatch.setattr("sys.argv", [name, *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "tools" / name), run_name="__main__")
    return end.value.code  # type: ignore[return-value]


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("export", ["--dtype", "int4", "--block-size", "32", "--ops", "onnx"]),
        ("convert", []),
        ("quantize", ["--algo", "gptq", "--block-size", "32", "--calib-size", "4", "--calib-length", "16"]),
    ],
)
def test_script_and_verb_write_the_same_bytes(
    verb: str, options: list[str], checkpoint: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = str(model if verb == "convert" else checkpoint)
    assert run_script(SCRIPTS[verb], monkeypatch, source, str(tmp_path / "script"), *options) == 0
    assert main([verb, source, str(tmp_path / "verb"), *options]) == 0
    assert files_of(tmp_path / "verb") == files_of(tmp_path / "script")


def test_script_and_verb_print_the_same_comparison(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text("the quick brown fox jumps over the lazy dog\n" * 3)
    options = [str(model), str(model), "--text", str(tmp_path / "text"), "-c", "16"]
    assert run_script(SCRIPTS["compare"], monkeypatch, *options) == 0
    expected = capsys.readouterr().out
    assert main(["compare", *options]) == 0
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize("verb", SCRIPTS)
def test_help_of_script_and_verb_shows_the_same_options(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_script(SCRIPTS[verb], monkeypatch, "--help") == 0
    script = capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    ours = capsys.readouterr().out
    assert f"python tools/{SCRIPTS[verb]} " in script.split("example")[1]
    begin = "positional arguments:"
    assert script.replace(f"python tools/{SCRIPTS[verb]}", f"llama-onnx {verb}").split(begin)[1] == ours.split(begin)[1]


@pytest.mark.parametrize("script", SCRIPTS.values())
def test_scripts_name_missing_packages(script: str, tmp_path: Path) -> None:
    more = ["--text", "x"] if script == SCRIPTS["compare"] else []
    arguments = [script, str(tmp_path / "a"), str(tmp_path / "b"), *more]
    code = f"""
import runpy, sys
sys.modules["onnx"] = None
sys.argv = {arguments}
runpy.run_path("tools/{script}", run_name="__main__")
"""
    done = run("-c", code)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.count("pip install -r ") == 1
