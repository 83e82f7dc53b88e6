"""Mixed precision: decides how many bits each matrix gets."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...errors import RequestError
from ..checkpoint import Checkpoint
from ..families.spec import DecoderSpec
from ..nbits import BITS

EMBED_NAME, HEAD = "embed_tokens", "lm_head"
MORE_BITS = 8  # for the matrices that a rule prefers
FLOAT_BITS = 16  # stored in float16
SENSITIVE = "sensitive"
STORED = "stored"
RULES = ("last_matmul", "first_last", SENSITIVE, STORED, "auto")


def matrix_names(spec: DecoderSpec) -> list[str]:
    """Return the names of all matrices that can be quantised: '0.self_attn.q_proj' … 'lm_head'."""
    return [*(f"{i}.{name}" for i in range(spec.num_layers) for name in spec.projections), HEAD]


def matrix_sizes(spec: DecoderSpec) -> dict[str, int]:
    """Return the number of weights of each matrix."""
    sizes = {f"{i}.{name}": p.rows * p.columns for i in range(spec.num_layers) for name, p in spec.projections.items()}
    return {**sizes, HEAD: spec.vocab_size * spec.hidden_size}


def stored_bits(spec: DecoderSpec, checkpoint: Checkpoint) -> dict[str, int | None]:
    """Return the bits that the matrices of the layers have in a checkpoint, by name; None where it has floats."""
    return {
        f"{i}.{name}": checkpoint.stored_bits(f"model.layers.{i}.{p.tensor}.weight")
        for i in range(spec.num_layers)
        for name, p in spec.projections.items()
    }


def plan(
    spec: DecoderSpec,
    bits: int,
    head_bits: int | None = None,
    layers_8bit: str | None = None,
    mixed: str | None = None,
    stored: Mapping[str, int | None] | None = None,
    keep: bool = False,
) -> dict[str, int]:
    """Return the bits of each matrix by its name.

    Args:
        spec: of the model.
        bits: the default.
        head_bits: of lm_head.
        layers_8bit: layers or names of matrices that get 8 bits, such as '0,1,31'.
        mixed: 'last_matmul': lm_head gets 8 bits. 'first_last': the first and the last layer get 8 bits. 'sensitive':
            v and down get 8 bits in about half of the layers, as in llama.cpp's Q4_K_M. 'stored': 8 bits where the
            checkpoint has more than `bits`. 'auto': changes nothing here; see `auto_bits`. Anything else is the path of
            a table: CSV (layer, tensor, bits; a row without a tensor stands for the whole layer) or JSON ({name or
            layer: bits}). The quant table of an earlier run is such a table.
        stored: the bits of the matrices in the checkpoint, None where it has floats; see `stored_bits`.
        keep: a matrix that has `bits` in the checkpoint has them here, whatever `mixed` says.

    Raises:
        RequestError: the table cannot be read, or a name or a number of bits is not valid.
    """
    chosen = dict.fromkeys(matrix_names(spec), bits)
    if mixed == "last_matmul":
        chosen[HEAD] = MORE_BITS
    elif mixed == "first_last":
        _set(chosen, {"0": MORE_BITS, str(spec.num_layers - 1): MORE_BITS}, mixed)
    elif mixed == SENSITIVE:
        count, edge = spec.num_layers, spec.num_layers // 8
        some = [i for i in range(count) if i < edge or i >= 7 * count // 8 or (i - edge) % 3 == 2]
        _set(chosen, {f"{i}.{name}": MORE_BITS for i in some for name in ("self_attn.v_proj", "mlp.down_proj")}, mixed)
    elif mixed == STORED:
        chosen |= {name: MORE_BITS for name, there in (stored or {}).items() if (there or FLOAT_BITS) > bits}
    elif mixed and mixed != "auto":
        _set(chosen, _read_table(Path(mixed)), mixed)
    if keep:
        chosen |= {name: bits for name, there in (stored or {}).items() if there == bits}
    if layers_8bit:
        _set(chosen, dict.fromkeys(map(str.strip, layers_8bit.split(",")), MORE_BITS), "--layers-8bit")
    if head_bits is not None:
        chosen[HEAD] = head_bits
    return chosen


def mean_bits(chosen: Mapping[str, int], sizes: Mapping[str, int]) -> float:
    """Return the mean bits of a weight, without scales."""
    return sum(chosen[name] * sizes[name] for name in chosen) / sum(sizes[name] for name in chosen)


def _set(chosen: dict[str, int], wanted: Mapping[str, Any], source: str) -> None:
    for name, bits in wanted.items():
        short = name.removeprefix("model.layers.").removesuffix(".weight")
        names = [each for each in chosen if each == short or each.startswith(f"{short}.")]
        if not names:
            raise RequestError(
                f"{source}: {name!r} is not a layer or matrix of this model, such as 0 or {next(iter(chosen))}"
            )
        if isinstance(bits, bool) or bits not in (*BITS, FLOAT_BITS):
            raise RequestError(f"{source}: {name} has {bits!r} bits; use 2, 4, 8, or {FLOAT_BITS} for float16")
        chosen.update(dict.fromkeys(names, int(bits)))


def _read_table(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            table = json.loads(text)
            if not isinstance(table, dict):
                raise ValueError("not a JSON object")
            return table
        return dict(_rows(csv.DictReader(io.StringIO(text))))
    except FileNotFoundError:
        raise RequestError(f"--mixed {path}: no such file; give one, or {', '.join(RULES)}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(
            f"{path}: cannot be read as a table of layer, tensor and bits ({type(error).__name__}: {error})"
        ) from None


def _rows(rows: Iterable[dict[str, str]]) -> Iterable[tuple[str, int]]:
    for row in rows:
        name = ".".join(part for part in (row.get("layer") or "", row.get("tensor") or "") if part)
        if name != EMBED_NAME:
            yield name, int(row["bits"])
