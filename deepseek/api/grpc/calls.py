"""Each call of `deepseek.v1.DeepSeek` is one of the HTTP endpoints: the same checks, leases, metering and answers.

The endpoint is asked in-process with the call's message as JSON, and what it sends becomes messages. The call's deadline
becomes the request's `timeout_s`, if it is the shorter one: behind the `Idempotency-Key`s, because a call that is sent
again has another deadline, and is the same request. A call that its client cancels, or whose deadline passes, has
its task cancelled by grpc, and so the engine's request ends within one step. While a message waits to be written, because
its reader is slow, the engine's stream joins the tokens that come: nothing piles up here.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepseek.api.dialects import generate, openai
from deepseek.api.dialects.chat_dialect import ChatResponse
from deepseek.api.dialects.chat_request import ChatRequest
from deepseek.api.dialects.fields import MAX_TIMEOUT_S
from deepseek.api.grpc.statuses import code_of, trailing_of
from deepseek.api.guard import CALLER
from deepseek.api.idempotency import REPLAYED, Idempotent
from deepseek.api.identity.caller import Caller
from deepseek.api.middleware import ARRIVED
from deepseek.api.overhead import OVERHEAD
from deepseek.api.problems import Problem, problem_of
from deepseek.api.protobuf.codec import Codec
from deepseek.api.protobuf.contract import SERVICE, ModelsRequest, codec_of
from deepseek.api.protobuf.frames import ChatChunk, EventReader, GenerateFrame
from deepseek.api.protobuf.transcode import aside, dump_request, read_values
from deepseek.api.protobuf.writing import PACKAGE
from deepseek.api.scopes import Scope as Needed

log = logging.getLogger("deepseek.api")

Endpoint = Callable[[Request], Awaitable[Response]]
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
ASKED = "deepseek.asked"
SERVICE_NAME = f"{PACKAGE}.{SERVICE.name}"


@dataclass(frozen=True, slots=True)
class Entered:
    """Who calls, since when, under which id. headers: what tells the caller its rate."""

    caller: Caller
    arrived: float
    request_id: str
    metadata: list[tuple[bytes, bytes]]
    headers: list[tuple[bytes, bytes]]


ENTERED: ContextVar[Entered] = ContextVar("deepseek.grpc.entered")
"""Set by the interceptor for the call's own task."""


@dataclass(frozen=True, slots=True)
class Call:
    """One method, and the route that it is in HTTP. answer: the model of its message, or of its messages where it streams."""

    endpoint: Endpoint
    http: str
    path: str
    request: type[BaseModel]
    answer: type[BaseModel]
    needed: Needed
    streams: bool = False


_GENERATE = (generate.generate, "POST", "/v1/generate", generate.GenerateRequest)
_CHAT = (openai.chat_completions, "POST", "/v1/chat/completions", ChatRequest)
CALLS: dict[str, Call] = {
    "Generate": Call(*_GENERATE, generate.GenerateResponse, Needed.INFER),
    "GenerateStream": Call(*_GENERATE, GenerateFrame, Needed.INFER, streams=True),
    "Chat": Call(*_CHAT, ChatResponse, Needed.INFER),
    "ChatStream": Call(*_CHAT, ChatChunk, Needed.INFER, streams=True),
    "Models": Call(openai.list_models, "GET", "/v1/models", ModelsRequest, openai.ModelList, Needed.READ),
}


def handlers(app: Any) -> dict[str, Handler]:
    """By method. app: the application whose `state.server` the endpoints read. Messages are bytes: they are decoded here,
    after the caller is known, and what is none is INVALID_ARGUMENT."""
    return {name: _handler(app, call) for name, call in CALLS.items()}


def _handler(app: Any, call: Call) -> Handler:
    gives = codec_of(call.answer)
    inner: ASGIApp = Idempotent(_asking(call.endpoint), app.state.server)

    def ask(data: bytes, context: Context) -> Awaitable[_Asked]:
        return aside(data, lambda data: _asked(call, data, context))

    async def answer(data: bytes, context: Context) -> bytes:
        unary = _Unary(context, gives)
        await inner(*_connection(app, call, await ask(data, context)), unary.send)
        return unary.message

    async def stream(data: bytes, context: Context) -> None:
        await inner(*_connection(app, call, await ask(data, context)), _Stream(context, gives).send)

    if call.streams:
        return grpc.unary_stream_rpc_method_handler(stream)
    return grpc.unary_unary_rpc_method_handler(answer)


def _asking(endpoint: Endpoint) -> ASGIApp:
    async def ask(scope: Scope, receive: Receive, send: Send) -> None:
        asked: _Asked = scope[ASKED]
        remaining = asked.context.time_remaining()
        if remaining is not None and (asked.timeout_s is None or remaining < asked.timeout_s):
            # Counted, like a client's own, from the request's arrival.
            timeout_s = max(remaining + time.perf_counter() - scope[ARRIVED], 1e-6)
            await receive()
            receive = _reading(asked.body_within(min(timeout_s, MAX_TIMEOUT_S)))
        response = await endpoint(Request(scope, receive))
        await response(scope, receive, send)

    return ask


async def refuse(context: Context, error: Exception, request_id: str) -> None:
    """End the call with the status of an error. Raises what grpc ends it by."""
    if not isinstance(error, Problem):
        log.exception("%s: a call failed", request_id)
    problem = problem_of(error)
    await context.abort(code_of(problem), problem.detail[:1024], trailing_of(problem, request_id))


@dataclass(frozen=True, slots=True)
class _Asked:
    """A call's message as a route's body. rest: without its end, which says the time that the client itself asked for."""

    rest: bytes
    timeout_s: float | None
    context: Context

    @property
    def body(self) -> bytes:
        """What the client sent, the same each time it sends it."""
        return self.rest + (b"}" if self.timeout_s is None else b',"timeout_s":%s}' % dump_request(self.timeout_s))

    def body_within(self, timeout_s: float) -> bytes:
        return self.rest + b',"timeout_s":%s}' % dump_request(timeout_s)


def _asked(call: Call, data: bytes, context: Context) -> _Asked:
    values = read_values(call.request, data)
    values["stream"] = call.streams
    if call.answer is ChatChunk:
        values.setdefault("stream_options", {"include_usage": True})
    timeout_s = values.pop("timeout_s", None)
    return _Asked(dump_request(values).removesuffix(b"}"), timeout_s, context)


def _connection(app: Any, call: Call, asked: _Asked) -> tuple[Scope, Receive]:
    entered = ENTERED.get()
    body = b"" if call.http == "GET" else asked.body
    own = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "2",
        "method": call.http,
        "scheme": "http",
        "path": call.path,
        "raw_path": call.path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": entered.metadata + own,
        "app": app,
        "route": call,
        "deepseek.request_id": entered.request_id,
        ARRIVED: entered.arrived,
        CALLER: entered.caller,
        ASKED: asked,
    }
    return scope, _reading(body)


def _reading(body: bytes) -> Receive:
    unread = [body]

    async def receive() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        await asyncio.Event().wait()  # a client that leaves cancels the task
        raise AssertionError("unreachable")

    return receive


class _Unary:
    """Keeps the one message of an answer."""

    def __init__(self, context: Context, codec: Codec) -> None:
        self._context, self._codec = context, codec
        self._pieces: list[bytes] = []
        self.message = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            # With the answer, not before it: that would be one more operation of each call.
            self._context.set_trailing_metadata(_shown(message["headers"]))
            return
        self._pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            self.message = self._codec.encode(json.loads(b"".join(self._pieces)))


class _Stream:
    """Writes a message for each frame. Waits while the client's window is full."""

    def __init__(self, context: Context, codec: Codec) -> None:
        self._context, self._codec = context, codec
        self._events = EventReader()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            with _waiting():
                await self._context.send_initial_metadata(_shown(message["headers"]))
            return
        for values in self._events.feed(message.get("body", b"")):
            if "problem" in values:
                await self._fail(values["problem"])
            data = self._codec.encode(values)
            with _waiting():
                await self._context.write(data)

    async def _fail(self, document: Mapping[str, Any]) -> None:
        kind = str(document["type"]).rpartition(":")[2]
        await refuse(self._context, Problem(kind, str(document["detail"])), ENTERED.get().request_id)


def _waiting() -> AbstractContextManager[None]:
    """For the client to take something: that time is not ours."""
    overhead = OVERHEAD.get()
    return nullcontext() if overhead is None else overhead.away()


_SHOWN = (b"x-seed", REPLAYED[0])


def _shown(headers: list[tuple[bytes, bytes]]) -> tuple[tuple[str, str], ...]:
    """What of an answer's headers a gRPC client gets, beside the request's id and the caller's rate."""
    entered = ENTERED.get()
    found = [(b"x-request-id", entered.request_id.encode()), *entered.headers]
    found += [pair for pair in headers if pair[0].lower() in _SHOWN]
    return tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in found)
