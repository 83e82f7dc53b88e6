"""Packs examples into rows of token ids, so that hardly any position is padding."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from generate_text import Example
from sentencepiece import SentencePieceProcessor
from tokenizer import BOS, EOS
from torch import Tensor

_MAX_WAITING = 10


@dataclass
class Batch:
    """Rows of packed documents.

    `ids` is (rows, length); `mask` (rows, 1, length, length) lets a position see the earlier ones of its own document;
    `targets` are the next ids of the `positions` (indices into the flattened rows) that count in the loss.
    """

    ids: Tensor
    mask: Tensor
    positions: Tensor
    targets: Tensor


def encode(example: Example, tokenizer: SentencePieceProcessor) -> tuple[list[int], int]:
    """Return the ids, with BOS and EOS, and the index of the first id of the response."""
    ids = [BOS, *tokenizer.encode(example.prompt + example.response), EOS]
    # The prompt ends with a newline, which is never merged with what follows.
    return ids, 1 + len(tokenizer.encode(example.prompt)) if example.prompt else 1


def _to_batch(rows: list[list[tuple[list[int], int]]], length: int) -> Batch:
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    document = torch.zeros(len(rows), length, dtype=torch.long)
    positions: list[int] = []
    targets: list[int] = []
    for row, documents in enumerate(rows):
        start = 0
        for number, (tokens, first) in enumerate(documents, 1):
            ids[row, start : start + len(tokens)] = torch.tensor(tokens)
            document[row, start : start + len(tokens)] = number
            positions.extend(row * length + start + i - 1 for i in range(first, len(tokens)))
            targets.extend(tokens[first:])
            start += len(tokens)
    same = document[:, :, None] == document[:, None, :]
    mask = same & torch.ones(length, length, dtype=torch.bool).tril()
    return Batch(ids, mask[:, None], torch.tensor(positions), torch.tensor(targets))


def batches(
    documents: Iterator[Example],
    tokenizer: SentencePieceProcessor,
    rows: int,
    length: int,
    cut: int | None = None,
) -> Iterator[Batch]:
    """Yield batches; a document goes into the fullest row that still has room for it.

    Documents that find no room wait for the next batch, so that the mixture of long and short ones stays as generated;
    documents longer than `length` are dropped. With `cut`, longer responses end after that many ids, without EOS. Only
    the response (all of a plain text) counts in the loss.
    """
    waiting: list[tuple[list[int], int]] = []
    while True:
        packed: list[list[tuple[list[int], int]]] = [[] for _ in range(rows)]
        room = [length] * rows
        queue, waiting = waiting, []
        while len(waiting) < _MAX_WAITING:
            tokens, first = queue.pop(0) if queue else encode(next(documents), tokenizer)
            tokens = tokens[: first + cut] if cut else tokens
            fitting = [row for row in range(rows) if room[row] >= len(tokens)]
            if fitting:
                best = min(fitting, key=room.__getitem__)
                packed[best].append((tokens, first))
                room[best] -= len(tokens)
            elif len(tokens) <= length:
                waiting.append((tokens, first))
        waiting += queue
        yield _to_batch(packed, length)
