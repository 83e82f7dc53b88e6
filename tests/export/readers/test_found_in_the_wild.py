"""Checkpoints whose files contradict each other or lack something, as people download and convert them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import Tensors, split_gguf, write_gguf
from helpers import FIXTURES, decoder_of
from safetensors.numpy import load_file, save_file
from tokenizer_files import train_sentencepiece

import llama_onnx
from llama_onnx.errors import ModelDirectoryError
from llama_onnx.export.exporter import export
from llama_onnx.export.families.registry import read_spec
from llama_onnx.export.readers.gguf_file import GgufFile
from llama_onnx.export.readers.open import open_checkpoint
from llama_onnx.export.special_tokens import special_tokens
from llama_onnx.text.added_tokens import read_tokenizer_files
from llama_onnx.text.stream import TextStream
from llama_onnx.tokens import Token

GQA = FIXTURES / "llama-gqa"
CONFIG: dict[str, Any] = json.loads((GQA / "config.json").read_text())


@pytest.fixture
def tensors() -> Tensors:
    """The weights of the fixture, float16."""
    return load_file(GQA / "model.safetensors")


@pytest.fixture
def folder(tensors: Tensors, tmp_path: Path) -> Path:
    """A Hugging Face directory with the fixture's weights and a sentencepiece tokenizer of its size."""
    directory = tmp_path / "hf"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({**CONFIG, "bos_token_id": 1, "eos_token_id": 2}))
    save_file(tensors, directory / "model.safetensors")
    return directory


def write(path: Path, **fields: Any) -> None:
    """Write a JSON object, over the fields that the file has."""
    before = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**before, **fields}))


def ends_of(folder: Path) -> tuple[int | None, list[int]]:
    return special_tokens(open_checkpoint(folder), CONFIG["vocab_size"])


# -- special tokens ---------------------------------------------------------------------------------------------------


def test_end_tokens_are_those_of_all_files_together(folder: Path) -> None:
    write(folder / "generation_config.json", eos_token_id=[7, 2])
    write(
        folder / "tokenizer_config.json", eos_token="<|im_end|>", added_tokens_decoder={"9": {"content": "<|im_end|>"}}
    )
    assert ends_of(folder) == (1, [7, 2, 9])


@pytest.mark.parametrize("where", ["added_tokens.json", "tokenizer.json, added", "tokenizer.json, vocabulary"])
def test_the_tokenizers_own_end_token_is_found_in_any_file(where: str, folder: Path) -> None:
    write(folder / "special_tokens_map.json", eos_token={"content": "<end>"}, bos_token="<begin>")
    ids = {"<end>": 5, "<begin>": 6}
    if where == "added_tokens.json":
        write(folder / where, **ids)
    elif "added" in where:
        write(folder / "tokenizer.json", added_tokens=[{"content": text, "id": i} for text, i in ids.items()])
    else:
        write(folder / "tokenizer.json", model={"vocab": ids})
    assert ends_of(folder) == (6, [2, 5])


def test_bos_is_the_piece_that_the_tokenizer_names(folder: Path) -> None:
    train_sentencepiece(folder / "tokenizer.model", vocab_size=330)
    write(folder / "config.json", bos_token_id=0)
    write(folder / "tokenizer_config.json", bos_token="<s>", eos_token="</s>")
    assert ends_of(folder) == (1, [2])


def test_ids_that_are_one_too_low_are_overruled_by_the_sentencepiece_model(folder: Path) -> None:
    train_sentencepiece(folder / "tokenizer.model", vocab_size=330)
    write(folder / "config.json", bos_token_id=0, eos_token_id=1)
    write(folder / "tokenizer_config.json", bos_token="", eos_token="")
    assert ends_of(folder) == (1, [2])


def test_a_model_without_an_end_token_says_so(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write(folder / "config.json", eos_token_id=None)
    export(folder, tmp_path / "out")
    assert "no token ends a text" in capsys.readouterr().err


def test_a_stop_text_that_is_a_special_token_ends_the_text() -> None:
    tokenizer = llama_onnx.load(FIXTURES.parent.parent / "models" / "demo").tokenizer
    text = TextStream(tokenizer, [], ["</s>"])
    (hello,) = tokenizer.encode("a", add_bos=False)[-1:]
    assert text.add(Token(hello, 0.0, None)).finish_reason is None
    last = text.add(Token(2, 0.0, None))
    assert (last.finish_reason, last.text) == ("stop", "")


# -- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_a_single_file_counts_before_a_stale_index(weights: str, folder: Path, tensors: Tensors) -> None:
    if weights == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
        shutil.copy(FIXTURES / "torch-files" / "zip" / weights, folder / weights)
    write(folder / f"{weights}.index.json", weight_map={"model.norm.weight": "gone-00001-of-00002"})
    assert "model.norm.weight" in open_checkpoint(folder).names()


def gptq(folder: Path, tensors: Tensors, settings: dict[str, Any]) -> None:
    """Replace a matrix by zeros in GPTQ's first format: integers 8, zero points stored as 7, scales of 0.01."""
    module = "model.layers.0.self_attn.q_proj"
    rows, columns = tensors.pop(f"{module}.weight").shape
    tensors[f"{module}.qweight"] = np.full((columns // 8, rows), 0x88888888, np.uint32).view(np.int32)
    tensors[f"{module}.qzeros"] = np.full((columns // 32, rows // 8), 0x77777777, np.uint32).view(np.int32)
    tensors[f"{module}.scales"] = np.full((columns // 32, rows), 0.01, np.float16)
    save_file(tensors, folder / "model.safetensors")
    write(folder / "config.json", quantization_config=settings)


@pytest.mark.parametrize(
    "changes", [{"checkpoint_format": "GPTQ"}, {"checkpoint_format": None}, {"bits": "4"}, {}, {"alone": True}]
)
def test_gptq_settings_are_read_as_people_write_them(changes: dict[str, Any], folder: Path, tensors: Tensors) -> None:
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, **changes}
    if settings.pop("alone", False):
        del settings["quant_method"]
        gptq(folder, tensors, {})
        write(folder / "quantize_config.json", **settings)
    else:
        gptq(folder, tensors, settings)
    assert not open_checkpoint(folder).tensor("model.layers.0.self_attn.q_proj.weight").any()


# -- context ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scaling", "length"),
    [
        (None, 128),
        ({"type": "linear", "factor": 4.0}, 512),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}, 128),
        ({"rope_type": "dynamic", "factor": 4.0}, 128),
    ],
)
def test_scaled_rope_lengthens_the_context(scaling: dict[str, Any] | None, length: int) -> None:
    spec = read_spec({**CONFIG, "max_position_embeddings": 128, "rope_scaling": scaling, "rope_parameters": None})
    assert spec.context_length == length


# -- tokenizers -------------------------------------------------------------------------------------------------------


def test_an_older_sentencepiece_model_gives_way_to_tokenizer_json(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_sentencepiece(folder / "tokenizer.model", vocab_size=330)
    pieces = {f"p{i}": i for i in range(330)}
    write(folder / "tokenizer.json", model={"vocab": pieces}, added_tokens=[{"content": "<x>", "id": 330}])
    assert "tokenizer.model" in open_checkpoint(folder).files
    write(folder / "tokenizer.json", model={"vocab": {**pieces, "new": 330}}, added_tokens=[])
    assert "tokenizer.model" not in open_checkpoint(folder).files
    assert "lacks tokens of tokenizer.json" in capsys.readouterr().err


def test_vocab_json_and_merges_become_a_tokenizer_json(folder: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizer.json is read by the tokenizers package")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    write(folder / "vocab.json", **{text: i for i, text in enumerate([*alphabet, "he"])})
    write(folder / "tokenizer_config.json", added_tokens_decoder={"258": {"content": "<|end|>", "special": True}})
    (folder / "merges.txt").write_text("#version: 0.2\nh e\n", encoding="utf-8")
    made = open_checkpoint(folder).files["tokenizer.json"]
    assert isinstance(made, bytes)
    assert tokenizers.Tokenizer.from_buffer(made).encode("hey<|end|>").tokens == ["he", "y", "<|end|>"]
    write(folder / "vocab.json", far=10**9)
    with pytest.raises(ModelDirectoryError, match=r"vocab\.json"):
        open_checkpoint(folder)


# -- GGUF -------------------------------------------------------------------------------------------------------------


def gguf_config(path: Path, tensors: Tensors, keys: dict[str, Any], family: str = "llama") -> dict[str, Any]:
    pytest.importorskip("gguf", reason="GGUF files are written by the gguf package")
    write_gguf(path, tensors, CONFIG, "F16", family=family, keys=keys)
    return open_checkpoint(path).config


@pytest.mark.parametrize(
    ("keys", "scaling"),
    [
        ({}, None),
        ({"llama.rope.scaling.factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({"llama.rope.scale_linear": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0}, None),
        (
            {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
        ),
    ],
)
def test_gguf_rope_scaling_has_the_defaults_of_llama_cpp(
    keys: dict[str, Any], scaling: Any, tensors: Tensors, tmp_path: Path
) -> None:
    assert gguf_config(tmp_path / "m.gguf", tensors, keys).get("rope_scaling") == scaling


def test_gguf_yarn_scales_its_attention(tensors: Tensors, tmp_path: Path) -> None:
    keys = {"type": "yarn", "factor": 4.0, "attn_factor": 0.5}
    config = gguf_config(tmp_path / "m.gguf", tensors, {f"llama.rope.scaling.{key}": v for key, v in keys.items()})
    assert config["rope_scaling"]["attention_factor"] == pytest.approx(0.5 * (1 + 0.1 * np.log(4)))


def test_gemma_2_files_without_soft_caps_have_those_of_the_published_models(tensors: Tensors, tmp_path: Path) -> None:
    config = gguf_config(tmp_path / "m.gguf", tensors, {"gemma2.attention.sliding_window": 4096}, "gemma2")
    assert (config["attn_logit_softcapping"], config["final_logit_softcapping"]) == (50.0, 30.0)
    keys = {"gemma2.attn_logit_softcapping": 20.0, "gemma2.final_logit_softcapping": 10.0}
    config = gguf_config(tmp_path / "n.gguf", tensors, keys, "gemma2")
    assert (config["attn_logit_softcapping"], config["final_logit_softcapping"]) == (20.0, 10.0)


def test_split_gguf_is_one_model_whichever_part_is_named(tensors: Tensors, tmp_path: Path) -> None:
    paths = split_gguf(tmp_path, tensors, CONFIG)
    for source in (*paths, tmp_path):
        checkpoint = open_checkpoint(source)
        assert checkpoint.names() == set(tensors)
        assert checkpoint.source == paths
        for name, array in tensors.items():
            np.testing.assert_array_equal(checkpoint.tensor(name), array)
    expected = np.load(GQA / "expected.npz")
    export(paths[0], tmp_path / "out")
    assert np.abs(decoder_of(tmp_path / "out").logits(expected["ids"]) - expected["logits"]).max() <= 1e-4


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda paths: paths[1].unlink(), "download m-00002-of-00003.gguf beside it"),
        (lambda paths: shutil.copy(paths[2], paths[1]), "not part 2 of 3"),
        (lambda paths: paths[1].rename(paths[1].with_name("part.gguf")), "m-00002-of-00003.gguf"),
    ],
)
def test_split_gguf_with_a_wrong_part_is_refused(
    damage: Callable[[list[Path]], Any], message: str, tensors: Tensors, tmp_path: Path
) -> None:
    paths = split_gguf(tmp_path, tensors, CONFIG)
    damage(paths)
    with pytest.raises(ModelDirectoryError, match=message):
        open_checkpoint(paths[0])


def test_a_renamed_part_of_a_gguf_file_is_refused(tensors: Tensors, tmp_path: Path) -> None:
    (first, *_) = split_gguf(tmp_path, tensors, CONFIG)
    first.rename(tmp_path / "model.gguf")
    with pytest.raises(ModelDirectoryError, match="one of 3 parts; keep their names"):
        open_checkpoint(tmp_path / "model.gguf")


# -- names and settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "head"),
    [
        ("_orig_mod.model.", "_orig_mod.lm_head.weight"),
        ("module.model.", "module.lm_head.weight"),
        ("module._orig_mod.model.", "module._orig_mod.lm_head.weight"),
        ("language_model.model.", "language_model.lm_head.weight"),
        ("model.language_model.", "lm_head.weight"),
        ("", "lm_head.weight"),
    ],
)
def test_tensors_are_found_behind_the_prefix_of_another_program(
    body: str, head: str, folder: Path, tensors: Tensors
) -> None:
    renamed = {
        head if name == "lm_head.weight" else body + name.removeprefix("model."): array
        for name, array in tensors.items()
    }
    tower = {"vision_tower.encoder.weight": np.zeros(3, np.float32)} if "language_model" in body else {}
    save_file({**renamed, **tower}, folder / "model.safetensors")
    checkpoint = open_checkpoint(folder)
    assert checkpoint.names() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(checkpoint.tensor(name), array)


def test_the_text_part_of_a_larger_model_is_read_and_can_be_read_again(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").write_text(
        json.dumps(
            {"model_type": "sees", "vision_config": {"window_size": 3}, "eos_token_id": 9, "text_config": CONFIG}
        )
    )
    checkpoint = open_checkpoint(folder)
    assert checkpoint.config == CONFIG
    assert ends_of(folder)[1] == [CONFIG["eos_token_id"]]
    export(folder, tmp_path / "out")
    export(tmp_path / "out", tmp_path / "again")
    assert decoder_of(tmp_path / "again").config.num_layers == CONFIG["num_hidden_layers"]


@pytest.mark.parametrize(
    "harmless",
    [
        {"sliding_window": 64, "use_sliding_window": False, "max_window_layers": 3},
        {"mask_token_id": 5},
        {"masked_softmax_fusion": True},
        {"position_embedding_type": "rope"},
        {"ffn_dim_multiplier": 1.3},
    ],
)
def test_settings_that_change_nothing_are_no_obstacle(harmless: dict[str, Any]) -> None:
    changed, plain = read_spec({**CONFIG, **harmless}), read_spec(CONFIG)
    assert replace(changed, ropes={}) == replace(plain, ropes={})
    np.testing.assert_array_equal(changed.ropes[""].frequencies, plain.ropes[""].frequencies)


def test_an_unused_window_of_mistral_is_no_window() -> None:
    config = {**CONFIG, "model_type": "mistral", "sliding_window": 16}
    assert {layer.window for layer in read_spec(config).layers} == {16}
    assert {layer.window for layer in read_spec({**config, "use_sliding_window": False}).layers} == {None}


def test_positions_that_are_not_rotary_are_refused() -> None:
    with pytest.raises(ModelDirectoryError, match="position_embedding_type"):
        read_spec({**CONFIG, "position_embedding_type": "alibi"})


def test_the_class_of_a_tokenizer_names_its_tokens_where_no_file_does(folder: Path) -> None:
    train_sentencepiece(folder / "tokenizer.model", vocab_size=330)
    write(folder / "tokenizer_config.json", tokenizer_class="LlamaTokenizerFast")
    assert read_tokenizer_files(folder).special_texts["bos_token"] == "<s>"
    write(folder / "tokenizer_config.json", bos_token=None)  # null says that there is none
    assert "bos_token" not in read_tokenizer_files(folder).special_texts


def test_an_output_that_is_a_link_stays_one(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "model")
    for _ in range(2):
        export(folder, tmp_path / "out")
        assert (tmp_path / "out").is_symlink()
        assert (tmp_path / "disk" / "model" / "manifest.json").is_file()
        assert sorted(path.name for path in tmp_path.iterdir() if path.name != "hf") == ["disk", "out"]


def test_an_unknown_block_type_is_refused_by_name(tensors: Tensors, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    write_gguf(tmp_path / "model.gguf", tensors, CONFIG, "F16")
    file, name = GgufFile(tmp_path / "model.gguf"), "token_embd.weight"
    file.tensors[name] = replace(file.tensors[name], type=gguf.GGMLQuantizationType.Q8_1)
    with pytest.raises(ModelDirectoryError, match=r"token_embd\.weight is stored in GGML type Q8_1"):
        file.tensor(name)
