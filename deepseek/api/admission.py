"""From a dialect's fields to the engine's Request: is the model ours, does the prompt fit, how much may it generate."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence

from deepseek.api.identity.caller import Caller
from deepseek.api.problems import FieldError, Problem, prompt_too_long, retry_after, shown
from deepseek.api.state import ServerState


def refuse_while_draining(state: ServerState) -> None:
    """503 once the server is on its way out; checked before a body is read."""
    if state.lifecycle.draining:
        raise Problem("draining", "The server is shutting down; send the request to another.", headers=retry_after(5.0))


def adapter_of(state: ServerState, caller: Caller, model: str) -> str | None:
    """The adapter that a model's name means; None for the model itself. 404 that names what this caller may use."""
    if state.may_use(caller, model):
        if model in state.models:
            return None
        if model in state.adapters:
            return model
    served = ", ".join(state.names_for(caller))
    error = FieldError("model", shown(model), f"one of: {served}")
    raise Problem("unknown-model", f"model: {shown(model)} is not served here; served: {served}", (error,))


async def encode(state: ServerState, encoder: Callable[[], list[int]], chars: int, field: str) -> tuple[int, ...]:
    """Token ids of a prompt, made in a worker thread where the text is long. 413 if it leaves no room to answer."""
    refuse_long_text(state, chars, field)
    ids = await asyncio.to_thread(encoder) if chars > state.settings.long_text_chars else encoder()
    return fitting(state, ids, field)


def refuse_long_text(state: ServerState, chars: int, field: str) -> None:
    """413 for a text that cannot fit, whatever its tokens are."""
    most = state.settings.max_text_chars
    if most is not None and chars > most:
        # `most` characters have at least a full context of tokens, so longer texts have more in proportion.
        least = max(state.max_model_len, chars * state.max_model_len // most)
        raise prompt_too_long(field, least, state.max_model_len - 1, chars=chars)


def fitting(state: ServerState, ids: Sequence[int], field: str) -> tuple[int, ...]:
    """The ids, if there are some and they leave room to answer; else 422 or 413."""
    if len(ids) >= state.max_model_len:
        raise prompt_too_long(field, len(ids), state.max_model_len - 1)
    if not ids:
        raise Problem("invalid-request", f"{field}: it has no tokens", (FieldError(field, "no tokens", "some text"),))
    return tuple(ids)


def completion_limit(state: ServerState, prompt_tokens: int, max_tokens: int | None, field: str) -> int:
    """Tokens to generate at most: what was asked for, or the default as far as the context reaches. 422 beyond it."""
    room = state.max_model_len - prompt_tokens
    if max_tokens is None:
        return min(state.settings.default_max_tokens, room)
    if max_tokens > room:
        expected = f"at most {room} (a context of {state.max_model_len} less a prompt of {prompt_tokens} tokens)"
        raise Problem(
            "invalid-request",
            f"{field}: expected {expected}; found {shown(max_tokens)}",
            (FieldError(field, shown(max_tokens), expected),),
        )
    return max_tokens


def new_id(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(12)}"
