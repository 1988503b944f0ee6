"""A request of the server to itself: the same endpoint, caller, limits and metering as over a connection, without one.

What a batch's lines go through. The caller was identified when the batch was made, so the guard's question is not asked
again; its rate is.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from deepseek.api.guard import CALLER
from deepseek.api.identity.caller import Caller
from deepseek.api.middleware import ARRIVED
from deepseek.api.problems import Problem, envelope_of, problem_of
from deepseek.api.wire import dump_json

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class InnerAnswer:
    """body: JSON. problem: set where the answer is an error."""

    status: int
    request_id: str
    body: bytes
    problem: Problem | None = None


async def ask_inside(app: Any, caller: Caller, endpoint: Endpoint, path: str, body: bytes) -> InnerAnswer:
    """POST a JSON body to one of our own endpoints in a caller's name. Cancelling it ends the request in the engine."""
    request_id = f"req-{secrets.token_hex(12)}"
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())],
        "app": app,
        "deepseek.request_id": request_id,
        ARRIVED: time.perf_counter(),
        CALLER: caller,
    }
    unread = [body]
    never = asyncio.Event()

    async def receive() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        await never.wait()
        raise AssertionError("unreachable")

    status, pieces = 500, []

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        elif message["type"] == "http.response.body":
            pieces.append(message.get("body", b""))

    try:
        response = await endpoint(Request(scope, receive, send))
        await response(scope, receive, send)
    except Exception as error:
        problem = problem_of(error)
        envelope = envelope_of(path)
        document = problem.document(instance=request_id, envelope=envelope)
        return InnerAnswer(problem.status_in(envelope), request_id, dump_json(document), problem)
    return InnerAnswer(status, request_id, b"".join(pieces))
