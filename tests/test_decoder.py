"""The decoder loop: the same tokens with any pool, any chunks and any division of the prefill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, decoder_of, make_checkpoint, smallest_decoder

import llama_onnx
from llama_onnx import SamplingParams
from llama_onnx.decoder import CHUNK, Decoder, pass_bytes, runs_of
from llama_onnx.decoding.lookup import PromptLookup
from llama_onnx.errors import PoolTooSmallError, RequestError
from llama_onnx.export.exporter import export
from llama_onnx.kv_cache import KVCache
from llama_onnx.memory import MIB
from llama_onnx.model_directory import read_config
from llama_onnx.pool import MemoryPool, charge_of

GREEDY = SamplingParams(temperature=0, max_tokens=256, prompt_lookup=0)
# The most that rounding the weights of stories260K to float16 may change a logit (measured: 0.011 over 256 tokens).
HALF_TOLERANCE = 0.03


@pytest.fixture(scope="session")
def stories_model(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stories") / "fp32"
    export(stories, out)
    return out


def greedy_tokens(decoder: Decoder, prompt: list[int], count: int, prefill: int | None = None) -> list[int]:
    """Return a greedy continuation, with the prompt in passes of `prefill` tokens (None = one pass)."""
    cache = KVCache(decoder.config, len(prompt) + count)
    size = prefill or len(prompt)
    for start in range(0, len(prompt), size):
        logits = decoder.forward(np.array([prompt[start : start + size]]), cache)
    tokens = [int(np.argmax(logits[0, -1]))]
    while len(tokens) < count:
        logits = decoder.forward(np.array([[tokens[-1]]]), cache)
        tokens.append(int(np.argmax(logits[0, -1])))
    return tokens


@pytest.mark.parametrize(("poolsize", "count"), [(None, 256), ("min", 64)])
def test_trained_model_tells_its_known_story(
    stories: Path, stories_model: Path, poolsize: str | None, count: int
) -> None:
    lm = llama_onnx.load(stories_model, poolsize=poolsize, pool_policy="lru")
    steps = list(lm.stream_generate([1], replace(GREEDY, max_tokens=count)))
    expected = json.loads((stories / "greedy256.json").read_text())
    assert [1, *(step.token for step in steps)] == expected[: 1 + count]
    text, story = "".join(step.text for step in steps), (stories / "greedy256.txt").read_text()
    assert text + "\n" == story if count == 256 else story.startswith(text)
    pool = lm.stats()["pool"]
    shards = len(lm.config.shards)
    if poolsize == "min":
        assert (pool["hits"], pool["misses"]) == (0, count * shards)
        assert pool["peak_resident_bytes"] <= max(map(charge_of, lm.config.shards))
    else:
        assert (pool["hits"], pool["misses"], pool["evictions"]) == ((count - 1) * shards, shards, 0)


@pytest.mark.parametrize(("size", "smallest"), [(1, False), (7, False), (None, False), (100, True)])
def test_prefill_in_passes_of_any_size_continues_the_known_story(
    stories: Path, stories_model: Path, size: int | None, smallest: bool
) -> None:
    expected = json.loads((stories / "greedy256.json").read_text())
    decoder = smallest_decoder(stories_model) if smallest else decoder_of(stories_model)
    assert greedy_tokens(decoder, expected[:200], 57, size) == expected[200:]


def test_fp16_changes_the_logits_of_the_trained_model_little(
    stories: Path, stories_model: Path, tmp_path: Path
) -> None:
    export(stories, tmp_path / "fp16", "fp16")
    expected = json.loads((stories / "greedy256.json").read_text())
    ids = np.array(expected)
    difference = decoder_of(tmp_path / "fp16").logits(ids) - decoder_of(stories_model).logits(ids)
    assert 0 < np.abs(difference).max() < HALF_TOLERANCE
    lm = llama_onnx.load(tmp_path / "fp16")
    assert [1, *(step.token for step in lm.stream_generate([1], GREEDY))] == expected


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_chunks_give_the_logits_of_a_single_pass(model: Path, chunk: int) -> None:
    ids = np.random.default_rng(0).integers(3, 300, 70)
    whole, chunked = decoder_of(model), decoder_of(model, chunk=chunk)
    np.testing.assert_allclose(chunked.logits(ids), whole.logits(ids), atol=2e-5)
    assert chunked.pool.stats.misses == len(chunked.config.shards)  # each shard is loaded once, not once per chunk


def test_head_runs_on_the_last_position_only(model: Path) -> None:
    decoder = decoder_of(model)
    ids = np.arange(3, 20)
    cache = KVCache(decoder.config, 32)
    last = decoder.forward(ids[None], cache)
    assert last.shape == (1, 1, decoder.config.vocab_size)
    np.testing.assert_allclose(last[0, 0], decoder.logits(ids)[-1], atol=2e-5)


def test_keys_and_values_are_updated_in_place(model: Path) -> None:
    decoder = decoder_of(model)
    cache = KVCache(decoder.config, 16)
    addresses = [array.ctypes.data for array in cache.keys + cache.values]
    decoder.forward(np.array([[5, 6, 7]]), cache)
    filled = [array[:, :, :3].copy() for array in cache.keys + cache.values]
    assert all(np.abs(array).min() > 0 for array in filled)
    assert all(not array[:, :, 3:].any() for array in cache.keys + cache.values)
    decoder.forward(np.array([[8]]), cache)
    for array, first, address in zip(cache.keys + cache.values, filled, addresses, strict=True):
        np.testing.assert_array_equal(array[:, :, :3], first)
        assert array[:, :, 3].any()
        assert array.ctypes.data == address


def test_truncated_cache_continues_as_if_the_rest_was_never_there(model: Path) -> None:
    decoder = decoder_of(model)
    cache = KVCache(decoder.config, 32)
    decoder.forward(np.array([[5, 6, 7, 8, 9]]), cache)
    cache.truncate(3)
    again = decoder.forward(np.array([[20]]), cache)[0, 0]
    np.testing.assert_allclose(again, decoder.logits(np.array([5, 6, 7, 20]))[-1], atol=2e-5)


def test_invalid_cache_sizes_are_refused(model: Path) -> None:
    config = read_config(model)
    cache = KVCache(config, 4)
    with pytest.raises(RequestError, match="do not fit"):
        decoder_of(model).forward(np.arange(3, 8)[None], cache)
    for capacity in (0, config.context_length + 1):
        with pytest.raises(RequestError, match="context"):
            KVCache(config, capacity)
    with pytest.raises(RequestError, match="truncate"):
        cache.truncate(1)


def test_cache_that_outgrows_the_pool_is_a_clear_error_and_frees_its_memory(model: Path) -> None:
    config = read_config(model)
    largest, working = max(map(charge_of, config.shards)), pass_bytes(config, runs_of([10], [10]), 1, CHUNK)
    cache = KVCache(config, 110).bytes_with([64]) + PromptLookup(8).bytes_for(64)
    decoder = Decoder(config, MemoryPool(config.shards, largest + cache + working))
    lm = llama_onnx.LanguageModel(config, llama_onnx.load(model).tokenizer, decoder, config.context_length)
    texts = []
    with pytest.raises(PoolTooSmallError, match="KV cache"):
        texts.extend(lm.stream_generate([5] * 10, SamplingParams(temperature=0, max_tokens=100)))
    assert 5 < len(texts) < 100
    assert decoder.pool.snapshot()["reserved"] == 0
    assert lm.generate([5] * 10, SamplingParams(temperature=0, max_tokens=5))


MEASURE = """
import sys
import llama_onnx
lm = llama_onnx.load(sys.argv[1], poolsize=sys.argv[2])
lm.generate([5] * 100, llama_onnx.SamplingParams(max_tokens=10, seed=1))
stats = lm.stats()
print(stats["peak_memory"], stats["pool"]["misses"])
"""


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int4"])
def test_peak_memory_of_the_process_stays_within_the_poolsize(tmp_path: Path, dtype: str) -> None:
    sizes = {"hidden_size": 512, "intermediate_size": 1280, "num_attention_heads": 8, "num_hidden_layers": 8}
    checkpoint = make_checkpoint(tmp_path / "checkpoint", **sizes)
    export(checkpoint, tmp_path / "model", dtype)

    def measure(poolsize: str) -> tuple[int, int]:
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(tmp_path / "model"), poolsize],
            capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        peak, misses = map(int, done.stdout.split())
        return peak, misses

    base = measure("min")[0]
    total = sum(map(charge_of, read_config(tmp_path / "model").shards))
    share = 2 if dtype == "fp32" else 4  # other layers are smaller
    spare = 4 if dtype == "int4" else 12  # MB
    poolsize = base + spare * MIB + total // share  # room for some layers, but not for all
    peak, misses = measure(f"{poolsize // MIB}MB")
    assert peak <= poolsize
    assert misses > 3 * 8  # layers were read repeatedly
