"""Prompts as OpenAI's older routes take them: a text, several, the token ids of one, or of several."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, cast

from pydantic import Field

from deepseek.api.admission import fitting, refuse_long_text
from deepseek.api.dialects.fields import TokenId
from deepseek.api.problems import FieldError, Problem
from deepseek.api.state import ServerState
from deepseek.core.errors import DeepSeekError

MAX_PROMPTS = 256

Texts = Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
Ids = Annotated[list[TokenId], Field(min_length=1)]
IdLists = Annotated[list[Ids], Field(min_length=1, max_length=MAX_PROMPTS)]
Prompts = str | Texts | Ids | IdLists


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt's token ids, and the text it came from; None where it came as ids."""

    ids: tuple[int, ...]
    text: str | None


async def read_prompts(state: ServerState, given: Prompts, field: str) -> list[Prompt]:
    """Every prompt with its ids, off the event loop where that takes a while. 413 or 422 names the prompt at fault."""
    listed = _listed(given)
    names = [field] if len(listed) == 1 and not _is_nested(given) else [f"{field}.{at}" for at in range(len(listed))]
    size = sum(map(len, listed))

    def read() -> list[Prompt]:
        return [_read(state, prompt, name) for prompt, name in zip(listed, names, strict=True)]

    return await asyncio.to_thread(read) if size > state.settings.long_text_chars else read()


def _read(state: ServerState, prompt: str | list[int], field: str) -> Prompt:
    if isinstance(prompt, str):
        refuse_long_text(state, len(prompt), field)
        return Prompt(fitting(state, state.text.encode_prompt(prompt), field), prompt)
    ids = fitting(state, prompt, field)
    unknown = _unknown(state, set(ids))
    if unknown is not None:
        error = FieldError(field, str(unknown), "token ids of this model")
        raise Problem("invalid-request", f"{field}: expected token ids of this model; found {unknown}", (error,))
    return Prompt(ids, None)


def _unknown(state: ServerState, ids: Iterable[int]) -> int | None:
    for token_id in ids:
        try:
            state.text.token_bytes(token_id)
        except DeepSeekError:
            return token_id
    return None


def _listed(given: Prompts) -> list[str | list[int]]:
    if isinstance(given, str):
        return [given]
    if isinstance(given[0], int):
        return [given]
    return cast("list[str | list[int]]", given)


def _is_nested(given: Prompts) -> bool:
    return not isinstance(given, str) and not isinstance(given[0], int)
