"""Many prompts in one pass: the same answers as one by one, within the promised memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import ROOT, make_checkpoint, run
from llama_onnx_layout import FLOAT, write_layout

import llama_onnx
from llama_onnx import LanguageModel, PoolTooSmallError, RequestError, SamplingParams
from llama_onnx.batching.scheduler import Report
from llama_onnx.export.exporter import export
from llama_onnx.kv_cache import KVCache
from llama_onnx.memory import MIB
from llama_onnx.pool import MemoryPool

# More than fit into eight rows, of various lengths; one has a single token.
PROMPTS = [[7], *([5 + (i * k) % 300 for k in range(3 + 7 * i % 40)] for i in range(1, 11))]
GREEDY = SamplingParams(temperature=0, max_tokens=12, prompt_lookup=0)
SAMPLED = SamplingParams(temperature=1.5, top_k=0, max_tokens=12, seed=3, prompt_lookup=0)


@pytest.fixture(scope="module")
def lm(model: Path) -> LanguageModel:
    return llama_onnx.load(model)


@pytest.fixture(scope="module")
def quantised(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("batch") / "int4"
    export(checkpoint, out, "int4", block_size=32)
    return out


def alone(lm: LanguageModel, prompts: Sequence[str | list[int]], params: SamplingParams) -> list[str]:
    """Return the answer to each prompt on its own, with the seed that it has in a batch."""
    seeds = [None if params.seed is None else params.seed + i for i in range(len(prompts))]
    return [lm.generate(prompt, replace(params, seed=seed)) for prompt, seed in zip(prompts, seeds, strict=True)]


def together(
    lm: LanguageModel, prompts: Sequence[str | list[int]], params: SamplingParams | Sequence[SamplingParams], batch: int
) -> list[str]:
    completions = list(lm.generate_many(prompts, params, batch))
    assert [completion.index for completion in completions] == list(range(len(prompts)))
    return [completion.text for completion in completions]


@pytest.mark.parametrize("batch", [1, 3, 8, 20])
@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_answers_do_not_depend_on_the_other_prompts(lm: LanguageModel, params: SamplingParams, batch: int) -> None:
    assert together(lm, PROMPTS, params, batch) == alone(lm, PROMPTS, params)


@pytest.mark.parametrize("cache_type", ["fp16", "int8"])
def test_compact_caches_give_the_same_answers_as_alone(model: Path, cache_type: str) -> None:
    lm = llama_onnx.load(model, cache_type=cache_type)
    assert together(lm, PROMPTS, GREEDY, 3) == alone(lm, PROMPTS, GREEDY)


@pytest.mark.parametrize("poolsize", [None, "min"])
def test_quantised_and_streamed_models_answer_the_same(quantised: Path, poolsize: str | None) -> None:
    lm = llama_onnx.load(quantised, poolsize=poolsize)
    assert together(lm, PROMPTS, SAMPLED, 8) == alone(lm, PROMPTS, SAMPLED)


def test_trained_models_answer_the_same(stories: Path, tmp_path: Path) -> None:
    export(stories, tmp_path / "stories")
    texts = ["Once upon a time", "Lily", "The dog ran to the park and", "One day, a bird"]
    for directory in (tmp_path / "stories", ROOT / "models" / "demo"):
        lm = llama_onnx.load(directory)
        prompts = [lm.format(text) for text in texts]
        for params in (replace(GREEDY, max_tokens=60), replace(SAMPLED, temperature=0.8, max_tokens=60)):
            assert together(lm, prompts, params, 3) == alone(lm, prompts, params)


def test_directory_of_the_original_llama_onnx_answers_the_same(checkpoint: Path, tmp_path: Path) -> None:
    lm = llama_onnx.load(write_layout(checkpoint, tmp_path / "layout", FLOAT, True))
    assert together(lm, PROMPTS[:4], GREEDY, 3) == alone(lm, PROMPTS[:4], GREEDY)


def test_sequences_that_change_their_rope_factors_answer_the_same(tmp_path: Path) -> None:
    factors = {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
    checkpoint = make_checkpoint(
        tmp_path / "checkpoint",
        original_max_position_embeddings=16,
        rope_scaling={"rope_type": "longrope", **factors},
    )
    export(checkpoint, tmp_path / "model")
    lm = llama_onnx.load(tmp_path / "model")
    assert lm.config.rope_switch_length == 16
    prompts = [[5] * length for length in (3, 10, 14, 16, 20)]  # at different steps; one never changes
    assert together(lm, prompts, SAMPLED, 3) == alone(lm, prompts, SAMPLED)


def test_each_prompt_may_have_its_own_parameters(lm: LanguageModel) -> None:
    params = [replace(SAMPLED, seed=i, max_tokens=1 + 5 * i, temperature=i / 2) for i in range(5)]
    expected = [lm.generate(prompt, one) for prompt, one in zip(PROMPTS, params, strict=False)]
    assert together(lm, PROMPTS[:5], params, 3) == expected


def test_output_ends_before_a_stop_text(lm: LanguageModel) -> None:
    texts = alone(lm, PROMPTS[:4], GREEDY)
    params = [replace(GREEDY, stop=(text[3:6],)) for text in texts]
    completions = list(lm.generate_many(PROMPTS[:4], params, 2))
    assert [c.text for c in completions] == [text[: text.find(text[3:6])] for text in texts]
    assert {c.finish_reason for c in completions} == {"stop"}


def test_completions_report_their_finish_reason_and_length(model: Path, lm: LanguageModel) -> None:
    short = llama_onnx.load(model, ctx_size=20)
    full, limited = short.generate_many([[5] * 15, [6] * 3], GREEDY)
    assert (full.finish_reason, full.prompt_tokens, full.completion_tokens) == ("length", 15, 5)
    assert (limited.finish_reason, limited.prompt_tokens, limited.completion_tokens) == ("length", 3, 12)
    steps = list(lm.stream_generate(PROMPTS[0], GREEDY))
    ending = llama_onnx.load(model)
    ending.decoder.config = replace(ending.config, eos_token_ids=(steps[4].token,))
    (ended,) = ending.generate_many(PROMPTS[:1], GREEDY)
    assert ended.finish_reason == "stop"
    assert ended.completion_tokens <= 5


def test_answers_are_yielded_as_soon_as_all_earlier_ones_are_done(lm: LanguageModel) -> None:
    params = [replace(GREEDY, max_tokens=n) for n in (4, 1, 9, 2)]
    passes, came = 0, []

    def count(_: Report) -> None:
        nonlocal passes
        passes += 1

    for completion in lm.generate_many(PROMPTS[:4], params, 3, count):
        came.append((completion.index, passes))
    # The fourth takes the row of the second in pass 2. Its answer waits for that of the third, because of the order.
    assert came == [(0, 4), (1, 4), (2, 9), (3, 9)]


@pytest.mark.parametrize("batch", [1, 8])
def test_weights_are_read_once_per_pass_for_all_sequences(model: Path, batch: int) -> None:
    lm = llama_onnx.load(model, poolsize="min", pool_policy="lru")
    passes = 0

    def count(_: Report) -> None:
        nonlocal passes
        passes += 1

    list(lm.generate_many(PROMPTS[:batch], GREEDY, batch, count))
    assert passes == 12
    assert lm.decoder.pool.stats.misses == 12 * len(lm.config.shards)


MEASURED = """
import sys
import llama_onnx
from llama_onnx import SamplingParams
from llama_onnx.memory import process_bytes

lm = llama_onnx.load(sys.argv[1], cache_type=sys.argv[2])
greedy = SamplingParams(temperature=0, max_tokens=12, prompt_lookup=0)
prompts = [[5 + i] * length for i, length in enumerate((300, 20, 20, 250, 100, 20, 20, 200, 20, 20))]

def most():
    before, reports = process_bytes(), []
    for _ in lm.generate_many(prompts, greedy, 4, lambda _: reports.append((process_bytes() - before, reserved()))):
        pass
    return max(reports)

def reserved():
    return int(lm.decoder.pool.snapshot()["reserved"])

before = most() and process_bytes()  # shards are loaded
used, set_aside = min(most() for _ in range(3))
print(used, set_aside, reserved(), process_bytes() - before)
"""


@pytest.mark.parametrize("cache_type", ["fp32", "int8"])
def test_reserved_memory_covers_the_memory_used(tmp_path: Path, cache_type: str) -> None:
    # 24 KB of keys and values per token, so that they are most of the memory of a run.
    checkpoint = make_checkpoint(
        tmp_path / "checkpoint",
        hidden_size=512, num_hidden_layers=6, num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=2048
    )  # fmt: skip
    export(checkpoint, tmp_path / "model")
    # In a separate process, and more than once: a fragmented heap grows by more than is allocated.
    done = run("-c", MEASURED, tmp_path / "model", cache_type)
    assert done.returncode == 0, done.stderr
    used, reserved, reserved_after, kept = map(int, done.stdout.split())
    assert 5 * MIB < used < reserved + MIB  # the memory of the interpreter itself varies by a few pages
    assert reserved_after == 0
    assert kept < 4 * MIB  # nothing keeps the cache


def test_youngest_sequences_wait_if_memory_is_too_small(model: Path) -> None:
    lm = llama_onnx.load(model)
    lm.decoder.config = replace(lm.config, eos_token_ids=())  # no sequence ends early
    params, prompts = replace(SAMPLED, max_tokens=70), [[5 + i] * 3 for i in range(5)]
    expected = alone(lm, prompts, params)
    room = 5 * 105 * KVCache(lm.config, 1).bytes_per_token  # enough for the prompts, not for their answers
    pool = MemoryPool(lm.config.shards, MemoryPool(lm.config.shards, None).budget + room)
    lm.decoder.pool = pool
    passes: list[Report] = []

    def look(report: Report) -> None:
        passes.append(report)
        assert int(pool.snapshot()["reserved"]) + pool.stats.resident_bytes <= pool.budget

    assert [c.text for c in lm.generate_many(prompts, params, 8, look)] == expected
    assert (passes[0].running, passes[0].waiting) == (5, 0)  # all started
    assert max(report.waiting for report in passes) > 0
    assert pool.snapshot()["reserved"] == 0


def test_single_sequence_that_outgrows_the_memory_is_an_error(model: Path) -> None:
    lm = llama_onnx.load(model)
    lm.decoder.pool = MemoryPool(lm.config.shards, MemoryPool(lm.config.shards, None).budget + MIB // 2)
    answers = lm.generate_many([[5], [5] * 250], GREEDY, 8)
    assert next(answers).index == 0
    with pytest.raises(PoolTooSmallError, match="poolsize of at least"):
        next(answers)
    assert lm.decoder.pool.snapshot()["reserved"] == 0


def test_abandoned_run_returns_its_memory(lm: LanguageModel) -> None:
    answers = lm.generate_many(PROMPTS, GREEDY, 2)
    next(answers)
    assert lm.stats()["pool"]["reserved"] > 0
    answers.close()
    assert lm.stats()["pool"]["reserved"] == 0


def test_stats_sum_up_the_run(model: Path) -> None:
    lm = llama_onnx.load(model)
    list(lm.generate_many([[5, 6, 7], [8, 9], [7]], replace(GREEDY, max_tokens=4), 2))
    stats = lm.stats()
    assert (stats["prompt_tokens"], stats["new_tokens"]) == (6, 12)
    assert stats["tokens_per_second"] > 0


@pytest.mark.parametrize(
    ("prompts", "arguments", "message"),
    [
        ([""], {}, "prompt is empty"),
        ([[5], []], {}, "prompt 1: the prompt is empty"),
        ([[5], [5] * 256], {}, "prompt 1: .* context holds 256"),
        ([[5], [999]], {}, "prompt 1: token id 999"),
        ([[5]], {"batch": 0}, "batch must be at least 1"),
        ([[5]], {"params": [GREEDY, GREEDY]}, "2 sampling params for 1 prompts"),
    ],
)
def test_invalid_requests_are_refused_before_anything_runs(
    lm: LanguageModel, prompts: list, arguments: dict, message: str
) -> None:
    misses = lm.stats()["pool"]["misses"]
    with pytest.raises(RequestError, match=message):
        lm.generate_many(prompts, **arguments)
    assert lm.stats()["pool"]["misses"] == misses


def test_no_prompts_give_no_answers(lm: LanguageModel) -> None:
    assert list(lm.generate_many([], GREEDY)) == []
