"""A model directory is complete, or one clear line names the fault."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import make_tokenizer, run

import llama_onnx
from llama_onnx.errors import LlamaOnnxError, ModelDirectoryError


def edit_manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return spoil


def set_model(**values: Any) -> Callable[[Path], None]:
    return edit_manifest(lambda manifest: manifest["model"].update(values))


def resize(name: str, change: int) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:change] if change < 0 else data + bytes(change))

    return spoil


def replace_tokenizer(folder: Path) -> None:
    make_tokenizer(folder / "tokenizer.model", 400)
    list_file(folder, "tokenizer.model")


def list_file(folder: Path, name: str) -> None:
    """Update the manifest for a changed file, so that the file reaches the next check."""
    size = (folder / name).stat().st_size
    edit_manifest(lambda manifest: manifest["files"][name].update(bytes=size))(folder)


def damage_graph(folder: Path) -> None:
    size = (folder / "decoder-01.onnx").stat().st_size
    (folder / "decoder-01.onnx").write_bytes(b"\xff" * size)


def swap_shards(folder: Path) -> None:
    shutil.copy(folder / "embed.onnx", folder / "head.onnx")
    list_file(folder, "head.onnx")


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "not a model directory"),
    "manifest is no JSON": (lambda folder: (folder / "manifest.json").write_text("{"), "cannot be read"),
    "manifest is no text": (lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe\x00"), "cannot be read"),
    "manifest is a list": (lambda folder: (folder / "manifest.json").write_text("[]"), "not a llama_onnx manifest"),
    "other format": (edit_manifest(lambda m: m.update(format="other")), "not a llama_onnx manifest"),
    "later version": (edit_manifest(lambda m: m.update(format_version=99)), "format version 99"),
    "unknown capability": (
        edit_manifest(lambda m: m.update(capabilities=["gates"])),
        "capability 'gates' is not known",
    ),
    "capabilities are a text": (edit_manifest(lambda m: m.update(capabilities="rope_rows")), "'capabilities' is"),
    "no model": (edit_manifest(lambda m: m.pop("model")), "'model' is missing"),
    "no shards": (edit_manifest(lambda m: m.update(shards=[])), "do not match the listed shards"),
    "shard is a text": (edit_manifest(lambda m: m.update(shards=["x"])), "'name' is missing"),
    "a layer too many": (set_model(num_layers=4), "4 layers do not match"),
    "size is a text": (set_model(hidden_size="64"), "'hidden_size' is '64'"),
    "size is true": (set_model(num_heads=True), "'num_heads' is 'True'"),
    "size is zero": (set_model(head_dim=0), "'head_dim' is 0"),
    "eos out of range": (set_model(eos_token_ids=[9999]), "special token id 9999"),
    "bos out of range": (set_model(bos_token_id=-1), "special token id -1"),
    "file outside": (edit_manifest(lambda m: m["files"].update({"../x": {"bytes": 1}})), "points outside"),
    "file without size": (edit_manifest(lambda m: m["files"].update(x={})), "'bytes' is missing"),
    "shard file not listed": (edit_manifest(lambda m: m["files"].pop("decoder-01.bin")), "is not listed"),
    "shard missing": (lambda folder: (folder / "decoder-01.onnx").unlink(), "decoder-01.onnx: missing"),
    "weights missing": (lambda folder: (folder / "decoder-02.bin").unlink(), "decoder-02.bin: missing"),
    "shard renamed": (lambda f: (f / "head.onnx").rename(f / "heads.onnx"), "head.onnx: missing"),
    "weights truncated": (resize("decoder-00.bin", -1), "truncated or replaced"),
    "weights too long": (resize("decoder-00.bin", 1), "truncated or replaced"),
    "graph truncated": (resize("embed.onnx", -9), "truncated or replaced"),
    "tokenizer missing": (lambda folder: (folder / "tokenizer.model").unlink(), "tokenizer.model: missing"),
    "tokenizer of another model": (replace_tokenizer, "belongs to another model"),
    "graph is rubbish": (damage_graph, "decoder-01.onnx: cannot be loaded"),
    "shard is another": (swap_shards, "its inputs are input_ids, not hidden"),
}


@pytest.mark.parametrize("name", ["no shards", "eos out of range", "file outside", "weights truncated"])
def test_error_names_the_directory(name: str, model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "model")
    BAD[name][0](folder)
    with pytest.raises(ModelDirectoryError, match=f"^{re.escape(str(folder))}/"):
        llama_onnx.load(folder)


@pytest.mark.parametrize("name", BAD)
def test_bad_model_directory_is_one_clear_error(name: str, model: Path, tmp_path: Path) -> None:
    spoil, message = BAD[name]
    folder = shutil.copytree(model, tmp_path / "model")
    spoil(folder)
    with pytest.raises(ModelDirectoryError, match=message) as caught:
        llama_onnx.load(folder).generate("fox", llama_onnx.SamplingParams(max_tokens=2))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere", "file", "empty"])
def test_error_for_a_path_that_is_not_a_model_directory_is_clear(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelDirectoryError, match=name):
        llama_onnx.load(tmp_path / name)


def test_shapes_that_differ_from_the_manifest_are_an_error_when_run(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "model")
    set_model(hidden_size=65)(folder)
    with pytest.raises(LlamaOnnxError, match=r"embed.onnx: cannot be run"):
        llama_onnx.load(folder).generate("fox")


def test_shard_deleted_while_running_is_reported(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "model")
    lm = llama_onnx.load(folder, poolsize="min")
    steps = lm.stream_generate("fox", llama_onnx.SamplingParams(temperature=0, max_tokens=9))
    next(steps)
    (folder / "decoder-01.bin").unlink()
    with pytest.raises(ModelDirectoryError, match=r"decoder-01.bin: cannot be read"):
        list(steps)


@pytest.mark.parametrize("name", ["shard missing", "graph is rubbish", "no manifest", "tokenizer of another model"])
def test_command_line_reports_a_bad_model_in_one_line(name: str, model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "model")
    BAD[name][0](folder)
    done = run("-m", "llama_onnx", "generate", "-m", folder, "-p", "fox", "-n", "3")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
