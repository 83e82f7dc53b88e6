"""Whatever happens during an export, existing files are kept, and one line reports the error."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import decoder_of, files_of, make_checkpoint, resumed_shards, run

import llama_onnx
from llama_onnx.errors import ModelDirectoryError
from llama_onnx.export import writer as model_writer
from llama_onnx.export.exporter import export
from llama_onnx.export.families.registry import read_spec
from llama_onnx.export.graphs import graph
from llama_onnx.export.graphs.weights import Precision, Weights, least_bytes
from llama_onnx.export.quantize import layer
from llama_onnx.export.readers.open import open_checkpoint
from llama_onnx.export.writer import ModelWriter
from llama_onnx.model_directory import read_config

Mount = Callable[[str], Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mount a file system in memory with given options, or remount it to change them. Needs root."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = False

    def do(options: str) -> Path:
        nonlocal mounted
        if not hasattr(os, "geteuid") or os.geteuid() != 0:
            pytest.skip("only root may mount a small disk")
        command = ["mount", "-t", "tmpfs", "-o", ("remount," if mounted else "") + options, "tmpfs", str(place)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
        mounted = True
        return place

    yield do
    if mounted:
        subprocess.run(["umount", str(place)], check=False)


def least(checkpoint: Path, dtype: str = "fp32") -> int:
    return least_bytes(read_spec(open_checkpoint(checkpoint).config), dtype)


def test_full_disk_is_reported_and_the_export_continues_when_there_is_room(
    checkpoint: Path, model: Path, mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = mount(f"size={least(checkpoint) // 1024 + 8}k")
    with pytest.raises(ModelDirectoryError, match=r"No space left.*run the same command again") as caught:
        export(checkpoint, disk / "out")
    assert "\n" not in str(caught.value)
    assert [path.name for path in disk.iterdir()] == ["out.partial"]
    mount("size=4m")
    assert "embed" not in resumed_shards(monkeypatch, checkpoint, disk / "out")
    assert files_of(disk / "out") == files_of(model)


def test_disk_without_room_is_reported_before_anything_is_written(checkpoint: Path, mount: Mount) -> None:
    disk = mount("size=450k")
    done = run("tools/export_onnx.py", checkpoint, disk / "out")
    assert done.returncode == 1
    assert re.search(r"out: needs \d+ KB, \d+ KB are free on its disk", done.stderr)
    assert done.stderr.count("\n") == 1
    assert not list(disk.iterdir())


def test_read_only_disk_is_reported(checkpoint: Path, mount: Mount) -> None:
    disk = mount("ro")
    with pytest.raises(ModelDirectoryError, match=r"cannot be written \(Read-only file system\)"):
        export(checkpoint, disk / "out")


@pytest.mark.parametrize("platform", ["linux", "other"])
def test_early_write_back_does_not_change_the_files(
    checkpoint: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    written = []
    real = graph.write_back
    monkeypatch.setattr(graph, "write_back", lambda file: (written.append(file.name), real(file)))
    monkeypatch.setattr(graph, "STRETCH", 5000)
    monkeypatch.setattr(graph.sys, "platform", platform if platform == "other" else sys.platform)
    export(checkpoint, tmp_path / "out")
    assert len(written) > 20
    assert files_of(tmp_path / "out") == files_of(model)


@pytest.mark.parametrize("place", ["shard", "data file", "layer to calibrate"])
def test_file_of_weights_is_closed_when_the_work_on_it_fails(
    place: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[graph.WeightFile] = []

    def fail(target: graph.Graph | graph.WeightFile, *_: object) -> None:
        opened.append(target.weights if isinstance(target, graph.Graph) else target)
        raise ZeroDivisionError

    monkeypatch.setattr(layer, "build_head", fail)
    source = open_checkpoint(checkpoint)
    spec, weights = read_spec(source.config), Weights(source, Precision("fp32"), print)
    work: dict[str, Callable[[ModelWriter], object]] = {
        "shard": lambda writer: writer.shard("embed", fail),
        "data file": lambda writer: writer.data_file("rope.bin", fail),
        "layer to calibrate": lambda writer: layer.FloatLayer(spec, weights, "head", {}, writer.folder),
    }
    with pytest.raises(ZeroDivisionError), ModelWriter(tmp_path / "out", {}) as writer:
        work[place](writer)
    (file,) = opened
    assert file._file.closed


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8", "int4"])
def test_estimated_size_is_slightly_below_the_written_size(dtype: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 512, "intermediate_size": 1408, "num_attention_heads": 8}
    checkpoint = make_checkpoint(tmp_path / "checkpoint", **sizes)
    export(checkpoint, tmp_path / "out", dtype)
    from llama_onnx.export.families.registry import read_spec
    from llama_onnx.export.readers.open import open_checkpoint

    needed = least_bytes(read_spec(open_checkpoint(checkpoint).config), dtype)
    written = sum(
        (tmp_path / "out" / name).stat().st_size for name in files_of(tmp_path / "out") if "token" not in name
    )
    assert 0.85 * written < needed < written


def stop_between_renames(monkeypatch: pytest.MonkeyPatch, checkpoint: Path, out: Path) -> None:
    """Export over a model, and interrupt when the old one is moved aside and the new one is not yet in place."""
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise KeyboardInterrupt
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(KeyboardInterrupt):
            export(checkpoint, out, "fp16")
    assert not out.exists()


def test_model_being_replaced_survives_a_crash_between_the_renames(
    checkpoint: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(model, tmp_path / "out")
    stop_between_renames(monkeypatch, checkpoint, out)
    with pytest.raises(ModelDirectoryError, match=r"interrupted while it replaced.*\.out\.replaced: rename it back"):
        llama_onnx.load(out)
    # The next run first moves the old model back, even if it does not finish.
    with pytest.raises(ZeroDivisionError), ModelWriter(out, {}):
        _ = 1 / 0
    assert files_of(out) == files_of(model)
    stop_between_renames(monkeypatch, checkpoint, out)
    export(checkpoint, out, "fp16")
    assert read_config(out).weights == "fp16"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_replacing_a_model_does_not_touch_its_neighbours(checkpoint: Path, model: Path, tmp_path: Path) -> None:
    out = shutil.copytree(model, tmp_path / "out")
    (tmp_path / "out.old").mkdir()
    (tmp_path / "out.old" / "mine").write_text("precious")
    export(checkpoint, out, "fp16")
    assert (tmp_path / "out.old" / "mine").read_text() == "precious"
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "mine").write_text("precious")
    with pytest.raises(ModelDirectoryError, match=r"out\.partial: holds files of something else"):
        export(checkpoint, out)
    assert (tmp_path / "out.partial" / "mine").read_text() == "precious"


def test_files_that_a_user_added_to_a_model_are_kept(checkpoint: Path, model: Path, tmp_path: Path) -> None:
    out = shutil.copytree(model, tmp_path / "out")
    (out / "notes.txt").write_text("precious")
    with pytest.raises(ModelDirectoryError, match=r"'notes\.txt', which does not belong to the model"):
        export(checkpoint, out, "fp16")
    (out / "notes.txt").rename(tmp_path / "notes.txt")
    (out / ".packed").mkdir()  # files made from the model are deleted with it
    export(checkpoint, out, "fp16")
    assert not (out / ".packed").exists()


def test_checkpoint_inside_the_target_is_not_lost(model: Path, tmp_path: Path) -> None:
    out = shutil.copytree(model, tmp_path / "out")
    checkpoint = make_checkpoint(out / "checkpoint")
    with pytest.raises(ModelDirectoryError, match="holds the input itself"):
        export(checkpoint, out)
    assert (checkpoint / "model.safetensors").is_file()


def test_target_may_be_inside_the_source_directory(model: Path, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    before = {path: path.read_bytes() for path in checkpoint.iterdir()}
    export(checkpoint, checkpoint / "onnx")
    assert files_of(checkpoint / "onnx") == files_of(model)
    assert {path: path.read_bytes() for path in checkpoint.iterdir() if path.is_file()} == before


def test_lock_is_held_until_the_model_is_in_its_place(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = model_writer.replace_directory

    def replace(folder: Path, out: Path) -> None:
        with pytest.raises(ModelDirectoryError, match="another process is writing"), ModelWriter(out, {}):
            pass
        real(folder, out)

    monkeypatch.setattr(model_writer, "replace_directory", replace)
    export(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out" / "lock").exists()
    decoder_of(tmp_path / "out")


def test_leftovers_of_other_options_are_deleted_at_once(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(model_writer, "replace_directory", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            export(checkpoint, tmp_path / "out")
    with ModelWriter(tmp_path / "out", {}):
        assert sorted(path.name for path in (tmp_path / "out.partial").iterdir()) == ["lock", "progress.json"]


def test_every_file_is_on_the_disk_before_the_model_has_its_name(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: set[int] = set()
    real = model_writer.replace_directory

    def replace(folder: Path, out: Path) -> None:
        assert {path.stat().st_ino for path in folder.iterdir()} <= flushed
        real(folder, out)
        assert tmp_path.stat().st_ino in flushed  # and then its name

    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.add(os.fstat(descriptor).st_ino))
    monkeypatch.setattr(model_writer, "replace_directory", replace)
    export(checkpoint, tmp_path / "out")
    assert flushed
