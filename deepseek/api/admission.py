"""From a dialect's fields to the engine's Request: is the model ours, does the prompt fit, how much may it generate."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

from deepseek.api.problems import FieldError, Problem, retry_after, shown
from deepseek.api.state import ServerState


def refuse_while_draining(state: ServerState) -> None:
    """503 once the server is on its way out; checked before a body is read."""
    if state.lifecycle.draining:
        raise Problem("draining", "The server is shutting down; send the request to another.", headers=retry_after(5.0))


def adapter_of(state: ServerState, model: str) -> str | None:
    """The adapter that a model's name means; None for the model itself. 404 that names what is served."""
    if model in state.models:
        return None
    if model in state.adapters:
        return model
    served = ", ".join((*state.models, *state.adapters))
    error = FieldError("model", shown(model), f"one of: {served}")
    raise Problem("unknown-model", f"model: {shown(model)} is not served here; served: {served}", (error,))


async def encode(state: ServerState, encoder: Callable[[], list[int]], chars: int, field: str) -> tuple[int, ...]:
    """Token ids of a prompt, made in a worker thread where the text is long. 413 if it leaves no room to answer."""
    most = state.settings.max_text_chars
    if most is not None and chars > most:
        expected = f"at most {state.max_model_len - 1} tokens"
        error = FieldError(field, f"{chars} characters", expected)
        raise Problem("prompt-too-long", f"{field}: expected {expected}; found {chars} characters", (error,))
    ids = await asyncio.to_thread(encoder) if chars > state.settings.long_text_chars else encoder()
    if len(ids) >= state.max_model_len:
        expected = f"at most {state.max_model_len - 1} tokens"
        error = FieldError(field, f"{len(ids)} tokens", expected)
        raise Problem("prompt-too-long", f"{field}: expected {expected}; found {len(ids)}", (error,))
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
