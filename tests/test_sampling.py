"""Sampling: each filter on its own, their order, and the resulting distribution."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from llama_onnx.errors import LlamaOnnxError, RequestError
from llama_onnx.sampling import (
    SamplingParams,
    apply_repetition_penalty,
    apply_temperature,
    draw,
    keep_min_p,
    keep_top_p,
    probabilities,
    sample,
    top_k,
)

INF = np.inf


def kept(logits: np.ndarray) -> list[int]:
    return np.flatnonzero(logits > -INF).tolist()


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


LOGITS = np.log(np.array([0.1, 0.4, 0.2, 0.25, 0.05], np.float32))


@pytest.mark.parametrize(
    ("k", "tokens"), [(1, [1]), (2, [1, 3]), (3, [1, 2, 3]), (5, range(5)), (9, range(5)), (0, range(5))]
)
def test_top_k_keeps_the_k_largest(k: int, tokens: list[int]) -> None:
    assert top_k(LOGITS, k).tolist() == list(tokens)


@pytest.mark.parametrize("k", range(1, 7))
def test_top_k_keeps_exactly_k_among_ties_lowest_ids_first(k: int) -> None:
    logits = np.array([0, 1, 1, 2, 1, 0, 1], np.float32)
    order = [3, 1, 2, 4, 6, 0, 5]
    assert top_k(logits, k).tolist() == sorted(order[:k])


@pytest.mark.parametrize(
    ("p", "tokens"), [(0.3, [1]), (0.41, [1, 3]), (0.86, [0, 1, 2, 3]), (1.0, range(5)), (1e-9, [1])]
)
def test_top_p_keeps_the_fewest_that_reach_p(p: float, tokens: list[int]) -> None:
    assert kept(keep_top_p(LOGITS, p)) == list(tokens)


def test_top_p_takes_ties_in_the_order_of_ids() -> None:
    assert kept(keep_top_p(np.zeros(4, np.float32), 0.5)) == [0, 1]


def test_min_p_is_relative_to_the_most_likely() -> None:
    assert kept(keep_min_p(LOGITS, 0.5)) == [1, 2, 3]
    assert kept(keep_min_p(LOGITS, 0.0)) == list(range(5))


def test_filters_never_remove_the_most_likely_token() -> None:
    random = rng()
    for _ in range(200):
        logits = random.standard_normal(50) * 10.0 ** random.integers(-3, 3)
        logits[random.random(50) < 0.3] = -INF
        logits[7] = 5000 if random.random() < 0.1 else logits[7]
        logits[0] = max(logits[0], -1e30)
        top = int(np.argmax(logits))
        for filtered in (keep_top_p(logits, 1e-12), keep_min_p(logits, 0.999)):
            assert top in kept(filtered)
        assert top in top_k(logits, 1)


def test_filters_leave_their_input_alone() -> None:
    logits = LOGITS.copy()
    sample(logits, SamplingParams(temperature=0.7, top_k=2, top_p=0.5, min_p=0.1, repetition_penalty=2), rng(), [1, 2])
    np.testing.assert_array_equal(logits, LOGITS)


def test_removed_tokens_stay_removed() -> None:
    logits = np.array([-INF, 1, -INF, 0.5, -INF])
    for filtered in (keep_top_p(logits, 0.99999), keep_min_p(logits, 1e-9)):
        assert kept(filtered) == [1, 3]
    for k in (0, 2, 4, 5):
        assert top_k(logits, k).tolist() == [1, 3]
    assert {draw(logits, rng(seed)) for seed in range(50)} == {1, 3}


def test_temperature_zero_takes_the_first_of_the_largest() -> None:
    assert sample(np.array([1.0, 3, 3, 2]), SamplingParams(temperature=0), rng())[0] == 1


def test_tiny_temperature_is_greedy_and_does_not_overflow() -> None:
    logits = np.array([-1e30, 88.0, 89.0, 1e4], np.float32)
    with np.errstate(all="raise", under="ignore"):
        assert sample(logits, SamplingParams(temperature=1e-30), rng())[0] == 3


def test_temperature_divides_the_logits() -> None:
    np.testing.assert_allclose(probabilities(apply_temperature(LOGITS, 2.0)), probabilities(LOGITS / 2), rtol=1e-6)


def test_repetition_penalty_lowers_seen_tokens_whatever_their_sign() -> None:
    logits = np.array([2.0, -2.0, 2.0, -2.0])
    np.testing.assert_allclose(apply_repetition_penalty(logits, [0, 1, 1], 2.0), [1, -4, 2, -2])


def test_temperature_comes_before_top_p() -> None:
    # At temperature 1 the first token alone reaches 0.6; flattened by temperature 4 it does not.
    logits = np.log(np.array([0.7, 0.2, 0.1]))
    hot = {sample(logits, SamplingParams(temperature=4, top_k=0, top_p=0.6), rng(s))[0] for s in range(100)}
    assert hot == {0, 1}


def test_same_seed_gives_same_tokens() -> None:
    logits = rng(1).standard_normal(1000)
    params = SamplingParams(temperature=1.0, top_k=0)
    draws = [[sample(logits, params, generator)[0] for _ in range(20)] for generator in (rng(5), rng(5), rng(6))]
    assert draws[0] == draws[1] != draws[2]


def test_samples_follow_the_distribution() -> None:
    generator, params, count = rng(3), SamplingParams(temperature=1.0, top_k=3, top_p=1.0), 5000
    observed = np.bincount([sample(LOGITS, params, generator)[0] for _ in range(count)], minlength=5)
    expected = np.array([0, 0.4, 0.2, 0.25, 0]) / 0.85 * count
    assert observed[[0, 4]].sum() == 0
    chi_square = ((observed - expected)[1:4] ** 2 / expected[1:4]).sum()
    assert chi_square < 13.8  # 0.1 % point of chi-square with 2 degrees of freedom


def test_logprob_is_that_of_the_unfiltered_model() -> None:
    token, logprob = sample(LOGITS, SamplingParams(temperature=0.1, top_k=1), rng())
    assert (token, logprob) == (1, pytest.approx(math.log(0.4), abs=1e-6))


@pytest.mark.parametrize("bad", [np.nan, INF])
def test_logits_that_are_not_a_distribution_are_an_error(bad: float) -> None:
    for temperature in (0.0, 1.0):
        with pytest.raises(LlamaOnnxError, match="NaN or infinite"):
            sample(np.array([0.0, bad, 1.0]), SamplingParams(temperature=temperature), rng())


def test_all_logits_minus_infinity_is_an_error() -> None:
    with pytest.raises(LlamaOnnxError, match="probability 0"):
        sample(np.full(3, -INF), SamplingParams(), rng())


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": 1.0},
        {"repetition_penalty": 0.0},
        {"max_tokens": 0},
        {"seed": -1},
        {"stop": "text"},
        {"stop": [""]},
    ],
)
def test_parameters_out_of_range_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(RequestError, match=next(iter(change))):
        SamplingParams(**change)  # type: ignore[arg-type]


NUMBERS = ["temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_tokens", "prompt_lookup", "seed"]
WHOLE = ["top_k", "max_tokens", "prompt_lookup", "seed"]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "value",
    [True, False, b"x", "1", None, [1], (1,), {}, 1j, math.nan, -math.inf, object(), np.True_, np.ones((2, 2))],
    ids=lambda value: repr(value).split(" at ")[0],
)
def test_parameters_of_other_types_are_refused_in_one_line(name: str, value: object) -> None:
    if name == "seed" and value is None:
        return
    with pytest.raises(RequestError, match=rf"^{name} must be [^\n]*$"):
        SamplingParams(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("value", [2.5, 2.0, np.float64(2), Fraction(2), Decimal(2)])
def test_whole_numbers_are_not_rounded(name: str, value: object) -> None:
    with pytest.raises(RequestError, match=f"{name} must be a whole number, not"):
        SamplingParams(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.float32, np.float64, Fraction])
def test_numbers_of_other_libraries_are_numbers(name: str, kind: Any) -> None:
    if name in WHOLE and not issubclass(kind, np.integer):
        return
    value = kind(0 if name == "min_p" else 1)
    params = SamplingParams(**{name: value})
    assert type(getattr(params, name)) is (int if name in WHOLE else float)
    assert params == SamplingParams(**{name: int(value)})
    json.dumps(asdict(params))
    assert sample(LOGITS, params, rng()) == sample(LOGITS, SamplingParams(**{name: int(value)}), rng())


@pytest.mark.parametrize("stop", ["text", b"x", [b"x"], [""], [5], None, {"a"}, 5, iter(["a"]), [["a"]]])
def test_stop_that_is_no_list_of_texts_is_refused(stop: Any) -> None:
    with pytest.raises(RequestError, match=r"^stop must be a list of texts, none of them empty$"):
        SamplingParams(stop=stop)
