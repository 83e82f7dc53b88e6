"""The two styles of graph by name."""

from __future__ import annotations

from ...errors import RequestError
from .ops import Ops
from .ops_onnx import OnnxOps
from .ops_ort import OrtOps

STYLES: dict[str, type[OrtOps] | type[OnnxOps]] = {"ort": OrtOps, "onnx": OnnxOps}


def get_ops(style: str) -> Ops:
    """Return the style 'ort' or 'onnx'.

    Raises:
        RequestError: another name.
    """
    if style not in STYLES:
        raise RequestError(f"graph style {style!r} is not known; use one of {', '.join(STYLES)}")
    return STYLES[style]()
