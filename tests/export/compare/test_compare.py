"""Comparison: metrics equal hand-computed values, errors are located, one shard of each model is loaded at a time."""

from __future__ import annotations

import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from helpers import VOCAB, make_checkpoint, run
from llama_onnx_layout import FLOAT, HALF, write_layout
from safetensors.numpy import load_file, save_file

from llama_onnx.errors import LlamaOnnxError
from llama_onnx.export.compare import charts, weights
from llama_onnx.export.compare.comparison import compare_models
from llama_onnx.export.compare.metrics import Distribution, Error
from llama_onnx.export.compare.models import OnnxModel, TorchModel
from llama_onnx.export.compare.page import page
from llama_onnx.export.compare.results import Comparison, labels_of, tables
from llama_onnx.export.compare.walk import compare
from llama_onnx.export.compare.weights import compare_weights, matrices
from llama_onnx.export.exporter import export
from llama_onnx.export.nbits import dequantize, quantize_rtn
from llama_onnx.export.quantize.methods import k_quant
from llama_onnx.export.quantize.settings import recipe
from llama_onnx.pool import charge_of
from llama_onnx.scoring.perplexity import perplexity, windows
from tools import compare_precision

TEXT = "the quick brown fox jumps over the lazy dog and runs into the deep dark forest " * 4
TOOL = "tools/compare_precision.py"


@pytest.fixture(scope="module")
def precisions(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The random model in several precisions, one of them in standard operators."""
    folder = tmp_path_factory.mktemp("precisions")
    for dtype in ("fp16", "int8", "int4"):
        export(checkpoint, folder / dtype, dtype, 32)
    export(checkpoint, folder / "int4-onnx", "int4", 32, "onnx")
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def comparison(model: Path, precisions: dict[str, Path]) -> Comparison:
    """All of them compared with fp32."""
    candidates = [OnnxModel(precisions[name]) for name in ("fp16", "int8", "int4")]
    return compare_models(OnnxModel(model), candidates, TEXT, ctx=64)


def test_errors_equal_hand_computed_values() -> None:
    error = Error()
    error.add(np.array([[3.0, 4.0]]), np.array([[3.0, 3.0]]))
    assert (error.largest, error.mean) == (1, 0.5)
    assert error.cosine == pytest.approx(21 / (5 * math.sqrt(18)))
    assert error.sqnr == pytest.approx(10 * math.log10(25))
    error.add(np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([[0.0, 0.0], [0.0, 2.0]]))
    assert (error.largest, error.mean) == (2, 4 / 6)
    assert error.cosine == pytest.approx((21 / (5 * math.sqrt(18)) + 1 + 0) / 3)
    assert error.sqnr == pytest.approx(10 * math.log10(26 / 6))


def test_equal_values_have_no_error_and_infinite_ones_are_counted() -> None:
    same, lost, empty = Error(), Error(), Error()
    same.add(np.ones((2, 3)), np.ones((2, 3)))
    assert same.as_dict() == {"max": 0, "mean": 0, "cosine": 1, "sqnr_db": None}
    assert same.sqnr == math.inf
    lost.add(np.ones((1, 2)), np.array([[np.nan, 1.0]]))
    assert (lost.largest, lost.sqnr, lost.as_dict()["max"]) == (math.inf, -math.inf, None)
    empty.add(np.zeros((1, 2)), np.ones((1, 2)))
    assert (empty.cosine, empty.sqnr) == (0, -math.inf)


def test_errors_in_blocks_equal_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    r, c = rng.standard_normal((2, 5, 40, 7))
    whole, parts = Error(), Error()
    whole.add(r, c)
    monkeypatch.setattr("llama_onnx.export.compare.metrics.BLOCK", 20)
    for piece in range(5):
        parts.add(r[piece], c[piece])
    assert parts.as_dict() == pytest.approx(whole.as_dict())


def test_distributions_equal_hand_computed_values() -> None:
    found = Distribution()
    p, q = np.array([[0.5, 0.5, 0], [0.25, 0.25, 0.5]]), np.array([[0.25, 0.75, 0], [0.25, 0.5, 0.25]])
    with np.errstate(divide="ignore"):
        found.add(np.log(p[:1, :2]) + 5, np.log(q[:1, :2]) - 3, np.array([0]))
        found.add(np.log(p[1:]), np.log(q[1:]), np.array([2]))
    found.close()
    kl = [0.5 * math.log(2) + 0.5 * math.log(2 / 3), 0.25 * math.log(0.5) + 0.5 * math.log(2)]
    summary = found.summary()
    np.testing.assert_allclose(found.kl[0], kl, rtol=1e-12)
    assert summary["kl"]["mean"] == pytest.approx(sum(kl) / 2)
    assert summary["kl"]["max"] == pytest.approx(max(kl))
    assert summary["kl"]["median"] == pytest.approx(sum(kl) / 2)
    assert summary["kl"]["mean_error"] == pytest.approx(abs(kl[0] - kl[1]) / 2)
    assert summary["delta_p"] == pytest.approx({"mean": -0.25, "rms": 0.25, "max": -0.25, "min": -0.25})
    assert summary["same_top"] == 0
    assert summary["perplexity_reference"] == pytest.approx(2)
    assert summary["perplexity"] == pytest.approx(4)
    assert summary["perplexity_ratio"] == pytest.approx(2)
    assert summary["ln_perplexity_ratio"] == pytest.approx(math.log(2))


def test_impossible_tokens_add_nothing_to_the_divergence() -> None:
    found = Distribution()
    logits = np.array([[0.0, 0.0, -1e5]], np.float32)
    found.add(logits, logits, np.array([0]))
    found.close()
    assert found.kl[0][0] == 0
    assert found.summary()["perplexity"] == pytest.approx(2)


def test_a_model_compared_with_itself_is_exact(model: Path) -> None:
    found = compare_models(OnnxModel(model), [OnnxModel(model)], TEXT, ctx=64)
    outcome = found.outcomes[0]
    assert all(shard.local.sqnr == shard.accumulated.sqnr == math.inf for shard in outcome.shards)
    assert not outcome.distribution.kl[0].any()
    assert all(tensor.error.sqnr == math.inf for tensor in found.weights[0].tensors)
    assert "exact" in tables(found)
    json.dumps(found.as_dict(), allow_nan=False)
    assert "No position differs" in page(found)


def test_fewer_bits_are_worse_in_every_way(comparison: Comparison) -> None:
    fp16, int8, int4 = comparison.outcomes
    for better, worse in ((fp16, int8), (int8, int4)):
        for first, second in zip(better.shards[1:-1], worse.shards[1:-1], strict=True):
            assert first.local.sqnr > second.local.sqnr + 10
            assert first.accumulated.sqnr > second.accumulated.sqnr + 10
        found, other = better.distribution.summary(), worse.distribution.summary()
        assert found["kl"]["mean"] < other["kl"]["mean"] / 10
        assert found["same_top"] >= other["same_top"]
        assert found["delta_p"]["rms"] < other["delta_p"]["rms"]


def test_an_error_is_local_where_it_arises_and_accumulates_from_there(
    checkpoint: Path, model: Path, tmp_path: Path
) -> None:
    shutil.copytree(checkpoint, tmp_path / "changed")
    tensors = load_file(tmp_path / "changed" / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"] = tensors["model.layers.1.mlp.up_proj.weight"] * np.float32(1.01)
    save_file(tensors, tmp_path / "changed" / "model.safetensors")
    export(tmp_path / "changed", tmp_path / "model")
    found = compare_models(OnnxModel(model), [OnnxModel(tmp_path / "model")], TEXT, ctx=64)
    shards = found.outcomes[0].shards
    assert [shard.name for shard in shards] == ["embed", "decoder-00", "decoder-01", "decoder-02", "head"]
    assert [shard.local.sqnr < math.inf for shard in shards] == [False, False, True, False, False]
    assert [shard.accumulated.sqnr < math.inf for shard in shards] == [False, False, True, True, True]
    assert shards[2].local.as_dict() == shards[2].accumulated.as_dict()
    assert [t.name for t in found.weights[0].tensors if t.error.sqnr < math.inf] == [
        "model.layers.1.mlp.up_proj.weight"
    ]
    changed = next(t for t in found.weights[0].tensors if t.error.sqnr < math.inf)
    assert changed.error.sqnr == pytest.approx(40, abs=0.01)


def test_local_errors_have_the_input_of_the_reference(comparison: Comparison, model: Path) -> None:
    reference, candidate = OnnxModel(model), comparison.outcomes[2].model
    error = Error()
    for view in windows(comparison.ids, 64, 64):
        embedded, first, second, _ = reference.walk([view.ids])
        error.add(second[0], candidate.layer(1, first[0]))
        assert embedded[0].shape == (1, len(view.ids), 64)
    assert comparison.outcomes[2].shards[2].local.as_dict() == pytest.approx(error.as_dict())


def test_perplexities_equal_those_of_the_perplexity_verb(comparison: Comparison, model: Path) -> None:
    found = comparison.outcomes[2].distribution.summary()
    for decoder, name in ((OnnxModel(model).decoder, "_reference"), (comparison.outcomes[2].model.decoder, "")):
        expected = perplexity(decoder, comparison.ids, ctx=64, stride=64)
        assert found[f"perplexity{name}"] == pytest.approx(expected.value, rel=1e-5)
        assert found["positions"] == expected.tokens


def test_each_model_has_one_shard_in_memory_and_loads_it_once(model: Path, precisions: dict[str, Path]) -> None:
    reference, candidates = OnnxModel(model), [OnnxModel(precisions[name]) for name in ("int8", "int4")]
    whole = compare_models(reference, candidates, TEXT, ctx=64, weights=False)
    for found in (reference, *candidates):
        stats, shards = found.decoder.pool.stats, found.config.shards
        assert stats.misses == len(shards)
        assert stats.peak_resident_bytes <= max(map(charge_of, shards))

    views = windows(whole.ids, 64, 64)
    steps: list[tuple[int, int]] = []
    again = compare(reference, candidates, views, group_bytes=1, on_progress=lambda *step: steps.append(step))
    assert steps == [(n, 5 * len(views)) for n in range(1, 5 * len(views) + 1)]
    for first, second in zip(whole.outcomes, again, strict=True):
        assert first.distribution.summary()["kl"] == pytest.approx(second.distribution.summary()["kl"])
        for one, other in zip(first.shards, second.shards, strict=True):
            assert one.accumulated.as_dict() == pytest.approx(other.accumulated.as_dict())


def test_weights_are_read_as_the_operators_compute_with_them(checkpoint: Path, precisions: dict[str, Path]) -> None:
    expected = load_file(checkpoint / "model.safetensors")
    for name, path in precisions.items():
        config = OnnxModel(path).config
        found = {key: read() for shard in config.shards for key, read in matrices(shard)}
        assert found.keys() == {key for key, array in expected.items() if array.ndim == 2}
        for key, array in found.items():
            wanted = expected[key].astype(np.float16).astype(np.float32)
            if name == "int8":
                wanted = dequantize(quantize_rtn(expected[key], 8, 32))
            elif name.startswith("int4"):  # each matrix has 4 or 8 bits
                settings = recipe("int4", 32, "onnx" if name.endswith("onnx") else "ort")[0]
                near = [dequantize(k_quant.quantize(expected[key], settings.form(bits))) for bits in (4, 8)]
                wanted = min(near, key=lambda values: float(np.abs(values - array).max()))
            np.testing.assert_allclose(array, wanted, atol=1e-6, err_msg=f"{name} {key}")


def test_histograms_equal_those_of_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    values = (np.random.default_rng(0).standard_normal((50, 41)) * 4).astype(np.float32)
    values[0, 0] = np.nan
    expected, _ = np.histogram(values, weights.BINS, (-weights.RANGE * 2, weights.RANGE * 2))
    for size in (7, 1 << 17):
        monkeypatch.setattr(weights, "BLOCK", size)
        assert np.abs(weights._histogram(values, 2.0) - expected).sum() <= 2  # at the edge of a bin, rounding decides


def test_a_head_that_shares_the_embedding_is_compared_as_a_head(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "checkpoint", tie_word_embeddings=True)
    for dtype in ("fp32", "int8"):
        export(tmp_path / "checkpoint", tmp_path / dtype, dtype)
    (report,) = compare_weights(OnnxModel(tmp_path / "fp32").config, [OnnxModel(tmp_path / "int8").config])
    shards = {tensor.name: tensor.shard for tensor in report.tensors}
    assert shards["lm_head.weight"] == "head"
    assert shards["model.embed_tokens.weight"] == "embed"
    first, second = report.histograms["lm_head"]
    assert first.sum() == pytest.approx(VOCAB * 64, rel=0.01)
    assert second.sum() == pytest.approx(VOCAB * 64, rel=0.01)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 2}, "layers 2 where the reference has 3"),
        ({"hidden_size": 32}, "hidden size 32 where"),
        ({"vocab_size": 324}, "vocabulary 324 where"),
    ],
)
def test_models_of_other_shapes_are_refused(changes: dict[str, int], message: str, model: Path, tmp_path: Path) -> None:
    export(make_checkpoint(tmp_path / "checkpoint", **changes), tmp_path / "other")
    with pytest.raises(LlamaOnnxError, match=message):
        compare_models(OnnxModel(model), [OnnxModel(tmp_path / "other")], TEXT)


def test_command_prints_tables_json_and_a_page(model: Path, precisions: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "text").write_text(TEXT)
    options = (model, precisions["int8"], precisions["int4"], "--text", tmp_path / "text", "--ctx", "64")
    done = run(TOOL, *options, "--rows", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^KL 99\.9% +[\d.e+-]+ +[\d.e+-]+$", done.stdout, re.MULTILINE)
    assert "int4: shards, the worst 2 of 5" in done.stdout
    ranked = re.findall(r"^decoder-\d\d +([\d.]+) ", done.stdout, re.MULTILINE)
    assert float(ranked[0]) <= float(ranked[1])
    done = run(TOOL, *options, "--json", "--plot", tmp_path / "report.html", "--max-tokens", "50")
    figures = json.loads(done.stdout)
    assert figures["text"] == {"file": str(tmp_path / "text"), "tokens": 50, "windows": 1, "ctx": 64}
    candidate = figures["candidates"][1]
    assert candidate["logits"]["positions"] == 49
    assert len(candidate["shards"]) == 5
    sqnr = [tensor["sqnr_db"] for tensor in candidate["tensors"]]
    assert sqnr == sorted(sqnr)
    worst = [entry["kl"] for entry in candidate["worst_positions"]]
    assert worst == sorted(worst, reverse=True)
    assert worst[0] == candidate["logits"]["kl"]["max"]
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--plot", "report.png"], "give a name such as report.html"),
        (["--ctx", "300"], "--ctx-size must be 2 to 256"),
        (["--max-tokens", "1"], "at least 2 are needed"),
        (["--rows", "0"], "--rows must be at least 1"),
        (["--text", "nowhere"], "nowhere: cannot be read"),
    ],
)
def test_invalid_comparisons_are_one_line(
    options: list[str], message: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "text").write_text(TEXT)
    arguments = [TOOL, str(model), str(model), "--text", str(tmp_path / "text"), *options]
    monkeypatch.setattr("sys.argv", arguments)
    assert compare_precision.main() == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_one_model_alone_is_refused(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [TOOL, str(model), "--text", "x"])
    assert compare_precision.main() == 1
    assert "at least one candidate" in capsys.readouterr().err


class Checker(HTMLParser):
    """Collects unclosed tags and external resources."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.outside += [str(value) for name, value in attributes if name in ("src", "href")]
        if tag in ("script", "link", "iframe", "img", "object"):
            self.outside.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_page_is_self_contained_and_escapes_text(comparison: Comparison) -> None:
    hostile = '<script>alert("x")</script>&'
    entry = {"token": hostile, "p": 0.5}
    worst = {
        "position": 1,
        "kl": 0.5,
        "before": hostile,
        "next": hostile,
        "reference_top": entry,
        "candidate_top": entry,
    }
    shown = Comparison(**{**vars(comparison), "labels": [hostile, "b", "c"], "text": hostile, "worst": [[worst]] * 3})
    text = page(shown)
    checker = Checker()
    checker.feed(text)
    assert (checker.open, checker.wrong, checker.outside) == ([], [], [])
    assert not re.search(r"url\(|@import|https?:", text)
    assert "prefers-color-scheme: dark" in text
    assert "nan" not in re.sub(r"<text[^>]*>[^<]*</text>|<code>.*?</code>", "", text.split("</style>")[1])


def test_an_original_directory_can_be_compared(checkpoint: Path, model: Path, tmp_path: Path) -> None:
    for dtype, least in ((FLOAT, 100), (HALF, 30)):
        write_layout(checkpoint, tmp_path / str(dtype), dtype)
        found = compare_models(OnnxModel(model), [OnnxModel(tmp_path / str(dtype))], TEXT, ctx=64)
        assert all(least < shard.accumulated.sqnr for shard in found.outcomes[0].shards)
        tables(found)
        page(found)


def test_labels_are_directory_names_if_they_differ() -> None:
    assert labels_of(["a/x", "b/y"]) == ["x", "y"]
    assert labels_of(["a/x", "b/x"]) == ["a/x", "b/x"]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 97), (1e-9, 3e-9), (5, 5.001)])
def test_ticks_are_round_numbers_within_the_range(low: float, high: float) -> None:
    found = charts.ticks(low, high)
    assert 3 <= len(found) <= 9
    assert low - 1e-12 <= found[0] <= found[-1] <= high + 1e-12


def test_transformers_as_reference_has_the_same_states(checkpoint: Path, model: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    found = compare_models(TorchModel(checkpoint), [OnnxModel(model)], TEXT, ctx=64)
    assert all(shard.accumulated.sqnr > 90 for shard in found.outcomes[0].shards)
    assert found.outcomes[0].distribution.summary()["kl"]["max"] < 1e-8


def test_missing_torch_is_one_line_with_the_install_command(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(LlamaOnnxError, match="pip install torch transformers"):
        TorchModel(checkpoint)
