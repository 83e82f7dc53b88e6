"""`inspect` shows the contents of a model directory, and `--verify` finds every change."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import make_checkpoint, run
from llama_onnx_layout import FLOAT, write_layout
from safetensors.numpy import load_file

from llama_onnx.commands.inspect import bad_files, inspect, shard_figures
from llama_onnx.errors import ModelDirectoryError
from llama_onnx.export.exporter import export
from llama_onnx.model_directory import read_config


@pytest.fixture(scope="module")
def big_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with sizes that are multiples of the block size, so that no matrix is padded. Read only."""
    return make_checkpoint(tmp_path_factory.mktemp("big") / "checkpoint", num_hidden_layers=1, intermediate_size=128)


@pytest.mark.parametrize(
    ("dtype", "ops", "precision"),
    [
        ("fp32", "ort", "float32"), ("fp16", "ort", "float16"),
        ("int4", "ort", "int4/32 + int8/32"), ("int8", "ort", "int8/32"),
        ("int4", "onnx", "int4/32 + int8/32"), ("int8", "onnx", "int8/32"),
    ],
)  # fmt: skip
def test_parameter_counts_equal_those_of_the_checkpoint(
    big_checkpoint: Path, tmp_path: Path, dtype: str, ops: str, precision: str
) -> None:
    export(big_checkpoint, tmp_path / "out", dtype, block_size=32, ops=ops)
    figures = [shard_figures(shard) for shard in read_config(tmp_path / "out").shards]
    count = sum(array.size for array in load_file(big_checkpoint / "model.safetensors").values())
    assert sum(f.parameters for f in figures) == count
    assert figures[1].precision == precision


def test_tied_weights_count_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", tie_word_embeddings=True)
    export(checkpoint, tmp_path / "out")
    inspect(tmp_path / "out")
    count = sum(array.size for array in load_file(checkpoint / "model.safetensors").values())
    total = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("all "))
    assert f" {count:,} " in total


def test_command_line_prints_the_table_and_the_figures(model: Path) -> None:
    done = run("-m", "llama_onnx", "inspect", model, "--verify")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:7]] == [
        "shard", "embed", "decoder-00", "decoder-01", "decoder-02", "head", "all"
    ]  # fmt: skip
    assert "FusedMatMul" in lines[2]
    for text in ("architecture  llama", "layers        3, hidden size 64", "context       256 tokens", "EOS 2"):
        assert text in done.stdout
    assert lines[-1] == "files         all match the manifest"


def test_original_layout_can_be_inspected_but_not_verified(checkpoint: Path, tmp_path: Path) -> None:
    write_layout(checkpoint, tmp_path / "model", FLOAT)
    done = run("-m", "llama_onnx", "inspect", tmp_path / "model")
    assert done.returncode == 0
    assert "decoder-merge-2" in done.stdout
    assert "architecture  llama.onnx" in done.stdout
    failed = run("-m", "llama_onnx", "inspect", tmp_path / "model", "--verify")
    assert (failed.returncode, failed.stderr.count("\n")) == (1, 1)


def test_every_bad_file_is_one_line_and_exit_code_1(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "model")
    data = bytearray((folder / "decoder-01.bin").read_bytes())
    data[5000] ^= 1
    (folder / "decoder-01.bin").write_bytes(data)
    (folder / "head.bin").write_bytes(b"short")
    (folder / "embed.onnx").unlink()
    done = run("-m", "llama_onnx", "inspect", folder, "--verify")
    assert done.returncode == 1
    assert sorted(Path(line.split(":")[0]).name for line in done.stdout.splitlines()) == [
        "decoder-01.bin", "embed.onnx", "head.bin"
    ]  # fmt: skip
    assert done.stderr.endswith("3 of the files are bad; copy or export the model again\n")
    assert done.stderr.count("\n") == 1
    assert hashlib.sha256(data).hexdigest() in done.stdout


def test_hostile_manifest_is_reported(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "model")
    manifest = json.loads((folder / "manifest.json").read_text())
    for files in ({"../../etc/passwd": {"bytes": 1}}, {"x": 3}, {"head.bin": {"bytes": None}}):
        (folder / "manifest.json").write_text(json.dumps({**manifest, "files": files}))
        assert len(list(bad_files(folder))) == 1
    (folder / "manifest.json").write_text(json.dumps({**manifest, "files": []}))
    with pytest.raises(ModelDirectoryError, match="'files' is missing"):
        inspect(folder, verify=True)


def test_path_without_a_model_is_one_line(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(1))
    for folder in (tmp_path, tmp_path / "nowhere"):
        done = run("-m", "llama_onnx", "inspect", folder)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
