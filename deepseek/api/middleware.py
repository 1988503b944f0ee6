"""What wraps every route: a request id in and out, a count by route, status and tier, and a last net under exceptions.

Pure ASGI, so `http.disconnect` reaches the routes and nothing is buffered.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepseek.api.front import answer_to
from deepseek.api.metrics import NO_TIER
from deepseek.api.overhead import OVERHEAD, Overhead
from deepseek.api.problems import envelope_of, problem_of
from deepseek.api.state import ServerState

log = logging.getLogger("deepseek.api")

CLIENT_LEFT = 499
ARRIVED = "deepseek.arrived"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class Envelope:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, state: ServerState) -> None:
        self._app = app
        self._state = state
        self._metrics = state.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        arrived = scope[ARRIVED] = time.perf_counter()
        request_id = request_id_of(scope["headers"])
        scope["deepseek.request_id"] = request_id
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return
        overhead = Overhead(arrived)
        token = OVERHEAD.set(overhead)
        status = CLIENT_LEFT

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [
                    (b"x-request-id", request_id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"x-overhead-ms", b"%.2f" % (overhead.seconds() * 1000)),
                ]
                message["headers"] = [*message.get("headers", ()), *own, *scope.get("deepseek.headers", ())]
            overhead.leave()
            try:
                await send(message)
            finally:
                overhead.back()

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as error:
            response = answer_to(error, self._state, scope) if status == CLIENT_LEFT else None
            if response is None:
                log.exception("%s: unexpected failure", request_id)
                response = problem_of(error).response(instance=request_id, envelope=envelope_of(scope["path"]))
            if status == CLIENT_LEFT:
                await response(scope, receive, send_with_headers)
        finally:
            OVERHEAD.reset(token)
            route = getattr(scope.get("route"), "path", "unmatched")
            caller = scope.get("deepseek.caller")
            self._metrics.answered(route, status, NO_TIER if caller is None else caller.tier.name)
            if overhead.generated:
                self._metrics.overhead.observe(overhead.seconds())


def arrival_of(scope: Scope) -> float:
    """When the request came, on time.perf_counter: before anything of ours looked at it."""
    return float(scope[ARRIVED])


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The client's own request id, if it is one that can safely go into a log and back into a header; else a new one."""
    for name, value in headers:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return value.decode("ascii")
    return f"req-{secrets.token_hex(12)}"
