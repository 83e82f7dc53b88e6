"""The KV cache in fp16 and int8: its error, its size, and that everything is rounded once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, decoder_of, run

import llama_onnx
from benchmarks.kv_cache import measure
from llama_onnx import LanguageModel, SamplingParams
from llama_onnx.config import ModelConfig
from llama_onnx.decoder import CHUNK, Decoder, pass_bytes, runs_of
from llama_onnx.errors import PoolTooSmallError, RequestError
from llama_onnx.export.exporter import export
from llama_onnx.kv_cache import KVCache
from llama_onnx.kv_types import CACHE_TYPES
from llama_onnx.model_directory import read_config
from llama_onnx.pool import MemoryPool, charge_of

COMPACT = CACHE_TYPES[1:]
DEMO = ROOT / "models" / "demo"
# Mean KL in nats, a few times what `benchmarks/kv_cache.py` measures over more tokens.
DEMO_KL = {"fp16": 1e-6, "int8": 5e-4}
STORIES_KL = {"fp16": 5e-6, "int8": 5e-3}
IDS = np.random.default_rng(0).integers(3, 300, 40)


@pytest.fixture(scope="module")
def config(model: Path) -> ModelConfig:
    return read_config(model)


def written(cache: KVCache, rows: np.ndarray) -> np.ndarray:
    """Store rows float32 [batch, kv_heads, positions, head_dim] in layer 0 and return what layer 0 then reads."""
    count = rows.shape[2]
    cache.start([np.zeros(count, np.int64)] * len(rows))
    with cache.layer(0) as (key, value):
        for array in (key, value):
            array[:, :, cache.length : cache.length + count] = rows
    cache.finish()
    cache._ends = cache.lengths
    with cache.layer(0) as (key, value):
        np.testing.assert_array_equal(key[:, :, : cache.length], value[:, :, : cache.length])
        return key[:, :, : cache.length].copy()


def rows_of_all_sizes(config: ModelConfig, batch: int = 2, positions: int = 30) -> np.ndarray:
    rng = np.random.default_rng(1)
    shape = (batch, config.num_kv_heads, positions, config.head_dim)
    rows = rng.standard_normal(shape) * 10.0 ** rng.uniform(-6, 4, (*shape[:3], 1))
    rows[0, 0, 0] = 0
    return rows.astype(np.float32)


def test_halves_are_rounded_as_numpy_rounds_them(config: ModelConfig) -> None:
    rows = rows_of_all_sizes(config)
    rows[0, 0, 1, :4] = [1e9, -1e9, 6e-8, -3e-5]  # beyond the largest float16, and below the smallest normal one
    with np.errstate(over="ignore"):
        expected = np.clip(rows.astype(np.float16), -65504, 65504).astype(np.float32)
    np.testing.assert_array_equal(written(KVCache(config, 30, 2, "fp16"), rows), expected)


def test_int8_error_is_at_most_half_a_step_of_each_row(config: ModelConfig) -> None:
    rows = rows_of_all_sizes(config)
    step = np.abs(rows).max(-1, keepdims=True) / 127
    error = np.abs(written(KVCache(config, 30, 2, "int8"), rows) - rows)
    assert (error <= 0.5001 * step).all()
    assert (error > 0.4 * step).any()


@pytest.mark.parametrize("cache_type", CACHE_TYPES)
def test_old_rows_keep_their_bits_when_new_ones_are_added(model: Path, cache_type: str) -> None:
    decoder = decoder_of(model)
    cache = KVCache(decoder.config, 40, cache_type=cache_type)
    decoder.forward(IDS[None, :20], cache)
    before = [array[:, :, :20].tobytes() for array in cache.keys + cache.values]
    for token in IDS[20:]:
        decoder.forward(np.array([[token]]), cache)
    assert [array[:, :, :20].tobytes() for array in cache.keys + cache.values] == before
    assert all(array[:, :, 20:].tobytes().strip(b"\0") for array in cache.keys + cache.values)


@pytest.mark.parametrize("cache_type", COMPACT)
def test_only_new_rows_are_compressed(config: ModelConfig, cache_type: str) -> None:
    cache = KVCache(config, 8, cache_type=cache_type)
    written(cache, rows_of_all_sizes(config, 1, 5))
    before = cache.keys[0].copy()
    cache.start([np.zeros(2, np.int64)])
    with cache.layer(0) as (key, _):
        key[:] = 7.0
    places = [i for i in range(8) if cache.keys[0][:, :, i].tobytes() != before[:, :, i].tobytes()]
    assert places == [5, 6]


@pytest.mark.parametrize("cache_type", CACHE_TYPES)
@pytest.mark.parametrize("batch", [1, 3])
def test_charged_bytes_cover_the_allocated_arrays(config: ModelConfig, cache_type: str, batch: int) -> None:
    cache = KVCache(config, 50, batch, cache_type)
    with cache.layer(0) as borrowed:
        held = sum({id(array): array.nbytes for array in (*cache.keys, *cache.values, *borrowed)}.values())
    # Heads of the smaller types do not fill whole pages. Several rows take one layer more while they are rearranged.
    page, layers = cache._page * (cache_type != "fp32"), 1 + (batch > 1) / config.num_layers
    charged = cache.bytes_with([50] * batch)
    assert held * layers - 1 <= charged <= (held + batch * page * cache.bytes_per_token) * layers + 1
    assert cache.bytes_with([10] * batch) >= held * 10 // cache.keys[0].shape[2]
    assert cache.bytes_with([10] * batch) <= cache.bytes_with([50] * batch)


def test_float32_layers_use_the_stored_arrays_and_other_types_share_one_pair(config: ModelConfig) -> None:
    for cache_type in CACHE_TYPES:
        cache = KVCache(config, 8, cache_type=cache_type)
        found = []
        for i in range(config.num_layers):
            with cache.layer(i) as pair:
                found.append(pair)
        stored = list(zip(cache.keys, cache.values, strict=True))
        expected = stored if cache_type == "fp32" else found[:1] * len(found)
        pairs = zip(found, expected, strict=True)
        assert all(a is b for pair, other in pairs for a, b in zip(pair, other, strict=True))


@pytest.mark.parametrize("cache_type", COMPACT)
def test_truncated_cache_continues_as_if_the_rest_was_never_there(model: Path, cache_type: str) -> None:
    decoder = decoder_of(model)
    caches = [KVCache(decoder.config, 40, cache_type=cache_type) for _ in range(2)]
    for cache in caches:
        decoder.forward(IDS[None, :15], cache)
    decoder.forward(IDS[None, 20:35], caches[0])
    caches[0].truncate(15)
    for start, end in ((15, 16), (16, 22), (22, 23)):
        first, second = (decoder.forward(IDS[None, start:end], cache, every_position=True) for cache in caches)
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("cache_type", COMPACT)
def test_one_pass_reads_no_rounded_rows(model: Path, cache_type: str) -> None:
    config = read_config(model)
    decoder = Decoder(config, MemoryPool(config.shards, 1 << 30), chunk=7, cache_type=cache_type)
    np.testing.assert_array_equal(decoder.logits(IDS), decoder_of(model, chunk=7).logits(IDS))


@pytest.mark.parametrize(("cache_type", "tolerance"), [("fp16", 0.02), ("int8", 0.4)])  # measured 0.007 and 0.14
def test_passes_of_any_size_give_the_logits_of_a_single_pass(model: Path, cache_type: str, tolerance: float) -> None:
    decoder = decoder_of(model)
    expected = decoder.logits(IDS)
    for size in (1, 7, 20):
        cache = KVCache(decoder.config, 40, cache_type=cache_type)
        passes = [IDS[None, start : start + size] for start in range(0, 40, size)]
        logits = np.concatenate([decoder.forward(ids, cache, every_position=True)[0] for ids in passes])
        assert 0 < np.abs(logits - expected).max() < tolerance


@pytest.mark.parametrize("cache_type", COMPACT)
def test_sequences_of_a_batch_are_rounded_separately(model: Path, cache_type: str) -> None:
    decoder = decoder_of(model)
    both = IDS.reshape(2, 20)

    def logits(ids: np.ndarray) -> np.ndarray:
        """A prompt, then one token per pass: the kernel takes several sequences in no other way."""
        cache = KVCache(decoder.config, 20, len(ids), cache_type)
        decoder.forward(ids[:, :12], cache)
        return np.concatenate([decoder.forward(ids[:, i : i + 1], cache) for i in range(12, 20)], axis=1)

    # Another order of a sum may change how a number is rounded.
    np.testing.assert_allclose(logits(both), np.concatenate([logits(both[:1]), logits(both[1:])]), atol=0.02)


def test_a_refused_pass_does_not_count_as_written(model: Path) -> None:
    """Otherwise every later pass would need as much memory as the one that was refused."""
    config = read_config(model)
    room = KVCache(config, 110).bytes_with([64]) + pass_bytes(config, runs_of([20], [40]), 1, CHUNK)
    decoder = Decoder(config, MemoryPool(config.shards, max(map(charge_of, config.shards)) + room))
    cache = decoder.new_cache(110)
    decoder.forward([[5] * 20], cache)
    with pytest.raises(PoolTooSmallError):
        decoder.forward([[5] * 90], cache)
    decoder.forward([[5] * 20], cache)
    assert cache.length == 40
    cache.close()


def check_quality(lm: LanguageModel, windows: np.ndarray, limits: dict[str, float]) -> None:
    figures = measure(lm, windows, step=4)
    assert figures["fp32"]["kl"]["max"] == 0
    for cache_type, limit in limits.items():
        assert 0 < figures[cache_type]["kl"]["mean"] < limit
    assert figures["int8"]["kl"]["mean"] > figures["fp16"]["kl"]["mean"]
    assert figures["fp32"]["bytes_per_token"] > figures["fp16"]["bytes_per_token"] > figures["int8"]["bytes_per_token"]


@pytest.mark.skipif(not DEMO.is_dir(), reason="no embedded model in this tree")
def test_the_embedded_model_loses_no_more_than_the_readme_says() -> None:
    lm = llama_onnx.load(DEMO)
    params = SamplingParams(temperature=0.8, max_tokens=120, seed=3)
    ids = [step.token for step in lm.stream_generate(lm.format("Write a story about a dog named Max"), params)]
    check_quality(lm, np.array([ids[: len(ids) // 4 * 4]]), DEMO_KL)


def test_the_trained_model_loses_no_more_than_the_readme_says(stories: Path, tmp_path: Path) -> None:
    export(stories, tmp_path / "stories")
    lm = llama_onnx.load(tmp_path / "stories")
    ids = [
        1,
        *(step.token for step in lm.stream_generate([1], SamplingParams(temperature=0.8, max_tokens=255, seed=3))),
    ]
    check_quality(lm, np.array(ids).reshape(2, -1), STORIES_KL)


def test_command_line_takes_a_cache_type(model: Path) -> None:
    options = ("-m", "llama_onnx", "generate", "-m", model, "-p", "the fox", "-n", "12", "--temp", "0")
    plain, half = run(*options), run(*options, "--cache-type", "fp16")
    assert half.returncode == 0, half.stderr
    assert half.stdout == plain.stdout  # no two candidate tokens are close to a tie
    assert run("-m", "llama_onnx", "bench", "-m", model, "-p", "9", "-n", "3", "--cache-type", "int8").returncode == 0
    assert run(*options, "--cache-type", "fp8").returncode == 2


def test_loaded_model_uses_the_requested_cache_type(model: Path) -> None:
    for cache_type in CACHE_TYPES:
        lm = llama_onnx.load(model, cache_type=cache_type)
        assert lm.decoder.new_cache(8).bytes_with([1]) == KVCache(lm.config, 8, 1, cache_type).bytes_with([1])
        assert lm.generate([5, 6, 7] * 6, SamplingParams(temperature=0, max_tokens=20))
    with pytest.raises(RequestError, match="cache type 'fp8' is not known; use one of: fp32, fp16, int8"):
        llama_onnx.load(model, cache_type="fp8")


@pytest.mark.parametrize("cache_type", COMPACT)
def test_streaming_gives_the_same_tokens_as_resident_layers(model: Path, cache_type: str) -> None:
    params = SamplingParams(temperature=0, max_tokens=40)
    steps = []
    for size in (None, "min"):
        with llama_onnx.load(model, poolsize=size, cache_type=cache_type) as lm:
            steps.append([(step.token, step.logprob) for step in lm.stream_generate([5, 6, 7, 8] * 5, params)])
    assert steps[0] == steps[1]
