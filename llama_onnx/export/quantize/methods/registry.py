"""The methods by name. Each turns a matrix float32 [out, in] into `NBits` of a given `Format`.

| method | needs | idea |
| --- | --- | --- |
| `rtn`, `rtn_dq` | weights | the nearest of evenly spaced values; `rtn_dq` writes DequantizeLinear + MatMul |
| `k_quant` | weights | weighted least squares over a grid of ranges |
| `hqq` | weights | a sparse error norm, solved by alternation |
| `awq_lite` | inputs | important channels are scaled up before rounding |
| `awq_clip` | inputs | ranges are clipped where that improves products |
| `awq_full` | inputs | both |
| `gptq` | inputs | later weights compensate for the errors of earlier ones |
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ....errors import RequestError
from ...nbits import NBits
from . import hqq, k_quant, rtn
from .common import Format

DATA_FREE: dict[str, Callable[[np.ndarray, Format], NBits]] = {
    "rtn": rtn.quantize,
    "rtn_dq": rtn.quantize,
    "k_quant": k_quant.quantize,
    "hqq": hqq.quantize,
}
CALIBRATED = ("awq_lite", "awq_clip", "awq_full", "gptq")
METHODS = (*DATA_FREE, *CALIBRATED)


def data_free(algo: str) -> Callable[[np.ndarray, Format], NBits]:
    """Return the method, or k_quant in place of a method that reads text."""
    return DATA_FREE.get(algo, k_quant.quantize)


def check_method(name: str) -> None:
    """Raise RequestError unless there is a method of this name."""
    if name not in METHODS:
        raise RequestError(f"quantiser {name!r} is not known; use one of {', '.join(METHODS)}")
