"""Rotary position embedding (Su et al. 2021, RoFormer) and its scalings, as tables of cosines and sines.

The formulas and the float32 arithmetic are those of `transformers` (modeling_rope_utils.py): at long positions, other
rounding would show.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import ModelDirectoryError
from ..checkpoint import row_slices
from .fields import not_implemented, number, require

FLOAT = np.float32
COLUMNS = 8  # the attention kernel needs a multiple of 8 columns

# The values that each kind reads. Any other value is an error, because it would be ignored.
KINDS = {
    "default": "",
    "linear": "factor",
    "dynamic": "factor",
    "llama3": "factor low_freq_factor high_freq_factor",
    "yarn": "factor attention_factor beta_fast beta_slow mscale mscale_all_dim truncate",
    "longrope": "factor attention_factor short_factor long_factor",
}
EVERY_KIND = {
    "rope_type",
    "type",
    "rope_theta",
    "partial_rotary_factor",
    "original_max_position_embeddings",  # has no effect for some kinds
    "finetuned",  # a note in the first YaRN models
}


@dataclass(frozen=True, eq=False)
class Rope:
    """How heads are rotated by position.

    Attributes:
        frequencies: float32 [rotary dimensions / 2], radians per position.
        scaling: factor of cosines and sines.
        long_frequencies: used for sequences longer than `switch_length` (LongRoPE), or None.
        switch_length: the longest sequence that uses `frequencies`, or None if all do.
    """

    frequencies: np.ndarray
    scaling: float = 1.0
    long_frequencies: np.ndarray | None = None
    switch_length: int | None = None

    @property
    def half(self) -> int:
        """How many pairs of head dimensions are rotated."""
        return len(self.frequencies)

    @property
    def columns(self) -> int:
        """Columns of the tables: `half`, rounded up to what the attention kernel needs."""
        return -(-self.half // COLUMNS) * COLUMNS

    def rows(self, context_length: int) -> int:
        """Rows of the tables."""
        return context_length + (self.switch_length or 0)

    def table(self, context_length: int, function: Callable[[np.ndarray], np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the table of `function`, np.cos or np.sin, float32 [rows, columns], as consecutive slices of its rows.

        There is one row per position; columns from `half` on are unused. With long frequencies, the first
        `switch_length` rows are for short sequences. Rows for long sequences follow: position p of a long sequence is
        in row `switch_length + p`.
        """
        stretches = [(self.frequencies, context_length)]
        if self.long_frequencies is not None:
            stretches = [(self.frequencies, self.switch_length or 0), (self.long_frequencies, context_length)]
        for frequencies, length in stretches:
            for rows in row_slices((length, self.columns)):
                angles = np.zeros((rows.stop - rows.start, self.columns), FLOAT)
                angles[:, : self.half] = np.outer(np.arange(rows.start, rows.stop, dtype=FLOAT), frequencies)
                values = function(angles)
                if self.scaling != 1:
                    values *= FLOAT(self.scaling)
                yield values


def rope_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rope dictionary of `config.json`: `rope_scaling` (classic) or `rope_parameters`, with `rope_theta`."""
    found = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(found, Mapping):
        raise ModelDirectoryError(f"config.json: rope_parameters is {found!r}, but must be an object")
    parameters = dict(found)
    for name in ("rope_theta", "partial_rotary_factor"):
        if parameters.get(name) is None and config.get(name) is not None:
            parameters[name] = config[name]
    return parameters


def usable_length(config: Mapping[str, Any], default: int) -> int:
    """Return the positions of a model whose rope is scaled: linear and yarn lengthen those of the first training.

    The checkpoints leave `max_position_embeddings` as it was (vicuna-7b-v1.5-16k, and Qwen2.5 as its card says to do
    it), or write the new length (then the original one stands beside it).
    """
    length = number(config, "max_position_embeddings", default)
    parameters = rope_parameters(config)
    if _kind(parameters) not in ("linear", "yarn"):
        return length
    original = _original_length(config, parameters, length)
    return max(length, int(original * number(parameters, "factor", length / original, float)))


def read_rope(
    config: Mapping[str, Any],
    head_dim: int,
    context_length: int,
    parameters: Mapping[str, Any] | None = None,
    partial: float | None = None,
) -> Rope:
    """Return the rope of a model.

    Args:
        config: the fields of `config.json`.
        head_dim: dimensions of a head.
        context_length: positions of the model.
        parameters: the rope dictionary; None means `rope_parameters(config)`.
        partial: the default fraction of a head that is rotated; None if this family always rotates whole heads.

    Raises:
        ModelDirectoryError: a kind or a value is wrong or not implemented.
    """
    parameters = rope_parameters(config) if parameters is None else parameters
    kind = _kind(parameters)
    for name, value in parameters.items():
        if value is not None and name not in EVERY_KIND | set(KINDS[kind].split()):
            raise not_implemented(f"{name} in the rope parameters of type {kind!r}", value)
    if partial is None:
        require(parameters, "partial_rotary_factor", 1)
    fraction = number(parameters, "partial_rotary_factor", partial or 1.0, float)
    dim = int(head_dim * fraction)
    if not 0 < dim <= head_dim or (dim == head_dim and dim % 2) or (dim % 2 and kind == "yarn"):
        raise ModelDirectoryError(
            f"config.json: rope would rotate {dim} of {head_dim} dimensions of a head (head_dim, partial_rotary_factor)"
        )
    # float64 powers rounded to float32 agree with torch's float32 powers more often than numpy's float32 powers do.
    base = number(parameters, "rope_theta", 10000.0, float)
    powers = np.power(base, (np.arange(0, dim, 2, dtype=FLOAT) / FLOAT(dim)).astype(np.float64)).astype(FLOAT)
    original = _original_length(config, parameters, context_length)
    if kind == "linear":
        return Rope(FLOAT(1) / powers / FLOAT(number(parameters, "factor", kind=float)))
    if kind == "dynamic":
        # The base grows once a sequence is longer than max_position_embeddings. The runtime refuses such sequences, so
        # the plain frequencies are enough.
        number(parameters, "factor", kind=float)
    if kind == "llama3":
        return Rope(llama3_frequencies(FLOAT(1) / powers, parameters, original))
    if kind == "yarn":
        return _yarn(powers, parameters, base, dim, context_length, original)
    if kind == "longrope":
        return _longrope(powers, parameters, context_length, original)
    return Rope(FLOAT(1) / powers)


def _kind(parameters: Mapping[str, Any]) -> str:
    kinds = {parameters[name] for name in ("rope_type", "type") if parameters.get(name) is not None} or {"default"}
    kind = kinds.pop()
    if kinds or kind not in KINDS:
        raise not_implemented("rope_type", " and ".join(map(str, {kind, *kinds})), *KINDS)
    return str(kind)


def _original_length(config: Mapping[str, Any], parameters: Mapping[str, Any], context_length: int) -> int:
    """Return the length of the first training. A value outside the rope parameters (phi3) overrides one inside."""
    name = "original_max_position_embeddings"
    return int(number(config if config.get(name) is not None else parameters, name, context_length))


def llama3_frequencies(plain: np.ndarray, parameters: Mapping[str, Any], original: int) -> np.ndarray:
    """Llama 3.1: long waves are slowed by `factor`, short ones kept, with a smooth transition; float32 like `plain`."""
    factor, low, high = (
        number(parameters, name, kind=float) for name in ("factor", "low_freq_factor", "high_freq_factor")
    )
    if high <= low:
        raise ModelDirectoryError(f"config.json: high_freq_factor {high} is not above low_freq_factor {low}")
    wave = FLOAT(2 * math.pi) / plain
    slowed = np.where(wave > original / low, plain / FLOAT(factor), plain)
    smooth = (FLOAT(original) / wave - FLOAT(low)) / FLOAT(high - low)
    between = (1 - smooth) * slowed / FLOAT(factor) + smooth * slowed
    medium = ~(wave < original / high) & ~(wave > original / low)
    return np.where(medium, between, slowed).astype(FLOAT)


def _yarn(
    powers: np.ndarray, parameters: Mapping[str, Any], base: float, dim: int, context_length: int, original: int
) -> Rope:
    """YaRN (Peng et al. 2023): a ramp from plain to interpolated frequencies, and scaled attention."""
    factor = number(parameters, "factor", context_length / original, float)
    scaling = parameters.get("attention_factor")
    if scaling is None:
        mscale, mscale_all = parameters.get("mscale"), parameters.get("mscale_all_dim")
        scaling = _mscale(factor, 1.0)
        if mscale and mscale_all:
            scaling = _mscale(factor, mscale) / _mscale(factor, mscale_all)

    def dimension_of(rotations: float) -> float:
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low, high = dimension_of(parameters.get("beta_fast") or 32), dimension_of(parameters.get("beta_slow") or 1)
    if parameters.get("truncate") is not False:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    high += 0.001 if low == high else 0
    ramp = np.clip((np.arange(dim // 2, dtype=FLOAT) - FLOAT(low)) / FLOAT(high - low), 0, 1)
    frequencies = (FLOAT(1) / (FLOAT(factor) * powers)) * ramp + (FLOAT(1) / powers) * (1 - ramp)
    return Rope(frequencies.astype(FLOAT), float(scaling))


def _mscale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _longrope(powers: np.ndarray, parameters: Mapping[str, Any], context_length: int, original: int) -> Rope:
    """LongRoPE (Ding et al. 2024): a factor for each frequency, and other factors beyond the original length."""
    factor = number(parameters, "factor", context_length / original, float)
    scaling = parameters.get("attention_factor")
    if scaling is None:
        scaling = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    short, long = (FLOAT(1) / (_factors(parameters, name, len(powers)) * powers) for name in _FACTORS)
    if context_length <= original:
        return Rope(short, float(scaling))
    return Rope(short, float(scaling), long, original)


_FACTORS = ("short_factor", "long_factor")


def _factors(parameters: Mapping[str, Any], name: str, count: int) -> np.ndarray:
    factors = parameters.get(name)
    numbers = isinstance(factors, list) and all(isinstance(f, (int, float)) and f > 0 for f in factors)
    if not numbers or len(factors or ()) != count:
        raise ModelDirectoryError(f"config.json: {name} of the rope parameters must be {count} numbers above 0")
    return np.array(factors, FLOAT)
