"""Streaming: the same results as with everything loaded, within any budget, and no files are left behind."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, decoder_of, make_checkpoint, run
from pools import generate, mapped, pool_for

import llama_onnx
from llama_onnx.config import Shard
from llama_onnx.decoder import Decoder
from llama_onnx.errors import LlamaOnnxError, ModelDirectoryError, PoolTooSmallError
from llama_onnx.export.exporter import export
from llama_onnx.kv_cache import KVCache
from llama_onnx.model_directory import read_config
from llama_onnx.pool import PoolStats, charge_of
from llama_onnx.session import Session
from llama_onnx.streaming import images, regions, slots
from llama_onnx.streaming.images import Images
from llama_onnx.streaming.loader import Entry, Loader
from llama_onnx.streaming.plan import leaving_order, window_places
from llama_onnx.streaming.pool import StreamingPool
from llama_onnx.streaming.promise import POOL_POLICIES
from llama_onnx.streaming.slots import SlotFolder, SlotPlace

LAYERS = 8
PRECISIONS = ("fp32", "fp16", "int8", "int4")
needs_slots = pytest.mark.skipif(
    sys.platform != "linux" or not slots.MEMORY.is_dir(), reason="slots need Linux and a memory file system"
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of eight layers in every precision. Read only, except for packed images."""
    folder = tmp_path_factory.mktemp("streaming")
    checkpoint = make_checkpoint(folder / "checkpoint", num_hidden_layers=LAYERS, intermediate_size=160)
    for dtype in PRECISIONS:
        export(checkpoint, folder / dtype, dtype, block_size=32)
    return {dtype: folder / dtype for dtype in PRECISIONS}


@pytest.fixture(autouse=True)
def _nothing_left_in_memory() -> Iterator[None]:
    before = memory_folders()
    yield
    assert not {name for name in memory_folders() - before if not is_held(slots.MEMORY / name)}


def memory_folders() -> set[str]:
    return {path.name for path in slots.MEMORY.glob(f"{slots.PREFIX}*")} if slots.MEMORY.is_dir() else set()


def is_held(folder: Path) -> bool:
    """Return whether a running process uses the folder: other tests may stream at the same time."""
    import fcntl

    try:
        with (folder / slots.LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


@needs_slots
@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("staying", [2, 5, LAYERS - 1])
def test_slots_and_sessions_give_bit_equal_results(models: dict[str, Path], dtype: str, staying: int) -> None:
    config = read_config(models[dtype])
    pool = pool_for(config, staying)
    assert pool.streams_through == "slots"
    np.testing.assert_array_equal(generate(Decoder(config, pool)), generate(decoder_of(models[dtype])))
    pool.close()


SEVERAL_THREADS = """
import os, sys
sys.path.insert(0, "tests")
import numpy as np
from helpers import decoder_of
from pools import generate, pool_for
from llama_onnx.model_directory import read_config
from llama_onnx.decoder import Decoder
from llama_onnx.session import start_runtime
os.sched_setaffinity(0, range(os.cpu_count()))  # a test may have been given one core
start_runtime(4)
for directory in sys.argv[1:]:
    config = read_config(directory)
    pool = pool_for(config, 3)
    assert pool.streams_through == "slots"
    np.testing.assert_array_equal(generate(Decoder(config, pool), 20), generate(decoder_of(directory), 20))
    pool.close()
print("equal")
"""


@needs_slots
def test_slots_give_bit_equal_results_with_several_threads(models: dict[str, Path]) -> None:
    done = run("-c", SEVERAL_THREADS, *models.values())
    assert (done.stdout, done.stderr) == ("equal\n", "")


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("staying", [2, 6])
def test_sessions_per_load_give_the_same_results(models: dict[str, Path], dtype: str, staying: int) -> None:
    config = read_config(models[dtype])
    pool = pool_for(config, staying, use_slots=False)
    assert pool.streams_through == "sessions"
    np.testing.assert_array_equal(generate(Decoder(config, pool)), generate(decoder_of(models[dtype])))
    pool.close()


@pytest.mark.parametrize("use_slots", [True, False])
def test_residents_are_read_once_and_streamed_layers_once_per_step(models: dict[str, Path], use_slots: bool) -> None:
    config = read_config(models["fp32"])
    pool = pool_for(config, 5, use_slots)
    generate(Decoder(config, pool), 9)
    staying = int(pool.snapshot()["residents"])
    pool.close()
    assert 2 < staying < len(config.shards)
    streamed = len(config.shards) - staying
    # The loader reads slightly beyond the last step. A layer that is still in its place when needed is not read again.
    assert staying + 9 * (streamed - 2) <= pool.stats.misses <= staying + 9 * streamed + 2


def test_everything_that_fits_is_loaded_once(models: dict[str, Path]) -> None:
    config = read_config(models["fp32"])
    pool = pool_for(config, LAYERS)
    assert pool.streams_through == "nothing"
    generate(Decoder(config, pool), 5)
    pool.close()
    assert pool.stats.misses == len(config.shards)


@pytest.mark.parametrize("staying", [4, LAYERS])
def test_only_the_first_pass_reports_progress(models: dict[str, Path], staying: int) -> None:
    config = read_config(models["fp32"])
    ends, layer = mapped(config.embed) + mapped(config.head), mapped(config.layers[0])
    told: list[tuple[str, int, int]] = []
    pool = StreamingPool(config, ends + int((staying + 0.9) * layer), progress=lambda *step: told.append(step))
    generate(Decoder(config, pool), 3)
    pool.close()
    assert told == [("loading", i + 1, LAYERS + 2) for i in range(LAYERS + 2)]


def test_budget_is_never_exceeded(models: dict[str, Path]) -> None:
    for dtype in PRECISIONS:
        config = read_config(models[dtype])
        for staying in range(2, LAYERS + 1):
            pool = pool_for(config, staying, use_slots=staying % 2 == 0)
            with pool.reserved(1000):
                assert pool.stats.resident_bytes + 1000 <= pool.budget
            pool.close()


def test_more_memory_never_means_more_reading(models: dict[str, Path]) -> None:
    config = read_config(models["fp32"])
    misses = []
    for staying in range(2, LAYERS + 1):
        pool = pool_for(config, staying)
        generate(Decoder(config, pool), 6)
        pool.close()
        misses.append(pool.stats.misses)
    assert all(more <= less + 2 for less, more in itertools.pairwise(misses)), misses


def test_growing_cache_evicts_residents_and_results_stay_the_same(models: dict[str, Path]) -> None:
    config = read_config(models["fp32"])
    expected = generate(decoder_of(models["fp32"]), 12)
    pool = pool_for(config, LAYERS)
    decoder = Decoder(config, pool)
    real = KVCache.bytes_with

    def hungry(self: KVCache, lengths: Sequence[int]) -> int:
        return real(self, lengths) + max(0, max(lengths) - 20) * charge_of(config.layers[0]) // 4

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KVCache, "bytes_with", hungry)
        np.testing.assert_array_equal(generate(decoder, 12), expected)
    evictions = pool.stats.evictions
    assert evictions >= 2
    assert pool.stats.peak_resident_bytes <= pool.budget
    np.testing.assert_array_equal(generate(decoder, 12), expected)
    assert pool.stats.evictions == evictions  # the high-water mark stays until a holder that needed less has closed
    np.testing.assert_array_equal(generate(decoder, 12), expected)
    assert pool.streams_through == "nothing"  # the residents were loaded again
    pool.close()


@pytest.mark.parametrize("use_slots", [True, False])
@pytest.mark.parametrize("dtype", ["fp32", "int4"])
def test_smallest_pool_streams_the_layers_of_a_kind_through_one_place(
    models: dict[str, Path], dtype: str, use_slots: bool
) -> None:
    config = read_config(models[dtype])
    pool = StreamingPool(config, None, use_slots=use_slots)
    np.testing.assert_array_equal(generate(Decoder(config, pool)), generate(decoder_of(models[dtype])))
    assert pool.snapshot()["residents"] == 2  # embedding and head
    assert len(pool._window) == (len({shard.kind for shard in config.layers}) if use_slots else 1)
    assert pool.stats.resident_bytes <= pool.budget
    pool.close()


def test_error_for_a_small_budget_names_a_sufficient_poolsize(models: dict[str, Path]) -> None:
    config = read_config(models["fp32"])
    with pytest.raises(PoolTooSmallError, match="give a poolsize of at least"):
        StreamingPool(config, charge_of(config.layers[0]))
    pool = pool_for(config, 3)
    with pytest.raises(PoolTooSmallError):
        pool.reserved(pool.budget)
    generate(Decoder(config, pool))  # the pool still works
    pool.close()


def layers_of_two_kinds(models: dict[str, Path], tmp_path: Path) -> Path:
    """Return a model whose layers 0, 3 and 7 are in fp16, the others in int8."""
    mixed = shutil.copytree(models["int8"], tmp_path / "mixed", ignore=shutil.ignore_patterns(".packed"))
    manifest, other = (json.loads((models[d] / "manifest.json").read_text()) for d in ("int8", "fp16"))
    for i in (0, 3, 7):
        for file in (f"decoder-{i:02d}.onnx", f"decoder-{i:02d}.bin"):
            shutil.copy(models["fp16"] / file, mixed / file)
            manifest["files"][file] = other["files"][file]
        manifest["shards"][i + 1] = other["shards"][i + 1]
    (mixed / "manifest.json").write_text(json.dumps(manifest))
    return mixed


def test_each_kind_of_shard_streams_through_its_own_places(models: dict[str, Path], tmp_path: Path) -> None:
    """Layers of two precisions in one model: the more common kind is evicted first."""
    mixed = layers_of_two_kinds(models, tmp_path)
    config = read_config(mixed)
    assert len({shard.kind for shard in config.layers}) == 2
    reference = generate(decoder_of(mixed))
    ends = charge_of(config.embed) + charge_of(config.head)
    for staying in (2.5, 5.5):
        pool = StreamingPool(config, ends + int(staying * max(map(charge_of, config.layers))))
        assert pool.streams_through != "nothing"
        np.testing.assert_array_equal(generate(Decoder(config, pool)), reference)
        pool.close()


@pytest.mark.parametrize("use_slots", [pytest.param(True, marks=needs_slots), False])
def test_pool_works_with_the_fewest_bytes_it_says_it_needs(
    models: dict[str, Path], tmp_path: Path, use_slots: bool
) -> None:
    mixed = layers_of_two_kinds(models, tmp_path)
    config, reference = read_config(mixed), generate(decoder_of(mixed))
    ends, layer = charge_of(config.embed) + charge_of(config.head), max(map(charge_of, config.layers))
    pool = StreamingPool(config, ends + int(5.5 * layer), use_slots=use_slots)
    assert pool.streams_through == ("slots" if use_slots else "sessions")
    decoder = Decoder(config, pool)
    np.testing.assert_array_equal(generate(decoder), reference)
    with closing(KVCache(config, 40)) as cache:
        decoder.forward(np.arange(5, 25)[None], cache)
        pool.resize(pool.needs()[0])
        assert len(pool._window) == (2 if use_slots else 1)  # a session takes a layer of any kind
        before = pool.budget, pool._plan
        with pytest.raises(PoolTooSmallError):
            pool.resize(pool.needs()[0] - 1)
        assert (pool.budget, pool._plan) == before
    np.testing.assert_array_equal(generate(decoder), reference)
    pool.close()


@needs_slots
def test_a_refused_reservation_leaves_every_layer_usable(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slots are tried when something larger is reserved than before. That evicts the layers."""
    config = read_config(models["fp32"])
    expected = generate(decoder_of(models["fp32"]))
    layers = sum(map(mapped, config.shards))
    pool = StreamingPool(config, layers + 2 * mapped(config.layers[0]))
    decoder = Decoder(config, pool)
    np.testing.assert_array_equal(generate(decoder), expected)
    assert pool.streams_through == "nothing"
    monkeypatch.setattr(SlotFolder, "making_bytes", lambda *_: 1 << 40)
    with pool.reserved(1000) as held:
        with pytest.raises(PoolTooSmallError):
            pool.reserved(3 * mapped(config.layers[0]))
        held.hold(1000)
        used: list[str] = []

        def use_all() -> None:
            for shard in config.shards:
                with pool.use(shard):
                    used.append(shard.name)

        thread = threading.Thread(target=use_all, daemon=True)
        thread.start()
        thread.join(60)  # it would wait for ever for a layer that has no place
        assert used == [shard.name for shard in config.shards]
    pool.close()


@needs_slots
def test_no_layer_is_loaded_until_all_slots_are_made(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when slots replace sessions while the loader is running."""
    config = read_config(models["int4"])
    pool = StreamingPool(config, sum(map(charge_of, config.shards)) + (64 << 20))
    decoder = Decoder(config, pool)
    expected = generate(decoder)
    assert pool.streams_through == "nothing"
    early: list[str] = []
    fill = SlotPlace.fill

    def recorded(self: SlotPlace, shard: Shard) -> Session:
        if not pool._prepared:
            early.append(shard.name)
        return fill(self, shard)

    monkeypatch.setattr(SlotPlace, "fill", recorded)
    with pool.reserved(pool.budget - pool.needs()[1] + 3 * charge_of(config.layers[0])):
        assert pool.streams_through == "slots"
        pool.wait()
        for shard in config.shards:
            with pool.use(shard):
                pass
    assert not early
    np.testing.assert_array_equal(generate(decoder), expected)
    pool.close()


@needs_slots
def test_slots_that_cannot_be_made_are_made_at_the_next_use(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read_config(models["int4"])
    expected = generate(decoder_of(models["int4"]))
    pool = pool_for(config, 5)
    assert pool._slots
    before = set(pool._slots.path.iterdir())

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(slots.shutil, "copyfile", full)
        with pytest.raises(LlamaOnnxError, match="cannot make slots"):
            generate(Decoder(config, pool))
    assert set(pool._slots.path.iterdir()) == before  # nothing half-made is left
    np.testing.assert_array_equal(generate(Decoder(config, pool)), expected)
    pool.close()


# The plan and the loader, without sessions


def shard(i: int, kind: str = "layer") -> Shard:
    return Shard(f"s{i}", Path(f"s{i}"), (), 100, kind=kind)


def test_streamed_layers_are_spread_evenly_for_any_number() -> None:
    layers = [shard(i) for i in range(32)]
    order = leaving_order(layers)
    assert sorted(order, key=lambda s: s.name) == sorted(layers, key=lambda s: s.name)
    for count in (2, 4, 8, 16):
        places = sorted(layers.index(s) for s in order[:count])
        gaps = np.diff([*places, places[0] + 32])
        assert gaps.max() == gaps.min()


def test_common_kinds_are_streamed_before_rare_ones() -> None:
    layers = [shard(i, "rare" if i in (0, 7) else "common") for i in range(8)]
    assert [s.kind for s in leaving_order(layers)] == ["common"] * 6 + ["rare"] * 2


def test_window_has_two_places_unless_few_layers_stream() -> None:
    layers = [shard(i) for i in range(32)]
    assert window_places(layers[:2], 32) == {"layer": 1}
    assert window_places(layers[:20], 32) == {"layer": 2}
    assert window_places([], 32) == {}


class Recording:
    """A place that records what is loaded into it."""

    kind: str | None = None

    def __init__(self, log: list[str], broken: set[str] | None = None) -> None:
        self.log, self.broken = log, broken if broken is not None else set()

    def fill(self, shard: Shard) -> str:
        if shard.name in self.broken:
            raise LlamaOnnxError(f"{shard.name} is damaged")
        self.log.append(shard.name)
        return shard.name

    def clear(self) -> None:
        self.log.append("cleared")


def loader_of(count: int, places: int, log: list[str], broken: set[str] | None = None) -> tuple[Loader, list[Shard]]:
    circle = [shard(i) for i in range(count)]
    loader = Loader(circle, PoolStats())
    for _ in range(places):
        loader.add(Entry(Recording(log, broken), 1, resident=False))  # type: ignore[arg-type]
    return loader, circle


def test_loader_follows_the_circular_order() -> None:
    log: list[str] = []
    loader, circle = loader_of(5, 2, log)
    for _ in range(3):
        for one in circle:
            with loader.use(one) as session:
                assert session == one.name
    loader.close()
    expected = [f"s{i % 5}" for i in range(20)]
    loads = [name for name in log if name != "cleared"]
    assert loads == expected[: len(loads)]
    assert len(loads) >= 15


def test_loader_follows_when_the_loop_restarts() -> None:
    log: list[str] = []
    loader, circle = loader_of(6, 2, log)
    for i in (0, 1, 2, 0, 1, 5, 3):
        with loader.use(circle[i]) as session:
            assert session == f"s{i}"
    loader.close()


def test_failed_load_is_reported_to_the_user_of_the_shard_and_retried() -> None:
    log: list[str] = []
    broken = {"s2"}
    loader, circle = loader_of(4, 2, log, broken)
    for i in (0, 1):
        with loader.use(circle[i]):
            pass
    with pytest.raises(LlamaOnnxError, match="s2 is damaged"), loader.use(circle[2]):
        pass
    broken.clear()
    with loader.use(circle[2]) as session:
        assert session == "s2"
    loader.close()


def test_shard_in_use_is_never_overwritten() -> None:
    log: list[str] = []
    loader, circle = loader_of(4, 2, log)
    with loader.use(circle[0]):
        with loader.use(circle[1]), loader._changed:
            loader._changed.wait(0.05)
        assert any(h.shard is circle[0] and h.users for h in loader.places())
    loader.close()


def test_paused_loader_loads_nothing() -> None:
    log: list[str] = []
    loader, circle = loader_of(3, 1, log)
    with loader.use(circle[0]):
        pass
    loader.wait()
    loader.pause()
    loaded = list(log)
    loader.add(Entry(Recording(log), 1, resident=True, shard=circle[2]))  # type: ignore[arg-type]
    loader.wait()
    assert log == loaded
    loader.resume()
    with loader.use(circle[2]) as session:
        assert session == "s2"
    loader.close()


# Images


@pytest.mark.parametrize("note", ["", "[]", "{}"])
def test_damaged_note_is_written_again(models: dict[str, Path], tmp_path: Path, note: str) -> None:
    """It is not synced to the disk, so that it may be empty after a power cut."""
    folder = shutil.copytree(models["int4"], tmp_path / "m", ignore=shutil.ignore_patterns(".packed"))
    config = read_config(folder)
    one, other = [shard for shard in config.layers if shard.kind == config.layers[0].kind][:2]
    image = Images(config).get(one)
    (image.graph.parent / images.NOTE).write_text(note)
    made_again = Images(config).get(other)
    assert Images(config)._read(one) is None, "its bytes lie where the lost layout had them"
    assert Images(config).get(one).regions == made_again.regions
    assert json.loads((image.graph.parent / images.NOTE).read_text())


def test_kind_that_is_a_path_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(models["int4"], tmp_path / "m", ignore=shutil.ignore_patterns(".packed"))
    manifest = json.loads((folder / "manifest.json").read_text())
    for entry in manifest["shards"]:
        entry["kind"] = "../../../outside"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    config = read_config(folder)
    with pytest.raises(ModelDirectoryError, match="is not a name"):
        Images(config).get(config.layers[0])
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_images_are_reused_until_the_shard_or_the_machine_changes(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(models["int4"], tmp_path / "model", ignore=shutil.ignore_patterns(".packed"))
    config = read_config(folder)
    made: list[tuple[str, int, int]] = []
    Images(config).make_all(config.layers, lambda *step: made.append(step))
    assert made == [(images.PACKING, i, LAYERS) for i in range(LAYERS + 1)]
    assert not Images(config).missing(config.layers)
    image = Images(config).get(config.layers[3]).path
    image.write_bytes(image.read_bytes()[:-1])  # truncated
    image.with_name("decoder-05.json").write_text("{")  # damaged
    assert [s.name for s in Images(config).missing(config.layers)] == ["decoder-03", "decoder-05"]
    Images(config).make_all(config.layers)
    assert not Images(config).missing(config.layers)
    monkeypatch.setattr(images, "_machine_key", lambda: "another CPU")
    assert len(Images(config).missing(config.layers)) == LAYERS


def test_interrupted_packing_continues_where_it_stopped(models: dict[str, Path], tmp_path: Path) -> None:
    config = read_config(shutil.copytree(models["int4"], tmp_path / "m", ignore=shutil.ignore_patterns(".packed")))

    def interrupt(doing: str, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Images(config).make_all(config.layers, interrupt)
    assert len(Images(config).missing(config.layers)) == LAYERS - 3


def test_processes_that_start_together_pack_one_after_another(models: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(models["int4"], tmp_path / "m", ignore=shutil.ignore_patterns(".packed"))
    code = (
        "import sys; from pathlib import Path; from llama_onnx.model_directory import read_config;"
        "from llama_onnx.streaming.images import Images; config = read_config(Path(sys.argv[1]));"
        "[Images(config).get(shard) for shard in config.layers]"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code, folder], stderr=subprocess.PIPE, text=True, cwd=ROOT)
        for _ in range(3)
    ]
    assert [(process.communicate()[1], process.returncode) for process in both] == [("", 0)] * 3
    assert not list(folder.glob(".packed/*/scratch-*"))


def test_images_go_to_the_user_cache_if_the_model_directory_is_read_only(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(models["int4"], tmp_path / "m", ignore=shutil.ignore_patterns(".packed"))
    (folder / images.FOLDER).write_text("in the way, even for root")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = read_config(folder)
    assert Images(config).get(config.layers[0]).path.is_relative_to(tmp_path / "cache")


@pytest.mark.parametrize("read", [True, False])
def test_image_contains_scales_only_if_kernels_read_them(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: bool
) -> None:
    folder = shutil.copytree(models["int4"], tmp_path / "m", ignore=shutil.ignore_patterns(".packed"))
    config = read_config(folder)
    monkeypatch.setattr(regions, "PAGE", 16)  # small matrices share their pages with their scales
    if read:  # a machine whose kernels read them
        monkeypatch.setattr(Images, "_are_scales_read", lambda *_: True)
    image = Images(config).get(config.layers[0])
    tensors = images.scales_of(images.read_graph(image.graph))
    assert len(tensors) == 7
    held = [any(r.offset <= t.location[1] < r.offset + r.length for r in image.regions) for t in tensors]
    assert all(held) if read else sum(held) <= 1


@needs_slots
def test_it_is_detected_which_scales_kernels_read(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kernel reads the norm: if it is passed off as scales, the check must report that it is read."""
    config = read_config(models["int4"])
    image = Images(config).get(config.layers[0])
    tensors = images.read_graph(image.graph).initializers
    norm = next(tensor for tensor in tensors if tensor.name.endswith("input_layernorm.weight"))
    monkeypatch.setattr(images, "scales_of", lambda _: [norm])
    copy = models["int4"].parent / "copy"
    copy.mkdir()
    for path in (image.graph, image.data, *image.shared):
        shutil.copy(path, copy / path.name)
    assert Images(config)._are_scales_read(config.layers[0], copy / "slot.onnx")
    assert (copy / "slot.bin").read_bytes() == image.data.read_bytes()


@needs_slots
def test_slots_of_evicted_residents_are_reused(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    config = read_config(models["int4"])
    made = []
    make = SlotFolder._make
    monkeypatch.setattr(SlotFolder, "_make", lambda self, shard: made.append(shard) or make(self, shard))
    expected = generate(decoder_of(models["int4"]))
    pool = pool_for(config, 5)
    decoder = Decoder(config, pool)
    generate(decoder)
    count = len(made)
    residents = len(pool._plan.residents)
    held = pool.reserved()
    for taken in (3, 1, 0):  # the memory of the cache, in layers
        pool.reservations.high_water = 0  # as after a holder that needed no more than this
        held.hold(taken * mapped(config.layers[0]))
        assert (len(pool._plan.residents) < residents) == (taken > 0)
        for shard in config.shards:
            with pool.use(shard):
                pass
    np.testing.assert_array_equal(generate(decoder), expected)
    assert len(made) == count
    pool.close()


@needs_slots
def test_residents_use_sessions_if_the_memory_file_system_is_small(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read_config(models["int4"])
    free = sum(Images(config).get(shard).bytes for shard in config.layers) - 1
    monkeypatch.setattr(slots, "PIECE", 4096)
    monkeypatch.setattr(slots.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, free))
    ends = charge_of(config.embed) + charge_of(config.head)
    pool = StreamingPool(config, ends + 7 * mapped(config.layers[0]))
    assert pool.streams_through == "slots"
    assert not pool._slots_stay
    np.testing.assert_array_equal(generate(Decoder(config, pool)), generate(decoder_of(models["int4"])))
    pool.close()


# Errors


@needs_slots
def test_slots_that_do_not_follow_their_file_are_not_used(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SlotFolder, "works", lambda *_: False)
    config = read_config(models["fp32"])
    pool = pool_for(config, 4)
    assert pool.streams_through == "sessions"
    np.testing.assert_array_equal(generate(Decoder(config, pool)), generate(decoder_of(models["fp32"])))
    pool.close()


@pytest.mark.parametrize("how", ["absent", "too small", "too small for two"])
def test_without_a_memory_file_system_sessions_are_used(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "absent":
        monkeypatch.setattr(slots, "MEMORY", tmp_path / "nowhere")
    else:
        layer = (models["fp32"] / "decoder-00.bin").stat().st_size
        free = 10 if how == "too small" else layer + regions.PAGE
        monkeypatch.setattr(slots, "PIECE", regions.PAGE)
        monkeypatch.setattr(slots.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, free))
    config = read_config(models["fp32"])
    pool = pool_for(config, 4)
    assert pool.streams_through == "sessions"
    generate(Decoder(config, pool))
    pool.close()


@needs_slots
def test_error_names_the_memory_file_system_that_fills_up_while_streaming(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read_config(models["fp32"])
    pool = pool_for(config, 3)
    decoder = Decoder(config, pool)
    generate(decoder)

    def fail(*_: object) -> int:
        raise OSError(errno.EFAULT, "Bad address")

    with monkeypatch.context() as patched:
        patched.setattr(slots.os, "preadv", fail)
        with pytest.raises(LlamaOnnxError, match=f"{slots.MEMORY} is full"):
            generate(decoder)
    generate(decoder)  # the pool still works when there is room again
    pool.close()


@pytest.mark.parametrize("use_slots", [True, False])
@pytest.mark.parametrize("damage", ["vanish", "truncate"])
def test_shard_damaged_while_streaming_is_one_clear_error(
    models: dict[str, Path], tmp_path: Path, use_slots: bool, damage: str
) -> None:
    folder = shutil.copytree(models["fp32"], tmp_path / "m")
    config = read_config(folder)
    pool = pool_for(config, 3, use_slots)
    decoder = Decoder(config, pool)
    generate(decoder, 2)
    for path in folder.glob("decoder-*.bin"):
        if damage == "vanish":
            path.unlink()
        else:  # replaced by another file: mapped data must not change while it is read
            shorter = path.with_name("shorter")
            shorter.write_bytes(path.read_bytes()[:8192])
            shorter.replace(path)
    with pytest.raises(LlamaOnnxError) as caught:
        generate(decoder, 3)
    assert "\n" not in str(caught.value)
    assert "decoder-" in str(caught.value)
    pool.close()


STREAM = """
import os, sys
from llama_onnx.model_directory import read_config
from llama_onnx.decoder import Decoder
sys.path.insert(0, "tests")
from pools import generate, pool_for
config = read_config(sys.argv[1])
pool = pool_for(config, 3)
print(pool.streams_through, flush=True)
generate(Decoder(config, pool), 5)
print("running", flush=True)
while os.getppid() == int(sys.argv[2]):  # should the test die, this must not go on
    generate(Decoder(config, pool), 20)
"""


@needs_slots
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_in_memory_after_a_crash_and_restart(models: dict[str, Path], how: signal.Signals) -> None:
    others = memory_folders()
    process = subprocess.Popen(
        [sys.executable, "-c", STREAM, str(models["fp32"]), str(os.getpid())],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "slots\n"
    assert process.stdout.readline() == "running\n"
    before = memory_folders() - others
    assert before
    process.send_signal(how)
    process.wait(timeout=30)
    pool_for(read_config(models["fp32"]), 3).close()  # a restart
    assert not {name for name in memory_folders() & before if not is_held(slots.MEMORY / name)}


def test_policy_is_chosen_by_name(models: dict[str, Path]) -> None:
    params = llama_onnx.SamplingParams(temperature=0, max_tokens=8)
    models_ = [llama_onnx.load(models["fp32"], pool_policy=policy) for policy in POOL_POLICIES]
    assert len({lm.generate("fox", params) for lm in models_}) == 1
    with pytest.raises(llama_onnx.RequestError, match="pool policy 'fifo'"):
        llama_onnx.load(models["fp32"], pool_policy="fifo")
