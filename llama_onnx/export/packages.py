"""The packages of the extra 'tools'; where one is missing, the import fails with the command that installs it.

Every module of `export` takes these packages from here, so that this message comes before a bare ImportError.
"""

from __future__ import annotations

from ..errors import MissingDependencyError

try:
    import ml_dtypes
    import onnx
    import safetensors
    import tqdm
except ImportError as error:
    raise MissingDependencyError(f"{error.name} is not installed: pip install 'llama-onnx[tools]'") from None

__all__ = ["ml_dtypes", "onnx", "safetensors", "tqdm"]
