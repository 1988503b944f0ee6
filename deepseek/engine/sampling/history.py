"""What a sequence's past says about its next token: how often each token came up, and which are banned now.

One `History` a sequence, made when a row of it is first planned with a penalty, a logit bias, bad words or
`min_tokens`. It follows the sequence token by token. Drafts are passed to every question and never kept, so a
rejected one leaves no trace.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from deepseek.core.sampling import SamplingParams

Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]

BANNED = -math.inf


class History:
    """params: whose logit bias, bad words and stop ids count. prompt: the sequence's first tokens."""

    __slots__ = (
        "_bad_words",
        "_bias",
        "_counts",
        "_fixed",
        "_ids",
        "_length",
        "_params",
        "_place",
        "_prompt_tokens",
        "_size",
    )

    def __init__(self, params: SamplingParams, prompt: Sequence[int]) -> None:
        self._params = params
        self._prompt_tokens = len(prompt)
        self._bias = dict(params.logit_bias)
        self._bad_words: dict[int, list[tuple[int, ...]]] = {}  # by the token before the last, which comes just before
        for word in params.bad_word_ids:
            if len(word) == 1:
                self._bias[word[0]] = BANNED
            else:
                self._bad_words.setdefault(word[-2], []).append(word)
        self._fixed = _arrays(self._bias)
        # Tokens seen, each once, and how often in the output: the first `_size` of two arrays that grow.
        self._ids: Int32 = np.unique(np.asarray(prompt, np.int32)) if params.has_penalties else np.zeros(0, np.int32)
        self._counts: Int32 = np.zeros_like(self._ids)
        self._size = len(self._ids)
        self._place = {token: place for place, token in enumerate(self._ids.tolist())}
        self._length = len(prompt)

    @staticmethod
    def is_needed(params: SamplingParams) -> bool:
        """Whether any row of such a request asks its past (or a table) anything."""
        return bool(params.has_penalties or params.logit_bias or params.bad_word_ids or params.min_tokens)

    def seen(self, token_ids: Sequence[int], draft: Sequence[int] = ()) -> tuple[Int32, Int32]:
        """The different tokens of `token_ids` and `draft`, and how often each stands in the output (draft included).

        token_ids: the whole sequence; tokens since the last call are counted now. Without a repetition penalty
        tokens of the prompt alone are left out: only that one asks for them.
        """
        for position in range(self._length, len(token_ids)):
            place = self._place_of(token_ids[position])
            self._counts[place] += 1
        self._length = len(token_ids)
        ids, counts = self._ids[: self._size], self._counts[: self._size]
        if draft:
            more: dict[int, int] = {}
            counts = counts.copy()
            for token in draft:
                known = self._place.get(token)
                if known is None:
                    more[token] = more.get(token, 0) + 1
                else:
                    counts[known] += 1
            ids = np.concatenate([ids, np.fromiter(more.keys(), np.int32)])
            counts = np.concatenate([counts, np.fromiter(more.values(), np.int32)])
        if self._params.repetition_penalty == 1.0:
            generated = counts > 0
            return ids[generated], counts[generated]
        return ids.copy(), counts.copy()

    def bias(
        self,
        token_ids: Sequence[int],
        draft: Sequence[int] = (),
        end_ids: Collection[int] = (),
        mask: Int32 | None = None,
    ) -> tuple[Int32, Float32]:
        """What to add to which logit of the token after `token_ids` and `draft`: ids, each once, and values.

        end_ids: the model's end-of-sequence ids; they and the request's stop ids are banned below `min_tokens`,
        unless `mask` (packed bits, see `Row`) shows that a grammar has no other way to go on.
        """
        params = self._params
        banned = _completed(self._bad_words, token_ids, draft) if self._bad_words else []
        if len(token_ids) - self._prompt_tokens + len(draft) < params.min_tokens:
            ends = (*end_ids, *params.stop_token_ids)
            if mask is None or _allows_more_than(mask, ends):
                banned.extend(ends)
        return _arrays(self._bias | dict.fromkeys(banned, BANNED)) if banned else self._fixed

    def _place_of(self, token: int) -> int:
        place = self._place.setdefault(token, self._size)
        if place == self._size:
            if self._size == len(self._ids):
                spare = np.zeros(max(16, self._size), np.int32)
                self._ids, self._counts = np.concatenate([self._ids, spare]), np.concatenate([self._counts, spare])
            self._ids[place], self._counts[place] = token, 0
            self._size += 1
        return place


def _arrays(bias: dict[int, float]) -> tuple[Int32, Float32]:
    return np.array(list(bias), np.int32), np.array(list(bias.values()), np.float32)


def _completed(words: dict[int, list[tuple[int, ...]]], token_ids: Sequence[int], draft: Sequence[int]) -> list[int]:
    """The last ids of the words whose others the history ends with."""
    candidates = words.get(draft[-1] if draft else token_ids[-1])
    if not candidates:
        return []
    longest = max(len(word) for word in candidates) - 1
    tail = (*token_ids[max(0, len(token_ids) - longest) :], *draft)
    return [word[-1] for word in candidates if tail[-len(word) + 1 :] == word[:-1]]


def _allows_more_than(mask: Int32, ids: Collection[int]) -> bool:
    left = mask.view(np.uint32).copy()
    for token in ids:
        if 0 <= token < len(left) * 32:
            left[token // 32] &= np.uint32(~(1 << token % 32) & 0xFFFFFFFF)
    return bool(left.any())
