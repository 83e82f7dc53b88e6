"""Text that a model wrote, and how far its quantised versions are from it on that text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llama_onnx.decoder import Decoder
from llama_onnx.export.exporter import export
from llama_onnx.kv_cache import KVCache
from llama_onnx.model_directory import read_config
from llama_onnx.pool import MemoryPool
from llama_onnx.text.open import load_tokenizer

LENGTH = 256  # tokens of a sample
CALIBRATION = 32  # samples for the methods that read a text

Logits = Callable[[np.ndarray], np.ndarray]  # int64 [tokens] -> float32 [tokens, vocab]


@dataclass(frozen=True)
class Scores:
    """What a model makes of the samples: means over the tokens of each.

    Attributes:
        losses: KL divergence from the reference, nats.
        surprise: negative log-likelihood of the next token, nats.
    """

    losses: np.ndarray
    surprise: np.ndarray

    @property
    def loss(self) -> float:
        """Mean KL divergence in nats."""
        return float(self.losses.mean())

    @property
    def error(self) -> float:
        """Standard error of the mean, samples being independent of each other and tokens of one sample not."""
        return standard_error(self.losses)

    @property
    def perplexity(self) -> float:
        """Of the samples."""
        return float(np.exp(self.surprise.mean()))


class Reference:
    """A model in float32, samples of it at temperature 1, and other samples to calibrate on."""

    def __init__(self, source: Path, work: Path, count: int) -> None:
        """Args: source checkpoint; work folder for the export and the calibration text; count of samples."""
        self.folder = work / "fp32"
        export(source, self.folder)
        decoder = open_decoder(self.folder)
        more = CALIBRATION + 2  # cut up anew as one text, they make a little less
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
        """Return what a model that computes these logits makes of the samples."""
        losses, surprise = [], []
        for ids, wanted in zip(self.samples, self._expected, strict=True):
            found = log_softmax(logits(ids))
            losses.append((np.exp(wanted) * (wanted - found)).sum(-1).mean())
            surprise.append(-found[np.arange(len(ids) - 1), ids[1:]].mean())
        return Scores(np.array(losses), np.array(surprise))


def open_decoder(folder: Path) -> Decoder:
    """Return a decoder with the whole model in memory."""
    config = read_config(folder)
    return Decoder(config, MemoryPool(config.shards, 1 << 34))


def write_samples(decoder: Decoder, count: int) -> np.ndarray:
    """Return int64 [count, LENGTH]: texts that begin with BOS, sampled from the model at temperature 1."""
    rng = np.random.default_rng(0)
    cache = KVCache(decoder.config, LENGTH, count)
    ids = np.full((count, LENGTH), decoder.config.bos_token_id, np.int64)
    for i in range(1, LENGTH):
        logits = decoder.forward(ids[:, i - 1 : i], cache)[:, 0]
        ids[:, i] = (logits + rng.gumbel(size=logits.shape)).argmax(-1)
    return ids


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return float64 log-probabilities."""
    logits = logits.astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def standard_error(values: np.ndarray) -> float:
    """Return the standard error of the mean of independent values."""
    return float(values.std(ddof=1) / len(values) ** 0.5)
