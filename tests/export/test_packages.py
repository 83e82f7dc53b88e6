"""The exporter without the packages of the extra 'tools'."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

WITHOUT = """
import sys
for name in {missing!r}:
    sys.modules[name] = None
from llama_onnx.errors import MissingDependencyError
"""
OPTIONS = """
from llama_onnx.export.nbits import BITS, BLOCK_SIZES
from llama_onnx.export.quantize.bits import FLOAT_BITS, RULES
from llama_onnx.export.quantize.methods.registry import METHODS
from llama_onnx.export.quantize.settings import FORMATS, Options, Settings
from llama_onnx.export.quantize.table import read_table
print(*METHODS)
"""
ENTRY = """
import importlib
for module in ("exporter", "fp16", "readers.open", "quantize.quantizer", "compare.comparison"):
    try:
        importlib.import_module("llama_onnx.export." + module)
    except MissingDependencyError as error:
        print(error)
"""
PACKAGES = ("onnx", "ml_dtypes", "safetensors", "tqdm")


def run_without(missing: tuple[str, ...], code: str, cwd: Path = ROOT) -> str:
    code = WITHOUT.format(missing=missing) + code
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_options_of_the_commands_are_known_without_the_packages() -> None:
    assert "gptq" in run_without(PACKAGES, OPTIONS).split()


@pytest.mark.parametrize("package", PACKAGES)
def test_missing_package_is_one_line_with_the_install_command(package: str) -> None:
    said = run_without((package,), ENTRY).splitlines()
    requirements = ROOT / "tools" / "requirements.txt"
    error = f"the packages of the extra 'tools' are needed ({package} missing): pip install -r {requirements}"
    assert said == 5 * [error]
    assert package in requirements.read_text()


def test_all_missing_packages_are_named_and_outside_a_clone_the_extra_is_installed(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "llama_onnx", tmp_path / "llama_onnx", ignore=shutil.ignore_patterns("__pycache__"))
    said = run_without(PACKAGES, ENTRY, tmp_path).splitlines()
    error = "the packages of the extra 'tools' are needed (ml_dtypes, onnx, safetensors, tqdm missing): pip install "
    assert said == 5 * [f"{error}'llama-onnx[tools]'"]
