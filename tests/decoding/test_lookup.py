"""Prompt lookup: drafts repeated text, does not change the output, and pauses where drafts are wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import FIXTURES, decoder_of, run

import llama_onnx
from llama_onnx import LanguageModel, SamplingParams
from llama_onnx.decoding.lookup import LONGEST_PAUSE, PromptLookup
from llama_onnx.export.exporter import export
from llama_onnx.generate import generate_tokens
from llama_onnx.tokens import Timing

REPEATING = [5, 6, 7, 8, 9, 10, 11, 12] * 5


@pytest.fixture(scope="module")
def lm(model: Path) -> LanguageModel:
    return llama_onnx.load(model)


def test_draft_is_what_followed_the_last_occurrence_of_the_longest_match() -> None:
    lookup = PromptLookup(3)
    assert lookup.draft([1, 2, 3, 4, 9, 8, 7, 2, 3, 4, 5, 1, 2, 3, 4], 8) == [9, 8, 7]
    assert PromptLookup(2).draft([1, 2, 3, 4, 4, 5, 1, 2, 3], 8) == [4, 4]
    assert PromptLookup(2).draft([1, 2, 3, 4], 8) == []
    assert PromptLookup(8).draft([1, 2, 3, 5, 1, 2, 3], 1) == [5]
    assert PromptLookup(8).draft([1, 2, 3, 5, 1, 2, 3], 0) == []


def test_loop_shorter_than_the_draft_is_repeated_in_it() -> None:
    assert PromptLookup(8).draft([1, 2, 1, 2, 1, 2], 8) == [1, 2, 1, 2]


def test_new_text_is_searched_as_well() -> None:
    lookup, history = PromptLookup(4), [1, 2, 3, 4]
    assert lookup.draft(history, 8) == []
    history += [5, 1, 2, 3]
    assert lookup.draft(history, 8) == [4, 5, 1, 2]


TABLE = """
import random, sys
from llama_onnx.decoding.lookup import PromptLookup
from llama_onnx.memory import process_bytes, trim
history = random.Random(1).choices(range(32000), k=int(sys.argv[1]))
lookup = PromptLookup(8)
lookup.draft(history[:100], 8)
trim()
before = process_bytes()
lookup.draft(history, 8)
print(process_bytes() - before, lookup.bytes_for(len(history)))
"""


@pytest.mark.parametrize("length", [5_000, 30_000, 60_000])  # before and after the table has grown
def test_table_takes_no_more_than_is_reserved_and_not_much_less(length: int) -> None:
    done = run("-c", TABLE, str(length))
    assert done.returncode == 0, done.stderr
    grown, reserved = map(int, done.stdout.split())
    assert grown <= reserved <= 3 * grown


def test_drafts_grow_while_correct_and_pause_while_wrong() -> None:
    lookup, history = PromptLookup(16), [1, 2, 3, 4] * 20
    sizes = []
    for _ in range(3):
        size = len(lookup.draft(history, 99))
        lookup.learn(size, size)
        sizes.append(size)
    assert sizes == [4, 8, 16]
    passes = drafts = 0
    while passes < 1000:
        drafted = lookup.draft(history, 99)
        lookup.learn(len(drafted), 0)
        drafts += bool(drafted)
        passes += 1
    assert drafts <= 1000 / LONGEST_PAUSE + 8


@pytest.mark.parametrize("prompt", [REPEATING, list(range(5, 25)), [9] * 12])
@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.5])
def test_tokens_are_the_same_without_lookup(lm: LanguageModel, prompt: list[int], temperature: float) -> None:
    for seed in range(3):
        params = SamplingParams(temperature=temperature, max_tokens=60, seed=seed, repetition_penalty=1.02)
        plain = [(s.token, s.finish_reason) for s in lm.stream_generate(prompt, replace(params, prompt_lookup=0))]
        assert [(s.token, s.finish_reason) for s in lm.stream_generate(prompt, params)] == plain


def test_trained_model_generates_the_same_story_in_fewer_passes(stories: Path, tmp_path: Path) -> None:
    export(stories, tmp_path / "stories")
    lm = llama_onnx.load(tmp_path / "stories")
    params = SamplingParams(temperature=0, max_tokens=256)
    steps = list(lm.stream_generate([1], params))
    stats = lm.stats()
    assert [s.token for s in steps] == [s.token for s in lm.stream_generate([1], replace(params, prompt_lookup=0))]
    assert stats["accepted"] > 40  # the story repeats a sentence
    passes = (stats["pool"]["hits"] + stats["pool"]["misses"]) / len(lm.config.shards)
    assert passes <= 256 - stats["accepted"]


def test_sampled_tokens_keep_their_distribution(lm: LanguageModel) -> None:
    """Compare counts of the second token after a draft with and without lookup, with different seeds."""
    prompt = [5, 6, 7, 8, 9, 5, 6, 7]

    def counts(lookup: int, seed: int) -> np.ndarray:
        tokens = []
        for i in range(400):
            params = SamplingParams(temperature=1.2, top_k=4, max_tokens=2, seed=seed + i, prompt_lookup=lookup)
            tokens.append([s.token for s in lm.stream_generate(prompt, params)][-1])
        return np.bincount(tokens, minlength=lm.config.vocab_size)

    drafted, plain = counts(8, 0), counts(0, 10_000)
    both = drafted + plain
    common = both >= 10
    chi_square = ((drafted - plain)[common] ** 2 / both[common]).sum()
    assert chi_square < common.sum() + 4 * (2 * common.sum()) ** 0.5


def test_wrong_drafts_are_dropped_from_the_cache(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PromptLookup, "draft", lambda self, history, room: [3, 3, 3][:room])
    params = SamplingParams(temperature=0, max_tokens=30)
    wrong = [s.token for s in lm.stream_generate(REPEATING, params)]
    assert lm.stats()["accepted"] < lm.stats()["drafted"]
    monkeypatch.undo()
    assert wrong == [s.token for s in lm.stream_generate(REPEATING, replace(params, prompt_lookup=0))]


def test_drafts_end_at_the_end_of_the_context(model: Path) -> None:
    lm = llama_onnx.load(model, ctx_size=50)
    steps = list(lm.stream_generate(REPEATING, SamplingParams(temperature=0)))
    assert (len(steps), steps[-1].finish_reason) == (10, "length")


@pytest.mark.parametrize("name", ["phi3-longrope-below", "phi3-longrope-beyond-partial"])
def test_drafts_do_not_cross_a_change_of_rope(name: str, tmp_path: Path) -> None:
    export(FIXTURES / name, tmp_path / "out")
    decoder = decoder_of(tmp_path / "out")
    prompt = [5, 6, 7, 8] * 3

    def tokens(lookup: int) -> list[int]:
        params = SamplingParams(temperature=0, max_tokens=70, prompt_lookup=lookup)
        return [t.token for t in generate_tokens(decoder, decoder.new_cache(82), prompt, params, 82, Timing())]

    assert tokens(8) == tokens(0)
