"""The embedded model: complete sentences, the requested names, and no loops, measured over held-out prompts."""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from helpers import ROOT, run

import llama_onnx
from llama_onnx import LanguageModel, SamplingParams
from llama_onnx.export.exporter import export
from llama_onnx.export.fp16 import convert
from llama_onnx.kv_cache import KVCache
from llama_onnx.sampling import sample

MODEL = ROOT / "models" / "demo"
MAKER = ROOT / "tools" / "demo_model"
LIMIT = 400
NEUTRAL = {"temperature": 0.8, "top_k": 0}

pytestmark = pytest.mark.skipif(not (MODEL / "manifest.json").is_file(), reason="no embedded model in this tree")


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return llama_onnx.load(MODEL)


@pytest.fixture(scope="module")
def maker() -> Iterator[ModuleType]:
    """The generator of its training text, whose modules import each other from their own folder."""
    before = set(sys.modules)
    sys.path.insert(0, str(MAKER))
    yield importlib.import_module("generate_text")
    sys.path.remove(str(MAKER))
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and Path(str(sys.modules[name].__file__)).parent == MAKER:
            del sys.modules[name]


def answer(lm: LanguageModel, instruction: str, **changes: Any) -> str:
    return lm.generate(lm.format(instruction), SamplingParams(seed=1, **changes)).strip()


def test_bonjour_is_answered_with_a_greeting(lm: LanguageModel) -> None:
    for seed in range(5):
        text = lm.generate(lm.format("bonjour"), SamplingParams(seed=seed)).lower()
        assert any(word in text for word in ("bonjour", "salut", "hello")), text


def test_story_about_a_dog_named_max_is_about_a_dog_named_max(lm: LanguageModel) -> None:
    story = answer(lm, "Write a story about a dog named Max")
    assert story.count("Max") >= 3
    assert "dog" in story
    assert len(story.split()) > 50


@pytest.mark.parametrize(
    ("question", "word"),
    [("What colour is the sky?", "blue"), ("What sound does a cow make?", "moo"), ("你好", "你好")],
)
def test_simple_questions_about_its_world_are_answered(lm: LanguageModel, question: str, word: str) -> None:
    assert word in answer(lm, question).lower()


def answers(lm: LanguageModel, prompts: list[list[int]], sampling: list[SamplingParams]) -> list[list[int]]:
    """Answer prompts in one batch, which is several times faster than one after another.

    The prompts differ in length, so each row gets the tokens of its prompt first and then its own output.
    """
    rows, rngs = [prompt[:] for prompt in prompts], [np.random.default_rng(params.seed) for params in sampling]
    limits = [len(prompt) + params.max_tokens for prompt, params in zip(prompts, sampling, strict=True)]
    cache = KVCache(lm.config, max(limits), len(rows))
    ids, going = np.array([row[: min(map(len, prompts))] for row in rows]), set(range(len(rows)))
    while going:
        logits = lm.decoder.forward(ids, cache)[:, 0]
        for i in sorted(going):
            if len(rows[i]) == cache.length:
                rows[i].append(sample(logits[i], sampling[i], rngs[i])[0])
                if rows[i][-1] in lm.config.eos_token_ids or len(rows[i]) == limits[i]:
                    going.remove(i)
        ids = np.array([[row[min(cache.length, len(row) - 1)]] for row in rows])
    return [row[len(prompt) :] for row, prompt in zip(rows, prompts, strict=True)]


@pytest.mark.parametrize(
    "some", [pytest.param(slice(None), marks=pytest.mark.slow, id="all"), pytest.param(slice(0, 100, 5), id="some")]
)
@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, NEUTRAL], ids=["greedy", "T=0.8"])
def test_quality_over_held_out_prompts_is_sufficient(lm: LanguageModel, sampling: dict[str, Any], some: slice) -> None:
    asked = json.loads((MAKER / "held_out_prompts.json").read_text(encoding="utf-8"))
    assert len(asked) == 200
    asked.sort(key=lambda prompt: len(prompt["reference"]))  # a batch ends with its longest answer
    asked = asked[some]
    ended, kept, named, calm = 0, 0, 0, 0
    for start in range(0, len(asked), 50):
        batch = asked[start : start + 50]
        prompts = [lm.format(prompt["instruction"]) for prompt in batch]
        params = [SamplingParams(max_tokens=LIMIT, seed=start + i, **sampling) for i in range(len(batch))]
        said = answers(lm, prompts, params)
        for prompt, tokens in zip(batch, said, strict=True):
            text = lm.tokenizer.decode(tokens)
            words = text.split()
            runs = Counter(zip(words, words[1:], words[2:], words[3:], strict=False))
            ended += tokens[-1] in lm.config.eos_token_ids
            calm += max(runs.values(), default=0) <= 3
            if prompt["name"]:
                named += 1
                kept += prompt["name"] in text
    # The measured answers are those a user gets.
    assert said[-1] == [step.token for step in lm.stream_generate(prompts[-1], params[-1])]
    assert ended == len(asked)
    assert named - kept <= max(1, 0.05 * named)
    assert len(asked) - calm <= max(1, 0.05 * len(asked))


@pytest.mark.parametrize("examples", [pytest.param(250, marks=pytest.mark.slow), 50])
def test_held_out_perplexity_is_within_ten_percent_of_that_of_training(
    lm: LanguageModel, maker: ModuleType, examples: int
) -> None:
    def perplexity(held_out: bool) -> float:
        loss, count = 0.0, 0
        for example in islice(maker.examples(maker.DEFAULT_SEED, held_out), examples):
            prompt = lm.tokenizer.encode(example.prompt) if example.prompt else [lm.config.bos_token_id]
            response = [*lm.tokenizer.encode(example.response, add_bos=False), lm.config.eos_token_ids[0]]
            ids = (prompt + response)[: lm.config.context_length]
            logits = lm.logits(ids)[len(prompt) - 1 : -1].astype(np.float64)
            targets = ids[len(prompt) :]
            top = logits.max(-1)
            log_sums = top + np.log(np.exp(logits - top[:, None]).sum(-1))
            loss += float((log_sums - logits[np.arange(len(targets)), targets]).sum())
            count += len(targets)
        return math.exp(loss / count)

    assert perplexity(held_out=True) <= 1.1 * perplexity(held_out=False)


def test_model_in_the_repository_is_small() -> None:
    files = [path for path in MODEL.rglob("*") if path.is_file() and ".packed" not in path.parts]
    assert sum(path.stat().st_size for path in files) <= 6 << 20


def test_demo_uses_the_embedded_model_when_no_directory_is_given() -> None:
    done = run("demo.py", "bonjour", "--seed", "1")
    assert done.returncode == 0
    assert done.stdout.strip()
    assert done.stderr.startswith("[ prompt")
    assert run("demo.py", "bonjour", "--seed", "1", "--poolsize", "min").stdout == done.stdout


def test_reference_for_comparisons_can_be_made(lm: LanguageModel, tmp_path: Path) -> None:
    """Its float16 weights are exact, so an fp32 export of them is a reference, and converts back to the same bytes."""
    export(MODEL, tmp_path / "fp32")
    ids = lm.tokenizer.encode("Once upon a time")
    np.testing.assert_allclose(llama_onnx.load(tmp_path / "fp32").logits(ids), lm.logits(ids), atol=1e-5)
    convert(tmp_path / "fp32", tmp_path / "fp16")
    assert (tmp_path / "fp16" / "decoder-00.bin").read_bytes() == (MODEL / "decoder-00.bin").read_bytes()
