"""GPTQ and AWQ checkpoints: packed integers become the blocks of MatMulNBits, without a second rounding.

In both, groups of `group_size` inputs of a matrix [out, in] share a float16 scale and an integer zero point:
w = (q - zero) · scale. The integers are packed into int32 words, the first in the lowest bits:

    GPTQ  qweight [in · bits / 32, out]  along the inputs    qzeros [groups, out · bits / 32] along the outputs
    AWQ   qweight [in, out · bits / 32]  along the outputs, in the order 0 2 4 6 1 3 5 7, qzeros likewise

GPTQ's first format stores zero - 1, so the highest integer means a zero point of 0. With `desc_act`, GPTQ reorders the
inputs (`g_idx`), so a group is not a block of neighbours. Such a matrix is returned as floats, which is exact; an
export that quantises rounds them again, and reports it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ...errors import ModelDirectoryError
from ..checkpoint import Checkpoint
from ..nbits import BLOCK_SIZES, NBits, narrowed, pack_bits
from ..progress import report

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the column in each place of a word
PARTS = (".qweight", ".qzeros", ".scales", ".g_idx")


def is_packed(config: dict[str, Any]) -> bool:
    """Return whether `config.json` belongs to a GPTQ or AWQ checkpoint. The export rejects other quantisations."""
    return _settings(config).get("quant_method") in ("gptq", "awq")


class PackedCheckpoint:
    """See `Checkpoint`: gives the packed matrices of another checkpoint their ordinary names."""

    def __init__(self, inner: Checkpoint) -> None:
        """Args: inner: has the tensors `*.qweight`, `*.qzeros`, `*.scales` and perhaps `*.g_idx`.

        Raises:
            ModelDirectoryError: the layout is not supported.
        """
        self._inner = inner
        self._read_settings(_settings(inner.config))
        self.config = {name: value for name, value in inner.config.items() if name != "quantization_config"}
        self.files = inner.files
        self.source = inner.source
        names = inner.names()
        self._modules = frozenset(name.removesuffix(".qweight") for name in names if name.endswith(".qweight"))
        if not self._modules:
            raise ModelDirectoryError("config.json says that the checkpoint is quantised, but it has no *.qweight")
        plain = {name for name in names if not (name.endswith(PARTS) and name.rpartition(".")[0] in self._modules)}
        self._names = frozenset(plain - self._empty_biases(plain)) | {f"{module}.weight" for module in self._modules}
        self._reported = False

    def names(self) -> frozenset[str]:
        """Return the names of all tensors."""
        return self._names

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor in its stored float type; a packed matrix as float32."""
        module = name.removesuffix(".weight")
        if module not in self._modules:
            return self._inner.tensor(name)
        values, zeros, scales, groups = self._unpack(module)
        matrix = values.astype(np.float32)
        matrix -= zeros[:, groups]
        matrix *= scales[:, groups]
        return matrix

    def stored_bits(self, name: str) -> int | None:
        """Return the bits of a packed matrix, else None."""
        packed = name.removesuffix(".weight") in self._modules
        return self._bits if packed else self._inner.stored_bits(name)

    def parts(self, name: str) -> Iterator[np.ndarray]:
        """See `Checkpoint`."""
        if name.removesuffix(".weight") in self._modules:
            yield self.tensor(name)
        else:
            yield from self._inner.parts(name)

    def quantized(self, name: str) -> NBits | None:
        """Return a packed matrix in blocks, None if its groups are not blocks of neighbours."""
        module = name.removesuffix(".weight")
        if module not in self._modules:
            return self._inner.quantized(name)
        values, zeros, scales, groups = self._unpack(module)
        columns = values.shape[1]
        group = self._group if self._group > 0 else columns
        if not np.array_equal(groups, np.arange(columns) // group):
            self._report(f"{module}: its groups are not neighbours (desc_act); it is read as floats and rounded again")
            return None
        size = _block_size(group, columns)
        if size is None:
            self._report(f"{module}: groups of {group} do not make blocks; it is read as floats and rounded again")
            return None
        if columns % size:  # the last group is shorter
            values = np.pad(values, ((0, 0), (0, -columns % size)))
        blocks = np.arange(0, values.shape[1], size) // group
        zeros, scales = zeros[:, blocks], np.ascontiguousarray(scales[:, blocks])
        points = None if np.all(zeros == 1 << (self._bits - 1)) else pack_bits(zeros, self._bits)
        packed = pack_bits(values.reshape(len(values), -1, size), self._bits)
        return NBits(packed, narrowed(scales), points, self._bits, columns)

    def _read_settings(self, settings: dict[str, Any]) -> None:
        method, bits, group = settings.get("quant_method"), settings.get("bits"), settings.get("group_size")
        awq = method == "awq"
        if isinstance(bits, str) and bits.isdecimal():
            bits = int(bits)
        layout = str(settings.get("version") or "gemm") if awq else str(settings.get("checkpoint_format") or "gptq")
        layout = layout.lower()
        known = ("gemm",) if awq else ("gptq", "gptq_v2")
        if layout not in known or bits not in ((4,) if awq else (2, 4, 8)):
            raise ModelDirectoryError(
                f"config.json: {method} in layout {layout!r} with {bits} bits is not supported; use "
                "gptq and gptq_v2 with 2, 4 or 8 bits, and awq gemm with 4"
            )
        if isinstance(group, bool) or not isinstance(group, int) or group == 0:
            raise ModelDirectoryError(f"config.json: group_size {group!r} is not a number of weights")
        self._awq, self._bits, self._group = awq, int(bits or 0), group
        self._zero_offset = 1 if layout == "gptq" else 0

    def _unpack(self, module: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return uint8 values [out, in], uint8 zero points, float32 scales [out, groups], and each input's group."""
        qweight, qzeros = self._words(f"{module}.qweight"), self._words(f"{module}.qzeros")
        scales = np.ascontiguousarray(self._inner.tensor(f"{module}.scales").astype(np.float32).T)
        zeros = _columns(qzeros, self._bits, self._awq).T
        zeros = (zeros + np.uint8(self._zero_offset)) & np.uint8((1 << self._bits) - 1)
        if self._awq:
            values = np.ascontiguousarray(_columns(qweight, self._bits, True).T)
        else:
            values = _columns(np.ascontiguousarray(qweight.T), self._bits, False)
        rows, columns = values.shape
        groups = self._groups(module, columns)
        count = int(groups.max(initial=0)) + 1
        whole = len(groups) == columns and groups.min(initial=0) >= 0 and zeros.shape == scales.shape
        if not whole or len(scales) != rows or scales.shape[1] < count:
            raise ModelDirectoryError(
                f"{module}: packed weights {rows} x {columns}, scales {scales.shape} and zero points {zeros.shape} "
                "do not match; download the checkpoint again"
            )
        return values, zeros, scales, groups

    def _groups(self, module: str, columns: int) -> np.ndarray:
        if not self._awq and f"{module}.g_idx" in self._inner.names():
            return self._inner.tensor(f"{module}.g_idx").astype(np.int64)
        return np.arange(columns) // (self._group if self._group > 0 else columns)

    def _words(self, name: str) -> np.ndarray:
        array = self._inner.tensor(name)
        if array.dtype != np.int32 or array.ndim != 2:
            raise ModelDirectoryError(f"{name}: {array.dtype} {list(array.shape)} instead of a matrix of int32 words")
        return np.ascontiguousarray(array)

    def _empty_biases(self, plain: set[str]) -> set[str]:
        """Return the all-zero biases that some tools add to models without biases."""
        biases = {f"{module}.bias" for module in self._modules} & plain
        if self.config.get("model_type") not in ("llama", "mistral") or self.config.get("attention_bias"):
            return set()
        return {name for name in biases if not self._inner.tensor(name).any()}

    def _report(self, text: str) -> None:
        if not self._reported:
            self._reported = True
            report(f"{text} (and perhaps others)")


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    settings = config.get("quantization_config")
    return settings if isinstance(settings, dict) else {}


def _columns(words: np.ndarray, bits: int, awq: bool) -> np.ndarray:
    """Return uint8 [rows, words · 32 / bits] from int32 [rows, words]."""
    places = np.arange(0, 32, bits, dtype=np.uint32)
    if awq:
        places = places[np.argsort(AWQ_ORDER)]
    per_word = len(places)
    values = np.empty((*words.shape, per_word), np.uint8)
    unsigned = words.view(np.uint32)
    for column, place in enumerate(places):
        values[..., column] = (unsigned >> place) & np.uint32((1 << bits) - 1)
    return values.reshape(len(words), -1)


def _block_size(group: int, columns: int) -> int | None:
    """Return the largest block size that never spans two groups, None if there is none."""
    if group in BLOCK_SIZES:
        return group
    whole = [size for size in BLOCK_SIZES if group % size == 0 and columns % size == 0]
    return max(whole, default=None)
