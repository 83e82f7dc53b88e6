"""Sample text from a float32 model, and measure how far its quantised versions diverge from it on that text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llama_onnx.decoder import Decoder
from llama_onnx.export.compare.metrics import kl_divergence, log_softmax
from llama_onnx.export.exporter import export
from llama_onnx.kv_cache import KVCache
from llama_onnx.model_directory import read_config
from llama_onnx.pool import MemoryPool
from llama_onnx.scoring.perplexity import standard_error
from llama_onnx.text.open import load_tokenizer

LENGTH = 256  # tokens per sample
CALIBRATION = 32  # samples for the methods that need calibration text

Logits = Callable[[np.ndarray], np.ndarray]  # int64 [tokens] -> float32 [tokens, vocab]


@dataclass(frozen=True)
class Scores:
    """How a model scores on the samples: for each sample, means over its tokens.

    Attributes:
        losses: KL divergence from the reference, in nats.
        surprise: negative log-likelihood of the next token, in nats.
    """

    losses: np.ndarray
    surprise: np.ndarray

    @property
    def loss(self) -> float:
        """Mean KL divergence in nats."""
        return float(self.losses.mean())

    @property
    def error(self) -> float:
        """Standard error of the mean. Samples are independent of each other; the tokens of one sample are not."""
        return standard_error(self.losses)

    @property
    def perplexity(self) -> float:
        """Perplexity of the samples."""
        return float(np.exp(self.surprise.mean()))


class Reference:
    """A float32 model, samples of its text at temperature 1, and further samples for calibration."""

    def __init__(self, source: Path, work: Path, count: int) -> None:
        """Export the checkpoint `source` into the folder `work` and sample `count` texts, and the calibration text."""
        self.folder = work / "fp32"
        export(source, self.folder)
        decoder = open_decoder(self.folder)
        more = CALIBRATION + 2  # quantising splits them again as one text, which gives slightly fewer samples
        written = write_samples(decoder, count + more)
        self.samples, others = written[:count], written[count:]
        self._expected = [log_softmax(decoder.logits(ids)) for ids in self.samples]
        tokenizer = load_tokenizer(decoder.config)
        text = work / "calibration.txt"
        text.write_text("\n".join(tokenizer.decode(ids[1:].tolist()) for ids in others), encoding="utf-8")
        self.calibration: dict[str, Any] = {
            "dataset": (str(text),), "calib_size": CALIBRATION, "calib_length": LENGTH,
        }  # fmt: skip

    def score(self, logits: Logits) -> Scores:
        """Return the scores of a model, given the function that computes its logits."""
        losses, surprise = [], []
        for ids, wanted in zip(self.samples, self._expected, strict=True):
            found = log_softmax(logits(ids))
            losses.append(kl_divergence(wanted, found).mean())
            surprise.append(-found[np.arange(len(ids) - 1), ids[1:]].mean())
        return Scores(np.array(losses), np.array(surprise))


def open_decoder(folder: Path) -> Decoder:
    """Return a decoder with the whole model in memory."""
    config = read_config(folder)
    return Decoder(config, MemoryPool(config.shards, 1 << 34))


def write_samples(decoder: Decoder, count: int) -> np.ndarray:
    """Return int64 [count, LENGTH]: texts that start with BOS, sampled from the model at temperature 1."""
    rng = np.random.default_rng(0)
    cache = KVCache(decoder.config, LENGTH, count)
    ids = np.full((count, LENGTH), decoder.config.bos_token_id, np.int64)
    for i in range(1, LENGTH):
        logits = decoder.forward(ids[:, i - 1 : i], cache)[:, 0]
        ids[:, i] = (logits + rng.gumbel(size=logits.shape)).argmax(-1)
    return ids
