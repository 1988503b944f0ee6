"""OpenAI's older form of log-probabilities, of /v1/completions: four lists side by side, one entry for each token.

A token that is no whole character is written `bytes:\\xe4\\xb8`, as OpenAI writes it. `text_offset` counts characters.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel

from deepseek.api.dialects.logprobs import IMPOSSIBLE
from deepseek.api.state import TextCodec
from deepseek.core.engine import TokenLogprob


class LegacyLogprobModel(BaseModel):
    """Of a text's tokens in order; null for the first token of a prompt, which nothing comes before."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class LegacyLogprobs:
    """The lists of one choice's text, made piece by piece as its tokens come."""

    __slots__ = ("_chars", "_decoder", "_text")

    def __init__(self, text: TextCodec, begin: int = 0) -> None:
        """begin: characters of the text that stand before its first token."""
        self._text = text
        self._chars = begin
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def of(self, entries: Iterable[TokenLogprob]) -> dict[str, list[Any]]:
        """The lists for the next tokens."""
        lists = _empty()
        for entry in entries:
            self._add(lists, entry.token_id, entry, at=self._advance(entry.token_id))
        return lists

    def of_prompt(
        self, ids: Sequence[int], scores: Sequence[TokenLogprob | None], unwritten: int
    ) -> dict[str, list[Any]]:
        """The lists for a prompt; its first `unwritten` tokens stand in no text (a beginning-of-sequence token)."""
        lists = _empty()
        for place, (token_id, entry) in enumerate(zip(ids, scores, strict=True)):
            at = self._chars if place < unwritten else self._advance(token_id)
            self._add(lists, token_id, entry, at=at)
        return lists

    def _advance(self, token_id: int) -> int:
        begin = self._chars
        self._chars += len(self._decoder.decode(self._text.token_bytes(token_id)))
        return begin

    def _add(self, lists: dict[str, list[Any]], token_id: int, entry: TokenLogprob | None, *, at: int) -> None:
        token = token_name(token_id, self._text)
        lists["tokens"].append(token)
        lists["text_offset"].append(at)
        if entry is None:
            lists["token_logprobs"].append(None)
            lists["top_logprobs"].append(None)
            return
        logprob = max(entry.logprob, IMPOSSIBLE)
        lists["token_logprobs"].append(logprob)
        # Two tokens may be spelt alike; the more probable one, which comes first, keeps the name.
        top: dict[str, float] = {}
        for other, score in entry.top:
            top.setdefault(token_name(other, self._text), max(score, IMPOSSIBLE))
        top.setdefault(token, logprob)
        lists["top_logprobs"].append(top)


def token_name(token_id: int, text: TextCodec) -> str:
    """The token's text, or its bytes where they are no text."""
    raw = text.token_bytes(token_id)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def joined_lists(first: dict[str, list[Any]], second: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {name: entries + second[name] for name, entries in first.items()}


def _empty() -> dict[str, list[Any]]:
    return {name: [] for name in LegacyLogprobModel.model_fields}
