"""Model directories made by an earlier exporter still run and give the same results; see the fixture's README."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import FIXTURES

import llama_onnx

FOLDER = FIXTURES / "model-format-1"
EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
TOLERANCE = {"fp32": 1e-3, "int4": 0.05}  # of logits, for kernels of other CPUs; int4 kernels round their inputs


@pytest.mark.parametrize("poolsize", [None, "min"])
@pytest.mark.parametrize("name", EXPECTED)
def test_older_model_directory_gives_the_recorded_logits(name: str, poolsize: str | None, tmp_path: Path) -> None:
    expected = EXPECTED[name]
    lm = llama_onnx.load(shutil.copytree(FOLDER / name, tmp_path / name), poolsize=poolsize)
    assert (lm.stats()["pool"]["streams_through"] == "nothing") == (poolsize is None)
    ids = lm.tokenizer.encode(expected["prompt"])
    assert ids == expected["ids"]
    np.testing.assert_allclose(lm.logits(ids)[-1, :8], expected["logits"], atol=TOLERANCE[name])
    params = llama_onnx.SamplingParams(temperature=0, repetition_penalty=1, max_tokens=len(expected["tokens"]))
    steps = list(lm.stream_generate(ids, params))
    assert [step.token for step in steps] == expected["tokens"]
    assert "".join(step.text for step in steps) == expected["text"]
