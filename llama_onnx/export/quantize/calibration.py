"""Calibration: selects samples of text, and records the inputs of a model's matrices while the samples run through it.

All samples go through one shard before the next shard is loaded. So only one layer's weights are in memory, beside the
hidden states of the samples. All samples have the same length, and each begins with BOS, as at inference. No sample is
padded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...config import Shard
from ...decoder import Stretch, run_layer
from ...errors import RequestError
from ...pool import MemoryPool
from ...tokenizer import Tokenizer
from ..families.spec import DecoderSpec
from .methods.common import slices, threaded

BUILT_IN = Path(__file__).with_name("calibration_text.txt")
TOKENS_KEPT = 512  # inputs that are kept, for methods that try candidates on them
PANEL = 1024  # rows of XᵀX that are computed at a time
IN_MEMORY = 256 << 20  # bytes of hidden states that are kept in memory; more are kept in a file


def read_texts(files: Sequence[str | Path]) -> str:
    """Return the joined texts of the files, or the built-in text if no file is given.

    Raises:
        RequestError: a file cannot be read as text.
    """
    texts = []
    for file in files or [BUILT_IN]:
        try:
            texts.append(Path(file).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RequestError(f"{file}: cannot be read as text ({error})") from None
    return "\n\n".join(texts)


def samples_of(text: str, tokenizer: Tokenizer, count: int, length: int) -> np.ndarray:
    """Return int64 [samples, length]: pieces spread evenly over a text, each after the tokens that begin every prompt.

    If the text is too short for `count` samples, there are fewer; if it is too short for one, there is one shorter
    sample.

    Raises:
        RequestError: the text is empty, or count or length is too small.
    """
    if count < 1 or length < 2:
        raise RequestError(f"calibration on {count} samples of {length} tokens: use at least 1 sample of 2 tokens")
    start = tokenizer.encode("")
    ids = np.array(tokenizer.encode(text, add_bos=False), np.int64)
    new = length - len(start)
    if not len(ids):
        raise RequestError("the calibration text is empty; name another file with --dataset")
    if len(ids) < new:
        return np.concatenate([start, ids]).astype(np.int64)[None]
    stretches = ids[: len(ids) // new * new].reshape(-1, new)
    chosen = np.linspace(0, len(stretches) - 1, min(count, len(stretches))).round().astype(int)
    begin = np.broadcast_to(np.array(start, np.int64), (len(chosen), len(start)))
    return np.concatenate([begin, stretches[chosen]], axis=1)


@dataclass
class InputStatistics:
    """Statistics of a matrix's inputs X, float32 [tokens, in].

    Attributes:
        width: in.
        with_hessian: sum up XᵀX as well, float32 [in, in].
    """

    width: int
    with_hessian: bool = False
    tokens: int = 0
    hessian: np.ndarray | None = None
    _sum: np.ndarray = field(init=False)
    _kept: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._sum = np.zeros(self.width, np.float64)
        if self.with_hessian:
            self.hessian = np.zeros((self.width, self.width), np.float32)

    @property
    def mean_abs(self) -> np.ndarray:
        """The mean of |x|, float32 [in]."""
        return (self._sum / max(self.tokens, 1)).astype(np.float32)

    @property
    def sample(self) -> np.ndarray:
        """A selection of the inputs, spread evenly over each sample, float32 [about TOKENS_KEPT, in]."""
        return np.concatenate(self._kept)

    def take_hessian(self) -> np.ndarray:
        """Return XᵀX and drop it here: two copies may not fit into memory."""
        if self.hessian is None:
            raise ValueError("XᵀX was not requested, or was already taken")
        hessian, self.hessian = self.hessian, None
        for rows in slices(hessian.shape, PANEL * self.width):  # the blocks left of the diagonal were not summed
            hessian[rows.stop :, rows] = hessian[rows, rows.stop :].T
        return hessian

    def add(self, inputs: np.ndarray, keep: int) -> None:
        """Add inputs float32 [tokens, in] to the statistics, and keep `keep` of them."""
        self.tokens += len(inputs)
        self._sum += np.abs(inputs).sum(0, dtype=np.float64)
        self._kept.append(inputs[spread(len(inputs), keep)])
        if self.hessian is not None:
            hessian = self.hessian

            def add(rows: slice) -> None:  # in slices, because the whole product would be as large as XᵀX itself
                hessian[rows, rows.start :] += inputs[:, rows].T @ inputs[:, rows.start :]

            threaded(add, slices(hessian.shape, PANEL * self.width))


def spread(length: int, count: int) -> np.ndarray:
    """Divide `length` positions into at most `count` equal parts; return the position in the middle of each, int.

    This leaves out BOS: its hidden state is far from all others and would weigh too much.
    """
    count = min(count, length)
    return ((np.arange(count) + 0.5) * length / max(count, 1)).astype(int)


class HiddenStates:
    """The hidden states of all samples, float32 [samples, length, hidden], before one of the layers."""

    def __init__(self, spec: DecoderSpec, samples: np.ndarray, folder: Path) -> None:
        """Make the array, for samples int64 [samples, length]; above `IN_MEMORY` it is a file in `folder`."""
        self._spec = spec
        self._samples = samples
        shape = (*samples.shape, spec.hidden_size)
        self.layers = -1  # the number of layers they have passed; -1 before the embedding
        if 4 * int(np.prod(shape)) <= IN_MEMORY:
            self.values = np.empty(shape, np.float32)
        else:
            self.values = np.memmap(folder / "hidden.bin", np.float32, "w+", shape=shape)

    def advance(self, shard: Shard) -> None:
        """Run them through the next shard: the embedding first, then one layer after another."""
        if self.layers < 0:
            with MemoryPool([shard], None).use(shard) as session:
                for i, ids in enumerate(self._samples):
                    session.run({"input_ids": ids[None]}, {"hidden": self.values[i : i + 1]})
        else:
            for i, outputs in run_shard(self._spec, shard, self.values):
                self.values[i] = outputs["hidden_out"][0]
        self.layers += 1

    def observe(self, shard: Shard, widths: dict[str, int], with_hessian: bool) -> dict[str, InputStatistics]:
        """Run a layer or the head that has extra outputs; return statistics of these by name.

        Args:
            shard: a float32 layer or head.
            widths: of the extra outputs [1, length, width], by name.
            with_hessian: see `InputStatistics`.
        """
        statistics = {name: InputStatistics(width, with_hessian) for name, width in widths.items()}
        keep = -(-TOKENS_KEPT // len(self._samples))
        result = "hidden_out" if self.layers < self._spec.num_layers else "logits"
        for _, outputs in run_shard(self._spec, shard, self.values, widths, result):
            for name in widths:
                statistics[name].add(outputs[name][0], keep)
        return statistics


def run_shard(
    spec: DecoderSpec,
    shard: Shard,
    hidden: np.ndarray,
    widths: Mapping[str, int] | None = None,
    result: str = "hidden_out",
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Run sequences through a layer or the head, one by one; yield the number and the outputs of each.

    Args:
        spec: of the model.
        shard: to run; it is loaded until the generator ends.
        hidden: float32 [sequences, length, hidden_size]; a sequence may be overwritten once it has been yielded.
        widths: of extra outputs [1, length, width] of the shard, by name.
        result: 'hidden_out', or 'logits' for a head.
    """
    count, length = hidden.shape[:2]
    sizes = {**(widths or {}), **({"logits": spec.vocab_size} if result == "logits" else {})}
    more = {name: np.empty((1, length, size), np.float32) for name, size in sizes.items()}
    switch = spec.rope_switch_length
    offset = switch if switch is not None and length > switch else 0
    stretch = Stretch(spec, np.zeros((1, length), np.int64), length)
    cache = (1, spec.num_kv_heads, length, spec.cache_head_dim)
    key, value = np.zeros(cache, np.float32), np.zeros(cache, np.float32)
    with MemoryPool([shard], None).use(shard) as session:
        for i in range(count):
            stretch.start([0], [offset])
            stretch.hidden[0] = hidden[i]
            if result == "hidden_out":
                run_layer(session, stretch, key, value, more)
            else:
                session.run({"hidden": stretch.hidden}, more)
            yield i, {**more, "hidden_out": stretch.hidden}
