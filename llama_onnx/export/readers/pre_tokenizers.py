"""How a text is cut before byte-level BPE merges it: the rules that GGUF files name, as llama.cpp knows them.

A rule is one or several regular expressions. Each cuts the parts that the one before left: what matches is a part, and
so is what lies between two matches. Where a model's own `tokenizer.json` says it in other words than llama.cpp, the
words here are its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_QWEN35 = QWEN2.replace(r"]?\p{L}+", r"]?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_WORDS = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*")
_TEKKEN = rf"{_WORDS[0]}|{_WORDS[1]}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
_GPT4O = (
    rf"{_WORDS[0]}{_CONTRACTION}?|{_WORDS[1]}{_CONTRACTION}?|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
_DEEPSEEK_V3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"""
    + _SPACES
)
_ASIAN = "[一-龥ࠀ-一가-\ud7ff]+"

RULES: dict[str, tuple[str, ...]] = {
    "gpt-2": (GPT2,),
    "llama-bpe": (LLAMA3,),
    "qwen2": (QWEN2,),
    "qwen35": (_QWEN35,),
    "smollm": (r"\p{N}", GPT2),
    "tekken": (_TEKKEN,),
    "gpt-4o": (_GPT4O,),
    "falcon": (r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"),
    "default": (r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
    # Its letters are those of Latin, Greek, Cyrillic and so on: all that have a case.
    "deepseek-llm": (
        r"[\r\n]",
        r"\s?[\p{Lu}\p{Ll}\p{Lt}]+",
        r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
        r"\s+$",
        _ASIAN,
        r"\p{N}+",
    ),
    "deepseek-coder": (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _ASIAN, r"\p{N}"),
    "deepseek-v3": (r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", _DEEPSEEK_V3),
    "superbpe": (r"\p{N}+", r"(?=(\d{3})+(?!\d))"),
}
_SAME = {
    "gpt-2": "phi-2 mpt olmo exaone4 jina-es jina-de jina-v1-en jina-v2-es jina-v2-de jina-v2-code roberta-bpe "
    "gigachat a.x-4.0 mellum modern-bert jais trillion granite-docling",
    "llama-bpe": "llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano dbrx smaug-bpe glm4 chatglm-bpe",
    "qwen2": "deepseek-r1-qwen kormo f2llmv2 stablelm2 megrez hunyuan solar-open grok-2",
    "smollm": "starcoder refact command-r codeshell exaone minerva-7b mellum2",
    "gpt-4o": "llama4 kanana2 talkie minimax-m2",
    "deepseek-v3": "hunyuan-dense hy_v4 joyai-llm",
}
RULE_OF = {name: name for name in RULES} | {name: rule for rule, names in _SAME.items() for name in names.split()}
# A piece that is a token is not split further; and where the file does not say it, a text begins with BOS.
WHOLE_WORDS = frozenset("llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano tekken".split())
_NFC = frozenset("qwen2 deepseek-r1-qwen qwen35".split())  # as their own tokenizer.json says; llama.cpp lacks it


def rule_name(metadata: Mapping[str, Any]) -> tuple[str, bool]:
    """Return the name of a GGUF file's rule, and whether the file or its architecture says so.

    Files from before May 2024 have no name (llama.cpp PR 6920).
    """
    name = metadata.get("tokenizer.ggml.pre")
    if isinstance(name, str):
        return name, True
    if metadata.get("general.architecture") in ("qwen2", "qwen3"):
        return "qwen2", True
    if metadata.get("general.architecture") == "llama" and len(metadata.get("tokenizer.ggml.tokens", [])) == 128256:
        return "llama-bpe", True
    return "gpt-2", False


def normalizer(name: str) -> dict[str, str] | None:
    """Return the `normalizer` of a `tokenizer.json`, None for none."""
    return {"type": "NFC"} if name in _NFC else None


def pre_tokenizer(name: str) -> dict[str, Any]:
    """Return the `pre_tokenizer` of a `tokenizer.json` that cuts by a rule, a key of `RULE_OF`."""
    cuts = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in RULES[RULE_OF[name]]
    ]
    return {"type": "Sequence", "pretokenizers": [*cuts, BYTE_LEVEL]}


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
