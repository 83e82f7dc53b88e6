"""Random checkpoints of real shapes are complete checkpoints."""

from __future__ import annotations

from pathlib import Path

from helpers import run
from random_checkpoint import write_checkpoint

import llama_onnx
from llama_onnx.export.exporter import export


def test_random_checkpoint_can_be_exported_and_generates(tmp_path: Path) -> None:
    write_checkpoint("tiny", tmp_path / "checkpoint")
    export(tmp_path / "checkpoint", tmp_path / "model", "int4")
    lm = llama_onnx.load(tmp_path / "model")
    text = "bela tuzo 你好"
    assert lm.tokenizer.decode(lm.tokenizer.encode(text)) == text
    assert lm.generate("bela", llama_onnx.SamplingParams(max_tokens=5, seed=1))


def test_a_checkpoint_with_a_cycle_generates_the_cycle(tmp_path: Path) -> None:
    write_checkpoint("tiny", tmp_path / "checkpoint", cycle=5)
    export(tmp_path / "checkpoint", tmp_path / "model", "int4", block_size=32)
    lm = llama_onnx.load(tmp_path / "model")
    steps = lm.stream_generate([301], llama_onnx.SamplingParams(temperature=0, max_tokens=7))
    assert [step.token for step in steps] == [302, 303, 304, 300, 301, 302, 303]


def test_a_cycle_beyond_the_vocabulary_is_refused(tmp_path: Path) -> None:
    result = run("benchmarks/random_checkpoint.py", "tiny", tmp_path / "x", "--cycle", "213")
    assert result.returncode == 1
    assert "1 to 212" in result.stderr


def test_unknown_shape_is_a_usage_error(tmp_path: Path) -> None:
    assert run("benchmarks/random_checkpoint.py", "huge", tmp_path / "x").returncode == 2
