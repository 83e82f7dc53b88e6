"""Real models answer as llama.cpp does, end where they should, keep their quality, and stream."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import FETCHED

import llama_onnx
from llama_onnx.export.compare.metrics import kl_divergence, log_softmax
from llama_onnx.export.exporter import export

RECORDED = json.loads((Path(__file__).parent / "answers.json").read_text(encoding="utf-8"))
TEXT = (Path(__file__).parents[2] / "benchmarks" / "texts" / "prose.txt").read_text(encoding="utf-8")
GREEDY = llama_onnx.SamplingParams(temperature=0, max_tokens=60)

pytestmark = pytest.mark.real


@pytest.fixture(scope="module", params=FETCHED)
def exported(
    request: pytest.FixtureRequest, real_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A real model, exported as its file is."""
    out = tmp_path_factory.mktemp("real") / request.param
    export(real_model(request.param), out)
    return out


def test_likeliest_tokens_are_those_of_llama_cpp(exported: Path) -> None:
    differences, same, places = [], 0, 0
    with llama_onnx.load(exported, ctx_size=256) as lm:
        for answer in RECORDED[exported.name]:
            ids, likeliest = answer["ids"], answer["likeliest"]
            chosen = [place[0][0] for place in likeliest]
            scores = log_softmax(lm.logits([*ids, *chosen[:-1]])[len(ids) - 1 :])
            for row, place in zip(scores, likeliest, strict=True):
                differences += [abs(float(row[token]) - score) for token, score in place]
                same += int(row.argmax() == place[0][0])
                places += 1
    # Both round activations to 8 bits, each in its own way (measured: 0.09 and 0.13).
    assert np.mean(differences) < 0.2
    assert same >= 0.9 * places


def test_an_export_is_hardly_larger_than_its_file(exported: Path, real_model: Callable[[str], Path]) -> None:
    written = sum(path.stat().st_size for path in exported.iterdir() if path.name != "rope.bin")
    assert written <= 1.15 * real_model(exported.name).stat().st_size


def test_a_layer_at_a_time_answers_the_same(exported: Path) -> None:
    with llama_onnx.load(exported, ctx_size=256) as lm:
        whole = lm.generate("The capital of France is", GREEDY)
    with llama_onnx.load(exported, ctx_size=256, poolsize="min") as lm:
        assert lm.generate("The capital of France is", GREEDY) == whole


def test_a_chat_answer_is_right_and_ends(real_model: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    export(real_model("smollm2-135m"), tmp_path / "out")
    with llama_onnx.load(tmp_path / "out", ctx_size=512) as lm:
        steps = list(lm.stream_generate(lm.format("Which animal says meow?", "chat"), GREEDY))
    text = "".join(step.text for step in steps)
    assert text == 'The animal that says "meow" is a cat.'  # as llama.cpp answers
    assert steps[-1].finish_reason == "stop"
    assert "<|im_" not in text


def test_four_bits_made_from_floats_stay_near_them(real_model: Callable[[str], Path], tmp_path: Path) -> None:
    export(real_model("smollm2-135m"), tmp_path / "floats", "fp32")
    export(tmp_path / "floats", tmp_path / "int4", "int4")
    found = {}
    for name in ("floats", "int4"):
        with llama_onnx.load(tmp_path / name, ctx_size=512) as lm:
            found[name] = log_softmax(lm.logits(lm.tokenizer.encode(TEXT)[:400]))
    assert kl_divergence(found["floats"], found["int4"]).mean() < 0.12
    assert sum(path.stat().st_size for path in (tmp_path / "int4").iterdir()) < 120e6
