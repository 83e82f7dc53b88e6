"""Random checkpoints of real shapes are whole checkpoints."""

from __future__ import annotations

from pathlib import Path

from conftest import run

import llama_onnx
from tools.export_onnx import export
from tools.random_checkpoint import write_checkpoint


def test_random_checkpoint_exports_and_speaks_noise(tmp_path: Path) -> None:
    write_checkpoint("tiny", tmp_path / "checkpoint")
    export(tmp_path / "checkpoint", tmp_path / "model", "int4")
    lm = llama_onnx.load(tmp_path / "model")
    text = "bela tuzo 你好"
    assert lm.tokenizer.decode(lm.tokenizer.encode(text)) == text
    assert lm.generate("bela", llama_onnx.SamplingParams(max_tokens=5, seed=1))


def test_unknown_shape_is_a_usage_error(tmp_path: Path) -> None:
    assert run("tools/random_checkpoint.py", "huge", tmp_path / "x").returncode == 2
