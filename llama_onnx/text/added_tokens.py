"""The JSON files beside a tokenizer: tokens added to its vocabulary, which of them are special, and the BOS rule.

A *special* token controls the model (`<s>`, `<|im_end|>`): it decodes to no text. An added token that is not special
is an ordinary word with an id of its own. Files of several generations say this, each in its own way:
`tokenizer_config.json` (`added_tokens_decoder`), `tokenizer.json` (`added_tokens`, read as plain JSON, without the
`tokenizers` package), `special_tokens_map.json` and `added_tokens.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import ModelDirectoryError

CONFIG, FAST, ADDED, SPECIAL_MAP = (
    "tokenizer_config.json",
    "tokenizer.json",
    "added_tokens.json",
    "special_tokens_map.json",
)


@dataclass(frozen=True)
class AddedToken:
    """One added token. `lstrip`, `rstrip`: it swallows white space on that side; `single_word`: never within a word."""

    id: int
    text: str
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


@dataclass(frozen=True)
class TokenizerFiles:
    """What the files beside a tokenizer say.

    Attributes:
        config: `tokenizer_config.json`, empty where there is none.
        added: the added tokens in the order of their ids.
        special_texts: the texts of the named special tokens, as {'bos_token': '<s>', …}.
    """

    config: dict[str, Any] = field(default_factory=dict)
    added: tuple[AddedToken, ...] = ()
    special_texts: dict[str, str] = field(default_factory=dict)

    @property
    def prefixes_every_part(self) -> bool:
        """Whether the text after a special token gets sentencepiece's leading space too, as `legacy` says."""
        return self.config.get("legacy") is True

    @property
    def bos_token_id(self) -> int | None:
        """The id of the tokenizer's BOS, if it is an added token: it goes before the one `config.json` names."""
        text = self.special_texts.get("bos_token")
        return next((token.id for token in self.added if token.text == text), None)

    def for_model(self, vocab_size: int, eos_token_ids: Iterable[int]) -> TokenizerFiles:
        """Return the same without tokens the model has no place for; end tokens are special whatever the files say."""
        ends = set(eos_token_ids)
        kept = (token for token in self.added if token.id < vocab_size)
        return replace(self, added=tuple(replace(t, special=t.special or t.id in ends) for t in kept))


def read_tokenizer_files(directory: Path) -> TokenizerFiles:
    """Read the files beside a tokenizer; each of them may be missing.

    Raises:
        ModelDirectoryError: one is damaged, or gives a token in a way that is not understood.
    """
    config = read_object(directory / CONFIG)
    named = {**read_object(directory / SPECIAL_MAP), **{k: v for k, v in config.items() if v is not None}}
    special_texts = {
        name: text for name, value in named.items() if name.endswith("_token") and (text := _text(value)) is not None
    }
    special = set(special_texts.values())
    for name in ("additional_special_tokens", "extra_special_tokens"):
        values = named.get(name)
        values = list(values.values()) if isinstance(values, dict) else _list(values)
        special |= {text for value in values if (text := _text(value))}
    tokens: dict[int, AddedToken] = {}
    for path, entry in _entries(directory, config):
        token = _added_token(path, entry)
        tokens.setdefault(token.id, replace(token, special=token.special or token.text in special))
    return TokenizerFiles(config, tuple(tokens[i] for i in sorted(tokens)), special_texts)


def adds_bos(config: dict[str, Any], fast: dict[str, Any], bos_token_id: int | None) -> bool:
    """Return whether a prompt begins with BOS: `add_bos_token` if given, else what `tokenizer.json` itself does.

    A lone `tokenizer.model` cannot say; its models (Llama 1 and 2, Mistral, Gemma) begin with BOS if they have one.

    Args:
        config: `tokenizer_config.json`, empty where there is none.
        fast: `tokenizer.json`, empty where there is none.
        bos_token_id: of the model.
    """
    explicit = config.get("add_bos_token")
    if isinstance(explicit, bool):
        return explicit
    if not fast:
        return bos_token_id is not None
    post_processor = fast.get("post_processor")
    steps = _list(post_processor.get("processors")) if isinstance(post_processor, dict) else []
    return any(_begins_with_token(step) for step in [post_processor, *steps])


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; a missing file is an empty one.

    Raises:
        ModelDirectoryError: it is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ModelDirectoryError(f"{path}: cannot be read ({error}); copy the checkpoint's own again") from None
    if not isinstance(value, dict):
        raise ModelDirectoryError(f"{path}: not a JSON object; copy the checkpoint's own again")
    return value


def _begins_with_token(post_processor: Any) -> bool:
    """Tell whether a `TemplateProcessing` puts a special token before the text."""
    single = post_processor.get("single") if isinstance(post_processor, dict) else None
    return isinstance(single, list) and bool(single) and isinstance(single[0], dict) and "SpecialToken" in single[0]


def _entries(directory: Path, config: dict[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield added tokens as {'id', 'content', …}; where two files give an id, the first counts."""
    decoder = config.get("added_tokens_decoder")
    if isinstance(decoder, dict) and decoder:  # tokenizer.json, perhaps 30 MB, need not be parsed for them
        for token_id, entry in decoder.items():
            known = isinstance(entry, dict) and token_id.isdecimal()
            yield directory / CONFIG, {**entry, "id": int(token_id)} if known else {}
    else:
        for entry in _list(read_object(directory / FAST).get("added_tokens")):
            yield directory / FAST, entry if isinstance(entry, dict) else {}
    for text, token_id in read_object(directory / ADDED).items():
        yield directory / ADDED, {"content": text, "id": token_id}


def _added_token(path: Path, entry: dict[str, Any]) -> AddedToken:
    token_id, text = entry.get("id"), entry.get("content")
    if not isinstance(token_id, int) or token_id < 0 or not isinstance(text, str) or not text:
        raise ModelDirectoryError(f"{path}: an added token without id or text; copy the checkpoint's own again")
    flags = {name: entry.get(name) is True for name in ("special", "lstrip", "rstrip", "single_word")}
    return AddedToken(token_id, text, **flags)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    """Return the text of a token that is given as a string or as an object."""
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else None
