"""FastAPI routes and describes; around and inside its router stands only what this front needs.

Its own layers (a stack of exits for dependencies, two nets under exceptions, a bound on bodies) and the resolution of
dependencies that no endpoint has would be a tenth of a request's way to the engine and back.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from deepseek.api.problems import Problem, envelope_of, problem_of
from deepseek.api.state import ServerState
from deepseek.core.errors import DeepSeekError, EngineError, StoreError

log = logging.getLogger("deepseek.api")

Endpoint = Callable[[Request], Awaitable[Response]]


class Front(FastAPI):
    """The router within the layers that were added, and no others."""

    def build_middleware_stack(self) -> ASGIApp:
        app: ASGIApp = self.router
        for layer, args, kwargs in reversed(self.user_middleware):
            app = layer(app, *args, **kwargs)
        return app


def plain(endpoint: Endpoint) -> ASGIApp:
    """An endpoint as an application: it reads the request itself, and what it raises is its caller's to show."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = await endpoint(Request(scope, receive, send))
        await response(scope, receive, send)

    return app


def answer_to(error: Exception, state: ServerState, scope: Scope) -> Response | None:
    """What a client is shown of an error that is foreseen; None: it is a defect of ours."""
    path: str = scope["path"]
    if isinstance(error, ClientDisconnect):
        return Response(status_code=400)  # it left while its body was being read; nobody will see this
    if isinstance(error, HTTPException):
        problem = _router_problem(error, scope["method"], path[:200])
    elif isinstance(error, Problem | DeepSeekError):
        if isinstance(error, EngineError | StoreError):
            log.error("%s: %s", scope["deepseek.request_id"], error)
        problem = problem_of(error, retry_after_s=state.engine.load().oldest_wait_s)
    else:
        return None
    return problem.response(instance=scope["deepseek.request_id"], envelope=envelope_of(path))


def _router_problem(error: HTTPException, method: str, path: str) -> Problem:
    """The router's own refusals: no such path, or not with this method."""
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return Problem("method-not-allowed", f"{path} takes {allowed}, not {method}.", headers={"Allow": allowed})
    if error.status_code == 404:
        return Problem("not-found", f"There is nothing at {path}.")
    return Problem("malformed-request", "The request cannot be read.")
