"""The maths of each method against hand-computed cases, brute-force optima and direct solutions."""

from __future__ import annotations

import itertools

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from llama_onnx.errors import RequestError
from llama_onnx.export.nbits import NBits, dequantize, to_blocks, unpack_bits, widened
from llama_onnx.export.quantize.methods import awq, gptq, hqq, k_quant, rtn
from llama_onnx.export.quantize.methods.common import Format, integers, quantize_with
from llama_onnx.export.quantize.methods.registry import DATA_FREE
from llama_onnx.session import session_options

FORMATS = [Format(bits, 32, zero) for bits in (2, 4, 8) for zero in (False, True)]
MINIMA = [Format(bits, 32, minima=True) for bits in (2, 4)]


def matrix_of(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def inputs_of(tokens: int, columns: int, seed: int = 1) -> np.ndarray:
    """Correlated inputs of very different sizes, as in language models."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((tokens, columns)) @ (np.eye(columns) + 0.3 * rng.standard_normal((columns, columns)))
    return (mixed * np.exp(rng.standard_normal(columns))).astype(np.float32)


def error_of(matrix: np.ndarray, quantised: NBits, inputs: np.ndarray) -> float:
    return float(np.square((dequantize(quantised) - matrix) @ inputs.T).sum())


def run_kernel(matrix: NBits, inputs: np.ndarray, accuracy_level: int = 0) -> np.ndarray:
    """Compute inputs · matrixᵀ with ONNX Runtime's MatMulNBits in float32, or in int8 at level 4."""
    names, tensors = ["x", "q", "s"], [("q", matrix.packed), ("s", widened(matrix.scales))]
    if matrix.zero_points is not None:
        names.append("z")
        tensors.append(("z", matrix.zero_points))
    sizes = {"K": matrix.columns, "N": len(matrix.packed), "bits": matrix.bits, "block_size": matrix.block_size}
    sizes["accuracy_level"] = accuracy_level
    node = helper.make_node("MatMulNBits", names, ["y"], domain="com.microsoft", **sizes)
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, inputs.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [len(inputs), len(matrix.packed)])],
        [numpy_helper.from_array(array, name) for name, array in tensors],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = ort.InferenceSession(
        model.SerializeToString(), session_options(prepack=True), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": inputs})[0]


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("name", DATA_FREE)
def test_kernel_computes_with_the_chosen_weights(name: str, form: Format) -> None:
    matrix, inputs = matrix_of(16, 80), inputs_of(5, 80)
    quantised = DATA_FREE[name](matrix, form)
    expected = inputs @ dequantize(quantised).T
    assert np.abs(run_kernel(quantised, inputs) - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.abs(run_kernel(quantised, inputs, 4) - expected).max() < 0.03 * np.abs(expected).max()


def test_rtn_by_hand() -> None:
    row = np.array([[-0.7, 0.31, 0.04, 0.7, *[0.0] * 12]], np.float32)
    symmetric = rtn.quantize(row, Format(4, 16))
    assert symmetric.scales == np.float16(0.1)
    assert unpack_bits(symmetric.packed, 4)[0, 0, :4].tolist() == [1, 11, 8, 15]
    moved = rtn.quantize(row + np.float32(0.4), Format(4, 16, True))  # -0.3 … 1.1
    assert moved.scales == np.float16(1.4 / 15)
    assert unpack_bits(moved.zero_points, 4)[0, 0] == 3  # 0.3 / 0.0933 = 3.2
    assert unpack_bits(moved.packed, 4)[0, 0, :4].tolist() == [0, 11, 8, 15]


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_searches_start_at_the_scales_of_rtn(form: Format) -> None:
    matrix = matrix_of(7, 70)
    scales, zeros = rtn.range_of(to_blocks(matrix, form.block_size), form)
    begun, plain = quantize_with(matrix, scales, zeros, form), rtn.quantize(matrix, form)
    assert np.array_equal(dequantize(begun), dequantize(plain))


@pytest.mark.parametrize("form", [*FORMATS, *MINIMA], ids=str)
def test_k_quant_error_is_never_above_rtn_in_any_block(form: Format) -> None:
    blocks = to_blocks(matrix_of(20, 96), 32)
    importance = np.sqrt(np.mean(blocks**2, -1, keepdims=True)) + np.abs(blocks)

    def error(scales: np.ndarray, zeros: np.ndarray) -> np.ndarray:
        values = (integers(blocks, scales, zeros, form) - zeros[..., None]) * scales[..., None]
        return (importance * (values - blocks) ** 2).sum(-1)

    ours, plain = error(*k_quant.search(blocks, form, importance)), error(*rtn.range_of(blocks, form))
    assert (ours <= plain).all()
    assert ours.sum() < 0.99 * plain.sum()


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("largest", [0, 1, 1e3, 1e5, 1e8])
def test_k_quant_with_minima_is_never_above_rtn_whatever_the_importance(bits: int, largest: float) -> None:
    form, blocks = Format(bits, 32, minima=True), to_blocks(matrix_of(200, 96), 32)
    blocks[0], blocks[1, :, 1:], blocks[2] = 3, -7, 100 + blocks[2] / 100  # constant, all but one equal, far from 0
    importance = np.ones_like(blocks)
    importance[..., 5] = largest
    importance[3] = 0

    def error(scales: np.ndarray, zeros: np.ndarray) -> np.ndarray:
        values = (integers(blocks, scales, zeros, form) - zeros[..., None]) * scales[..., None]
        return (importance * (values - blocks) ** 2).sum(-1)

    ours, plain = error(*k_quant.search(blocks, form, importance)), error(*rtn.range_of(blocks, form))
    assert np.isfinite(ours).all()
    assert (ours <= plain).all()
    assert ours[4:].sum() < 0.9 * plain[4:].sum()


def test_k_quant_comes_close_to_the_optimum_of_brute_force() -> None:
    blocks = to_blocks(matrix_of(30, 16), 16)
    form, importance = Format(4, 16), np.float32(1)
    scales, zeros = k_quant.search(blocks, form, importance)
    values = (integers(blocks, scales, zeros, form) - 8) * scales[..., None]
    found = np.square(values - blocks).sum(-1)
    grid = np.abs(blocks).max() / np.linspace(2, 40, 6000)
    best = np.full(found.shape, np.inf)
    for scale in (*grid, *-grid):
        tried = np.clip(np.rint(blocks / scale), -8, 7) * scale
        best = np.minimum(best, np.square(tried - blocks).sum(-1))
    assert found.sum() < 1.1 * best.sum()


@pytest.mark.parametrize("form", [form for form in FORMATS if form.bits < 8], ids=str)
def test_hqq_lowers_the_sparse_norm(form: Format) -> None:
    rng = np.random.default_rng(3)
    matrix = rng.standard_t(4, (20, 96)).astype(np.float32)  # a few large weights
    ours, plain = (
        (np.abs(dequantize(method.quantize(matrix, form)) - matrix) ** hqq.POWER).sum() for method in (hqq, rtn)
    )
    assert ours < 0.99 * plain


def test_hqq_shrinks_by_hand() -> None:
    found = hqq.shrink(np.array([0.0, 0.01, -1.0, 1.0], np.float32), 10.0)
    assert found == pytest.approx([0, 0, -0.9, 0.9])  # 1 - 1^(p-1) / 10; small values become 0


def test_gptq_factor_is_the_cholesky_factor_of_the_inverse() -> None:
    inputs = inputs_of(1500, 600).astype(np.float64)
    hessian = inputs.T @ inputs / len(inputs)
    factor = gptq.inverse_factor(hessian.copy())
    assert np.array_equal(factor, np.triu(factor))
    assert np.allclose(factor @ hessian @ factor.T, np.eye(600), atol=1e-6)


def test_gptq_update_is_the_least_squares_solution() -> None:
    """After the first weight is fixed, the others equal the direct solution."""
    inputs = inputs_of(200, 8).astype(np.float64)
    hessian = inputs.T @ inputs
    weights = np.random.default_rng(5).standard_normal(8)
    factor = gptq.inverse_factor(hessian.copy())
    fixed = np.rint(weights[0])
    updated = weights[1:] - (weights[0] - fixed) / factor[0, 0] * factor[0, 1:]
    wanted = inputs @ weights - inputs[:, 0] * fixed
    direct = np.linalg.lstsq(inputs[:, 1:], wanted, rcond=None)[0]
    assert updated == pytest.approx(direct)


def test_gptq_follows_the_plain_algorithm() -> None:
    """Batches and panels give the same integers as solving directly, one input at a time."""
    matrix, inputs = matrix_of(6, 200), inputs_of(1000, 200)
    form = Format(4, 32)
    hessian = (inputs.T @ inputs).astype(np.float64)
    damped = hessian + 0.01 * hessian.diagonal().mean() * np.eye(200)
    work = matrix.astype(np.float64)
    expected = np.empty_like(work)
    for i in range(200):
        if i % 32 == 0:
            scale = (np.abs(work[:, i : i + 32]).max(1) / 7).astype(np.float16).astype(np.float64)
        expected[:, i] = np.clip(np.rint(work[:, i] / scale), -8, 7) * scale
        error = expected[:, i] - work[:, i]
        rest = damped[i + 1 :, i + 1 :]
        if i < 199:
            work[:, i + 1 :] -= np.outer(error, np.linalg.solve(rest, damped[i + 1 :, i]))
    found = dequantize(gptq.quantize(matrix, form, gptq.factorise(hessian.astype(np.float32)), search_scales=False))
    assert np.mean(np.abs(found - expected) < 1e-4) > 0.99  # a tie may be rounded the other way


def test_gptq_lies_between_rounding_and_the_optimum_of_brute_force() -> None:
    inputs = inputs_of(300, 4)
    hessian, form, sums = inputs.T @ inputs, Format(4, 16), np.zeros(3)
    whole = np.array(list(itertools.product(range(-8, 8), repeat=4)), np.float32)
    for seed in range(20):
        row = matrix_of(1, 4, seed)
        quantised = gptq.quantize(row, form, gptq.factorise(hessian.copy(), damp=1e-6))
        scale = quantised.scales[0, 0]
        plain = np.clip(np.rint(row / scale), -8, 7) * scale
        tried = whole * scale - row
        optimum = ((tried @ hessian) * tried).sum(1).min()
        sums += [optimum, error_of(row, quantised, inputs), np.square((plain - row) @ inputs.T).sum()]
    optimum, found, rounded = sums
    assert optimum <= found * 1.001
    assert found - optimum < 0.75 * (rounded - optimum)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_gptq_halves_the_error_of_rtn(form: Format, descending: bool) -> None:
    matrix, inputs = matrix_of(24, 140), inputs_of(1000, 140)
    inputs[:, 5] = 0  # an input that is always 0
    ours = error_of(matrix, gptq.quantize(matrix, form, gptq.factorise(inputs.T @ inputs, 0.01, descending)), inputs)
    assert ours < 0.5 * error_of(matrix, rtn.quantize(matrix, form), inputs)


def test_gptq_reports_inputs_that_are_not_finite() -> None:
    with pytest.raises(RequestError, match="not finite"):
        gptq.factorise(np.full((16, 16), np.nan, np.float32))


def test_awq_scales_by_hand() -> None:
    """With one large input, its channel is scaled up; a scale of 1 is also tried."""
    matrix, sample = matrix_of(64, 64), inputs_of(256, 64)
    sample /= np.abs(sample).mean(0)
    sample[:, 7] *= 50
    t = awq.find_scales([matrix], [Format(4, 32)], np.abs(sample).mean(0), sample)
    assert t.argmax() == 7
    flat = awq.find_scales([np.ones((4, 32), np.float32)], [Format(8, 32)], np.ones(32, np.float32), sample[:, :32])
    assert np.array_equal(flat, np.ones(32))


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_awq_lite_lowers_the_error_and_full_lowers_it_further(form: Format) -> None:
    matrix, sample = matrix_of(48, 140), inputs_of(400, 140)
    mean = np.abs(sample).mean(0)
    t = awq.find_scales([matrix], [form], mean, sample)
    scaled = sample / t
    plain = error_of(matrix, rtn.quantize(matrix, form), sample)
    lite = error_of(matrix * t, rtn.quantize(matrix * t, form), scaled)
    full = error_of(matrix * t, awq.clip_ranges(matrix * t, form, scaled), scaled)
    assert lite < plain
    assert full < (lite if form.bits < 8 else 1.02 * lite)


def test_awq_step_sizes_are_used() -> None:
    matrix, sample = matrix_of(48, 64), inputs_of(400, 64)
    mean, form = np.abs(sample).mean(0), Format(4, 32)
    coarse, fine = (awq.find_scales([matrix], [form], mean, sample, step) for step in (0.5, 0.05))
    assert not np.array_equal(coarse, fine)
    first, second = (awq.clip_ranges(matrix, form, sample, 0.05, least) for least in (0.95, 0.5))
    assert not np.array_equal(first.scales, second.scales)


def test_awq_siblings_and_grouped_heads_share_scales() -> None:
    matrices, sample = [matrix_of(16, 32, seed) for seed in (1, 2)], inputs_of(100, 32)
    shared = np.arange(32) % 8
    t = awq.find_scales(matrices, [Format(4, 32)] * 2, np.abs(sample).mean(0), sample, shared=shared)
    assert t.shape == (32,)
    assert np.array_equal(t.reshape(4, 8), np.tile(t[:8], (4, 1)))


def test_awq_clip_finds_the_best_range_of_each_block() -> None:
    matrix, sample, form = matrix_of(5, 32), inputs_of(50, 32), Format(4, 16)
    found = awq.clip_ranges(matrix, form, sample)
    for row, block in itertools.product(range(5), range(2)):
        weights, its = matrix[row, 16 * block :][:16], sample[:, 16 * block :][:, :16]
        largest = np.abs(weights).max() / 7

        def loss(k: float, weights=weights, its=its, largest=largest) -> float:
            scale = float(np.float16(k * largest))
            near = np.clip(np.rint(weights / scale), -8, 7) * scale
            return float(np.square(its @ (near - weights)).sum())

        best = min(np.arange(0.5, 1.001, 0.05), key=loss)
        assert found.scales[row, block] == pytest.approx(best * largest, rel=1e-3)
