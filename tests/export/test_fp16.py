"""fp16 conversion: half the bytes, the same result as an export to fp16, and no silent loss."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import decoder_of, files_of, make_checkpoint, run
from llama_onnx_layout import write_layout
from safetensors.numpy import load_file, save_file

from llama_onnx.errors import ModelDirectoryError
from llama_onnx.export.exporter import export
from llama_onnx.export.fp16 import convert


def size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


@pytest.mark.parametrize("tied", [False, True])
def test_conversion_equals_export_to_fp16(tmp_path: Path, tied: bool) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", tie_word_embeddings=tied)
    export(checkpoint, tmp_path / "fp32")
    export(checkpoint, tmp_path / "fp16", "fp16")
    convert(tmp_path / "fp32", tmp_path / "converted")
    names = sorted(path.name for path in (tmp_path / "fp16").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "converted").iterdir())
    for name in names:
        assert (tmp_path / "fp16" / name).read_bytes() == (tmp_path / "converted" / name).read_bytes(), name


def test_conversion_halves_the_bytes(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", hidden_size=256, intermediate_size=512)
    export(checkpoint, tmp_path / "fp32")
    convert(tmp_path / "fp32", tmp_path / "fp16")
    assert size_of(tmp_path / "fp16") < 0.53 * size_of(tmp_path / "fp32")


def test_converted_model_runs_close_to_the_original(model: Path, tmp_path: Path) -> None:
    convert(model, tmp_path / "fp16")
    ids = np.arange(3, 70)
    difference = np.abs(decoder_of(tmp_path / "fp16").logits(ids) - decoder_of(model).logits(ids))
    assert 0 < difference.max() < 0.05


def test_values_beyond_float16_are_reported_by_name_and_kept(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    folder = make_checkpoint(tmp_path / "checkpoint")
    tensors = load_file(folder / "model.safetensors")
    tensors[name][3, 4] = 1e5
    save_file(tensors, folder / "model.safetensors")
    export(folder, tmp_path / "fp32")
    convert(tmp_path / "fp32", tmp_path / "fp16")
    assert f"{name}: 1 values beyond float16 (largest 1e+05); kept in float32" in capsys.readouterr().err
    export(folder, tmp_path / "exported", "fp16")
    assert name in capsys.readouterr().err
    ids = np.arange(3, 20)
    logits = [decoder_of(tmp_path / which).logits(ids) for which in ("fp32", "fp16", "exported")]
    assert all(np.isfinite(array).all() for array in logits)
    np.testing.assert_array_equal(logits[1], logits[2])


def test_matrices_are_float16_and_vectors_stay_float32(model: Path, tmp_path: Path) -> None:
    convert(model, tmp_path / "fp16")
    for tensor in onnx.load(str(tmp_path / "fp16" / "decoder-00.onnx"), load_external_data=False).graph.initializer:
        matrix = tensor.name.endswith("_proj.weight")
        assert tensor.data_type == (onnx.TensorProto.FLOAT16 if matrix else onnx.TensorProto.FLOAT), tensor.name


def test_conversion_onto_itself_is_refused(model: Path) -> None:
    with pytest.raises(ModelDirectoryError, match="the input itself"):
        convert(model, model)
    decoder_of(model).logits(np.array([5]))


@pytest.mark.parametrize("name", ["out", "out.partial", ".out.replaced"])
def test_conversion_never_removes_its_source(name: str, model: Path, tmp_path: Path) -> None:
    source = shutil.copytree(model, tmp_path / name)
    with pytest.raises(ModelDirectoryError, match=rf"{re.escape(name)}: holds the input itself"):
        convert(source, tmp_path / "out")
    assert files_of(source) == files_of(model)
    decoder_of(source).logits(np.array([5]))


def test_model_made_of_links_is_not_replaced_by_its_conversion(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "links"
    source.mkdir()
    for path in model.iterdir():
        (source / path.name).symlink_to(path)
    with pytest.raises(ModelDirectoryError, match="holds the input itself"):
        convert(source, source)


def test_conversion_of_the_original_layout_says_that_it_needs_an_exported_model(
    checkpoint: Path, tmp_path: Path
) -> None:
    source = write_layout(checkpoint, tmp_path / "original")
    with pytest.raises(ModelDirectoryError, match=r"is in the layout of the original llama\.onnx; give a model"):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_conversion_of_other_precisions_is_refused(model: Path, tmp_path: Path) -> None:
    convert(model, tmp_path / "fp16")
    with pytest.raises(ModelDirectoryError, match="its weights are fp16"):
        convert(tmp_path / "fp16", tmp_path / "again")


def test_truncated_input_is_one_line_and_nothing_is_written(model: Path, tmp_path: Path) -> None:
    done = run("tools/convert_fp16.py", tmp_path / "nowhere", tmp_path / "out")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert not list(tmp_path.iterdir())
    assert json.loads((model / "manifest.json").read_text())["precision"]["weights"] == "fp32"
