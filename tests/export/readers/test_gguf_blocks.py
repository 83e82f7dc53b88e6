"""Blocks of quantised GGUF files are kept as they are: on disk, in a product, in a lookup, and when layers stream."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

gguf = pytest.importorskip("gguf", reason="GGUF files are written by the gguf package")
pytest.importorskip("onnx")

from checkpoint_files import GGUF_NAMES  # noqa: E402
from helpers import files_of, random_tensors  # noqa: E402

import llama_onnx  # noqa: E402
from llama_onnx.errors import RequestError  # noqa: E402
from llama_onnx.export import exporter  # noqa: E402
from llama_onnx.export.exporter import export  # noqa: E402
from llama_onnx.export.graphs import compact  # noqa: E402
from llama_onnx.export.graphs.compact import find, products, read, write  # noqa: E402
from llama_onnx.export.graphs.graph import Graph, WeightFile  # noqa: E402
from llama_onnx.export.graphs.ops_ort import OrtOps  # noqa: E402
from llama_onnx.export.graphs.stored import read_graph  # noqa: E402
from llama_onnx.export.graphs.widened import Widened  # noqa: E402
from llama_onnx.export.nbits import NBits, dequantize  # noqa: E402
from llama_onnx.export.readers.gguf_blocks import TYPES, read_blocks  # noqa: E402
from llama_onnx.export.readers.gguf_file import Entry  # noqa: E402
from llama_onnx.export.readers.open import open_checkpoint  # noqa: E402
from llama_onnx.session import open_session, session_options  # noqa: E402

NAMES = {number: gguf.GGMLQuantizationType(number).name for number in TYPES}
HALVES = {2: (0,), 3: (0, 2), 6: (0,), 7: (0, 2), 8: (0,), 12: (0, 2), 13: (0, 2), 14: (208,)}  # places of float16
ROWS, COLUMNS = 24, 512


def random_blocks(kind: int, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Return uint8 [rows, bytes]: any integers and factors, scales of a usual size."""
    rng, block = np.random.default_rng(seed), TYPES[kind]
    data = rng.integers(0, 256, (rows * columns // block.size, block.bytes), dtype=np.uint8)
    for place in HALVES[kind]:
        scales = rng.normal(0, 0.02 / (1 << block.bits), (len(data), 1)) / (40 if block.size > 32 else 1)
        data[:, place : place + 2] = scales.astype(np.float16).view(np.uint8)
    return data.reshape(rows, -1)


@pytest.fixture(params=TYPES, ids=NAMES.values())
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[NBits, np.ndarray]:
    """A matrix in blocks, and the floats that the gguf package makes of it."""
    data = random_blocks(request.param, ROWS, COLUMNS)
    (tmp_path / "blocks").write_bytes(data.tobytes())
    matrix = read_blocks(Entry(tmp_path / "blocks", 0, (ROWS, COLUMNS), request.param))
    assert matrix is not None
    return matrix, gguf.quants.dequantize(data, gguf.GGMLQuantizationType(request.param))


def test_blocks_are_exactly_what_the_file_says(kept: tuple[NBits, np.ndarray]) -> None:
    matrix, floats = kept
    np.testing.assert_array_equal(dequantize(matrix), floats)


def test_a_written_matrix_is_read_back_and_takes_no_more_than_the_file(
    kept: tuple[NBits, np.ndarray], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    matrix, floats = kept
    with WeightFile(tmp_path / "weights.bin") as file:
        stored = write(file, "x.weight", matrix)
    np.testing.assert_array_equal(dequantize(read(stored, tmp_path)), floats)
    sizes = sum(int(entry.value) for t in stored.tensors.values() for entry in t.external_data if entry.key == "length")
    assert sizes <= 1.03 * (tmp_path / "blocks").stat().st_size
    found = find({tensor.name: tensor for tensor in stored.tensors.values()}, "x.weight", COLUMNS)
    assert found is not None
    facts = "rows blocks block_size bits middle columns has_minima".split()
    assert [getattr(found, name) for name in facts] == [getattr(stored, name) for name in facts]


def run(build: Any, folder: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Return what a graph computes that `build` adds nodes to."""
    with WeightFile(folder / "graph.bin") as file:
        g = Graph("graph", file)
        build(g)
    g.save(folder / "graph.onnx")
    session = open_session(folder / "graph.onnx", session_options(prepack=True))
    return np.asarray(session.run(None, inputs)[0])


@pytest.mark.parametrize("tokens", [1, 2, 9])
def test_a_product_uses_exactly_these_weights(kept: tuple[NBits, np.ndarray], tokens: int, tmp_path: Path) -> None:
    matrix, floats = kept
    # Whole numbers with the largest possible one in each block, so that the kernel's int8 activations are exact.
    x = np.random.default_rng(1).integers(-127, 128, (1, tokens, COLUMNS)).astype(np.float32)
    x[..., ::16] = 127

    def build(g: Graph) -> None:
        g.input("x", np.float32, ["batch", "sequence", COLUMNS])
        OrtOps().product(g, "/product", "x", "x.weight", matrix, "", ["y"])
        g.output("y", np.float32, ["batch", "sequence", ROWS])

    wanted = x.astype(np.float64) @ floats.astype(np.float64).T
    size = np.abs(x.astype(np.float64)) @ np.abs(floats.astype(np.float64)).T
    assert np.max(np.abs(run(build, tmp_path, {"x": x}) - wanted) / size) < 2e-6


def test_a_lookup_returns_exactly_these_rows(kept: tuple[NBits, np.ndarray], tmp_path: Path) -> None:
    matrix, floats = kept

    def build(g: Graph) -> None:
        g.input("ids", np.int64, ["batch", "sequence"])
        Widened(g, write(g.weights, "x.weight", matrix), "ids").floats(["y"])
        g.output("y", np.float32, ["batch", "sequence", COLUMNS])

    ids = np.array([[3, 0, 23], [7, 7, 1]])
    np.testing.assert_array_equal(run(build, tmp_path, {"ids": ids}), floats[ids])


# -- whole models -----------------------------------------------------------------------------------------------------

WIDE = {
    "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_hidden_layers": 4, "vocab_size": 320, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
}  # fmt: skip


def write_model(path: Path, kinds: dict[str, int], default: int, tied: bool = True) -> None:
    """Write a llama GGUF file of random blocks; `kinds` by the last part of a matrix's name in Hugging Face."""
    config = {**WIDE, "tie_word_embeddings": tied}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for seed, (name, array) in enumerate(random_tensors(config).items()):
        stem, _, end = name.rpartition(".")
        if stem == "lm_head" and tied:
            continue
        rest = stem.split(".", 3)[-1] if ".layers." in stem else stem
        short = (
            f"blk.{stem.split('.')[2]}.{GGUF_NAMES[rest]}.{end}" if ".layers." in stem else f"{GGUF_NAMES[stem]}.{end}"
        )
        if array.ndim == 1:
            writer.add_tensor(short, array.astype(np.float32))
            continue
        kind = kinds.get(rest.rpartition(".")[2], default)
        blocks = random_blocks(kind, *array.shape, seed=seed)
        writer.add_tensor(short, blocks, raw_dtype=gguf.GGMLQuantizationType(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(params=["K types, tied", "types of 32, apart"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A GGUF file with blocks of many types."""
    if request.param == "K types, tied":
        kinds = {"embed_tokens": 14, "v_proj": 14, "down_proj": 13}
        write_model(tmp_path / "model.gguf", kinds, default=12)
    else:
        kinds = {"embed_tokens": 12, "lm_head": 8, "v_proj": 8, "down_proj": 7, "q_proj": 3, "k_proj": 2}
        write_model(tmp_path / "model.gguf", kinds, default=6, tied=False)
    return tmp_path / "model.gguf"


def test_an_auto_export_has_the_matrices_of_the_file(model: Path, tmp_path: Path) -> None:
    export(model, tmp_path / "out", dtype="auto")
    checkpoint, seen = open_checkpoint(model), set()
    for path in sorted((tmp_path / "out").glob("*.onnx")):
        for stored in products(read_graph(path)):
            name = f"{stored.stem}weight"
            np.testing.assert_array_equal(dequantize(read(stored, path.parent)), checkpoint.tensor(name), err_msg=name)
            seen.add(name)
    matrices = {name for name in checkpoint.names() if checkpoint.tensor(name).ndim == 2}
    assert matrices - seen <= {"model.embed_tokens.weight"}


def test_large_tables_are_stored_in_bytes_with_the_same_values(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact, "MOST_IN_PLANES", 0)
    test_an_auto_export_has_the_matrices_of_the_file(model, tmp_path)
    ids = np.arange(3, 40) % WIDE["vocab_size"]
    with llama_onnx.load(tmp_path / "out") as lm:
        found = lm.logits(ids)
    monkeypatch.undo()
    export(model, tmp_path / "planes", dtype="auto")
    with llama_onnx.load(tmp_path / "planes") as lm:
        # The kernels round a little differently with and without zero points, and activations to 8 bits.
        assert np.abs(lm.logits(ids) - found).max() < 0.02 * np.abs(found).max()


def test_an_auto_export_answers_like_the_file_in_floats(model: Path, tmp_path: Path) -> None:
    for dtype in ("auto", "fp32"):
        export(model, tmp_path / dtype, dtype=dtype)
    ids = np.arange(3, 40) % WIDE["vocab_size"]
    with llama_onnx.load(tmp_path / "auto") as kept, llama_onnx.load(tmp_path / "fp32") as floats:
        found, wanted = kept.logits(ids), floats.logits(ids)
    assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()  # activations have 8 bits
    manifest = json.loads((tmp_path / "auto" / "manifest.json").read_text())
    assert manifest["capabilities"] == ["bit_planes", "block_minima", "scale_factors"]


def test_an_auto_export_streams_with_equal_results(model: Path, tmp_path: Path) -> None:
    export(model, tmp_path / "out", dtype="auto")
    ids = np.arange(3, 40) % WIDE["vocab_size"]
    with llama_onnx.load(tmp_path / "out") as lm:
        whole = lm.logits(ids)
    with llama_onnx.load(tmp_path / "out", poolsize="min") as lm:
        np.testing.assert_array_equal(lm.logits(ids), whole)


def test_a_fast_export_has_blocks_of_128_and_never_fewer_bits_than_the_file(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "NARROWEST", WIDE["hidden_size"])
    export(model, tmp_path / "out", dtype="fast")
    checkpoint, bits = open_checkpoint(model), set()
    for path in sorted((tmp_path / "out").glob("*.onnx")):
        for stored in products(read_graph(path)):
            kept = checkpoint.stored_bits(f"{stored.stem}weight")
            assert stored.bits == (8 if kept > 4 or path.stem == "head" else 4), stored.stem
            assert stored.block_size == min(128, stored.columns)
            bits.add(stored.bits)
    assert bits == {4, 8}
    with llama_onnx.load(tmp_path / "out") as lm:
        assert np.isfinite(lm.logits(np.arange(3, 40))).all()


def test_a_fast_export_of_a_small_model_keeps_it_and_says_so(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(model, tmp_path / "auto", dtype="auto")
    capsys.readouterr()
    export(model, tmp_path / "fast", dtype="fast")
    assert "kept as it is, as 'auto' does" in capsys.readouterr().err
    assert files_of(tmp_path / "fast") == files_of(tmp_path / "auto")


def test_fast_is_refused_for_floats(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"holds floats.*use --dtype int4"):
        export(checkpoint, tmp_path / "out", dtype="fast")
    assert not (tmp_path / "out").exists()


def test_rounding_a_quantised_file_again_is_said(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(model, tmp_path / "auto", dtype="auto")
    assert "second time" not in capsys.readouterr().err
    export(model, tmp_path / "int4", dtype="int4", block_size=32)
    assert capsys.readouterr().err.count("rounded a second time; --dtype auto keeps them") == 1
