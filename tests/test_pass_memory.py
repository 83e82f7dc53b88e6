"""The memory of a pass, measured in separate processes, is at most what the loop reserves for it."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from helpers import run
from pass_memory import CONTEXT, KINDS, in_a_process, make_model

from llama_onnx.memory import MIB

NOISE = 2 * MIB


@pytest.fixture(scope="module", params=KINDS)
def measured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, make_model(request.param, tmp_path_factory.mktemp("pass_memory"))


def test_pass_takes_no_more_than_is_reserved_and_not_much_less(measured: tuple[str, Path]) -> None:
    _, directory = measured
    for capacity in (1024, CONTEXT):
        grown, reserved = in_a_process(directory, 1024, capacity)
        assert grown <= reserved + NOISE
        assert reserved <= 2 * grown + 8 * MIB


PEAK = """
import json, sys
import llama_onnx
directory, poolsize, ctx_size, count = *sys.argv[1:3], *map(int, sys.argv[3:])
lm = llama_onnx.load(directory, poolsize=poolsize)
lm.context = min(ctx_size, lm.context)
params = llama_onnx.SamplingParams(max_tokens=3, seed=1)
try:
    lm.generate([5 + i % 300 for i in range(count)], params)
except llama_onnx.PoolTooSmallError as error:
    sys.exit(str(error))
print(json.dumps({"peak": lm.stats()["peak_memory"], **lm.stats()["pool"]}))
"""


def measure(directory: Path, poolsize: str, ctx_size: int, tokens: int) -> dict[str, int]:
    done = run("-c", PEAK, directory, poolsize, str(ctx_size), str(tokens))
    assert done.returncode == 0, done.stderr
    figures: dict[str, int] = json.loads(done.stdout)
    return figures


def test_long_prompt_stays_within_a_poolsize_near_the_one_the_error_names(measured: tuple[str, Path]) -> None:
    _, directory = measured
    poolsize = measure(directory, "min", CONTEXT, 20)["peak"] // MIB + 3
    for _ in range(4):  # what comes after the prompt's pass takes a little more
        done = run("-c", PEAK, directory, f"{poolsize}MB", str(CONTEXT), "1500")
        if done.returncode == 0:
            break
        enough = re.search(r"at least ([0-9.]+) MB", done.stderr)
        assert enough, done.stderr
        poolsize = math.ceil(float(enough[1])) + 4
    assert json.loads(done.stdout)["peak"] <= poolsize * MIB


def test_large_context_drives_no_layer_out_of_memory(measured: tuple[str, Path]) -> None:
    kind, directory = measured
    if kind == "original layout":
        pytest.skip("its context is 2,048 tokens, and there is nothing to compare it with")
    base = measure(directory, "min", 512, 100)["peak"] // MIB
    few, many = (measure(directory, f"{base + 40}MB", ctx_size, 100) for ctx_size in (512, CONTEXT))
    assert (few["residents"], few["evictions"]) == (many["residents"], many["evictions"]) == (5, 0)
