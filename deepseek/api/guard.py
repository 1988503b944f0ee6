"""What stands before every endpoint: who asks, may they, not too fast. A route without a declared scope has no way in.

Inside the router, so that the route's scope is known; before the endpoint, so that nothing of a body is read for a caller
who is turned away.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from deepseek.api.identity.caller import Caller
from deepseek.api.problems import Problem, envelope_of
from deepseek.api.scopes import Scope
from deepseek.api.state import ServerState

CALLER = "deepseek.caller"
ASKS_LATER = "deepseek_asks_later"
"""Set on a WebSocket's endpoint that asks for a key itself where none came in a header; nothing else is let through."""
HEADERS = "deepseek.headers"
"""Of the connection scope: the caller, and headers that the Envelope adds to the answer."""
_KEY_HEADERS = (b"authorization", b"x-api-key")


class Guard:
    """One route's ASGI application, with the guard before it. A WebSocket that is turned away gets the same answer as a
    request would, in place of its handshake."""

    def __init__(self, app: ASGIApp, needed: Scope, state: ServerState) -> None:
        self._app, self._needed, self._state = app, needed, state

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        if self._needed is not Scope.PUBLIC:
            try:
                caller = await identified(self._state, Headers(scope=scope), self._needed)
                scope[CALLER] = caller
                headers = await admitted(self._state, caller, self._needed)
            except Problem as problem:
                if scope["type"] != "websocket":
                    raise
                if problem.kind != "unauthenticated" or not _may_say_later(scope):
                    await refuse_handshake(problem, scope, receive, send)
                    return
                headers = []
            scope.setdefault(HEADERS, []).extend(headers)
        await self._app(scope, receive, send)


async def enter(state: ServerState, headers: Headers, needed: Scope) -> tuple[Caller, list[tuple[bytes, bytes]]]:
    """The caller, and the headers that tell it its rate. Raises Problem: 401, 403 or 429. Also gRPC's way in."""
    caller = await identified(state, headers, needed)
    return caller, await admitted(state, caller, needed)


async def identified(state: ServerState, headers: Headers, needed: Scope) -> Caller:
    """Who asks, if they may do what this needs. Raises Problem: 401 or 403."""
    caller = await state.identifier.identify(headers)
    if needed not in caller.scopes:
        raise Problem("forbidden", f"This key may not do this: it needs the scope {needed.value!r}.")
    return caller


async def admitted(state: ServerState, caller: Caller, needed: Scope) -> list[tuple[bytes, bytes]]:
    """One request of this caller, counted against its rate; headers that tell it how that stands.

    Raises Problem 429: too fast, or, where tokens are asked for, more than the server can take.
    """
    if needed is Scope.OPERATE:
        return []
    verdict = await state.limiter.take(caller)
    if not verdict.allowed:
        state.metrics.rate_limited.labels(caller.tier.name).inc()
        raise Problem(
            "rate-limited",
            f"At most {caller.tier.requests_per_second:g} requests a second at tier {caller.tier.name}."
            if caller.tier.requests_per_second is not None
            else "The server is at its limit for this tier.",
            headers={name.decode(): value.decode() for name, value in verdict.headers()} | verdict.retry_headers(),
        )
    if needed is Scope.INFER:
        state.overload.check(caller)
    return verdict.headers()


def _may_say_later(scope: Connection) -> bool:
    """A browser can give a WebSocket no header: without a key there, an endpoint may take it as the first message."""
    marks = getattr(scope.get("endpoint"), "__dict__", {})
    return bool(marks.get(ASKS_LATER)) and not any(name in _KEY_HEADERS for name, _ in scope["headers"])


async def refuse_handshake(problem: Problem, scope: Connection, receive: Receive, send: Send) -> None:
    """An HTTP answer in place of a handshake (ASGI's extension "WebSocket Denial Response")."""
    await receive()  # websocket.connect
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})
        return
    response = problem.response(instance=scope.get("deepseek.request_id"), envelope=envelope_of(scope["path"]))
    await response(scope, receive, send)


def caller_of(scope: Connection) -> Caller:
    """The caller of a guarded connection."""
    caller = scope[CALLER]
    assert isinstance(caller, Caller)
    return caller
