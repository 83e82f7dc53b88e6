"""A directory of the original llama.onnx runs unchanged, and computes the same as our own export of the checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import VOCAB, decoder_of, make_tokenizer, run
from llama_onnx_layout import FLOAT, HALF, write_layout

import llama_onnx
from llama_onnx.decoder import Stretch
from llama_onnx.errors import ModelDirectoryError, PoolTooSmallError, RequestError
from llama_onnx.model_directory import read_config
from llama_onnx.original.decoder import LegacyDecoder, causal_mask
from llama_onnx.pool import MemoryPool, charge_of

IDS = np.random.default_rng(0).integers(3, VOCAB, 40)
KINDS = [(FLOAT, True), (FLOAT, False), (HALF, True), (HALF, False)]


@pytest.fixture(scope="module")
def layouts(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[np.dtype, bool], Path]:
    """The random checkpoint in the original layout, by type and whether the weights are inside. Read only."""
    folder = tmp_path_factory.mktemp("layouts")
    return {
        kind: write_layout(checkpoint, folder / f"{kind[0]}-{'inside' if kind[1] else 'beside'}", *kind)
        for kind in KINDS
    }


def legacy_decoder(directory: Path, chunk: int = 128, smallest: bool = False) -> LegacyDecoder:
    config = read_config(directory)
    pool = MemoryPool(config.shards, None) if smallest else MemoryPool(config.shards, 1 << 30)
    return LegacyDecoder(config, pool, chunk)


# For float16: the standard deviation of the logits is 3.5; every operator rounds its results to 11 bits.
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_logits_equal_those_of_our_own_export(
    kind: tuple[np.dtype, bool], layouts: dict[tuple[np.dtype, bool], Path], model: Path
) -> None:
    expected = decoder_of(model).logits(IDS)
    found = legacy_decoder(layouts[kind]).logits(IDS)
    assert (found.dtype, found.shape) == (np.float32, expected.shape)
    difference = np.abs(found - expected).max()
    assert difference <= (1e-4 if kind[0] == FLOAT else 0.1)
    if kind[0] == HALF:
        assert difference > 1e-4  # the graphs did compute in float16


@pytest.mark.parametrize("kind", KINDS[::3], ids=str)
def test_logits_do_not_depend_on_steps_chunks_or_pool(
    kind: tuple[np.dtype, bool], layouts: dict[tuple[np.dtype, bool], Path]
) -> None:
    decoder = legacy_decoder(layouts[kind], chunk=7, smallest=True)
    cache = decoder.new_cache(64)
    parts = [decoder.forward(IDS[None, :20], cache, every_position=True)[0]]
    parts += [decoder.forward(IDS[None, i : i + 1], cache)[0] for i in range(20, 30)]
    cache.truncate(25)
    parts[-5:] = [decoder.forward(IDS[None, 25:], cache, every_position=True)[0]]
    whole = legacy_decoder(layouts[kind]).logits(IDS)
    assert np.abs(np.concatenate(parts) - whole).max() <= (1e-4 if kind[0] == FLOAT else 0.1)
    largest = max(map(charge_of, decoder.config.shards))
    assert decoder.pool.stats.peak_resident_bytes <= largest
    assert decoder.pool.stats.evictions > 0


def test_single_layers_compute_the_same_as_forward(layouts: dict[tuple[np.dtype, bool], Path]) -> None:
    decoder = legacy_decoder(layouts[KINDS[0]])
    cache = decoder.new_cache(40, one_layer=True)
    parts = [
        Stretch(decoder.config, IDS[None, cut], 7).start([cut.start], [0]) for cut in (slice(0, 30), slice(30, 40))
    ]
    for part in parts:
        decoder.embed(part)
    for i, shard in enumerate(decoder.config.layers):
        for part in parts:
            with decoder.pool.use(shard) as session, cache.layer(i) as (key, value):
                decoder.run_layer(session, part, key, value)
    hidden = np.concatenate([part.hidden for part in parts], axis=1)
    assert np.abs(decoder.head(decoder.norm(hidden))[0] - decoder.logits(IDS)).max() <= 1e-4


def test_batch_of_prompts_is_computed_together(layouts: dict[tuple[np.dtype, bool], Path]) -> None:
    decoder = legacy_decoder(layouts[KINDS[0]])
    ids = IDS.reshape(2, 20)
    both = decoder.forward(ids, decoder.new_cache(20, rows=2), every_position=True)
    for row, logits in zip(ids, both, strict=True):
        assert np.abs(decoder.logits(row) - logits).max() <= 1e-4


def test_cache_takes_only_the_bytes_of_its_tokens(layouts: dict[tuple[np.dtype, bool], Path]) -> None:
    """Also when the number of rows changes: the arrays of full capacity that other layouts use are never made."""
    decoder = legacy_decoder(layouts[KINDS[0]])
    cache = decoder.new_cache(200)
    decoder.forward(IDS[None, :20], cache)
    cache.rearrange([0, None])
    assert sum(array.nbytes for array in (*cache.keys, *cache.values)) == 0
    logits = decoder.forward([IDS[20:], IDS], cache)
    for row in logits:
        assert np.abs(decoder.logits(IDS)[-1] - row[0]).max() <= 1e-4
    cache.close()


def test_sizes_come_from_the_graphs(layouts: dict[tuple[np.dtype, bool], Path]) -> None:
    for (dtype, inside), directory in layouts.items():
        config = read_config(directory)
        assert (config.hidden_size, config.num_layers, config.num_heads, config.num_kv_heads) == (64, 3, 4, 2)
        assert (config.head_dim, config.vocab_size, config.context_length) == (16, VOCAB, 256)
        assert (config.weights, config.template) == ("fp16" if dtype == HALF else "fp32", "alpaca")
        assert config.layers[0].copied == inside
        assert [shard.name for shard in config.shards][-2:] == ["norm", "head"]


def test_symbolic_sizes_default_to_those_of_the_original(
    layouts: dict[tuple[np.dtype, bool], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(layouts[KINDS[0]], tmp_path / "model")
    for path in folder.glob("decoder-merge-*.onnx"):
        graph = onnx.load(str(path))
        for value in (*graph.graph.input, *graph.graph.output):
            for dimension in value.type.tensor_type.shape.dim:
                dimension.dim_param = "any"
        onnx.save(graph, str(path))
    with pytest.raises(ModelDirectoryError, match="past_key_in has the shape"):  # 64 is less than one head of 128
        read_config(folder)


def test_mask_hides_the_future_in_every_type() -> None:
    for dtype in (FLOAT, HALF):
        mask = causal_mask(3, 2, dtype)
        assert (mask.shape, mask.dtype) == ((1, 1, 3, 5), dtype)
        assert np.array_equal(mask[0, 0] == 0, np.tri(3, 5, 2, bool))
        assert np.isfinite(mask).all()


def test_greedy_text_is_that_of_the_trained_model(stories: Path, tmp_path: Path) -> None:
    expected = json.loads((stories / "greedy256.json").read_text())[1:]  # without BOS
    for kind in KINDS:
        folder = write_layout(stories, tmp_path / f"{kind[0]}-{kind[1]}", *kind)
        for poolsize, count in ((None, 100), ("min", 5)):
            params = llama_onnx.SamplingParams(temperature=0, max_tokens=count)
            with llama_onnx.load(folder, poolsize=poolsize) as lm:
                assert [step.token for step in lm.stream_generate([1], params)] == expected[:count]


@pytest.mark.parametrize("kind", KINDS[1:3], ids=str)
def test_demo_and_command_line_run_the_directory(
    kind: tuple[np.dtype, bool], layouts: dict[tuple[np.dtype, bool], Path]
) -> None:
    done = run("demo.py", layouts[kind], "fox", "--max", "8", "--temperature", "0", "--poolsize", "min")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    again = run("-m", "llama_onnx", "generate", "-m", layouts[kind], "-p", "fox", "-n", "8", "--temp", "0",
                "--template", "alpaca")  # fmt: skip
    assert again.stdout == done.stdout


def test_pool_smaller_than_the_process_is_reported_before_loading(layouts: dict[tuple[np.dtype, bool], Path]) -> None:
    with pytest.raises(PoolTooSmallError, match="give at least"):
        llama_onnx.load(layouts[KINDS[0]], poolsize="20MB")


# Bad directories


def rename(old: str, new: str) -> Callable[[Path], object]:
    return lambda folder: (folder / old).rename(folder / new)


def replace(name: str, other: str) -> Callable[[Path], object]:
    return lambda folder: shutil.copy(folder / other, folder / name)


def truncate(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-100])


def external(location: str) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        model = onnx.load(str(folder / "head.onnx"), load_external_data=False)
        model.graph.initializer[0].external_data[0].value = location
        (folder / "head.onnx").write_bytes(model.SerializeToString())

    return spoil


def without_heads(folder: Path) -> None:
    model = onnx.load(str(folder / "decoder-merge-2.onnx"), load_external_data=False)
    shape = next(value for value in model.graph.input if value.name == "past_key_in").type.tensor_type.shape
    shape.dim[1].dim_value = 0
    shape.dim[3].dim_param = "size"
    (folder / "decoder-merge-2.onnx").write_bytes(model.SerializeToString())


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "layer missing": (lambda folder: (folder / "decoder-merge-1.onnx").unlink(), "decoder-merge-1.onnx: missing"),
    "first layer missing": (lambda folder: (folder / "decoder-merge-0.onnx").unlink(), "decoder-merge-0.onnx: missing"),
    "norm missing": (lambda folder: (folder / "norm.onnx").unlink(), "norm.onnx: missing"),
    "tokenizer missing": (lambda folder: (folder / "tokenizer.model").unlink(), "tokenizer.model: missing"),
    "weights missing": (lambda folder: (folder / "head.weights").unlink(), "head.weights: missing"),
    "weights truncated": (truncate("decoder-merge-2.weights"), "decoder-merge-2.weights: ends before"),
    "graph truncated": (truncate("decoder-merge-0.onnx"), "decoder-merge-0.onnx: not a valid ONNX file"),
    "graph is rubbish": (lambda folder: (folder / "norm.onnx").write_bytes(b"\xff" * 999), "norm.onnx: not a valid"),
    "layer is another": (replace("decoder-merge-1.onnx", "norm.onnx"), "decoder-merge-1.onnx: its inputs are input,"),
    "norm is a layer": (replace("norm.onnx", "decoder-merge-1.onnx"), "norm.onnx: its inputs are hidden_in.*exactly"),
    "embed is the norm": (replace("embed.onnx", "norm.onnx"), "embed.onnx: has no embedding table"),
    "weights outside": (external("../../etc/passwd"), "is outside"),
    "a layer named 01": (rename("decoder-merge-1.onnx", "decoder-merge-01.onnx"), "decoder-merge-1.onnx: missing"),
    "no heads": (without_heads, "past_key_in has the shape"),
    "only one layer of others": (rename("embed.onnx", "embedding.onnx"), "embed.onnx: missing"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_directory_is_one_clear_error(
    name: str, layouts: dict[tuple[np.dtype, bool], Path], tmp_path: Path
) -> None:
    spoil, message = BAD[name]
    folder = shutil.copytree(layouts[FLOAT, False], tmp_path / "model")
    spoil(folder)
    with pytest.raises(ModelDirectoryError, match=message) as caught:
        llama_onnx.load(folder).generate("fox", llama_onnx.SamplingParams(max_tokens=2))
    assert "\n" not in str(caught.value)


def test_tokenizer_of_another_model_is_reported(layouts: dict[tuple[np.dtype, bool], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(layouts[FLOAT, True], tmp_path / "model")
    make_tokenizer(folder / "tokenizer.model", 400)
    with pytest.raises(ModelDirectoryError, match="belongs to another model"):
        llama_onnx.load(folder)


def test_compact_cache_types_are_refused(layouts: dict[tuple[np.dtype, bool], Path]) -> None:
    with pytest.raises(RequestError, match="leave out the cache type int8"):
        llama_onnx.load(layouts[KINDS[0]], cache_type="int8")
