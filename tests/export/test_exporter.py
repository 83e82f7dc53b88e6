"""Export: a Llama checkpoint becomes a complete model directory, or none at all."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from helpers import FIXTURES, ROOT, decoder_of, files_of, make_checkpoint, resumed_shards, run
from safetensors.numpy import load_file, save_file

from llama_onnx.errors import LlamaOnnxError, ModelDirectoryError, RequestError
from llama_onnx.export import nbits
from llama_onnx.export import writer as model_writer
from llama_onnx.export.exporter import export
from llama_onnx.export.families.spec import EMBEDDING
from llama_onnx.export.graphs.compact import find, products, read
from llama_onnx.export.nbits import dequantize, quantize_rtn
from llama_onnx.export.writer import ModelWriter
from llama_onnx.model_directory import read_config

LLAMAS = sorted(path.name for path in FIXTURES.glob("llama-*"))


@pytest.mark.parametrize("name", LLAMAS)
def test_logits_equal_those_of_transformers(name: str, tmp_path: Path) -> None:
    export(FIXTURES / name, tmp_path / "out")
    expected = np.load(FIXTURES / name / "expected.npz")
    logits = decoder_of(tmp_path / "out").logits(expected["ids"])
    assert np.abs(logits - expected["logits"]).max() <= 1e-4


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_weights_of_any_float_type_are_read(checkpoint: Path, model: Path, tmp_path: Path, dtype: Any) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint")
    tensors = {name: array.astype(dtype) for name, array in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors")
    export(folder, tmp_path / "narrow")
    save_file({name: array.astype(np.float32) for name, array in tensors.items()}, folder / "model.safetensors")
    export(folder, tmp_path / "wide")
    for name in ("embed.bin", "decoder-01.bin", "head.bin"):
        assert (tmp_path / "narrow" / name).read_bytes() == (tmp_path / "wide" / name).read_bytes()


def test_sharded_checkpoint_gives_the_same_model(checkpoint: Path, model: Path, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "sharded")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    index = {name: f"model-{i % 3:05d}.safetensors" for i, name in enumerate(tensors)}
    for file in set(index.values()):
        save_file({name: tensors[name] for name in tensors if index[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    export(folder, tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(model)


def test_manifest_describes_every_file(model: Path) -> None:
    manifest = json.loads((model / "manifest.json").read_text())
    assert {path.name for path in model.iterdir()} == {"manifest.json", *manifest["files"]}
    for name, entry in manifest["files"].items():
        data = (model / name).read_bytes()
        assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert [shard["name"] for shard in manifest["shards"]] == [
        "embed",
        "decoder-00",
        "decoder-01",
        "decoder-02",
        "head",
    ]


def test_manifest_lists_what_only_some_graphs_have(checkpoint: Path, model: Path, tmp_path: Path) -> None:
    def listed(folder: Path) -> list[str]:
        found = json.loads((folder / "manifest.json").read_text())["capabilities"]
        assert read_config(folder).num_layers  # a capability that is not known would be refused
        return list(found)

    assert listed(model) == []
    export(checkpoint, tmp_path / "int4", "int4")
    assert "block_minima" in listed(tmp_path / "int4")
    export(FIXTURES / "phi3-longrope-below", tmp_path / "longrope")
    assert listed(tmp_path / "longrope") == ["rope_rows"]


def test_every_tensor_is_external_and_aligned_to_a_page(model: Path) -> None:
    for path in model.glob("*.onnx"):
        for tensor in onnx.load(str(path), load_external_data=False).graph.initializer:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            assert int(entries["offset"]) % 4096 == 0
            assert not tensor.raw_data


def test_shards_declare_their_inputs_and_outputs(model: Path) -> None:
    graph = onnx.load(str(model / "decoder-00.onnx"), load_external_data=False).graph
    inputs = ["hidden", "past_key", "past_value", "seqlens_k", "total_sequence_length"]
    assert [value.name for value in graph.input] == inputs
    assert [value.name for value in graph.output] == ["hidden_out", "present_key", "present_value"]


def test_node_names_read_like_the_checkpoint(model: Path) -> None:
    names = {node.name for node in onnx.load(str(model / "decoder-01.onnx"), load_external_data=False).graph.node}
    assert {"/layers.1/attn/q_proj/FusedMatMul", "/layers.1/mlp/down_proj/FusedMatMul"} <= names


def test_tied_embeddings_are_stored_once(tmp_path: Path) -> None:
    export(make_checkpoint(tmp_path / "checkpoint", tie_word_embeddings=True), tmp_path / "out")
    head = next(shard for shard in read_config(tmp_path / "out").shards if shard.name == "head")
    assert head.data_files == ("head.bin", "embed.bin")
    assert (tmp_path / "out" / "head.bin").stat().st_size < 4096


@pytest.mark.parametrize(("dtype", "limit"), [("int8", 0.05), ("int4", 0.6)])
def test_quantised_export_computes_with_the_rounded_weights(
    checkpoint: Path, model: Path, tmp_path: Path, dtype: str, limit: float
) -> None:
    export(checkpoint, tmp_path / "quantised", dtype, block_size=32)
    rounded = make_checkpoint(tmp_path / "rounded")
    tensors = load_file(rounded / "model.safetensors")
    for path in (tmp_path / "quantised").glob("*.onnx"):
        graph = onnx.load(str(path), load_external_data=False).graph
        table = find({tensor.name: tensor for tensor in graph.initializer}, EMBEDDING, 64)
        for stored in [*products(graph), *([table] if table else [])]:
            tensors[f"{stored.stem}weight"] = dequantize(read(stored, path.parent))
    save_file(tensors, rounded / "model.safetensors")
    export(rounded, tmp_path / "reference")
    ids = np.arange(3, 60)
    quantised, reference = (decoder_of(tmp_path / name).logits(ids) for name in ("quantised", "reference"))
    scale = reference.std()
    # The remaining difference is the rounding of activations to 8 bits inside the kernel.
    assert np.abs(quantised - reference).mean() / scale < 0.05
    assert np.abs(quantised - decoder_of(model).logits(ids)).mean() / scale < limit


@pytest.mark.parametrize(("bits", "block_size"), [(2, 16), (4, 32), (4, 128), (8, 64)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_rounding_in_chunks_equals_rounding_the_whole(
    monkeypatch: pytest.MonkeyPatch, bits: int, block_size: int, dtype: Any
) -> None:
    matrix = np.random.default_rng(0).standard_normal((50, 200)).astype(dtype)
    matrix[3] = 0
    for zero_point in (False, True):
        whole = quantize_rtn(matrix.astype(np.float32), bits, block_size, zero_point)
        monkeypatch.setattr(nbits, "ROUNDED_AT_ONCE", 700)
        parts = quantize_rtn(matrix, bits, block_size, zero_point)
        for name in ("packed", "scales", "zero_points"):
            assert np.array_equal(getattr(whole, name), getattr(parts, name))
        error = np.abs(dequantize(parts) - matrix.astype(np.float32))
        assert error.max() <= np.repeat(parts.scales, block_size, 1)[:, :200].max() * (0.501 + (bits == 2))


# Bad checkpoints


def change_config(**changes: Any) -> Any:
    def spoil(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return spoil


def change_tensors(change: Any) -> Any:
    def spoil(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return spoil


def truncate(name: str) -> Any:
    def spoil(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return spoil


NORM = "model.layers.1.input_layernorm.weight"
BAD_CHECKPOINTS = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json: missing"),
    "config is no JSON": (lambda folder: (folder / "config.json").write_text("{"), "config.json: cannot be read"),
    "config is a list": (lambda folder: (folder / "config.json").write_text("[]"), "not a JSON object"),
    "unknown architecture": (change_config(model_type="mamba"), "architecture 'mamba' is not known"),
    "no architecture": (change_config(model_type=None), "architecture None is not known"),
    "other activation": (change_config(hidden_act="swirl"), "hidden_act.*swirl"),
    "heads do not divide": (change_config(num_key_value_heads=3), "not a multiple"),
    "layers missing": (change_config(num_hidden_layers=4), "lacks 9 tensors, the first is model.layers.3"),
    "layers left over": (change_config(num_hidden_layers=2), "this architecture does not use"),
    "negative size": (change_config(hidden_size=-64), "'hidden_size' is -64"),
    "size is a text": (change_config(vocab_size="many"), "'vocab_size' is 'many'"),
    "eos out of range": (change_config(eos_token_id=5000), "5000 is not in the vocabulary"),
    "other shape": (change_config(intermediate_size=95), r"_proj.weight has shape \[96, 64\]"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors"),
    "truncated weights": (truncate("model.safetensors"), "model.safetensors: cannot be read"),
    "tensor missing": (change_tensors(lambda tensors: tensors.pop(NORM)), f"lacks 1 tensors, the first is {NORM}"),
    "tensor unknown": (change_tensors(lambda tensors: tensors.update(x=tensors[NORM])), "the first is x"),
    "tokenizer of another model": (lambda folder: make_other_tokenizer(folder), "belongs to another model"),
    "tokenizer is none": (lambda folder: (folder / "tokenizer.model").write_bytes(b"x" * 99), "not a sentencepiece"),
}


def make_other_tokenizer(folder: Path) -> None:
    from helpers import make_tokenizer

    make_tokenizer(folder / "tokenizer.model", 400)


@pytest.mark.parametrize("name", BAD_CHECKPOINTS)
def test_bad_checkpoint_is_one_clear_error_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    spoil, message = BAD_CHECKPOINTS[name]
    folder = make_checkpoint(tmp_path / "checkpoint")
    spoil(folder)
    with pytest.raises(ModelDirectoryError, match=message) as caught:
        export(folder, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_missing_checkpoint_is_reported(tmp_path: Path) -> None:
    with pytest.raises(LlamaOnnxError, match="nowhere"):
        export(tmp_path / "nowhere", tmp_path / "out")


def test_unknown_precision_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="4 bits by 48"):
        export(checkpoint, tmp_path / "out", "int4", block_size=48)


# What happens to the output


def test_existing_model_is_replaced_when_the_new_one_is_complete(checkpoint: Path, model: Path, tmp_path: Path) -> None:
    export(checkpoint, tmp_path / "out", "fp16")
    export(checkpoint, tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(model)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_failed_export_leaves_the_old_model(checkpoint: Path, tmp_path: Path) -> None:
    export(checkpoint, tmp_path / "out")
    before = files_of(tmp_path / "out")
    bad = make_checkpoint(tmp_path / "bad")
    change_tensors(lambda tensors: tensors.update({NORM: tensors[NORM][:3]}))(bad)
    with pytest.raises(ModelDirectoryError):
        export(bad, tmp_path / "out")
    assert files_of(tmp_path / "out") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad", "out"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_directory_that_is_not_a_model_is_never_replaced(checkpoint: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("precious")
    else:
        out.mkdir()
        (out / "precious").write_text("precious")
    with pytest.raises(ModelDirectoryError, match="out: "):
        export(checkpoint, out)
    assert (out if kind == "file" else out / "precious").read_text() == "precious"


def test_unwritable_target_is_reported(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelDirectoryError, match="cannot be written"):
        export(checkpoint, tmp_path / "file" / "out")


def test_two_exports_into_one_target_exclude_each_other(checkpoint: Path, tmp_path: Path) -> None:
    with ModelWriter(tmp_path / "out", {}), pytest.raises(ModelDirectoryError, match="another process is writing"):
        export(checkpoint, tmp_path / "out")
    export(checkpoint, tmp_path / "out")


def test_export_into_its_own_source_is_refused(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint")
    with pytest.raises(ModelDirectoryError, match="holds the input itself"):
        export(folder, folder)
    assert (folder / "model.safetensors").is_file()


def test_full_disk_is_one_error_and_finished_shards_are_kept(
    checkpoint: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inject the error where bytes are written, because a small file system would need root."""
    real = model_writer.WeightFile._write

    def write(self: model_writer.WeightFile, data: bytes) -> None:
        if self.path.name == "decoder-02.bin":
            raise OSError(28, "No space left on device")
        real(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(model_writer.WeightFile, "_write", write)
        with pytest.raises(ModelDirectoryError, match=r"No space left.*run the same command again"):
            export(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    written = resumed_shards(monkeypatch, checkpoint, tmp_path / "out")
    assert written == ["decoder-02", "head"]
    assert files_of(tmp_path / "out") == files_of(model)


SLOWLY = """
import sys, time
from llama_onnx.export import writer as model_writer
from tools import export_onnx
real = model_writer.Graph.save
def save(self, path):
    real(self, path)
    print(self.name, flush=True)
    time.sleep(0.3)
model_writer.Graph.save = save
sys.argv = ["export_onnx.py", *sys.argv[1:]]
sys.exit(export_onnx.main())
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_interrupted_export_leaves_nothing_and_is_resumed(
    checkpoint: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLOWLY, str(checkpoint), str(tmp_path / "out")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    while "decoder-01" not in (line := process.stdout.readline()):
        assert line, process.communicate()[1]  # it must not have finished by itself
    time.sleep(0.1)
    process.send_signal(how)
    errors = process.communicate()[1]
    assert "Traceback" not in errors
    assert process.returncode == (130 if how == signal.SIGINT else -how)
    assert not (tmp_path / "out").exists()
    spoil = tmp_path / "out.partial" / "decoder-00.bin"
    spoil.write_bytes(spoil.read_bytes()[:-1] + b"!")  # a shard whose hash does not match is made again
    built = resumed_shards(monkeypatch, checkpoint, tmp_path / "out")
    assert built[0] == "decoder-00"
    assert "embed" not in built
    assert files_of(tmp_path / "out") == files_of(model)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_journal_of_an_older_program_is_not_resumed(
    checkpoint: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ModelWriter, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            export(checkpoint, tmp_path / "out")
    journal = tmp_path / "out.partial" / model_writer.JOURNAL
    fields = json.loads(journal.read_text())
    for done in fields["shards"].values():
        del done["capabilities"]
    journal.write_text(json.dumps(fields))
    assert "embed" in resumed_shards(monkeypatch, checkpoint, tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(model)


def test_partial_export_of_other_options_is_not_resumed(
    checkpoint: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(model_writer, "replace_directory", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            export(checkpoint, tmp_path / "out", "fp16")
    assert len(resumed_shards(monkeypatch, checkpoint, tmp_path / "out")) == 5
    assert files_of(tmp_path / "out") == files_of(model)


def test_command_line_exports_and_reports_errors_in_one_line(checkpoint: Path, tmp_path: Path) -> None:
    done = run("tools/export_onnx.py", checkpoint, tmp_path / "out", "--dtype", "fp16")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    failed = run("tools/export_onnx.py", tmp_path / "nowhere", tmp_path / "out2")
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1
    assert run("tools/export_onnx.py", checkpoint).returncode == 2
