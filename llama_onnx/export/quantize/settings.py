"""The options of a quantisation. Importing this needs no optional package."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...errors import RequestError
from ..nbits import BITS, check_format
from .bits import FLOAT_BITS, SENSITIVE, STORED
from .methods.common import Format
from .methods.registry import check_method

FORMATS = {"nbits": "ort", "qdq": "onnx"}  # and the style of graph for each
BLOCK_SIZES_OF = {"int8": 128, "int4": 32, "fast": 128}  # of `recipe`
ROUNDED = tuple(BLOCK_SIZES_OF)
FINEST_STEP = 0.001  # of a search, which quantises a matrix at every step
PORTABLE = "rtn_dq"  # listed as a method, but is rtn written as qdq


@dataclass(frozen=True)
class Settings:
    """How matrices are quantised.

    Attributes:
        algo: the name of the method.
        block_size, zero_point: see `Format`.
        minima: blocks of up to 4 bits have minima; see `Format`.
        alpha_step: step of the search of awq_lite.
        clip_step, clip_min: step and lowest value of the search of awq_clip.
        damp, descending: see `gptq.factorise`.
        per_matrix: the inputs of a matrix also reflect the quantised matrices before it in the same layer.
    """

    algo: str = "k_quant"
    block_size: int = 128
    zero_point: bool = False
    minima: bool = False
    alpha_step: float = 0.1
    clip_step: float = 0.05
    clip_min: float = 0.5
    damp: float = 0.01
    descending: bool = True
    per_matrix: bool = False

    def form(self, bits: int) -> Format:
        """Return the format of a matrix with these bits."""
        return Format(bits, self.block_size, self.zero_point, self.minima and bits <= 4)


@dataclass(frozen=True)
class Options:
    """Options of `quantize` other than the method.

    Attributes:
        bits: the default of all matrices.
        head_bits, embedding_bits: of lm_head (None: `bits`) and embedding; 16 is float16. If the checkpoint ties them
            and they get the same bits, they share a table, which is quantised without looking at inputs.
        layers_8bit, mixed: see `bits.plan`.
        budget: mean bits of a weight for `mixed` 'auto'.
        form: 'nbits' (MatMulNBits) or 'qdq' (DequantizeLinear + MatMul).
        dataset: text files for calibration; if empty, the built-in text.
        calib_size, calib_length: the number of samples, and the tokens in each.
        keep: integers of the checkpoint that already have the wanted bits are kept as they are.
    """

    bits: int = 4
    head_bits: int | None = None
    embedding_bits: int = FLOAT_BITS
    layers_8bit: str | None = None
    mixed: str | None = None
    budget: float = 5.0
    form: str = "nbits"
    dataset: tuple[str, ...] = ()
    calib_size: int = 32
    calib_length: int = 256
    keep: bool = False


def recipe(dtype: str, block_size: int | None = None, ops: str = "ort") -> tuple[Settings, Options]:
    """Return how `export` rounds: without calibration text, embedding and lm_head in 8 bits.

    Args:
        dtype: 'int4', 'int8', or 'fast': 4 bits where a quantised file has 4 or fewer, 8 where it has more.
        block_size: how many weights share a scale; None means 32 in int4 and 128 in the others.
        ops: the style of graph.
    """
    form = next(form for form, style in FORMATS.items() if style == ops)
    size = BLOCK_SIZES_OF[dtype] if block_size is None else block_size
    if dtype == "int8":
        return Settings("rtn", size), Options(bits=8, embedding_bits=8, form=form, keep=True)
    mixed, keep = (STORED, False) if dtype == "fast" else (SENSITIVE, True)
    options = Options(bits=4, head_bits=8, embedding_bits=8, mixed=mixed, form=form, keep=keep)
    return Settings("k_quant", size, zero_point=ops == "onnx", minima=ops == "ort"), options


def check(settings: Settings, options: Options) -> None:
    """Raise RequestError for an invalid value."""
    check_method(settings.algo)
    for bits in (options.bits, options.head_bits):
        if bits not in (None, FLOAT_BITS):
            check_format(int(bits or 0), settings.block_size)
    if options.mixed == "auto" and not BITS[0] <= options.budget < math.inf:
        raise RequestError(f"a budget of {options.budget} bits per weight: give at least {BITS[0]}")
    if options.embedding_bits not in (4, 8, FLOAT_BITS):
        raise RequestError(f"an embedding of {options.embedding_bits} bits: use 4, 8, or 16 for float16")
    if options.form not in FORMATS:
        raise RequestError(f"format {options.form!r} is not known; use one of {', '.join(FORMATS)}")
    for option, value in (
        ("--awqlite-alpha-step", settings.alpha_step),
        ("--awqclip-alpha-step", settings.clip_step),
        ("--awqclip-alpha-min", settings.clip_min),
    ):
        if not FINEST_STEP <= value <= 1:
            raise RequestError(f"{option} is {value}; use a number from {FINEST_STEP} to 1")
    if not 0 < settings.damp < math.inf:
        raise RequestError(f"a damping of {settings.damp}: use a number above 0, such as 0.01")
