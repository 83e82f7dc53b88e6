"""The tokens of real models are llama.cpp's, on two thousand nasty texts."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from nasty_texts import nasty_texts
from record_tokens import digest

from llama_onnx.export.readers.open import open_checkpoint
from llama_onnx.export.special_tokens import special_tokens
from llama_onnx.text.open import open_tokenizer

RECORDED = json.loads((Path(__file__).parent / "tokens.json").read_text(encoding="utf-8"))


def differs_rightly(model: str, text: str) -> bool:
    """Whether llama.cpp is known to be wrong about a text.

    Qwen's own tokenizer composes characters first (NFC), which llama.cpp leaves out. In Gemma's vocabulary a literal
    U+2581 is that character, which llama.cpp takes for a space.
    """
    if model.startswith("qwen"):
        return unicodedata.normalize("NFC", text) != text
    return model.startswith("gemma") and "\u2581" in text


@pytest.mark.real
@pytest.mark.parametrize("model", sorted(RECORDED))
def test_tokens_are_those_of_llama_cpp(model: str, real_model: Callable[[str], Path], tmp_path: Path) -> None:
    checkpoint = open_checkpoint(real_model(model))
    for name, content in checkpoint.files.items():
        assert isinstance(content, bytes)
        (tmp_path / name).write_bytes(content)
    size = checkpoint.config["vocab_size"]
    tokenizer = open_tokenizer(tmp_path, size, *special_tokens(checkpoint, size))
    texts, wrong, other = nasty_texts(), [], 0
    assert len(texts) == len(RECORDED[model])
    for text, row in zip(texts, RECORDED[model], strict=True):
        for special, recorded in zip((False, True), row.split(), strict=True):
            if digest(tokenizer.encode(text, add_bos=False, special=special)) != recorded:
                if differs_rightly(model, text):
                    other += 1
                else:
                    wrong.append((special, text))
    assert not wrong, (len(wrong), wrong[:5])
    print(f"{model}: {other} of {2 * len(texts)} differ, where llama.cpp is wrong")
