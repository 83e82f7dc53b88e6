"""Generation: the token loop, stop conditions, and streamed text that equals the whole text."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import llama_onnx
from llama_onnx import LanguageModel, RequestError, SamplingParams
from llama_onnx.text.stream import stream_text
from llama_onnx.tokens import Token

GREEDY = SamplingParams(temperature=0, max_tokens=20)


@pytest.fixture(scope="module")
def lm(model: Path) -> LanguageModel:
    return llama_onnx.load(model)


def tokens(lm: LanguageModel, prompt: str | list[int], params: SamplingParams) -> list[int]:
    return [step.token for step in lm.stream_generate(prompt, params)]


def test_streamed_text_is_the_text_decoded_as_a_whole(lm: LanguageModel) -> None:
    for seed in range(10):
        steps = list(lm.stream_generate("the fox", SamplingParams(temperature=2, top_k=0, max_tokens=40, seed=seed)))
        prompt = lm.tokenizer.encode("the fox")
        ids = [step.token for step in steps]
        whole = lm.tokenizer.decode(prompt + ids)
        assert lm.tokenizer.decode(prompt) + "".join(step.text for step in steps) == whole


def test_generate_is_the_joined_stream(lm: LanguageModel) -> None:
    assert lm.generate("fox", GREEDY) == "".join(step.text for step in lm.stream_generate("fox", GREEDY))
    assert llama_onnx.generate(lm, "fox", GREEDY) == lm.generate("fox", GREEDY)
    assert [s.token for s in llama_onnx.stream_generate(lm, "fox", GREEDY)] == tokens(lm, "fox", GREEDY)


def test_greedy_tokens_are_the_largest_logits_of_one_pass(lm: LanguageModel) -> None:
    prompt = lm.tokenizer.encode("the lazy dog")
    ids = tokens(lm, prompt, GREEDY)
    logits = lm.logits(prompt + ids)
    assert logits.dtype == np.float32
    assert logits.shape == (len(prompt) + len(ids), lm.config.vocab_size)
    assert np.argmax(logits[len(prompt) - 1 : -1], axis=-1).tolist() == ids


def test_text_prompt_equals_its_ids_with_bos(lm: LanguageModel) -> None:
    ids = lm.tokenizer.encode("fox")
    assert ids[0] == lm.config.bos_token_id
    assert tokens(lm, "fox", GREEDY) == tokens(lm, ids, GREEDY)


def test_same_seed_gives_same_tokens_with_any_pool(lm: LanguageModel, model: Path) -> None:
    params = SamplingParams(temperature=1.5, top_k=0, max_tokens=20, seed=3)
    assert tokens(lm, "fox", params) == tokens(llama_onnx.load(model, poolsize="min"), "fox", params)
    assert tokens(lm, "fox", params) != tokens(lm, "fox", replace(params, seed=4))


def test_prompt_in_chunks_gives_the_same_tokens(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = lm.tokenizer.encode("the quick brown fox jumps over the lazy dog")
    whole = tokens(lm, prompt, GREEDY)
    monkeypatch.setattr(lm.decoder, "chunk", 3)
    assert tokens(lm, prompt, GREEDY) == whole


def test_max_tokens_ends_with_reason_length(lm: LanguageModel) -> None:
    steps = list(lm.stream_generate("fox", SamplingParams(temperature=0, max_tokens=3)))
    assert [step.finish_reason for step in steps] == [None, None, "length"]


def test_context_ends_with_reason_length(model: Path) -> None:
    lm = llama_onnx.load(model, ctx_size=10)
    steps = list(lm.stream_generate([5, 6, 7, 8], SamplingParams(temperature=0)))
    assert len(steps) == 6
    assert steps[-1].finish_reason == "length"


def test_any_of_the_end_tokens_ends_with_reason_stop(model: Path, lm: LanguageModel) -> None:
    ids = tokens(lm, "fox", GREEDY)
    place = next(i for i in range(3, len(ids)) if ids[i] not in ids[:i])
    ending = llama_onnx.load(model)
    ending.decoder.config = replace(ending.config, eos_token_ids=(2, ids[place]))
    steps = list(ending.stream_generate("fox", GREEDY))
    assert [step.token for step in steps] == ids[: place + 1]
    assert steps[-1].finish_reason == "stop"


def test_output_ends_before_a_stop_text(lm: LanguageModel) -> None:
    whole = lm.generate("fox", GREEDY)
    stop = whole[5:9]
    steps = list(lm.stream_generate("fox", replace(GREEDY, stop=("never this", stop))))
    assert "".join(step.text for step in steps) == whole[: whole.find(stop)]
    assert steps[-1].finish_reason == "stop"


@pytest.mark.parametrize("sizes", [(1,), (2, 3), (5,), (40,)])
@pytest.mark.parametrize("stop", [["END"], ["x", "ENDING"], ["dENDI", "END"], ["absent"]])
def test_stop_text_is_found_across_tokens(lm: LanguageModel, sizes: tuple[int, ...], stop: list[str]) -> None:
    text = "some EN words E and the ENDING of it"
    pieces, place = [], 0
    for size in itertools.cycle(sizes):
        pieces.append(text[place : place + size])
        place += size
        if place >= len(text):
            break

    class Pieces:
        """A tokenizer whose tokens are the pieces."""

        def detokenizer(self, _: object) -> Pieces:
            return self

        def encode(self, *_: object, special: bool = False) -> list[int]:
            return []  # no stop text is a special token

        def add(self, token: int) -> str:
            return pieces[token]

        def finish(self) -> str:
            return ""

    def stream() -> Iterator[Token]:
        for i in range(len(pieces)):
            yield Token(i, 0.0, "length" if i == len(pieces) - 1 else None)

    out = "".join(step.text for step in stream_text(stream(), Pieces(), [], stop))  # type: ignore[arg-type]
    ends = [text.find(s) for s in stop if s in text]
    assert out == (text[: min(ends)] if ends else text)


def test_repetition_penalty_sees_the_prompt_and_the_output(lm: LanguageModel) -> None:
    ids = tokens(lm, "fox", replace(GREEDY, repetition_penalty=1e6, max_tokens=60))
    assert len(set(ids)) == len(ids)


def test_step_has_the_logprob_of_its_token(lm: LanguageModel) -> None:
    prompt = lm.tokenizer.encode("fox")
    step = next(lm.stream_generate(prompt, GREEDY))
    logits = lm.logits(prompt)[-1].astype(np.float64)
    assert step.logprob == pytest.approx(logits[step.token] - np.log(np.exp(logits).sum()), abs=1e-4)


def test_abandoned_stream_returns_its_memory(lm: LanguageModel) -> None:
    steps = lm.stream_generate("fox", GREEDY)
    next(steps)
    assert lm.stats()["pool"]["reserved"] > 0
    steps.close()
    assert lm.stats()["pool"]["reserved"] == 0


def test_stats_count_tokens_and_time(model: Path) -> None:
    lm = llama_onnx.load(model)
    lm.generate([5, 6, 7], SamplingParams(temperature=0, max_tokens=4))
    stats = lm.stats()
    assert (stats["prompt_tokens"], stats["new_tokens"]) == (3, 4)
    assert stats["tokens_per_second"] > 0
    assert stats["prompt_tokens_per_second"] > 0
    assert (stats["pool"]["misses"], stats["pool"]["hits"]) == (5, 15)
    assert stats["peak_memory"] > 0


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "empty"),
        ([], "empty"),
        ([5, 320], "token id 320 is not in the vocabulary"),
        ([-1], "token id -1"),
        ([5] * 256, "256 tokens, the context holds 256"),
        ("fox " * 300, "the context holds 256"),
    ],
)
def test_invalid_prompts_are_refused_before_anything_runs(lm: LanguageModel, prompt: object, message: str) -> None:
    misses = lm.stats()["pool"]["misses"]
    with pytest.raises(RequestError, match=message):
        lm.stream_generate(prompt)  # type: ignore[arg-type]
    assert lm.stats()["pool"]["misses"] == misses


def test_longest_prompt_leaves_one_token(lm: LanguageModel) -> None:
    assert len(tokens(lm, [5] * 255, GREEDY)) == 1


def test_logits_accept_at_most_a_full_context(lm: LanguageModel) -> None:
    assert lm.logits([5] * 256).shape[0] == 256
    for bad in ([], [5] * 257, [[5, 6]], [999]):
        with pytest.raises(RequestError):
            lm.logits(bad)  # type: ignore[arg-type]
