"""The commands and the Python of the README do what they are shown for."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import ROOT, make_checkpoint

from llama_onnx.export.exporter import export

README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> Iterator[list[str]]:
    """Yield the arguments of `python` in every command that is shown on lines of its own, in their order."""
    for line in README.replace("\\\n", " ").splitlines():
        if found := re.match(r"    (?:\$ )?(?:\.venv/bin/)?python (?!-m pip|-m pytest)(.*)", line):
            yield shlex.split(found[1], comments=True)


def run_python(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run what `python ARGUMENTS` runs, in this process: a start for each would take most of the time."""
    module = arguments[0] == "-m"
    monkeypatch.setattr("sys.argv", arguments[module:])
    with pytest.raises(SystemExit) as end:
        (runpy.run_module if module else runpy.run_path)(arguments[module], run_name="__main__")
    assert end.value.code in (0, None), shlex.join(arguments)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the scripts, and all that the commands name but do not make."""
    for name in ("demo.py", "tools", "models/demo"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(ROOT / name)
    make_checkpoint(tmp_path / "HF_DIR", max_position_embeddings=1024)
    for dtype in ("fp32", "fp16", "int8", "int4"):
        export(tmp_path / "HF_DIR", tmp_path / "models" / f"stories-{dtype}", dtype, 32)
    shutil.copytree(tmp_path / "models" / "stories-fp32", tmp_path / "DIR")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "the fox", "max_tokens": 9}\n"bonjour"\n')
    (tmp_path / "story.txt").write_text("the quick brown fox jumps over the lazy dog and runs into the forest\n" * 20)
    for part, count in (("dev", 5), ("test", 2)):
        (tmp_path / "data" / part).mkdir(parents=True)
        (tmp_path / "data" / part / f"animals_{part}.csv").write_text("The fox?,jumps,sings,eats,sleeps,A\n" * count)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_of_the_readme_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = list(commands())
    for arguments in shown:
        run_python(arguments, monkeypatch)
    words = {word for arguments in shown for word in arguments}
    assert words >= {"demo.py", "generate", "bench", "perplexity", "eval", "tools/export_onnx.py", "tools/quantize.py"}


def test_python_of_the_readme_runs(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "models" / "stories-fp32").rename(project / "models" / "mine")
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(code, {})
    assert "tokens_per_second" in capsys.readouterr().out


def test_answer_shown_is_the_one_given(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ((command, answer),) = re.findall(r"    \$ python (demo\.py .*)\n    ([^$\s].*)", README)
    monkeypatch.chdir(ROOT)
    run_python(shlex.split(command), monkeypatch)
    assert capsys.readouterr().out == answer + "\n"
