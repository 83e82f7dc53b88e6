"""Readers: a model gives the same logits in every format; damaged or hostile files are one clear error."""

from __future__ import annotations

import base64
import itertools
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from checkpoint_files import (
    Tensors,
    pack_words,
    quantise_like_gptq,
    write_gguf,
    write_gguf_model,
    write_llama2c,
    write_meta,
    write_tokenizer_bin,
    write_torch_zip,
)
from helpers import FIXTURES, STORIES, decoder_of
from safetensors.numpy import load_file, save_file
from sentencepiece import SentencePieceProcessor

import llama_onnx
from llama_onnx.errors import LlamaOnnxError, MissingDependencyError, ModelDirectoryError
from llama_onnx.export.exporter import export
from llama_onnx.export.nbits import dequantize
from llama_onnx.export.readers.open import open_checkpoint
from llama_onnx.export.readers.sentencepiece_model import Piece, sentencepiece_model
from llama_onnx.export.readers.torch_file import TorchFile

GQA = FIXTURES / "llama-gqa"
TORCH = FIXTURES / "torch-files"
CONFIG: dict[str, Any] = json.loads((GQA / "config.json").read_text())
EXPECTED = np.load(GQA / "expected.npz")


@pytest.fixture
def tensors() -> Tensors:
    """The weights of the fixture, float16."""
    return load_file(GQA / "model.safetensors")


def logits_of(source: Path, out: Path, ids: np.ndarray, **options: Any) -> np.ndarray:
    """Export a checkpoint and return the logits of the result."""
    export(source, out, **options)
    return decoder_of(out).logits(ids)


def assert_same_model(source: Path, out: Path) -> None:
    """Compare with the logits that transformers computed from the same weights in safetensors."""
    logits = logits_of(source, out, EXPECTED["ids"])
    assert np.abs(logits - EXPECTED["logits"]).max() <= 1e-4


def assert_same_tensors(source: Path, expected: Tensors) -> None:
    checkpoint = open_checkpoint(source)
    assert checkpoint.names() == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(checkpoint.tensor(name), array, err_msg=name)


def read_all(source: str | Path) -> None:
    checkpoint = open_checkpoint(source)
    for name in sorted(checkpoint.names()):
        checkpoint.tensor(name)


def refuse(source: str | Path, *words: str) -> str:
    """Check that reading a checkpoint fails with one line that contains these words, and return the line."""
    with pytest.raises(LlamaOnnxError) as caught:
        read_all(source)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    return message


def hugging_face(folder: Path, tensors: Tensors | None = None, **changes: Any) -> Path:
    """Write a directory with the fixture's configuration, and with safetensors if tensors are given."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    if tensors is not None:
        save_file(tensors, folder / "model.safetensors")
    return folder


# -- safetensors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_safetensors_keeps_the_stored_type(dtype: Any, tensors: Tensors, tmp_path: Path) -> None:
    stored = {name: array.astype(dtype) for name, array in tensors.items()}
    hugging_face(tmp_path / "hf", stored)
    assert_same_tensors(tmp_path / "hf", stored)
    assert open_checkpoint(tmp_path / "hf").tensor("model.norm.weight").dtype == dtype


def write_sharded(folder: Path, tensors: Tensors) -> dict[str, str]:
    hugging_face(folder)
    names = sorted(tensors)
    file_of = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(file_of.values()):
        save_file({name: tensors[name] for name in names if file_of[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": file_of}))
    return file_of


def test_sharded_safetensors_is_the_same_model(tensors: Tensors, tmp_path: Path) -> None:
    write_sharded(tmp_path / "hf", tensors)
    assert_same_model(tmp_path / "hf", tmp_path / "out")


def test_index_that_disagrees_with_its_files_is_refused(tensors: Tensors, tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    file_of = write_sharded(folder, tensors)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {**file_of, "model.extra.weight": "../secret.safetensors"}}))
    refuse(folder, "../secret.safetensors")
    index.write_text(json.dumps({"weight_map": {**file_of, "model.extra.weight": file_of["model.norm.weight"]}}))
    refuse(folder, "lacks model.extra.weight")
    index.write_text(json.dumps({"weight_map": file_of}))
    (folder / "model-00002-of-00002.safetensors").unlink()
    refuse(folder, "model-00002-of-00002.safetensors", "missing")
    index.write_text("{}")
    refuse(folder, "weight_map")


@pytest.mark.parametrize("keep", [0, 4, 100, 5000, -1])
def test_truncated_safetensors_is_refused(keep: int, tmp_path: Path) -> None:
    hugging_face(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((GQA / "model.safetensors").read_bytes()[:keep])
    refuse(tmp_path, "model.safetensors", "download it again")


def test_float8_is_refused_by_name(tmp_path: Path) -> None:
    hugging_face(tmp_path)
    header = json.dumps({"x": {"dtype": "F8_E5M2FNUZ", "shape": [4], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    refuse(tmp_path, "model.safetensors")


# -- torch ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["zip", "sharded", "legacy"])
def test_torch_files_are_read_without_torch(name: str, tmp_path: Path) -> None:
    expected = np.load(TORCH / "expected.npz")
    logits = logits_of(TORCH / name, tmp_path / "out", expected["ids"])
    assert np.abs(logits - expected["logits"]).max() <= 1e-4
    assert "torch" not in sys.modules


@pytest.mark.parametrize("name", ["odd.bin", "odd-legacy.bin"])
def test_torch_views_shared_data_and_other_types_are_read(name: str) -> None:
    file, expected = TorchFile(TORCH / name), np.load(TORCH / "odd.npz")
    assert file.names() == set(expected.files)
    for tensor in expected.files:
        array = file.tensor(tensor)
        assert array.dtype == expected[tensor].dtype
        np.testing.assert_array_equal(array, expected[tensor], strict=True)


def test_torch_reads_one_tensor_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    fromfile = np.fromfile

    def counted(path: Path, dtype: Any, count: int, **options: Any) -> np.ndarray:
        counts.append(count)
        return fromfile(path, dtype, count, **options)

    monkeypatch.setattr(np, "fromfile", counted)
    file = TorchFile(TORCH / "odd.bin")
    assert counts == []
    file.tensor("row")
    assert counts == [10 * 4]  # the row, not the whole matrix


class Evil:
    """Is pickled as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def hostile_pickles(marker: Path) -> dict[str, tuple[bytes, str]]:
    """Return pickles that would write `marker`, each with the name that must be rejected."""
    command = f"touch {marker}"
    source = f"open({str(marker)!r}, 'w')"
    eval_text = pickle.dumps(source, protocol=2)[2:-1]
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n"
    return {
        "os.system": (pickle.dumps(Evil(os.system, command), protocol=2), "system"),
        "eval": (pickle.dumps(Evil(eval, source), protocol=4), "builtins.eval"),
        "exec in a dictionary": (pickle.dumps({"model.norm.weight": Evil(exec, source)}, protocol=2), "exec"),
        "subprocess": (pickle.dumps(Evil(subprocess.call, ["touch", str(marker)])), "subprocess.call"),
        "old protocol": (b"cposix\nsystem\n(S'" + command.encode() + b"'\ntR.", "posix.system"),
        "instance": (b"(S'" + command.encode() + b"'\nios\nsystem\n.", "os.system"),
        "object": (b"(cbuiltins\neval\n" + eval_text + b"o.", "builtins.eval"),
        "getattr": (
            b"\x80\x02cbuiltins\ngetattr\n(ccollections\nOrderedDict\nU\x03poptR.",
            "builtins.getattr",
        ),
        "dotted name": (
            b"\x80\x04\x8c\x0bcollections\x8c\x20OrderedDict.__init__.__globals__\x93.",
            "OrderedDict.__init__",
        ),
        "module of another name": (b"\x80\x02ctorch._utils\nos\n.", "torch._utils.os"),
        "torch's own loader": (b"\x80\x02ctorch\nload\n(X\x01\x00\x00\x00xtR.", "torch.load"),
        "storage that loads": (b"\x80\x02ctorch.storage\n_load_from_bytes\n(C\x01xtR.", "_load_from_bytes"),
        "copyreg": (b"\x80\x02ccopyreg\n_reconstructor\n.", "copyreg._reconstructor"),
        "numpy": (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n.", "numpy.core.multiarray._reconstruct"),
        "functools": (b"\x80\x02cfunctools\npartial\n.", "functools.partial"),
        "name of two lines": (b"\x80\x04\x8c\x02os\x8c\x08sys\ntem\x1b\x93.", r"os.sys\ntem\x1b"),
        "changed function": (tensor + b"}X\x01\x00\x00\x00xK\x01sb.", "changes a function"),
        "changed slots": (tensor + b"(N}X\x09\x00\x00\x00_functionK\x01stb.", "changes a function"),
    }


@pytest.mark.parametrize("case", hostile_pickles(Path("x")))
@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_hostile_pickle_is_refused_and_nothing_runs(case: str, container: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    data, name = hostile_pickles(marker)[case]
    hugging_face(tmp_path)
    path = tmp_path / "pytorch_model.bin"
    if container == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", data)
    else:
        path.write_bytes(data if data[:1] == b"\x80" else b"\x80\x02" + data)
    refuse(tmp_path, "pytorch_model.bin", name)
    assert not marker.exists()


def torch_tensor(
    offset: int, shape: tuple[int, ...], strides: tuple[int, ...], count: int = 4, key: str = "0"
) -> bytes:
    """Return a pickle of one float32 tensor with this description."""

    def dumps(value: Any) -> bytes:
        return pickle.dumps(value, protocol=2)[2:-1]

    storage = b"(" + dumps("storage") + b"ctorch\nFloatStorage\n" + dumps(key) + dumps("cpu") + dumps(count) + b"tQ"
    arguments = storage + dumps(offset) + dumps(shape) + dumps(strides) + b"\x89)"
    return b"\x80\x02}" + dumps("x") + b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tRs."


@pytest.mark.parametrize(
    "arguments",
    [
        (1, (4,), (1,)),
        (0, (5,), (1,)),
        (0, (2, 2), (3, 1)),
        (-1, (2,), (1,)),
        (0, (-2,), (1,)),
        (0, (2,), (-1,)),
        (0, (2, 2), (1,)),
        (0, (1 << 40, 1 << 40), (0, 0)),
        (0, (8,), (1,), 8),
        (0, (4,), (1,), 4, "1"),
    ],
)
def test_torch_tensor_beyond_its_data_is_refused(arguments: Any, tmp_path: Path) -> None:
    hugging_face(tmp_path)
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", torch_tensor(*arguments))
        archive.writestr("archive/data/0", bytes(16))
    refuse(tmp_path, "pytorch_model.bin", "download it again")


@pytest.mark.parametrize("name", ["zip", "legacy"])
@pytest.mark.parametrize("keep", [0, 1, 50, 2000, -1])
def test_truncated_torch_file_is_refused(name: str, keep: int, tmp_path: Path) -> None:
    shutil.copytree(TORCH / name, tmp_path / "hf")
    path = tmp_path / "hf" / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:keep])
    refuse(tmp_path / "hf", "pytorch_model.bin")


def test_compressed_torch_file_is_refused(tmp_path: Path) -> None:
    hugging_face(tmp_path)
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", torch_tensor(0, (4,), (1,)))
        archive.writestr("archive/data/0", bytes(16))
    refuse(tmp_path, "compressed")


# -- Meta -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shards", "split_vocabulary"), [(1, True), (2, True), (2, False)])
def test_meta_checkpoint_is_the_same_model(
    shards: int, split_vocabulary: bool, tensors: Tensors, tmp_path: Path
) -> None:
    write_meta(tmp_path / "meta", tensors, CONFIG, shards, split_vocabulary)
    assert_same_tensors(tmp_path / "meta", tensors)
    assert_same_model(tmp_path / "meta", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["intermediate_size"] == CONFIG["intermediate_size"]


def test_meta_tokenizer_is_found_one_level_up(tensors: Tensors, tmp_path: Path) -> None:
    write_meta(tmp_path / "llama" / "7B", tensors, CONFIG, 1, True)
    tokenizer = tmp_path / "llama" / "tokenizer.model"
    tokenizer.write_bytes(b"\n\x05proto")
    assert open_checkpoint(tmp_path / "llama" / "7B").files["tokenizer.model"] == tokenizer
    tokenizer.write_bytes(b"not one")
    refuse(tmp_path / "llama" / "7B", "tokenizer.model", "tiktoken")


def bpe(text: bytes, rank_of: dict[bytes, int]) -> list[bytes]:
    """Merge the neighbours of lowest rank as long as possible, unless the whole text is a token, like tiktoken."""
    if text in rank_of:
        return [text]
    parts = [text[i : i + 1] for i in range(len(text))]
    while True:
        ranks = {i: rank_of[a + b] for i, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in rank_of}
        if not ranks:
            return parts
        i = min(ranks, key=lambda place: (ranks[place], place))
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


def test_meta_llama3_vocabulary_becomes_a_tokenizer_json(tensors: Tensors, tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizer.json is read by the tokenizers package")
    words = [
        *(bytes([byte]) for byte in range(256)),
        b"he",
        b"ll",
        b"hell",
        b" he",
        b"lo",
        b"\xc3\xa9",
        b"12",
        b" hello",
    ]
    rank_of = {word: rank for rank, word in enumerate(words)}
    folder = tmp_path / "meta"
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = np.zeros((300, 64), np.float16)
    write_meta(folder, tensors, CONFIG, 1, True)
    lines = [base64.b64encode(word) + b" %d\n" % rank for word, rank in rank_of.items()]
    (folder / "tokenizer.model").write_bytes(b"".join(lines))
    files = open_checkpoint(folder).files
    assert "tokenizer.model" not in files
    made = files["tokenizer.json"]
    assert isinstance(made, bytes)
    tokenizer = tokenizers.Tokenizer.from_buffer(made)
    for text in ("hello", "hellolo", " hello", "é", "lollo"):
        assert tokenizer.encode(text).ids == [rank_of[part] for part in bpe(text.encode(), rank_of)], text
    mixed = "<|begin_of_text|>hello hello 1234 été\n 你好<|eot_id|>"
    ids = tokenizer.encode(mixed).ids
    assert (ids[0], ids[-1]) == (len(words), len(words) + 9)
    assert tokenizer.decode(ids, skip_special_tokens=False) == mixed


def test_meta_rope_scaling_becomes_llama3(tensors: Tensors, tmp_path: Path) -> None:
    folder = tmp_path / "meta"
    write_meta(folder, tensors, CONFIG, 1, True)
    params = json.loads((folder / "params.json").read_text())
    (folder / "params.json").write_text(
        json.dumps({**params, "use_scaled_rope": True, "rope_theta": 5e5, "rope_scaling_factor": 8})
    )
    config = open_checkpoint(folder).config
    assert config["rope_scaling"]["factor"] == 8
    assert config["rope_scaling"]["rope_type"] == "llama3"
    assert config["max_position_embeddings"] == 131072


def test_meta_shards_that_do_not_belong_together_are_refused(tensors: Tensors, tmp_path: Path) -> None:
    folder = tmp_path / "meta"
    write_meta(folder, tensors, CONFIG, 2, True)
    params = (folder / "params.json").read_text()
    (folder / "params.json").write_text(json.dumps({**json.loads(params), "vocab_size": 128}))
    (folder / "consolidated.01.pth").rename(folder / "consolidated.02.pth")
    refuse(folder, "gap")
    (folder / "consolidated.02.pth").unlink()
    refuse(folder, "params.json")
    (folder / "consolidated.00.pth").unlink()
    refuse(folder, "consolidated.00.pth")
    (folder / "params.json").write_text('{"dim": -1}')
    write_torch_zip(folder / "consolidated.00.pth", {"norm.weight": np.ones(4, np.float32)})
    refuse(folder, "dim")


# -- llama2.c ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("version", [0, 1, 2])
def test_llama2c_file_gives_the_stored_values(version: int, tied: bool, tensors: Tensors, tmp_path: Path) -> None:
    if tied:
        del tensors["lm_head.weight"]
    values = write_llama2c(tmp_path / "model.bin", tensors, CONFIG, version)
    assert_same_tensors(tmp_path / "model.bin", values)
    assert open_checkpoint(tmp_path / "model.bin").config["tie_word_embeddings"] == tied


@pytest.mark.parametrize("version", [0, 1])
def test_llama2c_is_the_same_model(version: int, tensors: Tensors, tmp_path: Path) -> None:
    write_llama2c(tmp_path / "model.bin", tensors, CONFIG, version)
    assert_same_model(tmp_path / "model.bin", tmp_path / "out")


def test_llama2c_int8_is_exported_without_a_second_rounding(tensors: Tensors, tmp_path: Path) -> None:
    values = write_llama2c(tmp_path / "model.bin", tensors, CONFIG, 2)
    assert_blocks_equal(tmp_path / "model.bin", values, bits=8)
    export(tmp_path / "model.bin", tmp_path / "out", "int8", 16)
    assert_exported_as_stored(tmp_path / "model.bin", tmp_path / "out", "model.layers.0.self_attn.q_proj.weight")


@pytest.mark.parametrize("keep", [0, 20, 200, 5000, -1])
@pytest.mark.parametrize("version", [0, 1, 2])
def test_truncated_llama2c_file_is_refused(keep: int, version: int, tensors: Tensors, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    write_llama2c(path, tensors, CONFIG, version)
    path.write_bytes(path.read_bytes()[:keep])
    refuse(path, "model.bin")


@pytest.mark.parametrize(("place", "value"), [(0, 0), (8, -1), (12, 3), (20, 1 << 30), (4, 0)])
def test_invalid_llama2c_header_is_refused(place: int, value: int, tensors: Tensors, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    write_llama2c(path, tensors, CONFIG, 0)
    data = bytearray(path.read_bytes())
    data[place : place + 4] = struct.pack("<i", value)
    path.write_bytes(data)
    refuse(path, "model.bin")


@pytest.mark.skipif(not STORIES.is_dir(), reason="the trained model is not at hand")
def test_llama2c_stories_gives_the_known_256_tokens(tmp_path: Path) -> None:
    for name in ("stories260K.bin", "tok512.bin"):
        shutil.copyfile(STORIES / name, tmp_path / name)
    export(tmp_path / "stories260K.bin", tmp_path / "out")
    lm = llama_onnx.load(tmp_path / "out")
    known = json.loads((STORIES / "greedy256.json").read_text())
    greedy = llama_onnx.SamplingParams(temperature=0, max_tokens=256)
    assert [step.token for step in lm.stream_generate(known[:1], greedy)] == known[1:]
    assert lm.tokenizer.decode(known).strip() == (STORIES / "greedy256.txt").read_text().strip()


@pytest.mark.skipif(not STORIES.is_dir(), reason="the trained model is not at hand")
def test_llama2c_tokenizer_encodes_like_the_sentencepiece_model_it_was_made_from(tmp_path: Path) -> None:
    for name in ("stories260K.bin", "tok512.bin"):
        shutil.copyfile(STORIES / name, tmp_path / name)
    made = open_checkpoint(tmp_path / "stories260K.bin").files["tokenizer.model"]
    assert isinstance(made, bytes)
    ours = SentencePieceProcessor(model_proto=made)
    theirs = SentencePieceProcessor(model_file=str(STORIES / "tokenizer.model"))
    for i in range(theirs.get_piece_size()):
        assert ours.id_to_piece(i) == theirs.id_to_piece(i)
        assert (ours.is_control(i), ours.is_byte(i)) == (theirs.is_control(i), theirs.is_byte(i))
    for text in ("Once upon a time, there was a girl.", "  two  spaces ", "été 你好\n\n", "", "<s> x"):
        assert ours.encode(text) == theirs.encode(text)
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text))


def vocabulary(size: int) -> list[tuple[bytes, float]]:
    """Return tokens of llama2.c: special ones, bytes, letters, and words made of them."""
    tokens = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(b"<0x%02X>" % i for i in range(256)), b" ", b"a", b"b", b"ab", b" a"]
    tokens += [b"filler%d" % i for i in range(size - len(tokens))]
    return [(token, float(-i)) for i, token in enumerate(tokens)]


def test_llama2c_tokenizer_of_another_vocabulary_is_not_used(tensors: Tensors, tmp_path: Path) -> None:
    config = {**CONFIG, "vocab_size": 300}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = np.zeros((300, 64), np.float16)
    write_llama2c(tmp_path / "model.bin", tensors, config, 1)
    write_tokenizer_bin(tmp_path / "tokenizer.bin", vocabulary(400))
    assert "tokenizer.model" not in open_checkpoint(tmp_path / "model.bin").files
    write_tokenizer_bin(tmp_path / "tok300.bin", vocabulary(300))
    made = open_checkpoint(tmp_path / "model.bin").files["tokenizer.model"]
    assert isinstance(made, bytes)
    processor = SentencePieceProcessor(model_proto=made)
    assert processor.encode("ab", out_type=str) == ["▁", "ab"]
    (tmp_path / "tok300.bin").write_bytes((tmp_path / "tok300.bin").read_bytes()[:-3])
    refuse(tmp_path / "model.bin", "tok300.bin")


def test_sentencepiece_model_without_an_unknown_token_is_refused() -> None:
    with pytest.raises(ModelDirectoryError, match="unknown"):
        sentencepiece_model([Piece("a", 0.0, 1)])


# -- GGUF -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_gguf_file_gives_the_stored_values(kind: str, tensors: Tensors, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="GGUF files are written by the gguf package")
    values = write_gguf(tmp_path / "model.gguf", tensors, CONFIG, kind)
    assert_same_tensors(tmp_path / "model.gguf", values)


@pytest.mark.parametrize("kind", ["F32", "F16"])
def test_gguf_is_the_same_model(kind: str, tensors: Tensors, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="GGUF files are written by the gguf package")
    write_gguf(tmp_path / "model.gguf", tensors, CONFIG, kind)
    assert_same_model(tmp_path / "model.gguf", tmp_path / "out")


@pytest.mark.parametrize(("kind", "bits"), [("Q4_0", 4), ("Q8_0", 8)])
def test_gguf_blocks_are_exported_without_a_second_rounding(
    kind: str, bits: int, tensors: Tensors, tmp_path: Path
) -> None:
    pytest.importorskip("gguf", reason="GGUF files are written by the gguf package")
    values = write_gguf(tmp_path / "model.gguf", tensors, CONFIG, kind)
    assert_blocks_equal(tmp_path / "model.gguf", values, bits)


def q4_k(block: bytes) -> np.ndarray:
    """Dequantise 256 weights of Q4_K: eight groups of 32 with 6-bit scales and minima, written from the format."""
    scale, minimum = (float(np.frombuffer(block[i : i + 2], np.float16)[0]) for i in (0, 2))
    packed, quants = block[4:16], block[16:]
    result = []
    for group in range(8):
        if group < 4:
            factor, offset = packed[group] & 63, packed[group + 4] & 63
        else:
            factor = packed[group + 4] & 15 | packed[group - 4] >> 6 << 4
            offset = packed[group + 4] >> 4 | packed[group] >> 6 << 4
        half = quants[group // 2 * 32 : group // 2 * 32 + 32]
        result += [scale * factor * (byte >> 4 * (group % 2) & 15) - minimum * offset for byte in half]
    return np.array(result, np.float32)


def q6_k(block: bytes) -> np.ndarray:
    """Dequantise 256 weights of Q6_K: sixteen groups of 16 with int8 scales, 4 low and 2 high bits apart."""
    low, high, scales = block[:128], block[128:192], np.frombuffer(block[192:208], np.int8)
    scale = float(np.frombuffer(block[208:], np.float16)[0])
    result = np.empty(256, np.float32)
    for i in range(256):
        half, row, column = i // 128, i % 128 // 32, i % 32
        bits = low[half * 64 + row % 2 * 32 + column] >> (4 if row > 1 else 0) & 15
        bits |= (high[half * 32 + column] >> 2 * row & 3) << 4
        result[i] = scale * int(scales[i // 16]) * (bits - 32)
    return result


@pytest.mark.parametrize(("kind", "reference", "half_floats"), [("Q4_K", q4_k, (0, 2)), ("Q6_K", q6_k, (208,))])
def test_gguf_k_quants_are_dequantised(kind: str, reference: Any, half_floats: tuple[int, ...], tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="K-quants are read by the gguf package")
    from llama_onnx.export.readers.gguf_file import GgufFile

    type_of = getattr(gguf.GGMLQuantizationType, kind)
    width = gguf.GGML_QUANT_SIZES[type_of][1]
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (3, 2 * width), np.uint8)
    for start in (0, width):
        for place in half_floats:
            scales = rng.uniform(0.01, 0.1, (3, 1)).astype(np.float16)
            rows[:, start + place : start + place + 2] = scales.view(np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "k.gguf", "llama")
    writer.add_tensor("x", rows, raw_dtype=type_of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    expected = [np.concatenate([reference(bytes(row[:width])), reference(bytes(row[width:]))]) for row in rows]
    np.testing.assert_allclose(GgufFile(tmp_path / "k.gguf").tensor("x"), expected, rtol=1e-5, atol=1e-6)


def test_gguf_rope_factors_become_llama3_scaling(tensors: Tensors, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="GGUF files are written by the gguf package")
    theta, factor, low, high, original = 500000.0, 32.0, 1.0, 4.0, 8192
    divisors = []  # as transformers scales the inverse frequencies
    for i in range(8):
        wavelength = 2 * np.pi * theta ** (2 * i / 16)
        if wavelength < original / high:
            divisors.append(1.0)
        elif wavelength > original / low:
            divisors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    path = tmp_path / "model.gguf"
    write_gguf(path, tensors, CONFIG, "F16", freqs=np.array(divisors), theta=theta)
    scaling = open_checkpoint(path).config["rope_scaling"]
    assert scaling == {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    path.unlink()
    write_gguf(path, tensors, CONFIG, "F16", freqs=np.linspace(1, 3, 8), theta=theta)
    refuse(path, "rope_freqs.weight")


def test_gguf_vocabulary_becomes_a_sentencepiece_model(tensors: Tensors, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="GGUF files are written by the gguf package")
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "a", "b", "ab", "▁a", "<turn>"]
    types = [2, 3, 3, *[6] * 256, 1, 1, 1, 1, 1, 4]
    scores = [float(-i) for i in range(len(tokens))]
    write_gguf(tmp_path / "m.gguf", tensors, CONFIG, "F16", tokens=tokens, types=types, scores=scores)
    files = open_checkpoint(tmp_path / "m.gguf").files
    made = files["tokenizer.model"]
    assert isinstance(made, bytes)
    processor = SentencePieceProcessor(model_proto=made)
    assert processor.encode("ab<turn>a", out_type=str) == ["▁", "ab", "<turn>", "a"]
    assert processor.decode(processor.encode("ba é")) == "ba é"
    assert (processor.bos_id(), processor.eos_id(), processor.unk_id()) == (1, 2, 0)
    assert json.loads(bytes(files["tokenizer_config.json"]))["add_bos_token"] is True


def test_gguf_byte_level_vocabulary_becomes_a_tokenizer_json(tensors: Tensors, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="GGUF files are written by the gguf package")
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizer.json is read by the tokenizers package")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, "he", "ll", "hell", "Ġhe", "<|end|>"]
    merges = ["h e", "l l", "he ll", "Ġ he"]
    types = [1] * (len(tokens) - 1) + [3]
    options: dict[str, Any] = {"tokens": tokens, "types": types, "merges": merges, "tokenizer": "gpt2"}
    write_gguf(tmp_path / "m.gguf", tensors, CONFIG, "F16", **options, pre="llama-bpe")
    made = open_checkpoint(tmp_path / "m.gguf").files["tokenizer.json"]
    assert isinstance(made, bytes)
    tokenizer = tokenizers.Tokenizer.from_buffer(made)
    assert tokenizer.encode("hello he<|end|>").tokens == ["hell", "o", "Ġhe", "<|end|>"]
    text = "hello 12345 été\n\n 你好"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    (tmp_path / "m.gguf").unlink()
    write_gguf(tmp_path / "m.gguf", tensors, CONFIG, "F16", **options, pre="unheard-of")
    refuse(tmp_path / "m.gguf", "unheard-of", "tokenizer.json")


def test_gguf_of_other_families_keeps_its_row_order(tensors: Tensors, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="GGUF files are written by the gguf package")
    write_gguf(tmp_path / "model.gguf", tensors, CONFIG, "F32", family="qwen2")
    assert_same_tensors(tmp_path / "model.gguf", tensors)
    assert open_checkpoint(tmp_path / "model.gguf").config["model_type"] == "qwen2"
    (tmp_path / "model.gguf").unlink()
    write_gguf(tmp_path / "model.gguf", tensors, CONFIG, "F32", family="bert")
    refuse(tmp_path / "model.gguf", "'bert'")


GGUF_MODELS = """
    llama-mha-tied llama-mqa-bias llama-head-dim-24 llama-linear llama-yarn mistral-window gemma-tied gemma-head-dim-40
    gemma3-local-global phi3-longrope-below phi3-longrope-beyond-partial phi3-window qwen2-bias qwen3-qk-norm
    qwen3-head-dim-24
""".split()


@pytest.mark.parametrize("name", [name for name in GGUF_MODELS if (FIXTURES / name).is_dir()])
def test_gguf_of_every_family_is_the_same_model(name: str, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="GGUF files are written by the gguf package")
    write_gguf_model(tmp_path / "model.gguf", FIXTURES / name)
    expected = np.load(FIXTURES / name / "expected.npz")
    logits = logits_of(tmp_path / "model.gguf", tmp_path / "out", expected["ids"])
    assert np.abs(logits - expected["logits"]).max() <= 1e-4


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "phi3", "gemma", "gemma2", "gemma3"])
def test_gguf_names_are_those_of_the_gguf_package(family: str) -> None:
    gguf = pytest.importorskip("gguf", reason="the package has the names of every architecture")
    from llama_onnx.export.readers.gguf import hugging_face_name

    (architecture,) = (number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == family)
    gguf_name = gguf.get_tensor_name_map(architecture, 4).get_name
    projections = (
        ["self_attn.qkv_proj", "mlp.gate_up_proj"]
        if family == "phi3"
        else ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"]
    )
    layer = ["input_layernorm", "self_attn.o_proj", "post_attention_layernorm", "mlp.down_proj", *projections]
    if family in ("qwen3", "gemma3"):
        layer += ["self_attn.q_norm", "self_attn.k_norm"]
    if family in ("gemma2", "gemma3"):
        layer += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    for name in ("model.embed_tokens", "model.norm", "lm_head", *(f"model.layers.3.{part}" for part in layer)):
        short = gguf_name(name) or gguf_name(name.replace("lm_head", "output"))
        assert short is not None or name == "lm_head"  # tied in some
        if short is not None:
            assert hugging_face_name(family, f"{short}.weight") == f"{name}.weight"


def test_gguf_norms_of_gemma_lose_the_one_that_llama_cpp_added(tensors: Tensors, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="GGUF files are written by the gguf package")
    del tensors["lm_head.weight"]
    for i in range(CONFIG["num_hidden_layers"]):
        for name in ("pre_feedforward_layernorm", "post_feedforward_layernorm"):
            tensors[f"model.layers.{i}.{name}.weight"] = np.arange(64, dtype=np.float16) / 64
    added = {name: array.astype(np.float32) + (array.ndim == 1) for name, array in tensors.items()}
    names = {
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    }
    write_gguf(tmp_path / "model.gguf", added, CONFIG, "F32", family="gemma2", names=names)
    checkpoint = open_checkpoint(tmp_path / "model.gguf")
    assert checkpoint.names() == set(tensors)
    for name, array in tensors.items():
        np.testing.assert_allclose(checkpoint.tensor(name), array, atol=1e-6, err_msg=name)
    assert checkpoint.config["model_type"] == "gemma2"
    assert checkpoint.config["layer_types"] == ["sliding_attention", "full_attention"]


@pytest.mark.parametrize("keep", [0, 3, 10, 100, 900, -1])
def test_truncated_gguf_is_refused(keep: int, tensors: Tensors, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="GGUF files are written by the gguf package")
    path = tmp_path / "model.gguf"
    write_gguf(path, tensors, CONFIG, "Q8_0")
    path.write_bytes(path.read_bytes()[:keep])
    refuse(path, "model.gguf")


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<IQQ", 99, 1, 1),
        struct.pack("<IQQ", 3, 1 << 60, 0),
        struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 62) + b"x",
        struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"x" + struct.pack("<IIQ", 9, 0, 1 << 60),
        struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"x" + struct.pack("<I", 77),
        struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"\xff" + struct.pack("<I", 0),
        struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q", 1) + b"x" + struct.pack("<IQQIQ", 2, 1 << 62, 8, 0, 0),
        struct.pack("<IQQ", 3, 0, 0),
    ],
)
def test_hostile_gguf_header_is_refused(header: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + header)
    refuse(tmp_path / "model.gguf", "model.gguf")


def test_missing_gguf_package_is_named(tensors: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf", reason="GGUF files are written by the gguf package")
    write_gguf(tmp_path / "q.gguf", tensors, CONFIG, "Q8_0")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingDependencyError, match="pip install gguf"):
        open_checkpoint(tmp_path / "q.gguf").tensor("lm_head.weight")


# -- GPTQ and AWQ -----------------------------------------------------------------------------------------------------


def assert_blocks_equal(source: Path, values: Tensors, bits: int) -> None:
    """Check that every matrix comes in blocks that dequantise to these float32 values, bit for bit."""
    checkpoint = open_checkpoint(source)
    for name, expected in values.items():
        blocks = checkpoint.quantized(name)
        if expected.ndim == 1:
            assert blocks is None
            continue
        assert blocks is not None
        assert blocks.bits == bits
        np.testing.assert_array_equal(dequantize(blocks), expected.astype(np.float32), err_msg=name)


def assert_exported_as_stored(source: Path, out: Path, name: str) -> None:
    """Compare the integers and scales of a tensor of the first layer with those of the checkpoint."""
    expected = open_checkpoint(source).quantized(name)
    assert expected is not None
    model = onnx.load(str(out / "decoder-00.onnx"))
    stem = name.removesuffix("weight")
    found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    np.testing.assert_array_equal(found[f"{stem}qweight"].reshape(expected.packed.shape), expected.packed)
    np.testing.assert_array_equal(found[f"{stem}scales"].reshape(expected.scales.shape), expected.scales)
    if expected.zero_points is not None:
        np.testing.assert_array_equal(found[f"{stem}qzeros"].reshape(expected.zero_points.shape), expected.zero_points)


def write_packed(
    folder: Path, tensors: Tensors, method: str, bits: int, group: int, layout: str, order: bool = False
) -> Tensors:
    """Write a GPTQ or AWQ checkpoint and return the float32 values of its matrices, dequantised here one by one."""
    rng = np.random.default_rng(0)
    stored, values = {}, {}
    for name, array in tensors.items():
        if ".layers." not in name or array.ndim == 1:
            stored[name] = array
            continue
        module, columns = name.removesuffix(".weight"), array.shape[1]
        size = columns if group == -1 else group
        groups = np.arange(columns) // size
        if order:
            groups = groups[rng.permutation(columns)]
        q, zeros, scales = quantise_like_gptq(array.astype(np.float32), bits, groups, rng, symmetric=layout == "sym")
        weights = np.empty(array.shape, np.float32)
        for i in range(columns):
            weights[:, i] = (q[i] - zeros[groups[i]]).astype(np.float32) * scales[groups[i]].astype(np.float32)
        values[name] = weights
        stored[f"{module}.scales"] = scales
        if method == "awq":
            places = (0, 2, 4, 6, 1, 3, 5, 7)
            stored[f"{module}.qweight"] = pack_words(q, bits, 1, places)
            stored[f"{module}.qzeros"] = pack_words(zeros, bits, 1, places)
        else:
            stored[f"{module}.qweight"] = pack_words(q, bits, 0)
            stored[f"{module}.qzeros"] = pack_words((zeros - (layout != "gptq_v2")) % (1 << bits), bits, 1)
            stored[f"{module}.g_idx"] = groups.astype(np.int32)
    settings = {"quant_method": method, "bits": bits, "group_size": group, "desc_act": order}
    if method == "awq":
        settings["version"] = "gemm"
    elif layout == "gptq_v2":
        settings["checkpoint_format"] = layout
    hugging_face(folder, stored, quantization_config=settings)
    return values


@pytest.mark.parametrize(
    ("method", "bits", "group", "layout"),
    [
        ("gptq", 4, 32, "gptq"),
        ("gptq", 4, 16, "gptq_v2"),
        ("gptq", 4, -1, "gptq"),
        ("gptq", 4, 32, "sym"),
        ("gptq", 8, 32, "gptq"),
        ("gptq", 2, 32, "gptq"),
        ("awq", 4, 32, "gemm"),
        ("awq", 4, 16, "gemm"),
    ],
)
def test_packed_weights_are_repacked_bit_for_bit(
    method: str, bits: int, group: int, layout: str, tensors: Tensors, tmp_path: Path
) -> None:
    values = write_packed(tmp_path, tensors, method, bits, group, layout)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.names() == set(tensors)
    assert "quantization_config" not in checkpoint.config
    assert_blocks_equal(tmp_path, values, bits)
    for name, expected in values.items():
        np.testing.assert_array_equal(checkpoint.tensor(name), expected, err_msg=name)
    blocks = checkpoint.quantized("model.layers.0.self_attn.q_proj.weight")
    assert blocks is not None
    assert (blocks.zero_points is None) == (layout == "sym")
    assert checkpoint.quantized("lm_head.weight") is None


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_packed_checkpoint_exports_to_the_stored_values(method: str, tensors: Tensors, tmp_path: Path) -> None:
    values = write_packed(tmp_path / "packed", tensors, method, 4, 32, "gptq" if method == "gptq" else "gemm")
    hugging_face(tmp_path / "plain", {**{n: a.astype(np.float32) for n, a in tensors.items()}, **values})
    expected = logits_of(tmp_path / "plain", tmp_path / "a", EXPECTED["ids"])
    exact = logits_of(tmp_path / "packed", tmp_path / "b", EXPECTED["ids"], dtype="fp32")
    np.testing.assert_array_equal(exact, expected)


def test_packed_checkpoint_exports_to_int4_without_a_second_rounding(tensors: Tensors, tmp_path: Path) -> None:
    write_packed(tmp_path / "packed", tensors, "gptq", 4, 32, "gptq")
    export(tmp_path / "packed", tmp_path / "out", "int4", 16)
    assert_exported_as_stored(tmp_path / "packed", tmp_path / "out", "model.layers.0.mlp.down_proj.weight")


def test_packed_weights_in_activation_order_are_read_as_floats(
    tensors: Tensors, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = write_packed(tmp_path, tensors, "gptq", 4, 32, "gptq", order=True)
    checkpoint = open_checkpoint(tmp_path)
    for name, expected in values.items():
        assert checkpoint.quantized(name) is None
        np.testing.assert_array_equal(checkpoint.tensor(name), expected)
    assert capsys.readouterr().err.count("desc_act") == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"quant_method": "gptq", "bits": 3, "group_size": 32},
        {"quant_method": "gptq", "bits": 4, "group_size": 32, "checkpoint_format": "marlin"},
        {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemv"},
        {"quant_method": "awq", "bits": 8, "group_size": 32},
        {"quant_method": "gptq", "bits": 4, "group_size": 0},
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "gptq", "bits": 4, "group_size": 32},  # and no packed tensor
    ],
)
def test_unknown_packed_layout_is_refused(settings: Any, tensors: Tensors, tmp_path: Path) -> None:
    hugging_face(tmp_path, tensors, quantization_config=settings)
    refuse(tmp_path, "config.json")


def test_packed_tensors_that_do_not_belong_together_are_refused(tensors: Tensors, tmp_path: Path) -> None:
    write_packed(tmp_path, tensors, "gptq", 4, 32, "gptq")
    stored = load_file(tmp_path / "model.safetensors")
    name = "model.layers.0.mlp.up_proj"
    for part, wrong in (
        ("scales", stored[f"{name}.scales"][:1]),
        ("g_idx", stored[f"{name}.g_idx"] - 1),
        ("g_idx", stored[f"{name}.g_idx"][:-1]),
        ("qweight", stored[f"{name}.qweight"].astype(np.float32)),
        ("qzeros", stored[f"{name}.qzeros"][:, :-1]),
    ):
        save_file({**stored, f"{name}.{part}": np.ascontiguousarray(wrong)}, tmp_path / "model.safetensors")
        refuse(tmp_path, "mlp.up_proj")


# -- where a checkpoint is --------------------------------------------------------------------------------------------


def test_path_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    refuse(tmp_path / "missing", "no such file or directory")
    refuse(tmp_path, "model.safetensors")
    (tmp_path / "notes.txt").write_text("hello")
    refuse(tmp_path / "notes.txt", "not a checkpoint")
    refuse(GQA / "model.safetensors", "give the directory")
    (tmp_path / "a.gguf").write_bytes(b"")
    (tmp_path / "b.gguf").write_bytes(b"")
    refuse(tmp_path, "a.gguf")


def test_name_on_the_hub_is_no_path(tmp_path: Path) -> None:
    refuse(Path("some/model"), "no such file or directory")
