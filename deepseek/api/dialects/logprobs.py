"""Log-probabilities of tokens, as the dialects write them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel

from deepseek.api.dialects.fields import Octets
from deepseek.api.state import TextCodec
from deepseek.core.engine import TokenLogprob

IMPOSSIBLE = -9999.0
"""What OpenAI writes for "practically impossible"; JSON has no minus infinity."""


class TokenModel(BaseModel):
    """One token and its natural-log probability. `bytes` because half a character has no text."""

    token: str
    token_id: int
    logprob: float
    bytes: Annotated[list[int], Octets()]


class LogprobModel(TokenModel):
    """A token of the text, and the most probable ones at its place."""

    top_logprobs: list[TokenModel]


class ChatTokenModel(BaseModel):
    """The same in OpenAI's form."""

    token: str
    logprob: float
    bytes: Annotated[list[int], Octets()]


class ChatLogprobModel(ChatTokenModel):
    top_logprobs: list[ChatTokenModel]


class ChatLogprobs(BaseModel):
    """Of the tokens of an answer, thinking and calls included."""

    content: list[ChatLogprobModel]
    refusal: None


def openai_entries(entries: Iterable[TokenLogprob], text: TextCodec) -> list[dict[str, Any]]:
    """OpenAI's `logprobs.content`."""
    return [
        {
            **_token(entry.token_id, entry.logprob, text),
            "top_logprobs": [_token(token_id, logprob, text) for token_id, logprob in entry.top],
        }
        for entry in entries
    ]


def own_entries(entries: Iterable[TokenLogprob | None], text: TextCodec) -> list[dict[str, Any] | None]:
    """OpenAI's entries with token ids (`LogprobModel`); null for a token that nothing comes before."""

    def token(token_id: int, logprob: float) -> dict[str, Any]:
        return {**_token(token_id, logprob, text), "token_id": token_id}

    return [
        None
        if entry is None
        else {
            **token(entry.token_id, entry.logprob),
            "top_logprobs": [token(token_id, logprob) for token_id, logprob in entry.top],
        }
        for entry in entries
    ]


def vllm_entries(
    entries: Iterable[TokenLogprob | None], text: TextCodec
) -> list[dict[str, dict[str, float | int | str | None]] | None]:
    """vLLM's `prompt_logprobs`: for each place token id -> logprob, rank and text. A rank that is not among the
    alternatives is null."""
    return [None if entry is None else _ranked(entry, text) for entry in entries]


def _ranked(entry: TokenLogprob, text: TextCodec) -> dict[str, dict[str, float | int | str | None]]:
    ranks = {token_id: (rank, logprob) for rank, (token_id, logprob) in enumerate(entry.top, 1)}
    found = {entry.token_id: (None, entry.logprob)} | ranks
    return {
        str(token_id): {
            "logprob": max(logprob, IMPOSSIBLE),
            "rank": rank,
            "decoded_token": text.token_bytes(token_id).decode("utf-8", "replace"),
        }
        for token_id, (rank, logprob) in found.items()
    }


def _token(token_id: int, logprob: float, text: TextCodec) -> dict[str, Any]:
    raw = text.token_bytes(token_id)
    return {"token": raw.decode("utf-8", "replace"), "logprob": max(logprob, IMPOSSIBLE), "bytes": list(raw)}
