"""Many sequences through a model together, layer by layer, so that each layer is loaded once for all of them.

Scores of a text need no token loop: every sequence is known as a whole. So a group of them goes through one layer
before the next one is loaded, and only the layer at work has a KV cache. A model larger than memory is then read from
disk once per group, not once per sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from ..decoder import Decoder, working_bytes
from ..errors import PoolTooSmallError

GROUP_BYTES = 64 << 20  # hidden states of a group
SLICE_BYTES = 8 << 20  # logits that exist at one time
Advance = Callable[[float], None]  # told how many passes of a token through a shard have been done


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
    """Yield what the head takes of each sequence of a group: float32 [1, S - shared, hidden_size].

    The memory that this sets aside in the pool stays so, for the next group; `pool.reserve(0)` gives it back.

    Args:
        decoder: of the model.
        group: int64 [S] each, with room in the context.
        shared: how many first tokens all of them have in common. They go through the layers once, and what is made of
            them is not returned.
        advance: told of the work that was done.

    Raises:
        PoolTooSmallError: not even one sequence fits beside the largest shard.
    """
    try:
        decoder.pool.reserve(_bytes_beside(decoder, group))
    except PoolTooSmallError:
        if len(group) == 1:
            raise
        half = len(group) // 2
        yield from final_hidden(decoder, group[:half], shared, advance)
        yield from final_hidden(decoder, group[half:], shared, advance)
        return
    yield from _run(decoder, group, shared, advance or (lambda amount: None))


def logits(decoder: Decoder, hidden: np.ndarray, slice_bytes: int = SLICE_BYTES) -> Iterator[np.ndarray]:
    """Yield the logits float32 [s, vocab] of hidden states [1, S, hidden_size], a slice of the positions at a time."""
    size = positions_at_once(decoder.config.vocab_size, slice_bytes)
    for start in range(0, hidden.shape[1], size):
        yield decoder.head(hidden[:, start : start + size])[0]


def positions_at_once(vocab_size: int, slice_bytes: int = SLICE_BYTES) -> int:
    """Return how many positions have logits of `slice_bytes`, at least one."""
    return max(1, slice_bytes // (4 * vocab_size))


def layer_cache(decoder: Decoder, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Return empty keys and values of one layer, float32 [1, kv_heads, capacity, head_dim]."""
    shape = (1, decoder.config.num_kv_heads, capacity, decoder.config.head_dim)
    return np.zeros(shape, np.float32), np.zeros(shape, np.float32)


def common_start(sequences: Sequence[np.ndarray]) -> int:
    """Return how many first tokens all sequences share, leaving each at least one of its own; 0 for fewer than two."""
    if len(sequences) < 2:
        return 0
    shortest = min(map(len, sequences)) - 1
    first = sequences[0][:shortest]
    different = np.zeros(shortest, bool)
    for sequence in sequences[1:]:
        different |= sequence[:shortest] != first
    return int(np.argmax(different)) if different.any() else max(shortest, 0)


def _run(decoder: Decoder, group: Sequence[np.ndarray], shared: int, advance: Advance) -> Iterator[np.ndarray]:
    offsets = [decoder.rope_offset(len(sequence)) for sequence in group]
    # Sequences that are turned by different rope factors have nothing in common but their tokens.
    once = shared if len(set(offsets)) == 1 else 0
    stretches = [group[0][:once]] * bool(once) + [sequence[once:] for sequence in group]
    offsets = offsets[:1] * bool(once) + offsets
    key, value = layer_cache(decoder, max(map(len, group)))

    states = [decoder.embed(stretch[None]) for stretch in stretches]
    for i, shard in enumerate(decoder.config.layers):
        with decoder.pool.use(shard):  # held while all sequences go through, not given to the next one in between
            for n, hidden in enumerate(states):
                past = once if once and n else 0  # the shared start is first, and stays in the cache for the others
                states[n] = decoder.layer(i, hidden, key, value, past, offsets[n])
                advance(hidden.shape[1])
    yield from [decoder.norm(hidden[:, shared - once :]) for hidden in states[bool(once) :]]


def _bytes_beside(decoder: Decoder, group: Sequence[np.ndarray]) -> int:
    """Bytes a group takes besides the shards: hidden states, one layer's cache, buffers, logits and a copy."""
    config, longest = decoder.config, max(map(len, group))
    states = 4 * sum(map(len, group)) * config.hidden_size
    cache = longest * config.cache_bytes_per_token // config.num_layers
    buffers = working_bytes(config, longest, longest, decoder.chunk)
    return states + cache + buffers + 2 * max(SLICE_BYTES, 4 * config.vocab_size)
