"""Sessions that look up rows of an embedding without keeping them all.

A table is mapped from its file, and only the parts that are read take memory: 64 KB around each row. After a few
thousand tokens that would be most of the table. So the file is mapped anew after a number of rows, in about a
millisecond, and what the lookups take is bounded, whatever the length of a prompt or of a server's life.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..config import Shard
from ..files.mapped import LOOKED_UP
from ..session import Session

EMBED = "embed"  # the name of the shard


def open_shard(shard: Shard, fold: bool = True) -> Session:
    """Load a shard into a session of its own; see `Session`."""
    return LookupSession(shard, fold=fold) if shard.name == EMBED else Session(shard, fold=fold)


class LookupSession(Session):
    """The session of an embedding: input_ids int64 [rows, count] -> hidden float32 [rows, count, hidden_size]."""

    def __init__(self, shard: Shard, fold: bool = True) -> None:
        super().__init__(shard, fold=fold)
        self._fold, self._rows, self._file = fold, 0, _identity(shard)

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> None:
        """See `Session`. Many rows are looked up a few at a time."""
        count = inputs["input_ids"].size
        if count <= LOOKED_UP:  # the same arrays every time, so that they stay bound
            self._look_up(count, inputs, outputs)
            return
        ids, hidden = inputs["input_ids"].reshape(1, count), outputs["hidden"].reshape(1, count, -1)
        for start in range(0, count, LOOKED_UP):
            part = slice(start, min(start + LOOKED_UP, count))
            self._look_up(part.stop - start, {"input_ids": ids[:, part]}, {"hidden": hidden[:, part]})

    def _look_up(self, count: int, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> None:
        # A model that was replaced or removed stays as it was loaded, at the price of the pages.
        if self._rows + count > LOOKED_UP and _identity(self.shard) == self._file:
            super().__init__(self.shard, fold=self._fold)
            self._rows = 0
        self._rows += count
        super().run(inputs, outputs)


def _identity(shard: Shard) -> list[tuple[int, int]] | None:
    """Return what changes when the files of a shard are replaced; None if they are gone."""
    try:
        found = [path.stat() for path in (shard.path, *(shard.path.with_name(name) for name in shard.data_files))]
    except OSError:
        return None
    return [(status.st_ino, status.st_mtime_ns) for status in found]
