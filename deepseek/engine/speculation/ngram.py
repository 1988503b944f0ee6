"""Prompt lookup: what followed the last time that the text was as it is now.

Text repeats itself: code, quotations, tables, the question within its answer. When the last tokens have come up
before, what followed them then is a guess at what follows now (Saxena, "Prompt Lookup Decoding", 2023).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

MIN_MATCH = 2
MAX_MATCH = 4
WINDOW = 8192
"""How far back, in tokens, a match is looked for."""
_MAX_CANDIDATES = 8


class NgramIndex:
    """Where each pair of neighbouring tokens stood last, and before that: the hash chains of LZ77, over tokens.

    `follow` costs O(1) for each token; memory is bounded by WINDOW, and 4 bytes for each token of the sequence.
    """

    __slots__ = ("_latest", "_length", "_previous", "_start")

    def __init__(self) -> None:
        self._latest: dict[tuple[int, int], int] = {}  # a pair -> where what followed it stands
        self._previous = array("i")  # the same, for the occurrence before that; -1: none. Indexed from _start
        self._start = 0
        self._length = 0

    def __len__(self) -> int:
        """Pairs remembered."""
        return len(self._latest)

    def follow(self, token_ids: Sequence[int]) -> None:
        """Take in what has been appended since the last call. Tokens seen before must not have changed."""
        if not self._length:
            self._start = self._length = max(MIN_MATCH, len(token_ids) - WINDOW)
        latest, previous = self._latest, self._previous
        for position in range(self._length, len(token_ids)):
            pair = token_ids[position - 2], token_ids[position - 1]
            previous.append(latest.get(pair, -1))
            latest[pair] = position
            old = position - WINDOW
            if old >= self._start:
                forgotten = token_ids[old - 2], token_ids[old - 1]
                if latest.get(forgotten) == old:
                    del latest[forgotten]
        self._length = max(self._length, len(token_ids))

    def guess(self, token_ids: Sequence[int], limit: int) -> list[int]:
        """Up to `limit` tokens that may follow `token_ids`: those after the longest match, of equals the latest."""
        length = len(token_ids)
        if limit < 1 or length <= MIN_MATCH:
            return []
        found = self._latest.get((token_ids[length - 2], token_ids[length - 1]), -1)
        best, best_match = -1, 0
        for _ in range(_MAX_CANDIDATES):
            if found < 0 or found < length - WINDOW:
                break
            match = MIN_MATCH
            while match < MAX_MATCH and found > match and token_ids[found - match - 1] == token_ids[length - match - 1]:
                match += 1
            if match > best_match:
                best, best_match = found, match
                if match == MAX_MATCH:
                    break
            found = self._previous[found - self._start]
        if best < 0:
            return []
        # A match that overlaps the end repeats itself: the guess is its own continuation.
        span = length - best
        guess = list(token_ids[best : best + limit])
        while len(guess) < limit:
            guess.append(guess[len(guess) - span])
        return guess
