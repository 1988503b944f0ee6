"""The pool of cache blocks, and the prefix cache in it.

Keys and values live in blocks of `block_size` tokens. A sequence holds references to its blocks; a
full block is registered under a key that names its whole past, so that another sequence with the
same beginning can hold it too. A block that nobody holds keeps its contents until it is needed:
the least recently used goes first, and of one sequence the last block before the first.

A key is a link in a hash chain, digest = blake2b(parent digest, token ids). The chain's root names
everything else the contents depend on, above all the tenant, so no prefix is ever shared across
tenants. Digests only find a block; parent and token ids are compared before it is used.

Every operation costs O(blocks asked for), never O(blocks in the pool), except `check`.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from deepseek.core.errors import ConfigError

DIGEST_BYTES = 32


class BlockKey(NamedTuple):
    """The contents of one full block: all tokens before it by digest, its own in full."""

    parent: bytes
    token_ids: tuple[int, ...]
    digest: bytes


def block_key(parent: bytes, token_ids: tuple[int, ...]) -> BlockKey:
    """The link after `parent` in the hash chain."""
    payload = parent + array("q", token_ids).tobytes()
    return BlockKey(parent, token_ids, hashlib.blake2b(payload, digest_size=DIGEST_BYTES).digest())


def cache_root(
    tenant: str,
    cache_salt: str = "",
    *,
    weights_version: int = 0,
    adapter: str = "",
    numeric_mode: str = "exact",
    media: Sequence[str] = (),
) -> bytes:
    """The digest that starts a chain. Two sequences share blocks only if all of this is equal."""
    # JSON quotes its strings, so no choice of names can make two different roots read alike.
    payload = json.dumps([tenant, cache_salt, weights_version, adapter, numeric_mode, list(media)])
    return hashlib.blake2b(payload.encode(), digest_size=DIGEST_BYTES).digest()


@dataclass(slots=True)
class CacheStats:
    """Counted since the start. queries and hits are in tokens, of admitted sequences; evictions in blocks."""

    queries: int = 0
    hits: int = 0
    evictions: int = 0


class BlockPool:
    """References, free blocks and registered contents of `num_blocks` blocks.

    A block is in exactly one of three states: held (references > 0), empty (free, contents worthless)
    or kept (free, contents registered, evicted in order of last use).
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        for name, value in (("num_blocks", num_blocks), ("block_size", block_size)):
            if value < 1:
                raise ConfigError("out of range", where=name, found=value, expected="at least 1")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.stats = CacheStats()
        self._references = [0] * num_blocks
        self._empty = list(range(num_blocks - 1, -1, -1))
        self._kept: OrderedDict[int, None] = OrderedDict()
        self._keys: list[BlockKey | None] = [None] * num_blocks
        self._by_digest: dict[bytes, int] = {}

    @property
    def free(self) -> int:
        """Blocks that can be allocated now, those with kept contents included."""
        return len(self._empty) + len(self._kept)

    @property
    def used(self) -> int:
        return self.num_blocks - self.free

    def references(self, block: int) -> int:
        return self._references[block]

    def match(self, keys: Iterable[BlockKey]) -> list[int]:
        """Registered blocks for the longest prefix of `keys`. Takes no reference: `acquire` them before allocating."""
        blocks = []
        for key in keys:
            block = self._by_digest.get(key.digest)
            if block is None or self._keys[block] != key:
                break
            blocks.append(block)
        return blocks

    def cost(self, matched: Sequence[int], count: int) -> int:
        """Free blocks it takes to acquire `matched` and allocate `count` more."""
        return count + sum(1 for block in matched if self._references[block] == 0)

    def acquire(self, blocks: Iterable[int]) -> None:
        """Take one more reference to registered blocks."""
        for block in blocks:
            if self._references[block] == 0:
                del self._kept[block]
            self._references[block] += 1

    def allocate(self, count: int) -> list[int] | None:
        """`count` blocks of undefined contents, one reference each; None, and nothing changed, if too few are free."""
        if count > self.free:
            return None
        blocks = []
        for _ in range(count):
            block = self._empty.pop() if self._empty else self._evict()
            self._references[block] = 1
            blocks.append(block)
        return blocks

    def register(self, block: int, key: BlockKey) -> None:
        """Offer a full, held block to others. If equal contents are registered already, those stay the shared ones."""
        if key.digest not in self._by_digest and self._keys[block] is None:
            self._by_digest[key.digest] = block
            self._keys[block] = key

    def release(self, blocks: Sequence[int]) -> None:
        """Give back one reference to each block of a table."""
        # Backwards, so that a prefix outlives what follows it: without its past a block cannot be found.
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block] == 0:
                if self._keys[block] is None:
                    self._empty.append(block)
                else:
                    self._kept[block] = None

    def forget(self) -> None:
        """Nothing registered is found any more: its contents are gone, or belong to other weights. No block may be held."""
        _require(self.used == 0, "blocks are held whose contents are to be forgotten")
        self._empty = list(range(self.num_blocks - 1, -1, -1))
        self._kept.clear()
        self._by_digest.clear()
        self._keys = [None] * self.num_blocks

    def check(self, held: Iterable[int] | None = None) -> None:
        """Raise AssertionError at any breach of accounting. `held`: every reference that exists, a block once for each.

        For tests and diagnosis: costs O(num_blocks).
        """
        empty, kept = set(self._empty), set(self._kept)
        _require(len(empty) == len(self._empty), "a block is twice in the empty list")
        _require(not empty & kept, "a block is both empty and kept")
        for block, references in enumerate(self._references):
            key = self._keys[block]
            _require(references >= 0, f"block {block} has {references} references")
            _require(
                (references == 0) == (block in empty or block in kept), f"block {block} is free and held, or neither"
            )
            _require(block not in empty or key is None, f"empty block {block} is registered")
            _require(block not in kept or key is not None, f"kept block {block} is not registered")
            _require(
                key is None or self._by_digest.get(key.digest) == block, f"block {block} cannot be found by its key"
            )
        registered = sum(key is not None for key in self._keys)
        _require(registered == len(self._by_digest), "the index names a block that is not registered")
        if held is not None:
            counts = Counter(held)
            for block, references in enumerate(self._references):
                _require(
                    references == counts[block], f"block {block}: {references} references, {counts[block]} holders"
                )

    def _evict(self) -> int:
        block, _ = self._kept.popitem(last=False)
        key = self._keys[block]
        assert key is not None
        del self._by_digest[key.digest]
        self._keys[block] = None
        self.stats.evictions += 1
        return block


def _require(condition: bool, breach: str) -> None:
    # Not `assert`: the check must also work under `python -O`.
    if not condition:
        raise AssertionError(f"block accounting: {breach}")
