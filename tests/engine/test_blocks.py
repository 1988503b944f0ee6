"""Blocks: references, the prefix cache's exactness, least recently used eviction, and an audit that can fail."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek.core.errors import ConfigError
from deepseek.engine import blocks as blocks_module
from deepseek.engine.blocks import BlockKey, BlockPool, block_key, cache_root

ROOT = cache_root("tenant")


def chain(tokens: list[int], size: int = 4, root: bytes = ROOT) -> list[BlockKey]:
    keys: list[BlockKey] = []
    for start in range(0, len(tokens) // size * size, size):
        keys.append(block_key(keys[-1].digest if keys else root, tuple(tokens[start : start + size])))
    return keys


def filled(pool: BlockPool, tokens: list[int], root: bytes = ROOT) -> list[int]:
    """Blocks holding `tokens`, registered and held once."""
    keys = chain(tokens, pool.block_size, root)
    table = pool.allocate(len(keys))
    assert table is not None
    for block, key in zip(table, keys, strict=True):
        pool.register(block, key)
    return table


def test_a_registered_prefix_is_found_up_to_the_first_difference() -> None:
    pool = BlockPool(8, 4)
    table = filled(pool, list(range(12)))
    assert pool.match(chain(list(range(12)))) == table
    assert pool.match(chain([*range(8), 99, 99, 99, 99])) == table[:2]
    assert pool.match(chain([99, *range(1, 12)])) == []


def test_equal_blocks_after_different_beginnings_are_not_confused() -> None:
    pool = BlockPool(8, 4)
    filled(pool, [1, 1, 1, 1, 7, 7, 7, 7])
    assert pool.match(chain([2, 2, 2, 2, 7, 7, 7, 7])) == []


@pytest.mark.parametrize(
    "other",
    [
        cache_root("other"),
        cache_root("tenant", "salt"),
        cache_root("tenant", weights_version=1),
        cache_root("tenant", adapter="a"),
        cache_root("tenant", numeric_mode="fast"),
        cache_root("tenant", media=("abc",)),
    ],
)
def test_nothing_is_shared_across_roots(other: bytes) -> None:
    pool = BlockPool(8, 4)
    filled(pool, list(range(8)))
    assert pool.match(chain(list(range(8)), root=other)) == []


def test_no_two_ways_of_splitting_names_give_one_root() -> None:
    assert cache_root("ab", "c") != cache_root("a", "bc")
    assert cache_root('a", "b') != cache_root("a", "b")
    assert cache_root("", "a") != cache_root("a", "")


def test_a_hash_collision_is_not_a_hit() -> None:
    pool = BlockPool(8, 4)
    table = pool.allocate(1)
    assert table is not None
    pool.register(table[0], BlockKey(ROOT, (1, 2, 3, 4), b"same digest"))
    assert pool.match([BlockKey(ROOT, (5, 6, 7, 8), b"same digest")]) == []
    assert pool.match([BlockKey(b"another parent", (1, 2, 3, 4), b"same digest")]) == []
    assert pool.match([BlockKey(ROOT, (1, 2, 3, 4), b"same digest")]) == table


def test_released_blocks_keep_their_contents_until_they_are_needed() -> None:
    pool = BlockPool(2, 4)
    table = filled(pool, list(range(8)))
    pool.release(table)
    assert pool.free == 2
    assert pool.match(chain(list(range(8)))) == table
    assert pool.allocate(2) is not None
    assert pool.match(chain(list(range(8)))) == []
    assert pool.stats.evictions == 2
    pool.check()


def test_the_least_recently_used_block_is_evicted_first() -> None:
    pool = BlockPool(3, 4)
    tables = [filled(pool, [n] * 4) for n in range(3)]
    for table in tables:
        pool.release(table)
    pool.acquire(tables[0])
    pool.release(tables[0])
    pool.allocate(1)
    assert pool.match(chain([0] * 4)) == tables[0]
    assert pool.match(chain([1] * 4)) == []
    assert pool.match(chain([2] * 4)) == tables[2]


def test_of_one_sequence_the_end_is_evicted_before_the_beginning() -> None:
    pool = BlockPool(3, 4)
    table = filled(pool, list(range(12)))
    pool.release(table)
    pool.allocate(1)
    assert pool.match(chain(list(range(12)))) == table[:2]


def test_empty_blocks_are_used_before_cached_ones() -> None:
    pool = BlockPool(3, 4)
    table = filled(pool, list(range(4)))
    pool.release(table)
    pool.allocate(2)
    assert pool.match(chain(list(range(4)))) == table
    assert pool.stats.evictions == 0


def test_a_shared_block_is_free_only_when_its_last_holder_is_gone() -> None:
    pool = BlockPool(2, 4)
    table = filled(pool, list(range(4)))
    pool.acquire(table)
    pool.release(table)
    assert pool.used == 1
    pool.release(table)
    assert pool.used == 0


def test_an_allocation_that_does_not_fit_changes_nothing() -> None:
    pool = BlockPool(3, 4)
    assert pool.allocate(4) is None
    assert pool.free == 3
    pool.check([])


def test_the_first_of_two_equal_blocks_stays_the_shared_one() -> None:
    pool = BlockPool(4, 4)
    first, second = filled(pool, list(range(4))), filled(pool, list(range(4)))
    assert pool.match(chain(list(range(4)))) == first
    pool.release(second)
    pool.check(first)
    assert pool.match(chain(list(range(4)))) == first


def test_cost_counts_cached_blocks_that_would_leave_the_free_ones() -> None:
    pool = BlockPool(4, 4)
    table = filled(pool, list(range(8)))
    pool.release(table[1:])
    assert pool.cost(table, 1) == 2


@pytest.mark.parametrize("sizes", [(0, 4), (4, 0)])
def test_a_pool_without_blocks_is_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="expected at least 1"):
        BlockPool(*sizes)


@given(st.data())
def test_accounting_holds_through_any_sequence_of_operations(data: st.DataObject) -> None:
    pool = BlockPool(data.draw(st.integers(1, 8)), 2)
    tables: list[list[int]] = []
    for _ in range(data.draw(st.integers(0, 40))):
        tokens = data.draw(st.lists(st.integers(0, 1), max_size=10))
        keys = chain(tokens, 2)
        if tables and data.draw(st.booleans()):
            pool.release(tables.pop(data.draw(st.integers(0, len(tables) - 1))))
        else:
            matched = pool.match(keys)
            missing = len(keys) - len(matched)
            fits = pool.cost(matched, missing) <= pool.free
            if fits:
                pool.acquire(matched)
                fresh = pool.allocate(missing)
                assert fresh is not None
                for block, key in zip(fresh, keys[len(matched) :], strict=True):
                    pool.register(block, key)
                tables.append(matched + fresh)
        pool.check(block for table in tables for block in table)


def test_a_hit_always_names_blocks_with_exactly_the_tokens_asked_for() -> None:
    draw = random.Random(0)
    pool = BlockPool(6, 2)
    contents: dict[int, tuple[int, ...]] = {}
    hits = 0
    for _ in range(2000):
        tokens = [draw.randrange(2) for _ in range(draw.randrange(2, 9))]
        keys = chain(tokens, 2)
        matched = pool.match(keys)
        hits += len(matched)
        for index, block in enumerate(matched):
            assert contents[block] == tuple(tokens[: 2 * index + 2])
        pool.acquire(matched)
        fresh = pool.allocate(len(keys) - len(matched))
        assert fresh is not None
        for index, block in enumerate(fresh, start=len(matched)):
            contents[block] = tuple(tokens[: 2 * index + 2])
            pool.register(block, keys[index])
        pool.release(matched + fresh)
    assert hits > 500


@pytest.mark.parametrize("damage", ["leak", "double", "lost", "stale index", "wrong holder"])
def test_the_check_notices_damage(damage: str) -> None:
    pool = BlockPool(4, 4)
    table = filled(pool, list(range(8)))
    held = list(table)
    pool.check(held)
    if damage == "leak":
        pool._references[table[0]] += 1
    elif damage == "double":
        pool._empty.append(pool._empty[0])
    elif damage == "lost":
        pool._empty.pop()
    elif damage == "stale index":
        pool._by_digest[b"nowhere"] = table[0]
    else:
        held.pop()
    with pytest.raises(AssertionError, match="block accounting"):
        pool.check(held)


def test_digests_are_of_full_strength() -> None:
    assert blocks_module.DIGEST_BYTES >= 32
    assert len(block_key(ROOT, (1,)).digest) == len(ROOT) == blocks_module.DIGEST_BYTES
