"""Writes the shards of a model, from whatever supplies its tensors; what `export` and `quantize` share."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MissingDependencyError, ModelDirectoryError
from ..text.added_tokens import adds_bos
from ..text.open import open_tokenizer
from .checkpoint import Checkpoint
from .families.registry import read_spec
from .families.spec import EMBEDDING, HEAD, DecoderSpec, expected_names
from .graphs.blocks import ROPE_FILE, build_embed, build_head, build_layer, stored_table, write_rope
from .graphs.graph import Graph
from .graphs.ops import Ops
from .graphs.weights import Weights
from .progress import progress, report
from .readers.json_files import auxiliary_json
from .special_tokens import special_tokens
from .writer import ModelWriter

IGNORED = (".rotary_emb.inv_freq",)  # a buffer in old checkpoints; the tables are computed here


def checked_spec(checkpoint: Checkpoint) -> DecoderSpec:
    """Return the spec of a checkpoint, after checking that it has exactly the tensors the spec needs.

    Raises:
        ModelDirectoryError: the architecture is not known, or the tensors do not fit it.
    """
    spec = read_spec(checkpoint.config)
    if spec.tied_embeddings and _has_head_of_its_own(checkpoint):
        spec = replace(spec, tied_embeddings=False)
    _check_names(checkpoint, spec)
    return spec


def is_quantized(checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint stores any tensor in integers."""
    return any(checkpoint.stored_bits(name) for name in checkpoint.names())


def write_shards(
    writer: ModelWriter,
    checkpoint: Checkpoint,
    spec: DecoderSpec,
    weights: Weights,
    style: Ops,
    share: bool,
    title: str,
) -> dict[str, Any]:
    """Write everything but the manifest, and return the manifest's entry for the model.

    Args:
        writer: writes the model directory.
        checkpoint: supplies the auxiliary files.
        spec: describes the model.
        weights: supplies the tensors; its `begin` and `end` are called around each shard.
        style: the style of graph.
        share: whether the head reads its matrix from the embedding's file.
        title: of the progress bar.
    """
    model = manifest_model(checkpoint, spec)
    if not model["eos_token_ids"]:
        report("no token ends a text here: answers end at their greatest length, or at a --stop text")
    writer.copy(checkpoint.files)
    _check_tokenizer(writer.folder, model)
    rope = writer.data_file(ROPE_FILE, lambda file: write_rope(file, spec))

    def build(g: Graph, step: str | int) -> None:
        weights.begin(step, rope)
        if step == "embed":
            build_embed(g, spec, weights, style)
        elif step == "head":
            build_head(
                g, spec, weights, stored_table(writer.graph("embed"), spec.hidden_size) if share else None, style
            )
        else:
            build_layer(g, spec, weights, int(step), rope, style)
        weights.end(step)

    for step in progress(["embed", *range(spec.num_layers), "head"], title):
        if step == "embed":
            writer.shard("embed", partial(build, step=step))
        elif step == "head":
            writer.shard("head", partial(build, step=step), ["embed.bin"] if share else [])
        else:
            writer.shard(f"decoder-{step:02d}", partial(build, step=step), [ROPE_FILE])
    return model


def _has_head_of_its_own(checkpoint: Checkpoint) -> bool:
    """Return whether there is an lm_head that differs from the embedding, which overrides tying as in transformers."""
    if not {EMBEDDING, HEAD} <= checkpoint.names():
        return False
    return _digest(checkpoint, EMBEDDING) != _digest(checkpoint, HEAD)


def _digest(checkpoint: Checkpoint, name: str) -> bytes:
    found = hashlib.sha256()
    for part in checkpoint.parts(name):
        found.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    return found.digest()


def _check_names(checkpoint: Checkpoint, spec: DecoderSpec) -> None:
    """Raise ModelDirectoryError unless the checkpoint has exactly the tensors that the graphs read."""
    names, expected = checkpoint.names(), expected_names(spec)
    missing = sorted(expected - names)
    if missing:
        raise ModelDirectoryError(f"the checkpoint lacks {len(missing)} tensors, the first is {missing[0]}")
    ignored = ("lm_head.weight",) if spec.tied_embeddings else ()
    unknown = sorted(n for n in names - expected if n not in ignored and not n.endswith(IGNORED))
    if unknown:
        raise ModelDirectoryError(
            f"the checkpoint has {len(unknown)} tensors that this architecture does not use, the first is {unknown[0]}"
        )


def manifest_model(checkpoint: Checkpoint, spec: DecoderSpec) -> dict[str, Any]:
    """Return the manifest's entry for the model: its sizes and special tokens.

    Raises:
        ModelDirectoryError: a special token is not in the vocabulary.
    """
    tokenizer, fast = (auxiliary_json(checkpoint, name) for name in ("tokenizer_config.json", "tokenizer.json"))
    bos, eos = special_tokens(checkpoint, spec.vocab_size)
    sizes = "hidden_size num_layers num_heads num_kv_heads intermediate_size vocab_size context_length".split()
    return {
        **{name: getattr(spec, name) for name in sizes},
        "head_dim": spec.cache_head_dim,
        **({"rope_switch_length": spec.rope_switch_length} if spec.rope_switch_length else {}),
        "bos_token_id": bos,
        "eos_token_ids": eos,
        "add_bos": adds_bos(tokenizer, fast, bos),
        **({"template": checkpoint.config["template"]} if "template" in checkpoint.config else {}),
    }


def _check_tokenizer(folder: Path, model: dict[str, Any]) -> None:
    """Raise for a damaged tokenizer, or one that belongs to another model, during export rather than at first use."""
    if any((folder / name).is_file() for name in ("tokenizer.model", "tokenizer.json")):
        with contextlib.suppress(MissingDependencyError):  # then it cannot be checked here
            open_tokenizer(folder, model["vocab_size"], model["bos_token_id"], model["eos_token_ids"])


def fingerprint(checkpoint: Checkpoint) -> list[Any]:
    """Return what identifies a checkpoint: the names, sizes and times of its files."""
    contents = checkpoint.files.items()
    files = [*checkpoint.source, *(content for _, content in contents if isinstance(content, Path))]
    return [
        *([str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in files),
        *([name, hashlib.sha256(content).hexdigest()] for name, content in contents if isinstance(content, bytes)),
    ]
