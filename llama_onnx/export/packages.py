"""The packages of the extra 'tools'; where one is missing, the import fails with the command that installs it.

Every module of `export` takes these packages from here, so that this message comes before a bare ImportError.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ..errors import MissingDependencyError

__all__ = ["ml_dtypes", "onnx", "safetensors", "tqdm"]

try:
    import ml_dtypes
    import onnx
    import safetensors
    import tqdm
except ImportError:
    missing = [name for name in __all__ if find_spec(name) is None]
    if not missing:  # one is installed, but broken
        raise
    clone = Path(__file__).resolve().parents[2] / "tools" / "requirements.txt"
    install = f"-r {clone}" if clone.is_file() else "'llama-onnx[tools]'"
    raise MissingDependencyError(
        f"the packages of the extra 'tools' are needed ({', '.join(missing)} missing): pip install {install}"
    ) from None
