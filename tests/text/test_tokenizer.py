"""Tokenizers: encoding, decoding and streaming, with sentencepiece and with tokenizer.json."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ROOT
from sentencepiece import SentencePieceProcessor
from tokenizer_files import JSON_KINDS, SENTENCEPIECE, train_json, train_sentencepiece

from llama_onnx.config import ModelConfig, Shard
from llama_onnx.errors import MissingDependencyError, ModelDirectoryError, RequestError
from llama_onnx.text.added_tokens import AddedToken, TokenizerFiles, adds_bos, read_tokenizer_files
from llama_onnx.text.fast import JsonTokenizer
from llama_onnx.text.open import load_tokenizer, open_tokenizer
from llama_onnx.text.sentencepiece import SentencePieceTokenizer
from llama_onnx.tokenizer import Tokenizer

LLAMA2 = ROOT.parent / "shared" / "models" / "llama2-tokenizer" / "tokenizer.model"
TEXTS = [
    "Hello world",
    " leading space",
    "   three leading,  two inside, three trailing   ",
    "tabs\tand\nlines\r\n\n\nand more",
    "你好，世界！今天天气真好。",
    "emoji 😀 family 👨‍👩‍👧‍👦 flag 🇫🇷 skin 👍🏽",
    "combining e\u0301 a\u0300\u0323 n\u0303, Hangul 한국어 ᄒ\u1161\u11ab",
    "العربية עברית हिन्दी ไทย",
    "x",
    "\u2581 is a character too",
    "control \x00\x1f and \ufffd itself",
    "<s> </s> <unk> <0x41> <|im_start|> are just text",
]
ALL_KINDS = (*SENTENCEPIECE, *JSON_KINDS, "word-suffix")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizers")


def tokenizer_file(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.{'model' if kind in SENTENCEPIECE else 'json'}"
    if path.exists():
        return path
    return train_sentencepiece(path, **SENTENCEPIECE[kind]) if kind in SENTENCEPIECE else train_json(path, kind)


def load(folder: Path, kind: str, bos: int | None = 1, files: TokenizerFiles | None = None) -> Tokenizer:
    path = tokenizer_file(folder, kind)
    return (SentencePieceTokenizer if kind in SENTENCEPIECE else JsonTokenizer)(path, bos, files)


def oracle_decode(folder: Path, kind: str, ids: list[int]) -> str:
    """What the library itself makes of ids."""
    path = tokenizer_file(folder, kind)
    if kind in SENTENCEPIECE:
        return SentencePieceProcessor(model_file=str(path)).decode(ids)
    tokenizers = pytest.importorskip("tokenizers")
    return tokenizers.Tokenizer.from_file(str(path)).decode(ids, skip_special_tokens=True)


def stream(tokenizer: Tokenizer, ids: list[int], prompt: list[int] | None = None) -> list[str]:
    detokenizer = tokenizer.detokenizer(prompt or [])
    return [*map(detokenizer.add, ids), detokenizer.finish()]


def random_ids(tokenizer: Tokenizer, rng: np.random.Generator, whole: bool = False) -> list[int]:
    """Random tokens; `whole`: those that hold whole characters, and some emoji, perhaps in several tokens each."""
    count = int(rng.integers(1, 30))
    if not whole:
        return rng.integers(0, tokenizer.vocab_size, count).tolist()
    choices = whole_characters(tokenizer)
    return [token for place in rng.integers(0, len(choices), count) for token in choices[place]]


@lru_cache(maxsize=1)
def whole_characters(tokenizer: Tokenizer) -> list[list[int]]:
    emoji = tokenizer.encode("😀", add_bos=False)
    return [[i] for i in range(tokenizer.vocab_size) if is_utf8(tokenizer.token_bytes(i))] + [emoji] * 20


def is_utf8(data: bytes) -> bool:
    return data.decode("utf-8", "ignore").encode() == data


# ---------------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", ["llama-like", "gemma-like", "unigram", "byte-level", "prepend", "no-prefix"])
def test_decode_gives_back_what_was_encoded(folder: Path, kind: str, text: str) -> None:
    tokenizer = load(folder, kind)
    ids = tokenizer.encode(text)
    expected = text.replace("\u2581", " ") if kind != "byte-level" else text
    if "\x00" not in text or kind == "byte-level":  # sentencepiece ends a text or drops the character there
        assert tokenizer.decode(ids) == expected


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_ids_and_text_are_those_of_the_library(folder: Path, kind: str, text: str) -> None:
    tokenizer = load(folder, kind)
    ids = tokenizer.encode(text, add_bos=False)
    if kind in SENTENCEPIECE:
        assert ids == SentencePieceProcessor(model_file=str(tokenizer_file(folder, kind))).encode(text)
    else:
        backend = pytest.importorskip("tokenizers").Tokenizer.from_file(str(tokenizer_file(folder, kind)))
        backend.no_truncation()
        assert tokenizer.encode(text, add_bos=False, special=True) == backend.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids) == oracle_decode(folder, kind, ids)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_decoding_random_tokens_is_that_of_the_library_where_the_text_is_valid(folder: Path, kind: str) -> None:
    tokenizer, rng = load(folder, kind), np.random.default_rng(1)
    for _ in range(200):
        ids = random_ids(tokenizer, rng, whole=True)
        text = tokenizer.decode(ids)
        assert text == oracle_decode(folder, kind, ids), ids
        assert "\ufffd" not in text


@pytest.mark.parametrize("kind", [*SENTENCEPIECE, "byte-level"])  # the others mark a whole run of bytes, ASCII and all
def test_decoding_broken_characters_differs_from_the_library_only_in_how_many_marks_stand_for_them(
    folder: Path, kind: str
) -> None:
    tokenizer, rng = load(folder, kind), np.random.default_rng(5)
    for _ in range(100):
        ids = random_ids(tokenizer, rng)
        ours, theirs = (
            re.sub(r"[^\x00-\x7f]+", "\ufffd", text)
            for text in (tokenizer.decode(ids), oracle_decode(folder, kind, ids))
        )
        assert ours == theirs, ids


# ------------------------------------------------------------------------------------------------------ streaming


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_streaming_equals_decoding_the_whole(folder: Path, kind: str) -> None:
    tokenizer, rng = load(folder, kind), np.random.default_rng(2)
    samples = [random_ids(tokenizer, rng) for _ in range(150)] + [tokenizer.encode(text) for text in TEXTS]
    for ids in samples:
        assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids), ids


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_streaming_after_a_prompt_adds_what_the_whole_text_has_more(folder: Path, kind: str) -> None:
    tokenizer, rng = load(folder, kind), np.random.default_rng(3)
    for text in TEXTS:
        ids = tokenizer.encode(text)
        for cut in rng.integers(0, len(ids) + 1, 5).tolist():
            before = "".join(stream(tokenizer, ids[:cut])[:-1])  # whole characters only
            assert before + "".join(stream(tokenizer, ids[cut:], ids[:cut])) == tokenizer.decode(ids), (text, cut)


@pytest.mark.parametrize("kind", ["llama-like", "byte-level", "prepend", "metaspace"])
def test_a_character_is_printed_whole_and_at_once(folder: Path, kind: str) -> None:
    tokenizer = load(folder, kind, bos=None)
    ids = tokenizer.encode("a😀b👨‍👩‍👧你")
    pieces = stream(tokenizer, ids)
    assert "".join(pieces) == "a😀b👨‍👩‍👧你"
    assert not any("\ufffd" in piece for piece in pieces)
    assert pieces[-1] == ""
    assert len(ids) > len([piece for piece in pieces if piece])


@pytest.mark.parametrize("kind", ["llama-like", "byte-level", "prepend"])
def test_a_character_that_never_ends_becomes_one_replacement_at_the_end(folder: Path, kind: str) -> None:
    tokenizer = load(folder, kind, bos=None)
    ids = tokenizer.encode("a😀")[:-1]
    assert stream(tokenizer, ids)[-1] == "\ufffd"


def test_the_first_word_has_its_space_only_after_other_text(folder: Path) -> None:
    for kind in ("llama-like", "prepend", "metaspace"):
        tokenizer = load(folder, kind)
        ids = tokenizer.encode("the fox")
        assert "".join(stream(tokenizer, ids)) == "the fox"
        assert "".join(stream(tokenizer, ids[1:], ids)) == " the fox"
        assert "".join(stream(tokenizer, ids[1:], ids[:1])) == "the fox"  # BOS is not text


# ------------------------------------------------------------------------------------------- special and added tokens


CHAT = TokenizerFiles(
    added=(
        AddedToken(5000, "<|im_start|>", special=True),
        AddedToken(5001, "<|im_end|>", special=True, rstrip=True),
        AddedToken(5002, "<tool>"),
        AddedToken(5003, "<tool>s"),
        AddedToken(5004, "<word>", single_word=True, lstrip=True),
    )
)


def test_text_of_special_tokens_becomes_ids_only_where_asked_for(folder: Path) -> None:
    tokenizer = load(folder, "llama-like", files=CHAT)
    text = "<|im_start|>user hi<|im_end|>\n<s>"
    ids = tokenizer.encode(text, special=True)
    assert ids[:2] == [1, 5000]
    assert ids[-2:] == [5001, 1]  # the newline went with the token before it
    plain = tokenizer.encode(text)
    assert max(plain) < 5000
    assert 1 not in plain[1:]
    assert tokenizer.decode(plain) == text
    json_tokenizer = load(folder, "byte-level")
    assert json_tokenizer.encode("a<|im_end|>", special=True)[-1] == 3
    assert 3 not in json_tokenizer.encode("a<|im_end|>")
    assert json_tokenizer.decode(json_tokenizer.encode("a<|im_end|>")) == "a<|im_end|>"


def test_added_words_are_one_id_and_keep_their_text(folder: Path) -> None:
    tokenizer = load(folder, "llama-like", bos=None, files=CHAT)
    ids = tokenizer.encode("the <tool> fox <tool>s")
    assert 5002 in ids
    assert ids[-1] == 5003  # the longest that fits
    assert tokenizer.decode(ids) == "the <tool> fox <tool>s"
    assert 5004 in tokenizer.encode("a  <word> b")
    assert 5004 not in tokenizer.encode("a<word>b")
    json_tokenizer = load(folder, "prepend", bos=None)
    assert json_tokenizer.decode(json_tokenizer.encode("fox<tool>fox")) == oracle_decode(
        folder, "prepend", json_tokenizer.encode("fox<tool>fox")
    )


def test_special_tokens_decode_to_nothing(folder: Path) -> None:
    tokenizer = load(folder, "llama-like", files=CHAT)
    fox = tokenizer.encode("fox", add_bos=False)
    assert tokenizer.decode([1, 5000, *fox, 5001, 2, *fox]) == "fox fox"
    assert tokenizer.decode([10**6, -1]) == ""


def test_only_legacy_models_get_a_space_after_a_special_token(folder: Path) -> None:
    modern = load(folder, "llama-like", files=CHAT)
    legacy = load(folder, "llama-like", files=replace(CHAT, config={"legacy": True}))
    fox = modern.encode("fox", add_bos=False)
    assert legacy.encode("<|im_start|>fox", special=True) == [1, 5000, *fox]
    assert modern.encode("<|im_start|> fox", special=True) == [1, 5000, *fox]
    assert modern.encode("<|im_start|>fox", special=True) != [1, 5000, *fox]
    assert modern.decode(modern.encode("<|im_start|>fox", special=True)) == "fox"


@pytest.mark.skipif(not LLAMA2.is_file(), reason="the Llama 2 tokenizer is not at hand")
def test_llama2_with_added_tokens_gives_the_ids_of_transformers() -> None:
    files = TokenizerFiles(added=(AddedToken(32000, "<|user|>", True, rstrip=True), AddedToken(32001, "<tool>")))
    tokenizer = SentencePieceTokenizer(LLAMA2, 1, files)

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_bos=False, special=True)

    # transformers 5.23, AutoTokenizer on tokenizer.model with these added tokens
    assert encode("<s>[INST] Hi</s><s>[INST]") == [1, 29961, 25580, 29962, 6324, 2, 1, 29961, 25580, 29962]
    assert encode("<|user|>\nHello <tool> x") == [32000, 10994, 29871, 32001, 921]
    assert encode("Hi </s>y") == [6324, 29871, 2, 29891]
    assert tokenizer.decode([1, 15043, 32001, 3186, 32000, 15043]) == "Hello<tool> world Hello"
    assert tokenizer.encode("Hello world") == [1, 15043, 3186]


def test_added_tokens_are_read_from_every_generation_of_files(tmp_path: Path) -> None:
    def write(name: str, fields: dict[str, Any]) -> None:
        (tmp_path / name).write_text(json.dumps(fields), encoding="utf-8")

    write("added_tokens.json", {"<extra>": 12, "<|eot|>": 11})
    write("special_tokens_map.json", {"eos_token": {"content": "<|eot|>"}, "pad_token": "<pad>"})
    files = read_tokenizer_files(tmp_path)
    assert [(t.id, t.text, t.special) for t in files.added] == [(11, "<|eot|>", True), (12, "<extra>", False)]
    assert files.special_texts == {"eos_token": "<|eot|>", "pad_token": "<pad>"}
    write("tokenizer.json", {"added_tokens": [{"id": 10, "content": "<fast>", "special": True}]})
    assert [t.id for t in read_tokenizer_files(tmp_path).added] == [10, 11, 12]
    decoder = {"9": {"content": "<new>", "special": False, "rstrip": True}}
    config = {"bos_token": None, "eos_token": "</s>", "added_tokens_decoder": decoder}
    write("tokenizer_config.json", {**config, "extra_special_tokens": ["<new>"]})
    files = read_tokenizer_files(tmp_path)
    assert [t.id for t in files.added] == [9, 11, 12]
    assert files.added[0] == AddedToken(9, "<new>", special=True, rstrip=True)
    assert files.special_texts["eos_token"] == "</s>"


def test_tokens_known_only_beside_tokenizer_json_are_added_to_it(folder: Path) -> None:
    size = load(folder, "byte-level").vocab_size
    files = TokenizerFiles(added=(AddedToken(size, "<|end|>", special=True), AddedToken(size + 1, "<think>")))
    tokenizer = load(folder, "byte-level", files=files)
    assert tokenizer.encode("a<|end|><think>", special=True)[-2:] == [size, size + 1]
    assert tokenizer.decode([size, size + 1]) == "<think>"
    wrong = TokenizerFiles(added=(AddedToken(size + 7, "<|end|>", special=True),))
    with pytest.raises(ModelDirectoryError, match=r"<\|end\|>"):
        load(folder, "byte-level", files=wrong)


# ------------------------------------------------------------------------------------------------------------- BOS


@pytest.mark.parametrize("kind", ["llama-like", "byte-level", "prepend"])
def test_bos_comes_once_and_only_where_the_model_wants_it(folder: Path, kind: str) -> None:
    assert load(folder, kind, bos=1).encode("the fox").count(1) == 1
    assert load(folder, kind, bos=1).encode("the fox", add_bos=False).count(1) == 0
    assert load(folder, kind, bos=None).encode("the fox").count(1) == 0
    assert load(folder, kind, bos=1).encode("<s>the fox", add_bos=False, special=True).count(1) == 1


def test_the_bos_rule_is_the_flag_then_that_of_tokenizer_json(folder: Path) -> None:
    template = json.loads(tokenizer_file(folder, "byte-level").read_text(encoding="utf-8"))
    bare = {**template, "post_processor": {"type": "ByteLevel"}}
    nested = {
        "post_processor": {"type": "Sequence", "processors": [bare["post_processor"], template["post_processor"]]}
    }
    assert adds_bos({}, template, 1)
    assert adds_bos({}, nested, 1)
    assert not adds_bos({}, bare, 1)  # Qwen 2
    assert not adds_bos({}, {"post_processor": None}, 1)
    assert not adds_bos({"add_bos_token": False}, template, 1)
    assert adds_bos({"add_bos_token": True}, bare, 1)
    assert adds_bos({"add_bos_token": None}, {}, 1)  # a lone tokenizer.model
    assert not adds_bos({}, {}, None)


def test_bos_is_the_tokenizers_own_where_the_model_names_another(folder: Path, tmp_path: Path) -> None:
    size = copy(folder, "llama-like", tmp_path)
    fields = {"bos_token": "<|begin|>", "added_tokens_decoder": {str(size): {"content": "<|begin|>", "special": True}}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields), encoding="utf-8")
    assert load_tokenizer(model_config(tmp_path, size + 1)).encode("fox")[0] == size
    assert load_tokenizer(model_config(tmp_path, size + 1, add_bos=False)).encode("fox")[0] not in (1, size)


# ------------------------------------------------------------------------------------------------ loading, and errors


def model_config(directory: Path, vocab_size: int, **changes: Any) -> ModelConfig:
    shard = Shard("embed", directory / "embed.onnx", (), 1)
    config = ModelConfig(
        directory=directory, architecture="llama", hidden_size=8, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=8,
        intermediate_size=8, vocab_size=vocab_size, context_length=16, bos_token_id=1, eos_token_ids=(2,), add_bos=True,
        weights="fp32", embed=shard, layers=(shard,), head=shard,
    )  # fmt: skip
    return replace(config, **changes)


def copy(folder: Path, kind: str, target: Path) -> int:
    """Put a tokenizer into a model directory and return its size."""
    path = tokenizer_file(folder, kind)
    (target / f"tokenizer{path.suffix}").write_bytes(path.read_bytes())
    return load(folder, kind).vocab_size


def test_tokenizer_model_is_preferred_and_takes_the_added_tokens_of_tokenizer_json(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = copy(folder, "llama-like", tmp_path)
    fields = {"added_tokens": [{"id": size, "content": "<|end|>", "special": True}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields), encoding="utf-8")
    monkeypatch.setitem(sys.modules, "tokenizers", None)  # not needed
    tokenizer = load_tokenizer(model_config(tmp_path, size + 1))
    assert tokenizer.encode("fox<|end|>", special=True)[-1] == size


def test_a_tokenizer_model_of_another_kind_is_passed_over_for_tokenizer_json(folder: Path, tmp_path: Path) -> None:
    size = copy(folder, "byte-level", tmp_path)
    (tmp_path / "tokenizer.model").write_text("IQ== 0\nIg== 1\n")  # tiktoken, as Llama 3 has it
    tokenizer = load_tokenizer(model_config(tmp_path, size))
    assert isinstance(tokenizer, JsonTokenizer)
    assert tokenizer.encode("fox")[0] == 1


def test_missing_tokenizers_package_is_one_line_with_the_pip_command(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = copy(folder, "byte-level", tmp_path)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingDependencyError, match=r"^[^\n]*: pip install tokenizers$"):
        load_tokenizer(model_config(tmp_path, size))


@pytest.mark.parametrize("kind", ["llama-like", "byte-level"])
@pytest.mark.parametrize("difference", [-1, 200])
def test_a_vocabulary_of_another_size_is_refused(folder: Path, tmp_path: Path, kind: str, difference: int) -> None:
    size = copy(folder, kind, tmp_path) - (kind == "byte-level")  # of which one is an added token
    with pytest.raises(ModelDirectoryError, match="another model"):
        load_tokenizer(model_config(tmp_path, size + difference))


def test_added_tokens_beyond_the_model_are_left_out(folder: Path, tmp_path: Path) -> None:
    size = copy(folder, "llama-like", tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<image>": size}), encoding="utf-8")  # as Gemma 3 has it
    tokenizer = load_tokenizer(model_config(tmp_path, size))
    assert max(tokenizer.encode("a<image>")) < size


def test_end_tokens_are_special_whatever_the_files_say(folder: Path, tmp_path: Path) -> None:
    size = copy(folder, "llama-like", tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|end|>": size}), encoding="utf-8")
    tokenizer = load_tokenizer(model_config(tmp_path, size + 1, eos_token_ids=(2, size)))
    assert tokenizer.decode([size]) == ""


@pytest.mark.parametrize("content", [b"", b"\x00\x01junk" * 20, b"{", b"[]", b'{"model": 3}'])
@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.json"])
def test_a_damaged_tokenizer_is_one_clear_error(tmp_path: Path, name: str, content: bytes) -> None:
    pytest.importorskip("tokenizers")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelDirectoryError, match=r"^[^\n]*copy[^\n]*$"):
        load_tokenizer(model_config(tmp_path, 100))


@pytest.mark.parametrize(
    "fields", [{"added_tokens_decoder": {"x": {}}}, {"added_tokens_decoder": {"1": {"content": 3}}}]
)
def test_damaged_added_tokens_are_one_clear_error(folder: Path, tmp_path: Path, fields: dict[str, Any]) -> None:
    size = copy(folder, "llama-like", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(ModelDirectoryError, match=r"tokenizer_config\.json: an added token"):
        load_tokenizer(model_config(tmp_path, size))


def test_no_tokenizer_at_all_names_the_file_to_copy(tmp_path: Path) -> None:
    with pytest.raises(ModelDirectoryError, match=r"tokenizer\.model: missing"):
        open_tokenizer(tmp_path, 100, None)
    none = load_tokenizer(model_config(tmp_path, 100))  # which will do for token ids
    for use in (none.encode, none.decode):
        with pytest.raises(ModelDirectoryError, match=r"tokenizer\.model: missing; copy the tokenizer"):
            use("fox")


@pytest.mark.parametrize("kind", ["llama-like", "byte-level"])
def test_text_that_is_not_unicode_is_refused(folder: Path, kind: str) -> None:
    with pytest.raises(RequestError, match="character 2"):
        load(folder, kind).encode("ab\ud83d")
