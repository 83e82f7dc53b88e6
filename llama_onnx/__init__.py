"""llama_onnx: run a Llama-family model of any size in any amount of memory, one ONNX shard per layer.

Example:
    >>> import llama_onnx
    >>> lm = llama_onnx.load("models/alpaca", poolsize="2GB")
    >>> for step in lm.stream_generate("bonjour", llama_onnx.SamplingParams(temperature=0.1, seed=7)):
    ...     print(step.text, end="", flush=True)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .batching.scheduler import Completion
from .errors import LlamaOnnxError, MissingDependencyError, ModelDirectoryError, PoolTooSmallError, RequestError
from .model import LanguageModel, load
from .sampling import SamplingParams
from .tokens import Step

__version__ = "0.1.0"


def generate(lm: LanguageModel, prompt: str | Sequence[int], params: SamplingParams | None = None) -> str:
    """Return the text that continues a prompt; see `LanguageModel.generate`."""
    return lm.generate(prompt, params)


def stream_generate(
    lm: LanguageModel, prompt: str | Sequence[int], params: SamplingParams | None = None
) -> Iterator[Step]:
    """Yield the text that continues a prompt as it comes; see `LanguageModel.stream_generate`."""
    return lm.stream_generate(prompt, params)


__all__ = [
    "Completion",
    "LanguageModel",
    "LlamaOnnxError",
    "MissingDependencyError",
    "ModelDirectoryError",
    "PoolTooSmallError",
    "RequestError",
    "SamplingParams",
    "Step",
    "generate",
    "load",
    "stream_generate",
]
