"""The benchmarks run and print what they should, on shapes too small to measure anything."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, run

sys.path.insert(0, str(ROOT / "benchmarks"))
import against
import engine
import limits
import pareto
import peer_models
import report


def test_speed_compares_what_is_installed(tmp_path: Path) -> None:
    figures = tmp_path / "speed.json"
    result = run(
        "benchmarks/speed.py", "--shape", "tiny", "--work", tmp_path, "--prompt", "4", "--new", "3", "--rounds", "1",
        "--json", figures,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    told = json.loads(figures.read_text())
    names = [row["name"] for row in told["engines"]]
    assert names[:3] == ["ours int4", "ours int8", "ours fp32"]
    assert all(row["decode"] > 0 and row["bytes_per_token"] > 0 for row in told["engines"])
    assert told["about"]["command"].startswith("python benchmarks/speed.py --shape tiny")
    assert all(name in result.stdout for name in names)


def test_overhead_is_less_than_the_step(model: Path, tmp_path: Path) -> None:
    figures = tmp_path / "overhead.json"
    result = run("benchmarks/overhead.py", model, "-n", "8", "--json", figures)
    assert result.returncode == 0, result.stderr
    (row,) = json.loads(figures.read_text())["models"]
    assert 0 < row["loop_seconds"] < row["step_seconds"]
    assert row["products_seconds"] > 0


def test_a_tree_is_as_fast_as_itself_within_the_interval(model: Path, tmp_path: Path) -> None:
    figures = tmp_path / "against.json"
    small = ("-n", "4", "--rounds", "1", "--pairs", "5")
    result = run("benchmarks/against.py", ROOT, model, *small, "--json", figures)
    assert result.returncode == 0, result.stderr
    (row,) = json.loads(figures.read_text())["models"]
    assert 0 < row["low"] <= row["ratio"] <= row["high"]
    # Student's t for 14 degrees of freedom is 2.1448.
    ratio, low, high = against.interval([1.0, 1.1] * 7 + [1.0])
    assert (round(ratio, 4), round(low, 4), round(high, 4)) == (1.0455, 1.0174, 1.0744)


def test_an_engine_computes_only_during_a_request(model: Path) -> None:
    with engine.Engine(engine="ours", path=str(model), threads=1, ctx=64) as ours:
        state = Path(f"/proc/{ours.pid}/stat")
        for _ in range(500):  # a signal takes a moment
            if not state.exists() or (stopped := state.read_text().rsplit(")", 1)[1].split()[0] == "T"):
                break
            time.sleep(0.01)
        assert not state.exists() or stopped
        first, again = (ours.ask(prompt=[1, 5, 9], new=4) for _ in range(2))
    assert first["new"] == 4
    assert first["tokens"] == again["tokens"]


def test_error_for_an_engine_that_ends_names_its_exit_code(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="exit code 1"):
        engine.Engine(engine="ours", path=str(tmp_path), threads=1)


@pytest.mark.skipif(not limits.possible(), reason="limiting memory needs root and a cgroup that can be written")
def test_a_memory_limit_is_enforced_and_removed() -> None:
    with limits.limited(64 << 20) as limit:
        eat = [sys.executable, "-c", "x = bytes(1 << 20) * 300; print('survived')"]
        result = subprocess.run([*limit.prefix, *eat], capture_output=True, text=True, check=False)
        assert "survived" not in result.stdout
        assert limit.peak() <= 64 << 20
    assert not limit.folder.exists()


def test_rotation_of_a_gguf_is_undone_by_its_reader() -> None:
    from llama_onnx.export.readers.rotary import half_rotation

    matrix = np.arange(48 * 5, dtype=np.float32).reshape(48, 5)
    theirs = peer_models.interleaved_rotation(matrix, 3)
    assert not np.array_equal(theirs, matrix)
    np.testing.assert_array_equal(half_rotation(theirs, 3), matrix)


def test_reported_command_can_be_run_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for script in ("benchmarks/speed.py", str(ROOT / "benchmarks" / "speed.py")):
        monkeypatch.setattr("sys.argv", [script, "--rounds", "3"])
        assert report.about()["command"] == "python benchmarks/speed.py --rounds 3"
    for figures in (ROOT / "docs").glob("*.json"):
        told = json.loads(figures.read_text())
        script = told.get("about", told)["command"].split()[1]
        assert (ROOT / script).is_file(), figures


def test_tables_are_markdown() -> None:
    assert report.table(("a", "b"), [(1, "x"), (2, "y")]) == "| a | b |\n| --- | --- |\n| 1 | x |\n| 2 | y |"


class Way:
    def __init__(self, tool: str, cost: float, loss: float) -> None:
        self.tool, self.method, self.cost, self.loss = tool, tool, cost, loss


def test_frontier_has_the_points_that_none_beats_in_both() -> None:
    points = [Way("ours", cost, loss) for cost, loss in ((3, 1), (1, 5), (2, 5), (2, 3), (4, 1), (5, 0.5))]
    found = [(point.cost, point.loss) for point in pareto.frontier(points, lambda point: point.cost)]
    assert found == [(1, 5), (2, 3), (3, 1), (5, 0.5)]


def test_rival_of_a_peer_is_our_best_point_that_costs_no_more() -> None:
    ours = [Way("ours", 2, 3), Way("ours", 3, 1), Way("ours", 3.5, 0)]
    peers = [Way("genai", 1, 9), Way("llama.cpp", 3, 2)]
    assert pareto.rivals([*ours, *peers], lambda point: point.cost) == [(peers[0], None), (peers[1], ours[1])]
