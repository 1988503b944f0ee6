"""The one way of a request through lease, engine and settlement, whatever dialect or transport it came by.

    async with aclosing(passage(state, caller, request, model=..., route=...)) as events: ...

Usage is settled, and on disk, before Finish is handed on, so nobody sees the end of an answer that could still be lost
from the bill. Leaving early aborts the request and settles what it had used.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace

from deepseek.api.identity.caller import Caller
from deepseek.api.metering.meter import Account
from deepseek.api.overhead import OVERHEAD, Overhead
from deepseek.api.state import ServerState
from deepseek.core.engine import Embedding, Event, Finish, FinishReason, Ready, Request, Tokens, Usage
from deepseek.core.errors import EngineError


async def passage(
    state: ServerState, caller: Caller, request: Request, *, model: str, route: str
) -> AsyncGenerator[Event]:
    """The engine's events for this caller's request. Raises Problem where a budget is exhausted or the server is busy,
    and as `generate`. One whose deadline has passed ends with that and never reaches the engine."""
    in_flight = state.overload.enter(caller, request)
    overhead, away = OVERHEAD.get() or Overhead(0.0), False
    account: Account | None = None
    events: AsyncIterator[Event] | None = None
    try:
        account = await state.meter.open(caller, request, model, route)
        if request.deadline is not None and time.monotonic() >= request.deadline:
            # It waited so long before, for its body or its budget, that the engine need not see it.
            late: FinishReason = "deadline"
            reasons = (late,) * request.sampling.n
            await account.settle(Usage(0, 0), reasons)
            yield Finish(request.id, reasons, Usage(len(request.prompt_ids), 0))
            return
        events = state.engine.generate(as_of(state, caller, replace(request, lease=account.lease)))
        in_flight.submitted()
        overhead.generated = away = True
        overhead.leave()
        async for event in events:
            away = False
            overhead.back()
            account.note(event)
            if isinstance(event, Ready):
                in_flight.ready(event.queued_s)
            elif not in_flight.seen and isinstance(event, Tokens):
                in_flight.first_token()
            if isinstance(event, Finish):
                await account.settle(event.usage, event.reasons)
            yield event
            away = True
            overhead.leave()
    finally:
        in_flight.leave()
        if away:
            overhead.back()
        if events is not None:
            close = getattr(events, "aclose", None)
            if close is not None:
                await close()
            else:
                await state.engine.abort(request.id)
        if account is not None:
            await account.close()


async def embedding(
    state: ServerState, caller: Caller, request: Request, *, model: str, route: str
) -> tuple[Embedding, Usage]:
    """The prompt of a request with task "embed" as a vector, metered like every other.

    Raises as `passage`, and EngineError if the request ended otherwise: it was aborted, or failed.
    """
    found: Embedding | None = None
    async with aclosing(passage(state, caller, request, model=model, route=route)) as events:
        async for event in events:
            if isinstance(event, Embedding):
                found = event
            elif isinstance(event, Finish) and found is not None:
                return found, event.usage
    raise EngineError("the request ended without an embedding", where=request.id)


def as_of(state: ServerState, caller: Caller, request: Request) -> Request:
    """The request in its caller's name: tenant, cache salt, and a priority that the tier allows."""
    own = request.priority if caller.tier.may_prioritise else max(0, request.priority)
    return replace(
        request,
        tenant=caller.tenant,
        cache_salt=state.salts.of(caller.tenant),
        priority=caller.tier.priority + own,
    )
