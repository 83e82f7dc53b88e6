"""Perplexity: equals that of transformers; tokens are scored once, and shards are loaded once per group of windows."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import FIXTURES, STORIES, decoder_of, make_checkpoint, run, smallest_decoder

from llama_onnx.decoder import Decoder
from llama_onnx.errors import PoolTooSmallError, RequestError
from llama_onnx.export.exporter import export
from llama_onnx.model_directory import read_config
from llama_onnx.pool import MemoryPool, charge_of
from llama_onnx.scoring import layerwise
from llama_onnx.scoring.perplexity import check_windows, log_likelihoods, perplexity, token_nlls, windows
from llama_onnx.streaming.pool import StreamingPool

CASES: list[dict[str, Any]] = json.loads((FIXTURES / "perplexity.json").read_text())
TOLERANCE = 1e-4  # of losses in nats; the promise is 1e-3 of the perplexity
VERB = ("-m", "llama_onnx", "perplexity")


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['model']}-{len(c['ids'])}-{c['ctx']}-{c['stride']}")
def test_perplexity_equals_that_of_transformers_on_the_same_windows(case: dict[str, Any], tmp_path: Path) -> None:
    source = FIXTURES / case["model"] if case["model"] != STORIES.name else STORIES
    if not source.is_dir():
        pytest.skip(f"the trained model is not there: {source}")
    export(source, tmp_path / "model")
    decoder = smallest_decoder(tmp_path / "model")
    views = windows(case["ids"], case["ctx"], case["stride"])
    nlls = list(token_nlls(decoder, views))
    assert [len(part) for part in nlls] == case["counts"]
    np.testing.assert_allclose([part.mean() for part in nlls], case["losses"], atol=TOLERANCE)
    result = perplexity(decoder, case["ids"], case["ctx"], case["stride"])
    assert result.value == pytest.approx(case["perplexity"], rel=1e-3 / case["perplexity"])
    assert (result.tokens, result.windows) == (sum(case["counts"]), len(case["counts"]))


@pytest.mark.parametrize(("count", "ctx", "stride"), [(2, 8, 8), (17, 8, 8), (17, 8, 3), (40, 8, 1), (8, 8, 4)])
def test_each_token_is_scored_once_after_enough_context(count: int, ctx: int, stride: int) -> None:
    scored: list[int] = []
    begin = 0
    for view in windows(range(100, 100 + count), ctx, stride):
        assert 2 <= len(view.ids) <= ctx
        assert view.ids[0] == 100 + begin
        assert view.first_scored >= (1 if begin == 0 else min(ctx - stride, len(view.ids) - 1) or 1)
        scored += view.targets.tolist()
        begin += stride
    starts = {100} if stride < ctx else set(range(100, 100 + count, ctx))  # no token comes before these
    assert scored == [token for token in range(100, 100 + count) if token not in starts]


def test_likelihoods_equal_hand_computed_values() -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.25], [1e-6, 1, 1]], np.float32)) + 3
    found = np.exp(log_likelihoods(logits, np.array([1, 2])))
    np.testing.assert_allclose(found, [0.25, 1 / (2 + 1e-6)], rtol=1e-6)
    huge = np.array([[1e38, -1e38]], np.float32)
    assert log_likelihoods(huge, np.array([0]))[0] == 0


def test_perplexity_of_a_text_is_exp_of_the_mean_over_one_pass(model: Path) -> None:
    decoder = decoder_of(model)
    ids = np.random.default_rng(0).integers(3, 300, 120)
    nlls = -log_likelihoods(decoder.logits(ids)[:-1], ids[1:])
    result = perplexity(decoder, ids, ctx=256)
    assert result.value == pytest.approx(math.exp(nlls.mean()), rel=1e-5)
    assert result.error == pytest.approx(result.value * nlls.std(ddof=1) / 119**0.5, rel=1e-4)


def test_group_of_windows_loads_each_shard_once_and_returns_its_memory(model: Path) -> None:
    decoder = smallest_decoder(model)
    budget = decoder.pool.budget
    result = perplexity(decoder, np.random.default_rng(0).integers(3, 300, 500), ctx=64, stride=32)
    stats = decoder.pool.stats
    assert result.windows > 10
    assert stats.misses == len(decoder.config.shards)
    assert stats.peak_resident_bytes <= max(map(charge_of, decoder.config.shards))
    assert decoder.pool.budget == budget


@pytest.mark.parametrize("use_slots", [False, True])
def test_group_of_windows_borrows_each_streamed_layer_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use_slots: bool
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    export(make_checkpoint(tmp_path / "checkpoint", num_hidden_layers=12), tmp_path / "model")
    config = read_config(tmp_path / "model")
    ids = np.random.default_rng(0).integers(3, 300, 400)
    views, plain = windows(ids, 64, 32), decoder_of(tmp_path / "model")
    beside = layerwise._bytes_beside(plain, [view.ids for view in views], plain.new_cache(64, one_layer=True))
    budget = sum(map(charge_of, (config.embed, *config.layers[:6], config.head))) + beside
    pool = StreamingPool(config, budget, use_slots=use_slots)
    found = list(token_nlls(Decoder(config, pool), views))
    assert len(views) == 12
    assert pool.streams_through == ("slots" if use_slots else "sessions")
    assert pool.stats.misses <= len(config.shards) + 2  # each once, plus those read ahead for the next round
    pool.close()
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(list(token_nlls(plain, views))), atol=1e-5)


def test_groups_shrink_until_they_fit_the_pool(model: Path) -> None:
    config = read_config(model)
    ids = np.random.default_rng(0).integers(3, 300, 2000)
    plain = decoder_of(model)
    one = layerwise._bytes_beside(plain, [ids[:64]], plain.new_cache(64, one_layer=True))
    fixed = max(map(charge_of, config.shards))
    decoder = Decoder(config, MemoryPool(config.shards, fixed + one))
    result = perplexity(decoder, ids, ctx=64, stride=64)
    assert decoder.pool.stats.peak_resident_bytes <= fixed + one
    assert decoder.pool.stats.evictions > 0
    assert result.value == pytest.approx(perplexity(decoder_of(model), ids, ctx=64, stride=64).value, rel=1e-6)
    short = Decoder(config, MemoryPool(config.shards, fixed + one - 1000))
    with pytest.raises(PoolTooSmallError):
        perplexity(short, ids, ctx=64, stride=64)


def test_logits_are_computed_a_slice_at_a_time(model: Path) -> None:
    decoder = decoder_of(model)
    ids = np.random.default_rng(0).integers(3, 300, 50)
    (hidden,) = layerwise.final_hidden(decoder, [ids])
    parts = list(layerwise.logits(decoder, hidden, slice_bytes=7 * 4 * decoder.config.vocab_size))
    assert [len(part) for part in parts] == [7] * 7 + [1]
    np.testing.assert_allclose(np.concatenate(parts), decoder.logits(ids), atol=2e-5)


def test_common_prefix_of_sequences_is_computed_once(model: Path) -> None:
    decoder = decoder_of(model)
    rng = np.random.default_rng(0)
    start = rng.integers(3, 300, 30)
    group = [np.concatenate([start, rng.integers(3, 300, size)]) for size in (9, 4, 17)]
    shared = layerwise.common_start(group)
    assert shared == 30
    work: list[float] = []
    for sequence, hidden in zip(group, layerwise.final_hidden(decoder, group, shared, work.append), strict=True):
        np.testing.assert_allclose(decoder.head(hidden)[0], decoder.logits(sequence)[shared:], atol=5e-5)
    assert sum(work) == (30 + 9 + 4 + 17) * decoder.config.num_layers


@pytest.mark.parametrize(
    ("sequences", "common"),
    [([[1, 2]], 0), ([[1, 2], [1, 3]], 1), ([[1, 2], [1, 2]], 1), ([[1], [1, 2]], 0), ([[2, 2, 2], [1, 2, 2]], 0)],
)
def test_common_prefix_leaves_each_sequence_a_token(sequences: list[list[int]], common: int) -> None:
    assert layerwise.common_start(list(map(np.array, sequences))) == common


@pytest.mark.parametrize(("ctx", "stride"), [(1, 1), (257, 8), (8, 0), (8, 9)])
def test_invalid_windows_are_refused(ctx: int, stride: int) -> None:
    with pytest.raises(RequestError, match="--"):
        check_windows(ctx, stride, 256)


def test_verb_prints_one_line_and_the_same_as_json(model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog " * 9)
    options = ("-m", model, "--text", text, "--ctx", "64", "--stride", "16", "--poolsize", "min")
    done = run(*VERB, *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("perplexity ")
    assert done.stdout.count("\n") == 1
    figures = json.loads(run(*VERB, *options, "--json").stdout)
    assert done.stdout.split()[1] == f"{figures['perplexity']:.4f}"
    assert (figures["ctx"], figures["stride"]) == (64, 16)
    lru = run(*VERB, *options[:-2], "--pool-policy", "lru", "-v")
    assert lru.stdout == done.stdout
    assert re.match(r"\[ pool \d+ hits, \d+ misses, ", lru.stderr)
    piped = run(*VERB, "-m", model, "--text", "-", "--ctx", "64", "--stride", "16", input=text.read_text())
    assert piped.stdout == done.stdout


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"", [], "is empty"),
        (b"\xff\xfe\xff", [], "not valid UTF-8 text"),
        (None, [], "cannot be read"),
        (b"the fox", ["--ctx", "1"], "--ctx-size must be 2 to 256"),
        (b"the fox", ["--ctx", "300"], "--ctx-size must be 2 to 256"),
        (b"the fox", ["--ctx", "0"], "--ctx-size must be at least 1"),
        (b"the fox", ["--ctx", "8", "--stride", "9"], "--stride must be 1 to 8"),
        (b"the fox", ["--stride", "-1"], "--stride must be at least 1"),
    ],
)
def test_invalid_texts_and_options_are_one_line(
    content: bytes | None, options: list[str], message: str, model: Path, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "text").write_bytes(content)
    done = run(*VERB, "-m", model, "--text", tmp_path / "text", *options)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_text_of_one_token_is_refused() -> None:
    with pytest.raises(RequestError, match="at least 2"):
        windows([1], 8, 8)


def test_common_prefix_rotated_by_different_rope_factors_is_computed_for_each(tmp_path: Path) -> None:
    export(FIXTURES / "phi3-longrope-beyond-partial", tmp_path / "model")
    decoder = decoder_of(tmp_path / "model")
    ids = np.random.default_rng(0).integers(3, 90, 70)
    group = [ids[:40], np.concatenate([ids[:30], ids[:30]])]  # the factors change at 48 tokens
    assert len({decoder.rope_offset(len(sequence)) for sequence in group}) == 2
    for sequence, hidden in zip(group, layerwise.final_hidden(decoder, group, 30), strict=True):
        np.testing.assert_allclose(decoder.head(hidden)[0], decoder.logits(sequence)[30:], atol=5e-5)


def test_one_window_is_not_called_windows(model: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("the quick brown fox jumps over the lazy dog")
    done = run("-m", "llama_onnx", "perplexity", "-m", model, "--text", str(tmp_path / "text"))
    assert done.returncode == 0, done.stderr
    assert " 1 window of " in done.stdout
