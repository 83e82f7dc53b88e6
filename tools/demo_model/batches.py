"""Packs examples into rows of token ids, so that hardly any position is padding."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from generate_text import Example
from sentencepiece import SentencePieceProcessor
from tokenizer import BOS, EOS
from torch import Tensor

_MAX_WAITING = 30


@dataclass
class Batch:
    """Rows of packed documents.

    `ids` is (rows, length); `mask` (rows, 1, length, length) lets a position see the earlier ones of its own document;
    `targets` are the next ids of the `positions` (indices into the flattened rows) that count in the loss; `named`
    marks the targets that are pieces of the document's name.
    """

    ids: Tensor
    mask: Tensor
    positions: Tensor
    targets: Tensor
    named: Tensor


@dataclass
class Document:
    """The ids of one document and, where it counts in the loss, the id that should follow each of them."""

    ids: list[int]
    targets: list[int]  # -1 where the next id does not count
    named: list[bool]

    def cut(self, response: int) -> "Document":
        """Return the document up to `response` ids after the first one that counts."""
        first = next(i for i, target in enumerate(self.targets) if target >= 0)
        stop = first + response
        return Document(self.ids[:stop], self.targets[:stop], self.named[:stop])


def encode(example: Example, tokenizer: SentencePieceProcessor) -> Document:
    """Turn an example into ids; every response is followed by EOS as far as the loss is concerned."""
    text, ids, targets = "", [BOS], [-1]
    for segment, counts in example.segments:
        text += segment
        # The text is encoded from its start, as the runtime does; a part ends with a line break or is followed by one,
        # which is never merged with its neighbours, so the ids of the earlier parts stay the same.
        more = [BOS, *tokenizer.encode(text)][len(ids) :]
        if counts:
            targets[-1:] = [*more, EOS]
        else:
            targets += [-1] * len(more)
        ids += more
    named = [False] * len(ids)
    if example.name:
        pieces = tokenizer.encode(example.name)[1:]
        for start in range(len(ids) - len(pieces)):
            if targets[start : start + len(pieces)] == pieces:
                named[start : start + len(pieces)] = [True] * len(pieces)
    return Document(ids, targets, named)


def _to_batch(rows: list[list[Document]], length: int) -> Batch:
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    number = torch.zeros(len(rows), length, dtype=torch.long)
    positions: list[int] = []
    targets: list[int] = []
    named: list[bool] = []
    for row, documents in enumerate(rows):
        start = 0
        for index, document in enumerate(documents, 1):
            stop = start + len(document.ids)
            ids[row, start:stop] = torch.tensor(document.ids)
            number[row, start:stop] = index
            counted = [i for i, target in enumerate(document.targets) if target >= 0]
            positions.extend(row * length + start + i for i in counted)
            targets.extend(document.targets[i] for i in counted)
            named.extend(document.named[i] for i in counted)
            start = stop
    same = number[:, :, None] == number[:, None, :]
    mask = same & torch.ones(length, length, dtype=torch.bool).tril()
    return Batch(ids, mask[:, None], torch.tensor(positions), torch.tensor(targets), torch.tensor(named))


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
    the responses (all of a plain text) count in the loss.
    """
    waiting: list[Document] = []
    while True:
        packed: list[list[Document]] = [[] for _ in range(rows)]
        room = [length] * rows
        queue, waiting = waiting, []
        while len(waiting) < _MAX_WAITING:
            document = queue.pop(0) if queue else encode(next(documents), tokenizer)
            document = document.cut(cut) if cut else document
            size = len(document.ids)
            fitting = [row for row in range(rows) if room[row] >= size]
            if fitting:
                best = min(fitting, key=room.__getitem__)
                packed[best].append(document)
                room[best] -= size
            elif size <= length:
                waiting.append(document)
        waiting += queue
        yield _to_batch(packed, length)
