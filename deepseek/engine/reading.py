"""Requests that are about their prompt alone, and their streams read to the end: `score` and `encode`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

from deepseek.core.engine import Embedding, Event, Finish, PromptScores, Request, TokenLogprob
from deepseek.core.errors import EngineError


def to_score(request: Request) -> Request:
    """The same prompt, scored: nothing is generated."""
    wanted = request.sampling.prompt_logprobs
    sampling = replace(
        request.sampling, max_tokens=0, min_tokens=0, n=1, prompt_logprobs=0 if wanted is None else wanted
    )
    return replace(request, sampling=sampling, task="generate", constraint=None)


def to_embed(request: Request) -> Request:
    return replace(request, task="embed")


async def read_scores(events: AsyncIterator[Event]) -> PromptScores:
    """All pieces as one, from position 0. Raises EngineError if the request ended otherwise."""
    parts: list[PromptScores] = []
    async for event in events:
        if isinstance(event, PromptScores):
            parts.append(event)
        elif isinstance(event, Finish):
            require_done(event)
    return join_scores(parts)


async def read_embedding(events: AsyncIterator[Event]) -> Embedding:
    """Raises EngineError if the request ended otherwise."""
    found: Embedding | None = None
    async for event in events:
        if isinstance(event, Embedding):
            found = event
        elif isinstance(event, Finish):
            require_done(event)
    if found is None:
        raise EngineError("the request ended without an embedding")
    return found


def join_scores(parts: list[PromptScores]) -> PromptScores:
    """Pieces of one prompt in order as one; a piece that begins before the last one's end takes its place from there."""
    if not parts:
        raise EngineError("the request ended without scores")
    joined: list[TokenLogprob | None] = []
    for part in parts:
        joined[part.start :] = part.logprobs
    return PromptScores(parts[0].request_id, 0, tuple(joined), parts[-1].weights_version)


def require_done(finish: Finish) -> None:
    """Raise EngineError for a request that did not come to its own end."""
    bad = next((reason for reason in finish.reasons if reason not in ("stop", "length")), None)
    if bad is not None:
        raise EngineError(f"the request ended early: {bad}", where=finish.request_id, found=finish.error)
