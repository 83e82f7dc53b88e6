"""llama_onnx: run a Llama-family model of any size in any amount of memory, one ONNX shard per layer.

Example:
    >>> import llama_onnx
    >>> with llama_onnx.load("models/alpaca", poolsize="2GB") as lm:
    ...     for step in lm.stream_generate("bonjour", llama_onnx.SamplingParams(temperature=0.1, seed=7)):
    ...         print(step.text, end="", flush=True)
"""

from .errors import *  # the public errors are all it defines
from .model import Conversation, LanguageModel, load
from .sampling import SamplingParams
from .tokens import Completion, Step

__version__ = "0.1.0"
__all__ = [
    "Completion", "Conversation", "LanguageModel", "LlamaOnnxError", "MissingDependencyError", "ModelDirectoryError",
    "ModelStateError", "PoolTooSmallError", "RequestError", "SamplingParams", "Step", "generate", "load",
    "stream_generate",
]  # fmt: skip

generate, stream_generate = LanguageModel.generate, LanguageModel.stream_generate
