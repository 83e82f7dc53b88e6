"""The usual names of tensors that other programs wrap: `_orig_mod.`, `module.`, the text part of a larger model."""

from __future__ import annotations

from collections.abc import Iterable

EMBEDDING, HEAD, USUAL = "embed_tokens.weight", "lm_head.weight", "model."


def usual_names(names: Iterable[str]) -> dict[str, str]:
    """Return the tensors of the language model: their usual names by the names in the file.

    What comes before `embed_tokens.weight` comes before every tensor of the language model, so it is taken off:
    `_orig_mod.model.` (torch.compile), `module.` (distributed training), `language_model.model.` (models that see), or
    nothing at all. Whatever else such a model has, a tower for pictures, is left out. Where the prefix is the usual
    one, or the embedding is not found, all names stay as they are.
    """
    names = list(names)
    prefix = min((name.removesuffix(EMBEDDING) for name in names if name.endswith(EMBEDDING)), key=len, default=USUAL)
    if prefix == USUAL:
        return {name: name for name in names}
    usual = {name: USUAL + name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    heads = [name for name in names if name == HEAD or name.endswith(f".{HEAD}")]
    return {**usual, **({min(heads, key=len): HEAD} if heads else {})}
