"""Prompts become token ids: checked ones, or an instruction in the form the model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np

from ..config import ModelConfig
from ..errors import RequestError
from ..sampling import SamplingParams
from ..tokenizer import Tokenizer
from .control import Placeholders, TextTokenizer
from .open import NoTokenizer
from .templates import Message, choose_template, render


def check_prompt(prompt: Any, vocab_size: int, context: int, room: int = 1) -> list[int]:
    """Return a prompt's token ids as a list.

    Raises:
        RequestError: they are not a sequence of whole numbers, there are none, one is not in the vocabulary, or the
            context has no room for `room` more tokens.
    """
    ids = prompt.tolist() if isinstance(prompt, np.ndarray) else prompt
    if isinstance(ids, (bytes, bytearray, memoryview)) or not isinstance(ids, Sequence):
        raise RequestError(f"a prompt is a text or a list of token ids, not {type(prompt).__name__}")
    if not ids:
        raise RequestError("the prompt is empty; give some text")
    for token in ids:
        if not isinstance(token, Integral) or isinstance(token, bool):
            raise RequestError(f"a prompt is a text or a list of token ids, not of {str(token)[:40]!r}")
        if not 0 <= int(token) < vocab_size:
            raise RequestError(f"token id {token} is not in the vocabulary of {vocab_size}")
    if len(ids) + room > context:
        beside = " with the answer" if room else ""
        raise RequestError(f"the prompt has {len(ids)} tokens, the context holds {context}{beside}; shorten the prompt")
    return list(map(int, ids))


def check_params(params: Any, tokenizer: Tokenizer) -> SamplingParams:
    """Return valid sampling params: the given ones, or the defaults for None.

    Raises:
        RequestError: they have another type.
        ModelDirectoryError: they have stop texts, but the model has no tokenizer.
    """
    if params is None:
        return SamplingParams()
    if not isinstance(params, SamplingParams):
        raise RequestError(f"params must be SamplingParams, not {type(params).__name__}")
    if params.stop and isinstance(tokenizer, NoTokenizer):
        raise tokenizer.missing()
    return params


def encode_prompt(
    config: ModelConfig,
    tokenizer: Tokenizer,
    prompt: str | Sequence[Message],
    template: str = "auto",
    special: bool = False,
) -> list[int]:
    """Return the token ids of an instruction, or of a conversation; see `LanguageModel.format`."""
    if isinstance(prompt, str):
        if not prompt:
            raise RequestError("the prompt is empty; give some text")
        prompt = [{"role": "user", "content": prompt}]
    chosen = choose_template(config, template)
    if not chosen.writes_special_tokens:
        ids = tokenizer.encode(render(chosen, prompt), add_bos=False, special=special)
        bos = tokenizer.bos_token_id
        return ids if bos is None or (special and ids[:1] == [bos]) else [bos, *ids]
    if special or not isinstance(tokenizer, TextTokenizer):
        return tokenizer.encode(render(chosen, prompt), add_bos=False, special=True)
    hidden = Placeholders(tokenizer.control.texts, prompt)
    return tokenizer.encode_rendered(render(chosen, hidden.hide(prompt)), hidden)
