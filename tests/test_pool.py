"""The pool: a true LRU under a budget, with counts of hits, misses and evictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llama_onnx.config import Shard
from llama_onnx.errors import ModelDirectoryError, PoolTooSmallError
from llama_onnx.pool import MemoryPool, charge_of

SIZE = 10 << 20


def shard(name: str, size: int = SIZE) -> Shard:
    return Shard(name, Path(name), (), size)


def pool_of(shards: list[Shard], places: float, load: Any = None) -> MemoryPool:
    """Return a pool with room for `places` of the (equal) shards; their sessions are their names."""
    return MemoryPool(shards, int(places * charge_of(shards[0])), load or (lambda shard: shard.name))


def touch(pool: MemoryPool, *shards: Shard) -> None:
    for one in shards:
        with pool.use(one) as session:
            assert session == one.name


SHARDS = [shard(name) for name in "abcd"]
A, B, C, D = SHARDS


def test_least_recently_used_shard_is_evicted_first() -> None:
    pool = pool_of(SHARDS, 2)
    touch(pool, A, B, A, C)  # B is the least recently used one
    touch(pool, A)
    assert (pool.stats.hits, pool.stats.misses, pool.stats.evictions) == (2, 3, 1)
    touch(pool, B)
    assert pool.stats.misses == 4


def test_circular_scan_never_hits_if_one_shard_does_not_fit() -> None:
    pool = pool_of(SHARDS, 3)
    for _ in range(5):
        touch(pool, *SHARDS)
    assert pool.stats.hits == 0


def test_pool_with_room_for_all_loads_each_once() -> None:
    pool = pool_of(SHARDS, 4)
    for _ in range(5):
        touch(pool, *SHARDS)
    assert (pool.stats.hits, pool.stats.misses, pool.stats.evictions) == (16, 4, 0)
    assert pool.stats.loaded_bytes == pool.stats.resident_bytes == 4 * charge_of(A)


def test_pool_never_exceeds_budget() -> None:
    sizes = [shard(f"s{i}", (i % 5 + 1) << 20) for i in range(12)]
    budget = 11 << 20
    pool = MemoryPool(sizes, budget, lambda shard: shard.name)
    for step in range(200):
        touch(pool, sizes[step * 7 % 12])
        assert pool.stats.resident_bytes <= budget
    assert pool.stats.peak_resident_bytes <= budget


def test_room_is_made_before_loading() -> None:
    seen = []

    def load(one: Shard) -> str:
        seen.append(pool.stats.resident_bytes)
        return one.name

    pool = pool_of(SHARDS, 2, load)
    touch(pool, *SHARDS)
    assert max(seen) <= charge_of(A)


def test_shard_in_use_is_never_evicted() -> None:
    pool = pool_of(SHARDS, 2)
    with pool.use(A):
        touch(pool, B, C, D)
        hits = pool.stats.hits
        touch(pool, A)
        assert pool.stats.hits == hits + 1


def test_another_shard_is_an_error_if_all_loaded_ones_are_in_use() -> None:
    pool = pool_of(SHARDS, 2)
    with pool.use(A), pool.use(B), pytest.raises(PoolTooSmallError, match="larger poolsize"), pool.use(C):
        pass
    touch(pool, C)  # the pool still works


def test_budget_below_the_largest_shard_is_an_error_before_loading() -> None:
    def load(_: Shard) -> None:
        raise AssertionError("nothing may be loaded")

    with pytest.raises(PoolTooSmallError, match=r"shard big needs 51.5 MB.*a poolsize of at least 152 MB"):
        MemoryPool([A, shard("big", 50 << 20)], 20 << 20, load, fixed_bytes=100 << 20)


def test_reserving_bytes_evicts_shards_and_closing_frees_them() -> None:
    pool = pool_of(SHARDS, 3)
    touch(pool, A, B, C)
    held = pool.reserved(charge_of(A))
    assert (pool.stats.evictions, pool.stats.resident_bytes) == (1, 2 * charge_of(A))
    held.close()
    touch(pool, B, C, D)
    assert pool.stats.evictions == 1


def test_reserving_more_than_the_largest_shard_leaves_changes_nothing() -> None:
    pool = pool_of(SHARDS, 2)
    touch(pool, A, B)
    with pytest.raises(PoolTooSmallError, match="KV cache"):
        pool.reserved(charge_of(A) + 1)
    assert pool.stats.evictions == 0
    touch(pool, A, B)
    assert pool.stats.hits == 2


def test_smallest_pool_holds_one_shard_and_the_reserved_bytes() -> None:
    pool = MemoryPool([A, shard("small", 1 << 20)], None, lambda shard: shard.name)  # type: ignore[arg-type,return-value]
    held = pool.reserved(100 << 20)
    assert held.size == 100 << 20
    touch(pool, A)
    touch(pool, shard("small", 1 << 20))
    assert pool.stats.evictions == 1


def test_failed_load_leaves_the_pool_usable() -> None:
    broken = {"b"}

    def load(one: Shard) -> str:
        if one.name in broken:
            raise ModelDirectoryError("truncated")
        return one.name

    pool = pool_of(SHARDS, 2, load)
    touch(pool, A)
    with pytest.raises(ModelDirectoryError), pool.use(B):
        pass
    assert pool.stats.resident_bytes == charge_of(A)
    broken.clear()
    touch(pool, A, B)


def test_close_unloads_all_shards_that_are_not_in_use() -> None:
    pool = pool_of(SHARDS, 4)
    touch(pool, *SHARDS)
    with pool.use(A):
        pool.close()
        assert pool.stats.resident_bytes == charge_of(A)
    pool.close()
    assert pool.stats.resident_bytes == 0
