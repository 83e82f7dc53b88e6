"""`bench` and `pack`, as a user runs them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from helpers import make_checkpoint, run

from llama_onnx.export.exporter import export
from llama_onnx.model_directory import read_config
from llama_onnx.streaming.images import Images

VERB = ("-m", "llama_onnx")


def test_bench_prints_all_figures(model: Path) -> None:
    done = run(*VERB, "bench", "-m", model, "-p", "20", "-n", "5")
    assert done.returncode == 0, done.stderr
    assert [line.split("  ")[0].strip() for line in done.stdout.splitlines()] == [
        "first token", "prefill", "decode", "pool", "peak memory",
    ]  # fmt: skip
    figures = json.loads(run(*VERB, "bench", "-m", model, "-p", "20", "-n", "5", "--json").stdout)
    assert figures["decode_tokens_per_second"] > 0
    assert figures["peak_memory"] > 0
    assert figures["pool"]["misses"] == 5


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_verbose_bench_also_prints_the_figures_of_the_pool_on_stderr(model: Path, options: list[str]) -> None:
    quiet, verbose = (run(*VERB, "bench", "-m", model, "-p", "20", "-n", "5", *options, *more) for more in ([], ["-v"]))
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert re.fullmatch(r"\[ pool \d+ hits, 5 misses, 0 evictions, .* loaded \| peak memory .* \]\n", verbose.stderr)


@pytest.mark.parametrize("options", [["-p", "300"], ["-n", "1"], ["-r", "0"]])
def test_bench_refuses_invalid_sizes(model: Path, options: list[str]) -> None:
    done = run(*VERB, "bench", "-m", model, *options)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_pack_makes_every_image_ahead_of_time(tmp_path: Path) -> None:
    export(make_checkpoint(tmp_path / "checkpoint"), tmp_path / "model", "int4", block_size=32)
    assert run(*VERB, "pack", tmp_path / "model").returncode == 0
    config = read_config(tmp_path / "model")
    assert not Images(config).missing(config.layers)


def test_pack_says_when_there_is_nothing_to_do(model: Path) -> None:
    done = run(*VERB, "pack", model)
    assert (done.returncode, done.stderr) == (0, "nothing to pack: the layers are not quantised\n")
