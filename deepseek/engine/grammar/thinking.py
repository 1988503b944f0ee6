"""Thinking that may take so many tokens and no more: where its end has not come by then, the end is what comes next.

The bound is kept by the mask of the one step that needs it, in the place of a grammar or around one, so the model reads
its own end of thinking and goes on from there. Where a grammar cannot take the end just then, because half a character has
been said, that is completed first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from deepseek.core.engine import ThinkingBound

if TYPE_CHECKING:
    from deepseek.engine.grammar.matcher import Matcher


def bounded(
    bound: ThinkingBound, inner: Callable[[], Matcher] | None, vocab_size: int
) -> Callable[[], BoundedThinking]:
    """Makes matchers. inner: makes those of the request's constraint; None: it has none."""
    return lambda: BoundedThinking(bound, None if inner is None else inner(), vocab_size)


class BoundedThinking:
    """Implements `deepseek.engine.grammar.matcher.Matcher`. inner: what the whole text must match; None: anything."""

    def __init__(self, bound: ThinkingBound, inner: Matcher | None, vocab_size: int) -> None:
        self._end, self._left = bound.end_id, bound.tokens
        self._open = True
        self._inner = inner
        width = (vocab_size + 31) // 32
        self._everything = np.full(width, -1, dtype=np.int32)
        self._everything.view(np.uint32)[-1] = (1 << (vocab_size - 32 * (width - 1))) - 1
        self._only_end = np.zeros(width, dtype=np.int32)
        self._only_end.view(np.uint32)[self._end // 32] = np.uint32(1 << self._end % 32)

    def masks(self, draft: Sequence[int]) -> npt.NDArray[np.int32] | None:
        rows = None if self._inner is None else self._inner.masks(draft)
        is_open, left = self._open, self._left
        for index in range(len(draft) + 1):
            if not is_open:
                break
            if left <= 0:
                if rows is None:
                    rows = np.tile(self._everything, (len(draft) + 1, 1))
                end = rows[index] & self._only_end
                if end.any():
                    rows[index] = end
            if index < len(draft):
                is_open, left = draft[index] != self._end, left - 1
        return rows

    def accept(self, token: int) -> None:
        if self._inner is not None:
            self._inner.accept(token)
        if self._open:
            self._open, self._left = token != self._end, self._left - 1

    def forced(self, limit: int) -> list[int]:
        if self._open and self._left <= 0 and self._may_end():
            return [self._end][:limit]
        if self._inner is None:
            return []
        return self._inner.forced(min(limit, self._left) if self._open and self._left > 0 else limit)

    def valid_prefix(self, tokens: Sequence[int]) -> int:
        most = len(tokens) if self._inner is None else self._inner.valid_prefix(tokens)
        is_open, left = self._open, self._left
        for index, token in enumerate(tokens[:most]):
            if not is_open:
                break
            if left <= 0 and token != self._end:
                return index
            is_open, left = token != self._end, left - 1
        return most

    @property
    def done(self) -> bool:
        return self._inner is not None and self._inner.done

    def _may_end(self) -> bool:
        return self._inner is None or self._inner.valid_prefix([self._end]) == 1
