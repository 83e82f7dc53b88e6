"""What a MODEL names, and that no name reaches anything outside the cache."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llama_onnx.errors import ModelDirectoryError, RequestError
from llama_onnx.store.names import Kind, Name, hub_key, is_key, local_key, parse_name


def kind_of(text: str, cache: Path) -> Kind:
    return parse_name(text, cache).kind


def test_each_kind_of_model_is_recognised(
    model: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.gguf").write_bytes(b"GGUF")
    Path("several").mkdir()
    Path("several/a.gguf").touch()
    Path("cached-1").mkdir()
    assert kind_of(str(model), tmp_path) is Kind.DIRECTORY
    assert kind_of(str(tmp_path), tmp_path / "none") is Kind.CHECKPOINT  # there is a GGUF file in it
    for text in (str(checkpoint), "m.gguf", "./m.gguf", "several", "m.gguf:int8"):
        assert kind_of(text, tmp_path) is Kind.CHECKPOINT
    assert parse_name("m.gguf:int8", tmp_path).precision == "int8"
    Path("cache/here-1").mkdir(parents=True)
    assert parse_name("here-1:fp16", Path("cache")) == Name(Kind.CACHED, "here-1", "here-1", "fp16")
    name = parse_name("some/tiny@v1.0/x:int4", tmp_path)
    assert (name.kind, name.repository, name.revision, name.precision) == (Kind.HUB, "some/tiny", "v1.0/x", "int4")
    assert (name.text, name.key) == ("some/tiny@v1.0/x", "some--tiny@v1.0%2Fx")
    name = parse_name("some/tiny/q4/a--b.gguf@v1:int8", tmp_path)
    assert (name.kind, name.repository, name.file, name.revision) == (Kind.HUB, "some/tiny", "q4/a--b.gguf", "v1")
    assert (name.key, name.precision) == ("some--tiny--q4%2Fa--b.gguf@v1", "int8")


def test_what_exists_here_comes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert kind_of("some/tiny", tmp_path) is Kind.HUB
    Path("some/tiny").mkdir(parents=True)
    assert kind_of("some/tiny", tmp_path) is Kind.DIRECTORY
    Path("some/tiny/model.safetensors").touch()
    assert kind_of("some/tiny", tmp_path) is Kind.CHECKPOINT


def test_model_that_an_interrupted_export_moved_aside_is_still_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("models/.mine.replaced").mkdir(parents=True)
    assert kind_of("models/mine", tmp_path) is Kind.DIRECTORY


@pytest.mark.parametrize(
    "text",
    [
        "nothing", "./some/tiny", "/some/tiny", "some/tiny/", "some//tiny", "a/b/c", "../b", "a/..", "a/b@../../c",
        "-a/b", ".a/b", "a/.b", "a--b/c", "a/b--c", "a b/c", "a/b@", "a/b@v 1", "a/b\n", "~/b", "a/b.gguf", "a/b.bin",
        "é/b", "a\\b", "..", "x:int4", ":int4", "a/b/../c.gguf", "a/b/.gguf", "a/b/c.bin",
    ],
)  # fmt: skip
def test_what_is_no_name_is_refused_in_one_line(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    if Path(text).is_dir():
        assert parse_name(text, tmp_path).key == ""  # a directory: nothing in the cache belongs to it
        return
    with pytest.raises(ModelDirectoryError, match="no such directory or file") as caught:
        parse_name(text, tmp_path)
    assert "\n" not in str(caught.value)


def test_folders_of_different_names_differ_and_lie_in_the_cache(tmp_path: Path) -> None:
    names = ["a/b", "a/b@main", "a_b/c", "a/b_c", "a/b@x/y", "a/b@x.y", "A/b", "a/b@x-y", "a/b-x"]
    names += ["a/b/c.gguf", "a/b/d/c.gguf", "a/b/d--c.gguf", "a/b/c.gguf@x"]
    keys = [hub_key(name) for name in names]
    assert len(set(keys)) == len(names)
    for odd in ("..", ". .", "a--b", "..gguf", "é", "-", "x" * 300):
        folder = tmp_path / f"{odd[:100]}x"
        folder.mkdir()
        keys.append(local_key(folder))
    for key in keys:
        assert is_key(key)
        assert Path(key).name == key
        assert len(key) < 255
    assert not any(map(is_key, ("", "..", ".", ".making", "a/b", "a\\b", "a b", "a\0")))


def test_revision_that_is_too_long_is_refused() -> None:
    with pytest.raises(ModelDirectoryError, match="too long"):
        hub_key("a/b@" + "x" * 300)


def test_changed_checkpoint_has_another_folder(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    os.utime(file, ns=(10**18, 10**18))
    first = local_key(file)
    assert first.startswith("model-")
    assert local_key(tmp_path / "." / "model.gguf") == first
    (tmp_path / "other.gguf").write_bytes(b"GGUF of something else")
    (tmp_path / "notes.txt").touch()
    assert local_key(file) == first
    keys = {first}
    os.utime(file, ns=(10**18, 10**18 + 1))
    keys.add(local_key(file))
    file.write_bytes(b"GGUF+")
    os.utime(file, ns=(10**18, 10**18))
    keys.add(local_key(file))
    (tmp_path / "tokenizer.json").write_text("{}")  # it is read with the file
    keys.add(local_key(file))
    (tmp_path / "sub").mkdir()
    moved = file.rename(tmp_path / "sub" / "model.gguf")
    keys |= {local_key(moved), local_key(tmp_path / "sub")}
    assert len(keys) == 6


def test_parts_of_a_file_are_one_model(tmp_path: Path) -> None:
    parts = [tmp_path / f"m-{i:05d}-of-00002.gguf" for i in (1, 2)]
    for part in parts:
        part.write_bytes(b"GGUF")
    keys = {local_key(part) for part in parts}
    assert len(keys) == 1
    assert min(keys).startswith("m-")
    parts[1].write_bytes(b"GGUF, changed")
    assert local_key(parts[0]) not in keys


@pytest.mark.parametrize("text", ["a/b:INT4", "a/b:../c", "a/b:", "a/b:q4", "a/b:latest", "m.gguf:q4"])
def test_what_is_no_precision_is_refused_before_anything_is_downloaded(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.gguf").write_bytes(b"GGUF")
    with pytest.raises(RequestError, match="is not a precision; after the colon goes auto, fast") as caught:
        parse_name(text, tmp_path)
    assert "\n" not in str(caught.value)
