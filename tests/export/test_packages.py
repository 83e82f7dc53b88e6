"""The exporter without the packages of the extra 'tools'."""

from __future__ import annotations

import subprocess
import sys

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


def run_without(missing: tuple[str, ...], code: str) -> str:
    code = WITHOUT.format(missing=missing) + code
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_options_of_the_commands_are_known_without_the_packages() -> None:
    assert "gptq" in run_without(PACKAGES, OPTIONS).split()


@pytest.mark.parametrize("package", PACKAGES)
def test_missing_package_is_one_line_with_the_install_command(package: str) -> None:
    said = run_without((package,), ENTRY).splitlines()
    assert said == 5 * [f"{package} is not installed: pip install 'llama-onnx[tools]'"]
