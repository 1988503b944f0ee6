"""What wraps every route: a request id in and out, a count by route and status, and a last net under exceptions.

Pure ASGI, so `http.disconnect` reaches the routes and nothing is buffered.
"""

from __future__ import annotations

import logging
import re
import secrets

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepseek.api.metrics import Metrics
from deepseek.api.problems import problem_of

log = logging.getLogger("deepseek.api")

CLIENT_LEFT = 499
OPENAI_PATHS = ("/v1/chat/", "/v1/models")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class Envelope:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _given_id(scope) or f"req-{secrets.token_hex(12)}"
        scope["deepseek.request_id"] = request_id
        status = CLIENT_LEFT

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [(b"x-request-id", request_id.encode()), (b"x-content-type-options", b"nosniff")]
                message["headers"] = [*message.get("headers", ()), *own]
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as error:
            log.exception("%s: unexpected failure", request_id)
            if status == CLIENT_LEFT:
                response = problem_of(error).response(instance=request_id, openai=speaks_openai(scope["path"]))
                await response(scope, receive, send_with_headers)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            self._metrics.http_requests.labels(route, str(status)).inc()


def speaks_openai(path: str) -> bool:
    return path.startswith(OPENAI_PATHS)


def _given_id(scope: Scope) -> str | None:
    """The client's own request id, if it is one that can safely go into a log and back into a header."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value.decode("ascii"))
    return None
