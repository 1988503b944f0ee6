"""The one way of a request through lease, engine and settlement, whatever dialect or transport it came by.

    async with aclosing(passage(state, caller, request, model=..., route=...)) as events: ...

Usage is settled, and on disk, before Finish is handed on, so nobody sees the end of an answer that could still be lost
from the bill. Leaving early aborts the request and settles what it had used.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass, replace

from deepseek.api.identity.caller import Caller
from deepseek.api.limits.overload import InFlight
from deepseek.api.metering.exhausted import SOON_S
from deepseek.api.metering.meter import Account
from deepseek.api.overhead import OVERHEAD, Overhead
from deepseek.api.problems import Problem
from deepseek.api.state import ServerState
from deepseek.core.engine import Embedding, Event, Finish, FinishReason, Lease, Ready, Request, Usage
from deepseek.core.errors import AdmissionError, EngineError

CUT_OFF: frozenset[FinishReason] = frozenset({"cancelled", "deadline", "error"})
PATIENCE_S = 300.0
"""How long a prompt waits for room once the first of its call has begun, if no deadline comes sooner."""
POLL_S = 0.02, 1.0
"""Between looks for room: at first, and at most."""


@dataclass(slots=True)
class Charge:
    """begun: whether the engine has begun with any request of a call, so that something of it is charged."""

    begun: bool = False


CHARGE: ContextVar[Charge | None] = ContextVar("charge", default=None)
"""Of the call at hand, where somebody wants to know."""


async def passage(
    state: ServerState,
    caller: Caller,
    request: Request,
    *,
    model: str,
    route: str,
    begun: asyncio.Event | None = None,
    whole: bool = False,
) -> AsyncGenerator[Event]:
    """The engine's events for this caller's request. Raises Problem where a budget is exhausted or the server is busy,
    and as `generate`. One whose deadline has passed, or that was cancelled, ends with that and never reaches the engine.

    begun: shared by the prompts of one call; set once one is in the engine. What comes after that waits for room instead
    of being refused, for its call is charged for already. whole: as in `Request`.
    """
    overhead, away = OVERHEAD.get() or Overhead(0.0), False
    patience = _Patience(state, request, overhead) if begun is not None and begun.is_set() else None
    in_flight: InFlight | None = None
    account: Account | None = None
    events: AsyncIterator[Event] | None = None
    try:
        try:
            in_flight = await _entered(state, caller, request, patience)
            account = await _opened(state, caller, request, model, route, patience)
            # It waited so long before, for its body or its budget, that the engine need not see it.
            _require_wanted(state, request)
            leased = as_of(state, caller, request, account.lease, whole)
            events = state.engine.generate(leased) if patience is None else _queued(state, leased, patience, account)
        except _NotWanted as over:
            reasons = (over.reason,) * request.sampling.n
            if account is not None:
                await account.settle(Usage(0, 0), reasons)
            yield Finish(request.id, reasons, Usage(len(request.prompt_ids), 0))
            return
        in_flight.submitted()
        if begun is not None:
            begun.set()
        overhead.generated = away = True
        overhead.leave()
        async for event in events:
            away = False
            overhead.back()
            account.note(event)
            if isinstance(event, Ready):
                in_flight.ready(event.queued_s)
                _charged()
            elif not in_flight.seen and not _is_cut_off(event):
                in_flight.first_result()
                _charged()
            if isinstance(event, Finish):
                await account.settle(event.usage, event.reasons)
                if "budget" in event.reasons:
                    event = replace(event, budget=account.limit)
            yield event
            away = True
            overhead.leave()
    finally:
        if in_flight is not None:
            in_flight.leave()
        state.lifecycle.cancelled.discard(request.id)
        if away:
            overhead.back()
        if events is not None:
            await _end(state, request, events, account)
        if account is not None:
            await account.close()


async def embedding(
    state: ServerState, caller: Caller, request: Request, *, model: str, route: str, begun: asyncio.Event | None = None
) -> tuple[Embedding, Usage]:
    """The prompt of a request with task "embed" as a vector, metered like every other.

    Raises as `passage`, and EngineError if the request ended otherwise: it was aborted, or failed.
    """
    found: Embedding | None = None
    async with aclosing(passage(state, caller, request, model=model, route=route, begun=begun)) as events:
        async for event in events:
            if isinstance(event, Embedding):
                found = event
            elif isinstance(event, Finish) and found is not None:
                return found, event.usage
    raise EngineError("the request ended without an embedding", where=request.id)


def as_of(state: ServerState, caller: Caller, request: Request, lease: Lease | None, whole: bool) -> Request:
    """The request in its caller's name: tenant, cache salt, a priority that the tier allows, and what it may use."""
    own = request.priority if caller.tier.may_prioritise else max(0, request.priority)
    return replace(
        request,
        tenant=caller.tenant,
        cache_salt=state.salts.of(caller.tenant),
        priority=caller.tier.priority + own,
        lease=lease,
        whole=whole,
    )


def only_set_aside(problem: Problem) -> bool:
    """Whether a budget is not spent, and only set aside for what runs: asked again it may be free."""
    return problem.kind == "budget-exhausted" and problem.headers.get("Retry-After") == str(SOON_S)


class _NotWanted(Exception):
    """Nobody waits for the request any more."""

    def __init__(self, reason: FinishReason) -> None:
        super().__init__(reason)
        self.reason = reason


def _require_wanted(state: ServerState, request: Request) -> None:
    if request.id in state.lifecycle.cancelled:
        raise _NotWanted("cancelled")
    if request.deadline is not None and time.monotonic() >= request.deadline:
        raise _NotWanted("deadline")


class _Patience:
    """The wait of one request for room."""

    def __init__(self, state: ServerState, request: Request, overhead: Overhead) -> None:
        self._state, self._request, self._overhead = state, request, overhead
        self._ends = time.monotonic() + PATIENCE_S
        self._next = POLL_S[0]

    async def wait(self, refusal: Exception) -> None:
        """A while. Raises _NotWanted, or the refusal once it has waited too long."""
        left = self._ends - time.monotonic()
        if left <= 0:
            raise refusal
        if self._request.deadline is not None:
            left = min(left, self._request.deadline - time.monotonic())
        self._overhead.leave()
        try:
            await asyncio.sleep(max(0.0, min(self._next, left)))
        finally:
            self._overhead.back()
        self._next = min(2 * self._next, POLL_S[1])
        _require_wanted(self._state, self._request)


async def _entered(state: ServerState, caller: Caller, request: Request, patience: _Patience | None) -> InFlight:
    if patience is None:
        return state.overload.enter(caller, request)
    while True:
        try:
            return state.overload.enter(caller, request, waits=True)
        except Problem as problem:
            await patience.wait(problem)


async def _opened(
    state: ServerState, caller: Caller, request: Request, model: str, route: str, patience: _Patience | None
) -> Account:
    while True:
        try:
            return await state.meter.open(caller, request, model, route)
        except Problem as problem:
            if patience is None or not only_set_aside(problem):
                raise
            await patience.wait(problem)


async def _end(state: ServerState, request: Request, events: AsyncIterator[Event], account: Account | None) -> None:
    """End the request in the engine, and have its account know what it came to there, read or not."""
    close = getattr(events, "aclose", None)
    if close is not None:
        await close()
    else:
        await state.engine.abort(request.id)
    finish: Finish | None = getattr(events, "finish", None)
    if finish is not None and account is not None:
        account.note(finish)


async def _queued(state: ServerState, request: Request, patience: _Patience, account: Account) -> AsyncGenerator[Event]:
    """The engine's events, once its queue has a place."""
    while True:
        events: AsyncIterator[Event] | None = None
        try:
            events = state.engine.generate(request)
            async for event in events:
                yield event
            return
        except AdmissionError as error:
            if error.reason != "queue_full":
                raise
            refusal = error
        finally:
            if events is not None:
                await _end(state, request, events, account)
        try:
            await patience.wait(refusal)
        except _NotWanted as over:
            yield Finish(request.id, (over.reason,) * request.sampling.n, Usage(len(request.prompt_ids), 0))
            return


def _charged() -> None:
    charge = CHARGE.get()
    if charge is not None:
        charge.begun = True


def _is_cut_off(event: Event) -> bool:
    """Whether this is an end that says nothing of how long a result takes."""
    return isinstance(event, Finish) and not CUT_OFF.isdisjoint(event.reasons)
