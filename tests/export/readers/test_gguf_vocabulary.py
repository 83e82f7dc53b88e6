"""Vocabularies of GGUF files as people have them: few keys, wrong types, many names of rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llama_onnx.errors import ModelDirectoryError
from llama_onnx.export.readers.gguf_special import adds_bos, end_ids, token_id
from llama_onnx.export.readers.gguf_tokenizer import tokenizer_files
from llama_onnx.export.readers.pre_tokenizers import RULE_OF, WHOLE_WORDS, rule_name
from llama_onnx.text.open import open_tokenizer
from llama_onnx.tokenizer import Tokenizer

PLAIN, UNKNOWN, CONTROL, USER, BYTE = 1, 2, 3, 4, 6
BYTES = [f"<0x{i:02X}>" for i in range(256)]


def sentencepiece(*more: tuple[str, int], **keys: Any) -> dict[str, Any]:
    """Metadata of a sentencepiece vocabulary: <unk>, <s>, </s>, 256 bytes, and these pieces with their types."""
    rows = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL), *((text, BYTE) for text in BYTES)]
    rows += [("▁", PLAIN), ("h", PLAIN), ("i", PLAIN), ("▁h", PLAIN), *more]
    return {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [text for text, _ in rows],
        "tokenizer.ggml.token_type": [kind for _, kind in rows],
        "tokenizer.ggml.scores": [-float(i) for i in range(len(rows))],
        **{f"tokenizer.ggml.{name}": value for name, value in keys.items()},
    }


def byte_level(*more: tuple[str, int], **keys: Any) -> dict[str, Any]:
    """Metadata of a byte-level vocabulary: the 256 bytes, and these tokens with their types."""
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizer.json is read by the tokenizers package")
    rows = [*((text, PLAIN) for text in sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())), *more]
    return {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [text for text, _ in rows],
        "tokenizer.ggml.token_type": [kind for _, kind in rows],
        "tokenizer.ggml.merges": [],
        **{f"tokenizer.ggml.{name}": value for name, value in keys.items()},
    }


def opened(metadata: dict[str, Any], folder: Path) -> Tokenizer:
    """Write the files that the export writes, and open them as the runtime does."""
    for name, content in tokenizer_files(folder / "model.gguf", metadata, {}).items():
        assert isinstance(content, bytes)
        (folder / name).write_bytes(content)
    size = len(metadata["tokenizer.ggml.tokens"])
    return open_tokenizer(folder, size, None, end_ids(metadata))


def cut(name: str, text: str) -> list[str]:
    """Return the parts into which a rule cuts a text."""
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizer.json is read by the tokenizers package")
    files = tokenizer_files(Path("model.gguf"), byte_level(pre=name), {})
    backend = tokenizers.Tokenizer.from_buffer(files["tokenizer.json"])
    return [backend.decoder.decode([part]) for part, _ in backend.pre_tokenizer.pre_tokenize_str(text)]


# -- the rules of cutting ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(RULE_OF))
def test_every_rule_keeps_the_text(name: str, tmp_path: Path) -> None:
    tokenizer = opened(byte_level(pre=name), tmp_path)
    text = "Don't say  1234567!\n\n  été 你好 नमस्ते\r\n\tx = 'A'   "
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert "".join(cut(name, text)) == text


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("gpt-2", ["I", "'ll", " pay", " 1234", " ", " x"]),
        ("olmo", ["I", "'ll", " pay", " 1234", " ", " x"]),
        ("smollm", ["I", "'ll", " pay", " ", "1", "2", "3", "4", " ", " x"]),
        ("command-r", ["I", "'ll", " pay", " ", "1", "2", "3", "4", " ", " x"]),
        ("llama-bpe", ["I", "'ll", " pay", " ", "123", "4", " ", " x"]),
        ("falcon3", ["I", "'ll", " pay", " ", "123", "4", " ", " x"]),
        ("deepseek-r1-qwen", ["I", "'ll", " pay", " ", "1", "2", "3", "4", " ", " x"]),
        ("tekken", ["I", "'ll", " pay", " ", "1", "2", "3", "4", " ", " x"]),
        ("gpt-4o", ["I'll", " pay", " ", "123", "4", " ", " x"]),
        ("default", ["I", "'", "ll", " pay", " ", "123", "4", " ", " x"]),
        ("falcon", ["I", "'", "ll", " pay", " ", "123", "4", " ", " x"]),
        ("deepseek-coder", ["I", "'", "ll", " pay", " ", "1", "2", "3", "4", " ", " x"]),
        ("deepseek-v3", ["I", "'ll", " pay", " ", "123", "4", " ", " x"]),
    ],
)
def test_rules_cut_words_digits_and_spaces_as_llama_cpp_does(name: str, parts: list[str]) -> None:
    assert cut(name, "I'll pay 1234  x") == parts


def test_upper_case_inside_a_word_begins_a_part_where_the_rule_says_so() -> None:
    assert cut("gpt-4o", "HTMLParser camelCase") == ["HTMLParser", " camel", "Case"]
    assert cut("llama-bpe", "HTMLParser camelCase") == ["HTMLParser", " camelCase"]


def test_a_file_without_a_rule_gets_that_of_its_architecture(capsys: pytest.CaptureFixture[str]) -> None:
    assert rule_name({"general.architecture": "qwen2"}) == ("qwen2", True)
    llama3 = {"general.architecture": "llama", "tokenizer.ggml.tokens": [""] * 128256}
    assert rule_name(llama3) == ("llama-bpe", True)
    metadata = byte_level()
    assert rule_name(metadata) == ("gpt-2", False)
    tokenizer_files(Path("model.gguf"), metadata, {})
    assert "tokenizer.ggml.pre" in capsys.readouterr().err


def test_an_unknown_rule_is_refused_by_name() -> None:
    with pytest.raises(ModelDirectoryError, match=r"'unheard-of'.*tokenizer\.json"):
        tokenizer_files(Path("model.gguf"), byte_level(pre="unheard-of"), {})


# -- beginnings and ends ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(WHOLE_WORDS))
def test_rules_of_llama_3_begin_with_bos_where_the_file_does_not_say(name: str) -> None:
    assert adds_bos(byte_level(("<s>", CONTROL), pre=name, bos_token_id=256))
    assert not adds_bos(byte_level(("<s>", CONTROL), pre=name, bos_token_id=256, add_bos_token=False))
    assert not adds_bos(byte_level(pre=name))  # there is none
    assert not adds_bos(byte_level(("<s>", CONTROL), pre="smollm", bos_token_id=256))


def test_a_sentencepiece_file_that_names_no_special_token_has_1_and_2() -> None:
    metadata = sentencepiece()
    assert (token_id(metadata, "bos"), end_ids(metadata), adds_bos(metadata)) == (1, [2], True)
    assert token_id(sentencepiece(bos_token_id=10**9), "bos") is None


def test_end_tokens_are_those_named_and_those_whose_text_says_so() -> None:
    more = [("<|a|>", CONTROL), ("<|b|>", CONTROL), ("<|eot_id|>", CONTROL), ("<|im_end|>", PLAIN), ("end", PLAIN)]
    assert end_ids(byte_level(*more, eos_token_id=256, eom_token_id=257)) == [256, 257, 258, 259]
    assert end_ids(byte_level(*more, eot_token_id=257)) == [257, 258, 259]


@pytest.mark.parametrize("kind", [PLAIN, USER, CONTROL])
def test_an_end_token_decodes_to_nothing_whatever_its_type(kind: int, tmp_path: Path) -> None:
    for number, metadata in enumerate((sentencepiece(("<|im_end|>", kind)), byte_level(("<|im_end|>", kind)))):
        folder = tmp_path / str(number)
        folder.mkdir()
        tokenizer = opened(metadata, folder)
        last = len(metadata["tokenizer.ggml.tokens"]) - 1
        assert tokenizer.decode([*tokenizer.encode("hi"), last]) == "hi"
        assert tokenizer.encode("hi<|im_end|>", special=True)[-1] == last
        assert last not in tokenizer.encode("hi<|im_end|>")


# -- sentencepiece ----------------------------------------------------------------------------------------------------


def test_unknown_token_id_says_which_piece_is_unknown(tmp_path: Path) -> None:
    metadata = sentencepiece(("<unused>", UNKNOWN), unknown_token_id=0)
    metadata["tokenizer.ggml.token_type"][0] = CONTROL
    tokenizer = opened(metadata, tmp_path)
    assert tokenizer.decode(tokenizer.encode("hi é")) == "hi é"
    assert tokenizer.encode("<unk>", special=True)[-1] == 0


def test_runs_of_spaces_written_plainly_are_found_in_a_text(tmp_path: Path) -> None:
    metadata = sentencepiece(("   ", USER))
    tokenizer = opened(metadata, tmp_path)
    run = len(metadata["tokenizer.ggml.tokens"]) - 1
    assert run in tokenizer.encode("h   i")
    assert tokenizer.decode(tokenizer.encode("h   i")) == "h   i"


@pytest.mark.parametrize("prefix", [True, False])
def test_a_space_comes_again_after_a_special_token_where_texts_begin_with_one(prefix: bool, tmp_path: Path) -> None:
    metadata = sentencepiece(add_space_prefix=prefix)
    tokenizer = opened(metadata, tmp_path)
    first = metadata["tokenizer.ggml.tokens"].index("▁h" if prefix else "h")
    assert tokenizer.encode("h</s>h", special=True) == [first, 2, first]


def test_special_tokens_of_phi_3_swallow_the_line_break_after_them(tmp_path: Path) -> None:
    more = [("<|user|>", CONTROL), ("<|end|>", CONTROL), ("<|endoftext|>", CONTROL)]
    metadata = sentencepiece(*more) | {"general.architecture": "phi3"}
    tokenizer = opened(metadata, tmp_path)
    user, end, text = (metadata["tokenizer.ggml.tokens"].index(name) for name, _ in more)
    newline = metadata["tokenizer.ggml.tokens"].index("<0x0A>")
    ids = tokenizer.encode("<|user|>\nh<|end|>\n<|endoftext|>\n", special=True)
    assert [i for i in ids if i in (user, end, text, newline)] == [user, end, text, newline]


def test_configuration_names_bos_and_the_end_of_text() -> None:
    files = tokenizer_files(Path("model.gguf"), sentencepiece(), {})
    fields = json.loads(bytes(files["tokenizer_config.json"]))  # type: ignore[arg-type]
    assert (fields["bos_token"], fields["eos_token"], fields["add_bos_token"]) == ("<s>", "</s>", True)
