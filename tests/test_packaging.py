"""The package: its requirements, the contents of the wheel, and that the wheel works in a fresh environment."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path

import pytest
from demo_texts import BONJOUR
from helpers import ROOT

from llama_onnx.commands.command_line import VERBS
from llama_onnx.export.packages import __all__ as TOOL_PACKAGES
from llama_onnx.files.file_lock import lock

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
CODE = [path for path in (ROOT / "llama_onnx").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
MODEL = [path for path in (ROOT / "models" / "demo").iterdir() if path.is_file()]


def requirements(name: str) -> set[str]:
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return {line for line in lines if line and not line.startswith("-r")}


def name_of(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0]  # type: ignore[index]


def test_extras_match_the_requirement_files() -> None:
    assert set(EXTRAS["tools"]) == requirements("tools/requirements.txt")
    optional = {package for name, packages in EXTRAS.items() if name not in ("tools", "all") for package in packages}
    assert optional <= requirements("requirements-dev.txt")


def test_extra_all_contains_all_other_extras() -> None:
    (everything,) = EXTRAS["all"]
    assert everything == f"llama-onnx[{','.join(name for name in EXTRAS if name != 'all')}]"


def test_readme_names_every_extra() -> None:
    readme = (ROOT / "README.md").read_text()
    assert all(f"`{name}`" in readme for name in EXTRAS)


def test_verbs_check_for_the_packages_of_the_extra_tools() -> None:
    assert set(TOOL_PACKAGES) == {name_of(requirement) for requirement in EXTRAS["tools"]}


def test_every_pip_command_in_a_message_installs_packages_of_an_extra() -> None:
    known = {name_of(package) for packages in EXTRAS.values() for package in packages}
    known |= {"torch", "transformers"}  # for the reference of comparisons; not in any extra
    found = set()
    for path in CODE:
        if path.suffix == ".py":
            found |= set(re.findall(r"pip install (?:-U )?([\w.\- ]*\w)", path.read_text(encoding="utf-8")))
    assert {"tokenizers", "jinja2", "huggingface_hub", "gguf", "matplotlib"} <= found
    assert {name for names in found for name in names.split()} <= known


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]


def test_pages_name_extras_that_exist() -> None:
    """Whatever is in brackets after `.` or `llama-onnx`, as in `pip install '.[tools,gguf]'`."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    named = {
        name.strip()
        for names in re.findall(r"(?:\.|llama[-_]onnx)\[([^\]]*)\](?!\()", text)
        for name in names.split(",")
    }
    assert "tools" in named
    assert named <= set(EXTRAS)


def test_pip_commands_of_pages_install_this_package_alone() -> None:
    for path in PAGES:
        for what in re.findall(r"pip install ([^`\n#]*)", path.read_text(encoding="utf-8")):
            assert re.fullmatch(r"'?\.(\[[\w,]+\])?'?", what.strip()), f"{path.name}: pip install {what}"


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment outside the clone that has only the wheel and the packages of requirements.txt.

    All workers of a test run share it.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with (shared / "wheel.lock").open("a") as file:
        lock(file, wait=True)
        if not (shared / "fresh.done").exists():
            make_environment(shared / "fresh", build_wheel(shared))
            (shared / "fresh.done").touch()
    return shared / "fresh"


def build_wheel(folder: Path) -> Path:
    """Build from a copy, so that the clone stays clean and leftovers in it are not packaged."""
    copy = folder / "source"
    for path in [*CODE, *MODEL, *(ROOT / name for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"))]:
        (copy / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy / path.relative_to(ROOT))
    shutil.copy(ROOT / "requirements.txt", copy)
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(folder)!r})"
    python("-W", "ignore", "-c", build, cwd=copy)
    (wheel,) = folder.glob("*.whl")
    return wheel


def make_environment(folder: Path, wheel: Path) -> None:
    """Install the wheel; its requirements are linked from the environment of the tests, because there is no network."""
    venv.create(folder, symlinks=os.name != "nt")
    link(requirements("requirements.txt"), next(folder.rglob("site-packages")))
    quiet = ("--quiet", "--disable-pip-version-check", "--python", python_of(folder))
    python("-m", "pip", *quiet, "install", "--no-deps", "--no-index", "--no-compile", wheel)


def link(wanted: Iterable[str], packages: Path) -> None:
    """Link requirements, and what they require in turn, into a folder of packages."""
    ahead, seen = {name_of(line) for line in wanted}, set()
    while ahead - seen:
        name = (ahead - seen).pop()
        seen.add(name)
        found = distribution(name)
        ahead |= {name_of(line) for line in found.requires or () if ";" not in line}
        for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(found.locate_file(top))


def python(*arguments: str | Path, cwd: Path = ROOT) -> None:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr


def python_of(folder: Path) -> Path:
    return next(path for path in (folder / "bin" / "python", folder / "Scripts" / "python.exe") if path.exists())


def installed(fresh: Path, *arguments: str | Path, extra: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the installed `llama-onnx` outside the clone; `extra` is a folder with more packages."""
    more = {"PYTHONPATH": str(extra)} if extra else {}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [str(python_of(fresh).with_name("llama-onnx")), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=fresh, env=environment | more, timeout=120,
        check=False,
    )  # fmt: skip


def test_wheel_contains_every_file_of_the_package_and_the_embedded_model(fresh: Path) -> None:
    (wheel,) = fresh.parent.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {path.relative_to(ROOT).as_posix() for path in CODE}
    assert names == expected | {f"llama_onnx/models/demo/{path.name}" for path in MODEL}


def test_fresh_environment_contains_the_wheel_and_three_libraries(fresh: Path) -> None:
    code = (
        "import importlib.util as u, llama_onnx; print(llama_onnx.__file__, u.find_spec('onnx'), u.find_spec('tqdm'))"
    )
    done = subprocess.run([python_of(fresh), "-I", "-c", code], capture_output=True, text=True, cwd=fresh, check=True)
    file, *missing = done.stdout.split()
    assert Path(file).is_relative_to(fresh)
    assert missing == ["None", "None"]


def test_embedded_model_answers_from_the_wheel_alone(fresh: Path) -> None:
    done = installed(fresh, "generate", "-p", "bonjour", "--seed", "1")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{BONJOUR}\n", "")


MAKERS = (("export", "a", "b"), ("convert", "a", "b"), ("quantize", "a", "b"), ("compare", "a", "b", "--text", "c"))
RUN_EACH = """
import json, sys
from llama_onnx.commands.command_line import main
for arguments in json.loads(sys.argv[1]):
    try:
        print("code", main(arguments))
    except SystemExit as end:
        print("code", end.code)
"""


def run_each(fresh: Path, commands: list[list[str]]) -> subprocess.CompletedProcess[str]:
    """Run several commands in one process of the fresh environment."""
    command = [python_of(fresh), "-I", "-c", RUN_EACH, json.dumps(commands)]
    return subprocess.run(command, capture_output=True, text=True, cwd=fresh, timeout=120, check=True)


def test_verbs_without_the_extra_tools_name_the_install_command_in_one_line(fresh: Path) -> None:
    done = run_each(fresh, [list(arguments) for arguments in MAKERS])
    assert done.stdout == "code 1\n" * len(MAKERS)
    missing = ", ".join(TOOL_PACKAGES)
    error = f"error: the packages of the extra 'tools' are needed ({missing} missing): pip install 'llama-onnx[tools]'"
    assert done.stderr.splitlines() == len(MAKERS) * [error]


def test_help_of_every_verb_needs_no_extra(fresh: Path) -> None:
    done = run_each(fresh, [[verb, "--help"] for verb in VERBS])
    assert (done.stdout.count("code 0\n"), done.stderr) == (len(VERBS), "")


def test_verbs_make_models_with_the_extra_tools_alone(
    fresh: Path, checkpoint: Path, model: Path, tmp_path: Path
) -> None:
    extra = tmp_path / "extra"
    extra.mkdir()
    link(EXTRAS["tools"], extra)
    assert not (extra / "pytest").exists()
    (tmp_path / "story.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 3)
    for arguments in (
        ("export", checkpoint, tmp_path / "fp32"),
        ("convert", tmp_path / "fp32", tmp_path / "fp16"),
        ("quantize", tmp_path / "fp32", tmp_path / "int4", "--block-size", "32", "--calib-length", "16"),
        ("compare", tmp_path / "fp32", tmp_path / "fp16", tmp_path / "int4", "--text", tmp_path / "story.txt"),
    ):
        done = installed(fresh, *arguments, extra=extra)
        assert (done.returncode, done.stderr) == (0, "")
    assert "int4: shards" in done.stdout
    for file in model.iterdir():
        assert (tmp_path / "fp32" / file.name).read_bytes() == file.read_bytes()
