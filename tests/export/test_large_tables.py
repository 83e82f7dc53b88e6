"""Large tables are exported a few rows at a time: the same bytes as at once, in little memory."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import write_gguf, write_torch_zip
from helpers import FIXTURES, files_of, make_checkpoint
from safetensors.numpy import load_file, save_file

from llama_onnx.errors import ModelDirectoryError
from llama_onnx.export import checkpoint as checkpoints
from llama_onnx.export.exporter import checked_spec, export
from llama_onnx.export.families.registry import read_spec
from llama_onnx.export.fp16 import convert
from llama_onnx.export.graphs.graph import Rows, WeightFile
from llama_onnx.export.half import to_half
from llama_onnx.export.nbits import quantize_rtn, stack
from llama_onnx.export.quantize.quantizer import Options, quantize
from llama_onnx.export.quantize.settings import Settings
from llama_onnx.export.readers.open import open_checkpoint

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
WIDTH = 64


def in_parts_of(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(checkpoints, "PART", rows * WIDTH)


def without_tokenizer(folder: Path, **changes: Any) -> Path:
    make_checkpoint(folder, **changes)
    (folder / "tokenizer.model").unlink()  # it has fewer tokens
    return folder


def hugging_face(folder: Path) -> Path:
    return make_checkpoint(folder / "hf")


def torch_file(folder: Path) -> Path:
    path = make_checkpoint(folder / "torch")
    write_torch_zip(path / "pytorch_model.bin", load_file(path / "model.safetensors"))
    (path / "model.safetensors").unlink()
    return path


def model_directory(folder: Path) -> Path:
    export(make_checkpoint(folder / "hf"), folder / "model")
    return folder / "model"


def gguf_file(kind: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = make_checkpoint(folder / "hf")
        config = json.loads((path / "config.json").read_text())
        write_gguf(folder / f"{kind}.gguf", load_file(path / "model.safetensors"), config, kind)
        return folder / f"{kind}.gguf"

    return make


SOURCES = {
    "safetensors": hugging_face,
    "torch": torch_file,
    "model directory": model_directory,
    "gguf F16": gguf_file("F16"),
    "gguf Q8_0": gguf_file("Q8_0"),
    "gguf Q5_1": gguf_file("Q5_1"),
}


@pytest.mark.parametrize("source", SOURCES)
def test_parts_of_a_table_are_its_rows_in_order(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_parts_of(monkeypatch, 7)
    checkpoint = open_checkpoint(SOURCES[source](tmp_path))
    for name in checkpoint.names():
        parts, whole = list(checkpoint.parts(name)), checkpoint.tensor(name)
        np.testing.assert_array_equal(np.concatenate(parts), whole, err_msg=name)
        assert {part.dtype for part in parts} == {whole.dtype}
        if name in (EMBEDDING, HEAD):
            assert len(parts) == -(-len(whole) // 7)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8", "int4"])
@pytest.mark.parametrize("source", ["safetensors", "gguf Q8_0", "gguf Q5_1"])
def test_exported_bytes_do_not_depend_on_the_size_of_parts(
    source: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = SOURCES[source](tmp_path)
    export(checkpoint, tmp_path / "whole", dtype, block_size=32)
    for rows in (1, 33):
        in_parts_of(monkeypatch, rows)
        export(checkpoint, tmp_path / "parts", dtype, block_size=32)
        assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("name", ["llama-yarn", "phi3-longrope-beyond-partial", "gemma3-local-global"])
def test_rope_tables_do_not_depend_on_the_size_of_parts(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = read_spec(json.loads((FIXTURES / name / "config.json").read_text()))
    for rope in spec.ropes.values():
        for function in (np.cos, np.sin):
            monkeypatch.undo()
            whole = np.concatenate(list(rope.table(spec.context_length, function)))
            assert whole.shape == (rope.rows(spec.context_length), rope.columns)
            in_parts_of(monkeypatch, 1)
            np.testing.assert_array_equal(np.concatenate(list(rope.table(spec.context_length, function))), whole)


@pytest.mark.parametrize("algo", ["rtn", "k_quant", "hqq"])
def test_quantised_tables_do_not_depend_on_the_size_of_parts(
    algo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", num_hidden_layers=1)
    options = Options(bits=4, embedding_bits=8, head_bits=8)
    quantize(checkpoint, tmp_path / "whole", Settings(algo, 32, zero_point=True), options)
    in_parts_of(monkeypatch, 33)
    quantize(checkpoint, tmp_path / "parts", Settings(algo, 32, zero_point=True), options)
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")


def test_conversion_to_float16_does_not_depend_on_the_size_of_parts(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(model, tmp_path / "whole")
    in_parts_of(monkeypatch, 33)
    convert(model, tmp_path / "parts")
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")


def test_a_value_beyond_float16_in_the_last_part_keeps_the_whole_table_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    tensors = load_file(checkpoint / "model.safetensors")
    tensors[EMBEDDING][-1, -1] = 65520  # float16 rounds it to infinity
    tensors[HEAD][-1, -1] = 65519  # and this to 65504
    save_file(tensors, checkpoint / "model.safetensors")
    in_parts_of(monkeypatch, 33)
    export(checkpoint, tmp_path / "out", "fp16")
    table = np.fromfile(tmp_path / "out" / "embed.bin", np.float32)
    np.testing.assert_array_equal(table.reshape(-1, WIDTH), tensors[EMBEDDING])
    assert capsys.readouterr().err.count("1 values beyond float16 (largest 6.552e+04); kept in float32") == 1
    assert np.fromfile(tmp_path / "out" / "head.bin", np.float16).max() == 65504
    assert to_half("x", tensors[EMBEDDING], lambda text: None).dtype == np.float32


def test_a_table_of_the_wrong_length_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    tensors = load_file(checkpoint / "model.safetensors")
    for change in (lambda table: table[:-3], lambda table: table[:, :-8]):
        changed = {**tensors, EMBEDDING: np.ascontiguousarray(change(tensors[EMBEDDING]))}
        save_file(changed, checkpoint / "model.safetensors")
        in_parts_of(monkeypatch, 33)
        with pytest.raises(ModelDirectoryError, match=f"{EMBEDDING} has shape"):
            export(checkpoint, tmp_path / "out", "fp16")


@pytest.mark.parametrize("row", [None, 0, -1])
def test_a_head_that_differs_anywhere_is_one_of_its_own(
    row: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint", tie_word_embeddings=True)
    tensors = load_file(folder / "model.safetensors")
    tensors[HEAD] = tensors[EMBEDDING].copy()
    if row is not None:
        tensors[HEAD][row, row] += 1
    save_file(tensors, folder / "model.safetensors")
    in_parts_of(monkeypatch, 33)
    assert checked_spec(open_checkpoint(folder)).tied_embeddings == (row is None)


def test_parts_are_written_and_hashed_like_the_whole(tmp_path: Path) -> None:
    array = np.random.default_rng(0).standard_normal((50, 30)).astype(np.float32)
    with WeightFile(tmp_path / "whole.bin") as whole:
        expected = [whole.add("first", array), whole.add("second", array)]
    with WeightFile(tmp_path / "parts.bin") as parts:
        found = [
            parts.add(name, Rows((50, 30), np.dtype(np.float32), (array[i : i + 7] for i in range(0, 50, 7))))
            for name in ("first", "second")
        ]
    assert (tmp_path / "parts.bin").read_bytes() == (tmp_path / "whole.bin").read_bytes()
    assert parts.entry == whole.entry
    for one, other in zip(found, expected, strict=True):
        one.external_data[0].value = other.external_data[0].value  # the name of the file
        assert one == other


@pytest.mark.parametrize("zero_point", [False, True])
def test_stacked_slices_are_the_matrix(zero_point: bool) -> None:
    matrix = np.random.default_rng(0).standard_normal((50, 70)).astype(np.float32)
    whole = quantize_rtn(matrix, 4, 32, zero_point)
    made = stack((quantize_rtn(matrix[i : i + 9], 4, 32, zero_point) for i in range(0, 50, 9)), 50)
    for name, value in vars(whole).items():
        np.testing.assert_array_equal(getattr(made, name), value)


@pytest.mark.parametrize(("dtype", "held"), [("fp32", 0.0), ("fp16", 0.0), ("int4", 0.25)])
def test_memory_of_an_export_does_not_grow_with_the_vocabulary(
    dtype: str, held: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`held` is what a quantised head takes, as a part of a table in float32."""
    in_parts_of(monkeypatch, 512)
    peaks = []
    for vocabulary in (8192, 65536):
        source = without_tokenizer(tmp_path / "checkpoint", vocab_size=vocabulary, num_hidden_layers=1)
        tracemalloc.start()
        export(source, tmp_path / "out", dtype, block_size=32)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    more = 4 * WIDTH * (65536 - 8192)
    assert peaks[1] - peaks[0] < held * more + (1 << 20)


def test_rope_tables_of_many_positions_are_never_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_parts_of(monkeypatch, 512)
    sizes: dict[str, Any] = {"num_hidden_layers": 1, "max_position_embeddings": 1 << 20}
    source = make_checkpoint(tmp_path / "checkpoint", **sizes)
    tracemalloc.start()
    export(source, tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "out" / "rope.bin").stat().st_size == 2 * 4 * 8 << 20
    assert peak < (16 << 20)
