"""Runs many sequences through a model together, layer by layer, so that each layer is loaded once for all of them.

Scoring a text needs no token loop, because all its tokens are known. So a whole group of sequences goes through one
layer before the next layer is loaded, and only the running layer has a KV cache. A model larger than memory is then
read from disk once per group, not once per sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from ..decoder import Decoder, Run, Stretch, pass_bytes
from ..errors import PoolTooSmallError
from ..kv_cache import KVCache

GROUP_BYTES = 64 << 20  # the most, for the hidden states of a group
SLICE_BYTES = 8 << 20  # the most, for the logits that exist at a time
Advance = Callable[[int], None]  # called with the number of tokens that went through another layer


def split(decoder: Decoder, sequences: Iterable[np.ndarray], group_bytes: int = GROUP_BYTES) -> Iterator[list]:
    """Yield the sequences int64 [S] in groups whose hidden states fit into `group_bytes`, at least one in each."""
    group: list[np.ndarray] = []
    size = 0
    for sequence in sequences:
        added = 4 * len(sequence) * decoder.config.hidden_size
        if group and size + added > group_bytes:
            yield group
            group, size = [], 0
        group.append(sequence)
        size += added
    if group:
        yield group


def final_hidden(
    decoder: Decoder, group: Sequence[np.ndarray], shared: int = 0, advance: Advance | None = None
) -> Iterator[np.ndarray]:
    """Yield the input of the head for each sequence of a group: float32 [1, S - shared, hidden_size].

    Args:
        decoder: of the model.
        group: the sequences, int64 [S] each; none is longer than the context.
        shared: the length of their common prefix. It goes through the layers once, and its hidden states are not
            returned.
        advance: reports progress; see `Advance`.

    Raises:
        PoolTooSmallError: not even one sequence fits beside the largest shard.
    """
    cache = decoder.new_cache(max(map(len, group)), one_layer=True)
    try:
        try:
            with decoder.guard:
                cache.reserve(decoder.pool, _bytes_beside(decoder, group, cache))
        except PoolTooSmallError:
            if len(group) == 1:
                raise
            half = len(group) // 2
            yield from final_hidden(decoder, group[:half], shared, advance)
            yield from final_hidden(decoder, group[half:], shared, advance)
        else:
            yield from _run(decoder, group, cache, shared, advance or (lambda tokens: None))
    finally:
        cache.close()


def logits(decoder: Decoder, hidden: np.ndarray, slice_bytes: int = SLICE_BYTES) -> Iterator[np.ndarray]:
    """Yield the logits float32 [s, vocab] of hidden states [1, S, hidden_size], a slice of the positions at a time."""
    size = positions_at_once(decoder.config.vocab_size, slice_bytes)
    for start in range(0, hidden.shape[1], size):
        with decoder.guard:
            scores = decoder.head(hidden[:, start : start + size])[0]
        yield scores


def positions_at_once(vocab_size: int, slice_bytes: int = SLICE_BYTES) -> int:
    """Return for how many positions the logits fit into `slice_bytes`, at least 1."""
    return max(1, slice_bytes // (4 * vocab_size))


def common_start(sequences: Sequence[np.ndarray]) -> int:
    """Return the length of the common prefix of all sequences, at most all but their last token; 0 for one sequence."""
    if len(sequences) < 2:
        return 0
    shortest = min(map(len, sequences)) - 1
    first = sequences[0][:shortest]
    different = np.zeros(shortest, bool)
    for sequence in sequences[1:]:
        different |= sequence[:shortest] != first
    return int(np.argmax(different)) if different.any() else max(shortest, 0)


def _run(
    decoder: Decoder, group: Sequence[np.ndarray], cache: KVCache, shared: int, advance: Advance
) -> Iterator[np.ndarray]:
    offsets = [decoder.rope_offset(len(sequence)) for sequence in group]
    # Keys that are rotated by different factors differ, even where their tokens are the same.
    once = shared if len(set(offsets)) == 1 else 0

    def stretch(ids: np.ndarray, past: int, rope_offset: int) -> Stretch:
        return Stretch(decoder.config, ids[None], decoder.chunk, spare=False).start([past], [rope_offset])

    # The common prefix runs first and stays in the cache for all sequences.
    first = [stretch(group[0][:once], 0, offsets[0])] if once else []
    own = [stretch(ids[once:], once, offset) for ids, offset in zip(group, offsets, strict=True)]
    with decoder.guard:
        for one in (*first, *own):
            decoder.embed(one)
        decoder.through_layers([*first, *own], cache, advance)
        ends = [decoder.norm(one.hidden[:, shared - once :]) for one in own]
    yield from ends


def _bytes_beside(decoder: Decoder, group: Sequence[np.ndarray], cache: KVCache) -> int:
    """Return the bytes a group takes besides the shards: one layer's cache, the pass, and two slices of logits."""
    runs = [Run(1, len(sequence), len(sequence)) for sequence in group]
    size = pass_bytes(decoder.config, runs, 0, decoder.chunk, spare=False)
    return cache.bytes_with([max(map(len, group))]) + size + 2 * max(SLICE_BYTES, 4 * decoder.config.vocab_size)
