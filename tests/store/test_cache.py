"""The cache: whatever has its place there is whole, and nothing else is ever listed or used."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from helpers import run

from llama_onnx.errors import ModelDirectoryError
from llama_onnx.store.cache import Cache, CachedModel, cache_folder

SOURCE = {"name": "some/tiny", "kind": "hub", "commit": "abc"}


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def put(
    cache: Cache, model: Path, precision: str = "int4", key: str = "some--tiny", default: bool = True
) -> CachedModel:
    return cache.make(key, precision, SOURCE, lambda out: shutil.copytree(model, out), default)


def test_model_is_found_and_listed_where_it_was_made(cache: Cache, model: Path) -> None:
    assert cache.all() == []
    assert cache.find("some--tiny") is None
    made = put(cache, model)
    assert made.directory == cache.models / "some--tiny" / "int4"
    assert cache.find("some--tiny") == cache.find("some--tiny", "int4") == cache.all()[0] == made
    assert cache.find("some--tiny", "int8") is None
    assert (made.name, made.source["commit"]) == ("some/tiny", "abc")
    assert made.bytes > sum(path.stat().st_size for path in model.glob("*.bin"))
    assert cache.unfinished() == []
    assert [path.name for path in (cache.models / "some--tiny").iterdir()] == ["int4"]


def test_precision_chosen_by_default_comes_first_then_the_latest(cache: Cache, model: Path) -> None:
    put(cache, model, "fp16", default=False)
    assert put(cache, model, "int8", default=False) == cache.find("some--tiny")
    put(cache, model, "int4", default=True)
    put(cache, model, "fp32", default=False)
    found = cache.find("some--tiny")
    assert found is not None
    assert found.precision == "int4"


def test_interrupted_export_is_no_model_and_is_continued(cache: Cache, model: Path) -> None:
    def write(out: Path) -> None:
        (out.with_name(f"{out.name}.partial")).mkdir(exist_ok=True)
        (out.with_name(f"{out.name}.partial") / "embed.bin").write_bytes(b"x" * 99)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.make("some--tiny", "int4", SOURCE, write, True)
    assert (cache.all(), cache.find("some--tiny")) == ([], None)
    (left,) = cache.unfinished()
    assert (left.key, left.precision, left.bytes) == ("some--tiny", "int4", 99)

    def go_on(out: Path) -> None:
        partial = out.with_name(f"{out.name}.partial")
        assert (partial / "embed.bin").exists()
        shutil.rmtree(partial)
        shutil.copytree(model, out)

    cache.make("some--tiny", "int4", SOURCE, go_on, True)
    assert len(cache.all()) == 1
    assert cache.unfinished() == []


def test_process_that_dies_before_the_model_has_its_place_leaves_no_model(cache: Cache, model: Path) -> None:
    shutil.copytree(model, cache.models / "some--tiny" / ".making" / "int4")
    (cache.models / "some--tiny" / ".making" / "int4" / "source.json").write_text(json.dumps(SOURCE))
    assert cache.all() == []
    assert [left.precision for left in cache.unfinished()] == ["int4"]
    put(cache, model)
    assert len(cache.all()) == 1


@pytest.mark.parametrize("damage", ["manifest.json", "source.json", "decoder-01.bin", "truncated"])
def test_damaged_model_is_not_listed_but_can_be_made_anew_or_removed(cache: Cache, model: Path, damage: str) -> None:
    made = put(cache, model)
    if damage == "truncated":
        os.truncate(made.directory / "embed.bin", 10)
    else:
        (made.directory / damage).unlink()
    assert (cache.all(), cache.find("some--tiny")) == ([], None)
    assert [left.precision for left in cache.unfinished()] == ["int4"]
    put(cache, model)
    assert len(cache.all()) == 1
    cache.remove("some--tiny")
    assert list(cache.models.iterdir()) == []


def test_one_precision_or_all_can_be_removed_with_what_is_unfinished(cache: Cache, model: Path) -> None:
    put(cache, model, "int4")
    put(cache, model, "int8")
    (cache.models / "some--tiny" / ".making" / "fp16.partial").mkdir(parents=True)
    put(cache, model, key="other")
    cache.remove("some--tiny", "int4")
    assert [(one.key, one.precision) for one in cache.all()] == [("other", "int4"), ("some--tiny", "int8")]
    assert [left.precision for left in cache.unfinished()] == ["fp16"]
    cache.remove("some--tiny")
    assert [one.key for one in cache.all()] == ["other"]
    assert cache.unfinished() == []


@pytest.mark.parametrize("key", ["", "..", ".", "../models", "/tmp", "none", "other/int4"])
def test_only_models_in_the_cache_can_be_removed(cache: Cache, model: Path, key: str) -> None:
    put(cache, model, key="other")
    with pytest.raises(ModelDirectoryError, match="not in the cache"):
        cache.remove(key)
    assert len(cache.all()) == 1


def test_stray_folders_are_no_models(cache: Cache, model: Path) -> None:
    shutil.copytree(model, cache.models / "a b" / "int4")
    (cache.models / "notes.txt").touch()
    shutil.copytree(model, cache.models / "copied" / "int4")  # whole, but nobody knows what it was made from
    assert cache.all() == []


def test_model_that_another_process_makes_is_waited_for_and_not_removed(cache: Cache, model: Path) -> None:
    put(cache, model)
    waited = []
    with cache.locked("some--tiny", None):
        code = (
            "import sys; from pathlib import Path; from llama_onnx.store.cache import Cache\n"
            "from llama_onnx.errors import ModelDirectoryError\n"
            "try: Cache(Path(sys.argv[1])).remove('some--tiny')\n"
            "except ModelDirectoryError as error: print(error)\n"
        )
        assert "another process is making this model" in run("-c", code, cache.folder).stdout
    with cache.locked("some--tiny", lambda: waited.append(1)):
        pass
    assert waited == []
    assert len(cache.all()) == 1


def test_place_of_the_cache_follows_the_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LLAMA_ONNX_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path.home() / ".cache" / "llama_onnx"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "llama_onnx"
    monkeypatch.setenv("LLAMA_ONNX_CACHE", str(tmp_path / "own"))
    assert Cache().models == tmp_path / "own" / "models"


def test_cache_that_cannot_be_written_is_one_clear_error(tmp_path: Path, model: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelDirectoryError, match="LLAMA_ONNX_CACHE names another folder"):
        put(Cache(tmp_path / "file"), model)
    with (
        pytest.raises(ModelDirectoryError, match="LLAMA_ONNX_CACHE names another folder"),
        Cache(tmp_path / "file").locked("a", None),
    ):
        pass


def test_use_is_recorded(cache: Cache, model: Path) -> None:
    made = put(cache, model)
    os.utime(made.directory / "source.json", (0, 0))
    assert made.used == 0
    cache.touch(made)
    assert made.used > 1e9
