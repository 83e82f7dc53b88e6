"""The logits of the peers' models, for all positions of a text at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from divergence import LENGTH, Logits
from peer_models import HEAD_SIZE

from llama_onnx.export.families.spec import DecoderSpec
from llama_onnx.session import session_options


def genai_logits(path: Path, spec: DecoderSpec) -> Logits:
    """Return a function that runs a model made by onnxruntime-genai's builder with ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), session_options(prepack=True))  # the threads of this process
    size = -(-spec.head_dim // HEAD_SIZE) * HEAD_SIZE
    empty = np.zeros((1, spec.num_kv_heads, 0, size), np.float32)

    def logits(ids: np.ndarray) -> np.ndarray:
        given: dict[str, np.ndarray] = {}
        for value in session.get_inputs():
            given[value.name] = empty
        given["input_ids"], given["attention_mask"] = ids[None], np.ones((1, len(ids)), np.int64)
        return np.asarray(session.run(["logits"], given)[0][0])

    return logits


def gguf_logits(path: Path, length: int = LENGTH) -> Logits:
    """Return a function that runs a GGUF file with llama.cpp, on texts of at most `length` tokens."""
    from llama_cpp import Llama

    model = Llama(str(path), n_ctx=length, n_batch=length, logits_all=True, verbose=False)

    def logits(ids: np.ndarray) -> np.ndarray:
        model.reset()
        model.eval(ids.tolist())
        return np.array(model.scores[: len(ids)])

    return logits
