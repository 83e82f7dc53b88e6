"""The JSON files beside a tokenizer: which tokens were added to its vocabulary, which are special, and the BOS rule.

A *special* token controls the model (`<s>`, `<|im_end|>`) and decodes to no text. An added token that is not special is
an ordinary word with its own id. Over the years, different files have listed these tokens: `tokenizer_config.json`
(`added_tokens_decoder`), `tokenizer.json` (`added_tokens`, read as plain JSON, without the `tokenizers` package),
`special_tokens_map.json` and `added_tokens.json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
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
# What transformers' classes take where no file names the tokens.
CLASS_TOKENS = {
    "LlamaTokenizer": {"bos_token": "<s>", "eos_token": "</s>"},
    "GemmaTokenizer": {"bos_token": "<bos>", "eos_token": "<eos>"},
}


@dataclass(frozen=True)
class AddedToken:
    """One added token.

    Attributes:
        id: the token id.
        text: the text that is encoded as this token.
        special: whether it decodes to no text.
        lstrip: whether it absorbs the white space before it.
        rstrip: whether it absorbs the white space after it.
        single_word: whether it is not recognised inside a word.
    """

    id: int
    text: str
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


@dataclass(frozen=True)
class TokenizerFiles:
    """The contents of the files beside a tokenizer.

    Attributes:
        config: `tokenizer_config.json`; empty if there is no such file.
        added: the added tokens in the order of their ids.
        special_texts: the texts of the named special tokens: {'bos_token': '<s>', …}.
    """

    config: dict[str, Any] = field(default_factory=dict)
    added: tuple[AddedToken, ...] = ()
    special_texts: dict[str, str] = field(default_factory=dict)

    @property
    def prefixes_every_part(self) -> bool:
        """Whether text after a special token also gets sentencepiece's leading space: the option `legacy`."""
        return self.config.get("legacy") is True

    @property
    def bos_token_id(self) -> int | None:
        """The id of the tokenizer's BOS, if it is an added token. It takes precedence over the one in `config.json`."""
        text = self.special_texts.get("bos_token")
        return next((token.id for token in self.added if token.text == text), None)

    def for_model(self, vocab_size: int, eos_token_ids: Iterable[int]) -> TokenizerFiles:
        """Return a copy without the tokens beyond the model's vocabulary, and with all end tokens marked as special."""
        ends = set(eos_token_ids)
        kept = (token for token in self.added if token.id < vocab_size)
        return replace(self, added=tuple(replace(t, special=t.special or t.id in ends) for t in kept))


def read_tokenizer_files(directory: Path) -> TokenizerFiles:
    """Read the files beside a tokenizer. Any of them may be missing.

    Raises:
        ModelDirectoryError: a file is damaged, or lists a token in an unknown form.
    """
    return parse_tokenizer_files(lambda name: read_object(directory / name), directory)


def parse_tokenizer_files(read: Callable[[str], dict[str, Any]], directory: Path) -> TokenizerFiles:
    """Do what `read_tokenizer_files` does with files that `read` returns, {} for a missing one.

    Args:
        read: given a file's name, returns its JSON object.
        directory: where the files are, as far as messages are concerned.
    """
    config = read(CONFIG)
    listed = read(SPECIAL_MAP)
    known = CLASS_TOKENS.get(str(config.get("tokenizer_class")).removesuffix("Fast"), {})
    defaults = {name: text for name, text in known.items() if name not in listed and name not in config}
    named = {**defaults, **listed, **{k: v for k, v in config.items() if v is not None}}
    special_texts = {
        name: text for name, value in named.items() if name.endswith("_token") and (text := _text(value)) is not None
    }
    special = set(special_texts.values())
    for name in ("additional_special_tokens", "extra_special_tokens"):
        values = named.get(name)
        values = list(values.values()) if isinstance(values, dict) else _list(values)
        special |= {text for value in values if (text := _text(value))}
    tokens: dict[int, AddedToken] = {}
    for name, entry in _entries(read, config):
        token = _added_token(directory / name, entry)
        tokens.setdefault(token.id, replace(token, special=token.special or token.text in special))
    return TokenizerFiles(config, tuple(tokens[i] for i in sorted(tokens)), special_texts)


def adds_bos(config: dict[str, Any], fast: dict[str, Any], bos_token_id: int | None) -> bool:
    """Return whether a prompt starts with BOS: `add_bos_token` if it is set, otherwise what `tokenizer.json` does.

    `tokenizer.model` alone does not say. The models that use it (Llama 1 and 2, Mistral, Gemma) start with BOS if they
    have one.

    Args:
        config: `tokenizer_config.json`; empty if there is no such file.
        fast: `tokenizer.json`; empty if there is no such file.
        bos_token_id: the model's BOS.
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
    """Read a JSON object. A missing file counts as an empty object.

    Raises:
        ModelDirectoryError: the file cannot be read, or is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ModelDirectoryError(f"{path}: cannot be read ({error}); copy it from the checkpoint again") from None
    if not isinstance(value, dict):
        raise ModelDirectoryError(f"{path}: not a JSON object; copy it from the checkpoint again")
    return value


def _begins_with_token(post_processor: Any) -> bool:
    """Return whether a `TemplateProcessing` puts a special token before the text."""
    single = post_processor.get("single") if isinstance(post_processor, dict) else None
    return isinstance(single, list) and bool(single) and isinstance(single[0], dict) and "SpecialToken" in single[0]


def _entries(read: Callable[[str], dict[str, Any]], config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (file name, {'id', 'content', …}) for each added token. If files define an id twice, the first counts."""
    decoder = config.get("added_tokens_decoder")
    if isinstance(decoder, dict) and decoder:  # then there is no need to parse tokenizer.json, which can have 30 MB
        for token_id, entry in decoder.items():
            known = isinstance(entry, dict) and token_id.isdecimal()
            yield CONFIG, {**entry, "id": int(token_id)} if known else {}
    else:
        for entry in _list(read(FAST).get("added_tokens")):
            yield FAST, entry if isinstance(entry, dict) else {}
    for text, token_id in read(ADDED).items():
        yield ADDED, {"content": text, "id": token_id}


def _added_token(path: Path, entry: dict[str, Any]) -> AddedToken:
    token_id, text = entry.get("id"), entry.get("content")
    if not isinstance(token_id, int) or token_id < 0 or not isinstance(text, str) or not text:
        raise ModelDirectoryError(f"{path}: an added token has no id or no text; copy it from the checkpoint again")
    flags = {name: entry.get(name) is True for name in ("special", "lstrip", "rstrip", "single_word")}
    return AddedToken(token_id, text, **flags)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    """Return the text of a token that is written as a string or as an object."""
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else None
