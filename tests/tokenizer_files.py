"""Small tokenizers of every kind, trained when needed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceTrainer

CORPUS = """the quick brown fox jumps over the lazy dog  and runs away
once upon a time there was a little girl who liked stories
il était une fois une petite fille qui aimait les histoires, çà et là
你好 世界 今天 天气 真 好 我们 去 公园
if x == 1:
    return  "yes"   # 12345 67890
<tags> & [brackets] {braces} | pipes""".splitlines()
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
JSON_KINDS = ("byte-level", "prepend", "no-prefix", "metaspace")


def train_sentencepiece(path: Path, **options: Any) -> Path:
    """Write a small `tokenizer.model`; by default like Llama 2's."""
    model = io.BytesIO()
    settings: dict[str, Any] = {
        "model_type": "bpe", "vocab_size": 420, "byte_fallback": True, "character_coverage": 0.99,
        "normalization_rule_name": "identity", "remove_extra_whitespaces": False, "minloglevel": 2,
        "num_threads": 1, "hard_vocab_limit": False,
    }  # fmt: skip
    SentencePieceTrainer.train(sentence_iterator=iter(CORPUS * 3), model_writer=model, **(settings | options))
    path.write_bytes(model.getvalue())
    return path


SENTENCEPIECE = {
    "llama-like": {},
    "gemma-like": {"add_dummy_prefix": False, "user_defined_symbols": ["<start_of_turn>"]},
    "trainer-defaults": {"remove_extra_whitespaces": True, "normalization_rule_name": "nmt_nfkc"},
    "unigram": {"model_type": "unigram"},
    "without-bytes": {"byte_fallback": False, "vocab_size": 120},
}


def train_json(path: Path, kind: str) -> Path:
    """Write a small `tokenizer.json` of one of the kinds in JSON_KINDS, with its own BOS rule."""
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    special = ["<unk>", "<s>", "</s>", "<|im_end|>"]
    if kind == "byte-level":
        backend = tokenizers.Tokenizer(models.BPE())
        split = pre_tokenizers.Split(tokenizers.Regex(LLAMA3_SPLIT), "isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    elif kind == "word-suffix":  # a decoder that does not define bytes per token
        backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        backend.decoder = decoders.BPEDecoder(suffix="</w>")
        alphabet = []
    else:
        backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        alphabet = []
        special += [f"<0x{byte:02X}>" for byte in range(256)]
        steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
        if kind == "prepend":
            backend.normalizer = normalizers.Sequence(
                [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
            )
            backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
        elif kind == "no-prefix":
            backend.normalizer = normalizers.Replace(" ", "\u2581")
            backend.decoder = decoders.Sequence(steps)
        else:
            backend.pre_tokenizer = pre_tokenizers.Metaspace()
            backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + 500,
        special_tokens=special,
        initial_alphabet=alphabet,
        show_progress=False,
        **({"end_of_word_suffix": "</w>"} if kind == "word-suffix" else {}),
    )
    backend.train_from_iterator(CORPUS * 3, trainer)
    backend.add_tokens([tokenizers.AddedToken("<tool>", normalized=False)])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.enable_truncation(5)
    fields = json.loads(backend.to_str())
    kept = [token for token in fields["added_tokens"] if not token["content"].startswith("<0x")]
    fields["added_tokens"] = kept  # bytes are pieces, not special tokens
    path.write_text(json.dumps(fields), encoding="utf-8")
    return path
