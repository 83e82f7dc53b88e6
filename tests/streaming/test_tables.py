"""Tables of which a run reads a few rows, embedding and rope: what they take in memory, and what is charged."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import decoder_of, make_checkpoint
from pools import generate, pool_for

import llama_onnx
from llama_onnx.decoder import Decoder
from llama_onnx.export.exporter import export
from llama_onnx.files.mapped import LOOKED_UP, looked_up_bytes
from llama_onnx.memory import MIB
from llama_onnx.model_directory import read_config
from llama_onnx.pool import Pool
from llama_onnx.session import Session
from llama_onnx.streaming import slots, tables
from llama_onnx.streaming.lookups import LookupSession
from llama_onnx.streaming.regions import forget_pages

needs_slots = pytest.mark.skipif(
    sys.platform != "linux" or not slots.MEMORY.is_dir(), reason="slots need Linux and a memory file system"
)
LONG = {"num_hidden_layers": 6, "max_position_embeddings": 1 << 20, "hidden_size": 256, "num_attention_heads": 4}
TABLES = 2 * 4 * 32 << 20  # bytes


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model whose embedding takes 128 MB."""
    folder = tmp_path_factory.mktemp("large")
    shape = {"vocab_size": 65536, "hidden_size": 1024, "num_hidden_layers": 1, "tie_word_embeddings": True}
    export(without_tokenizer(folder / "checkpoint", **shape), folder / "model", "fp16")
    shutil.rmtree(folder / "checkpoint")
    yield folder / "model"
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A model of a million positions, whose rope tables take 256 MB."""
    folder = tmp_path_factory.mktemp("long")
    checkpoint = make_checkpoint(folder / "checkpoint", **LONG)
    for dtype in ("fp32", "int4"):
        export(checkpoint, folder / dtype, dtype, block_size=32)
    yield {dtype: folder / dtype for dtype in ("fp32", "int4")}
    shutil.rmtree(folder)


def without_tokenizer(folder: Path, **changes: Any) -> Path:
    make_checkpoint(folder, **changes)
    (folder / "tokenizer.model").unlink()  # it has fewer tokens
    return folder


def bytes_in_memory(file: Path) -> int:
    """Return how much of a file is mapped into memory."""
    found, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            ours = line.endswith(str(file))
        elif ours and line.startswith("Rss:"):
            found += int(line.split()[1]) << 10
    return found


def look_up(session: Session, ids: np.ndarray) -> np.ndarray:
    hidden = np.empty((*ids.shape, 1024), np.float32)
    session.run({"input_ids": ids}, {"hidden": hidden})
    return hidden


@pytest.mark.parametrize("shape", [(1, 1), (1, LOOKED_UP), (1, 3 * LOOKED_UP + 5), (LOOKED_UP + 1, 1)])
def test_looking_rows_up_a_few_at_a_time_gives_the_same(large: Path, shape: tuple[int, int]) -> None:
    shard = read_config(large).embed
    ids = np.random.default_rng(0).integers(0, 65536, shape)
    few, plain = LookupSession(shard), Session(shard)
    for part in (ids, ids[::-1].copy(), ids):
        np.testing.assert_array_equal(look_up(few, part), look_up(plain, part))


@pytest.mark.skipif(sys.platform != "linux", reason="Linux reports mapped pages")
def test_looked_up_rows_take_no_more_than_is_charged(large: Path) -> None:
    shard, rng = read_config(large).embed, np.random.default_rng(0)
    session = LookupSession(shard)
    table, most = shard.path.with_suffix(".bin"), 0
    with table.open("rb") as file:  # what was just written lies in large pieces in memory, which are mapped whole
        os.fsync(file.fileno())
        forget_pages(file.fileno())
    for count in (1000, *[1] * 500, 300):
        look_up(session, rng.integers(0, 65536, (1, count)))
        most = max(most, bytes_in_memory(table))
    assert shard.loaded_bytes / 4 < most <= shard.loaded_bytes
    plain = Session(shard)  # what the charge would have to be otherwise
    look_up(plain, rng.integers(0, 65536, (1, 1000)))
    assert bytes_in_memory(table) > 2 * shard.loaded_bytes


def test_charge_of_the_embedding_does_not_depend_on_the_context(tmp_path: Path) -> None:
    charges = set()
    for context in (256, 32768):
        checkpoint = without_tokenizer(tmp_path / "checkpoint", vocab_size=20000, max_position_embeddings=context)
        export(checkpoint, tmp_path / "out")
        charges.add(read_config(tmp_path / "out").embed.loaded_bytes)
    assert len(charges) == 1
    assert looked_up_bytes([466 * MIB], 151936) < 17 * MIB  # Qwen2.5-1.5B in float16, which was charged 128 MB
    assert looked_up_bytes([1000], 100) == 1000, "no more than all of it"


def test_replaced_embedding_does_not_change_a_model_that_is_loaded(large: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(large, tmp_path / "m")
    session = LookupSession(read_config(folder).embed)
    ids = np.arange(LOOKED_UP)[None]
    before = look_up(session, ids)
    table = folder / "embed.bin"
    table.rename(folder / "old")
    table.write_bytes(bytes((folder / "old").stat().st_size))
    np.testing.assert_array_equal(look_up(session, ids), before)
    shutil.rmtree(folder)
    np.testing.assert_array_equal(look_up(session, ids), before)


def test_models_look_rows_up_through_such_a_session(large: Path) -> None:
    for policy in ("resident", "lru"):
        with llama_onnx.load(large, poolsize=8, pool_policy=policy) as lm:
            pool: Pool = lm.decoder.pool
            with pool.use(lm.config.embed) as session:
                assert isinstance(session, LookupSession)


@needs_slots
@pytest.mark.parametrize("dtype", ["fp32", "int4"])
def test_slots_do_not_copy_the_rope_tables(long: dict[str, Path], dtype: str) -> None:
    config = read_config(long[dtype])
    with closing(pool_for(config, 4)) as pool:
        assert pool.streams_through == "slots"
        assert pool.needs()[1] < TABLES // 8
        np.testing.assert_array_equal(generate(Decoder(config, pool)), generate(decoder_of(long[dtype])))
        folder = pool._slots.path  # type: ignore[union-attr]
        assert sum(path.stat().st_blocks * 512 for path in folder.rglob("*")) < TABLES // 8
    packed = [path for path in config.directory.rglob("*") if ".packed" in path.parts]
    assert sum(path.stat().st_size for path in packed) < TABLES // 8


@needs_slots
def test_slots_rotate_late_positions_as_sessions_do(long: dict[str, Path]) -> None:
    config, past = read_config(long["fp32"]), 100  # more than the rows that a layer is packed with
    logits = []
    for decoder in (Decoder(config, pool_for(config, 4)), decoder_of(long["fp32"])):
        cache = decoder.new_cache(past + 1)
        decoder.forward(np.arange(past)[None] % 300, cache)
        logits.append(decoder.forward(np.array([[7]]), cache))
        decoder.pool.close()
    np.testing.assert_array_equal(*logits)


def test_short_tables_hold_the_first_rows(long: dict[str, Path], tmp_path: Path) -> None:
    shard = read_config(long["int4"]).layers[1]
    short = tables.with_short_tables(shard, tmp_path)
    whole = {tensor.name: tensor for tensor in tables.shared_tensors(shard)}
    assert {tensor.name: tensor.shape for tensor in tables.shared_tensors(short)} == {
        name: (tables.SHORT, *tensor.shape[1:]) for name, tensor in whole.items()
    }
    for name, tensor in whole.items():
        file, offset, _ = tensor.location
        rows = [
            np.fromfile(folder / file, np.float32, tables.SHORT * tensor.shape[1], offset=offset)
            for folder in (tmp_path, shard.path.parent)
        ]
        np.testing.assert_array_equal(*rows, err_msg=name)
    assert sum(path.stat().st_blocks * 512 for path in tmp_path.glob("rope*")) < MIB
