"""Protobuf on a JSON route: pure ASGI around the route's application, which knows nothing of it.

A body of type application/x-protobuf goes in as JSON. Where Accept prefers Protobuf, a whole answer comes out as one
message, and a stream as messages each after its length (a varint), which is what `parseDelimitedFrom` and its like read:

    content-type: application/x-protobuf; proto=deepseek.v1.GenerateResponse
    content-type: application/x-protobuf; proto=deepseek.v1.GenerateFrame; encoding=delimited

A stream's last message has finish reasons and usage, or `problem`. Problems before the first message stay problem+json.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepseek.api.body import LARGE_BYTES, read_body
from deepseek.api.dialects.chat_dialect import ChatResponse
from deepseek.api.dialects.chat_request import ChatRequest
from deepseek.api.dialects.generate import GenerateRequest, GenerateResponse
from deepseek.api.guard import caller_of
from deepseek.api.problems import FieldError, Problem
from deepseek.api.protobuf.codec import Codec, WireError
from deepseek.api.protobuf.contract import bounds_of, codec_of
from deepseek.api.protobuf.frames import ChatChunk, EventReader, GenerateFrame
from deepseek.api.protobuf.negotiate import PROTOBUF, is_protobuf, negotiated
from deepseek.api.state import ServerState
from deepseek.api.tiers import Tier
from deepseek.api.wire import dump_json

Header = tuple[bytes, bytes]
T = TypeVar("T")
ASIDE_BYTES = 8 * 1024


@dataclass(frozen=True, slots=True)
class Messages:
    """Of one route: what it takes, what it answers, and what it streams."""

    request: type[BaseModel]
    answer: type[BaseModel]
    frame: type[BaseModel]


ROUTES = {
    "/v1/generate": Messages(GenerateRequest, GenerateResponse, GenerateFrame),
    "/v1/chat/completions": Messages(ChatRequest, ChatResponse, ChatChunk),
}


def speaking_protobuf(path: str, app: ASGIApp, state: ServerState) -> ASGIApp:
    """A route's application, which speaks Protobuf too if the route has messages for that."""
    messages = ROUTES.get(path)
    return app if messages is None else Transcoder(app, messages, state)


class Transcoder:
    """A route's application that speaks Protobuf too, to callers whose tier has it."""

    def __init__(self, app: ASGIApp, messages: Messages, state: ServerState) -> None:
        self._app, self._messages, self._state = app, messages, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        form = negotiated(headers.get("accept"))
        given = is_protobuf(headers.get("content-type", ""))
        if given or form == "protobuf":
            require_protobuf(caller_of(scope).tier)
        if given:
            scope, receive = await self._as_json(scope, receive)
        if form == "protobuf":
            send = Writer(send, codec_of(self._messages.answer), codec_of(self._messages.frame)).send
        await self._app(scope, receive, send)

    async def _as_json(self, scope: Scope, receive: Receive) -> tuple[Scope, Receive]:
        data = await read_body(Request(scope, receive), self._state.settings)
        body = await aside(data, lambda data: dump_request(read_values(self._messages.request, data)))
        kept = [pair for pair in scope["headers"] if pair[0] not in (b"content-type", b"content-length")]
        own = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        unread = [body]

        async def receive_json() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            return await receive()

        return {**scope, "headers": [*kept, *own]}, receive_json


def require_protobuf(tier: Tier) -> None:
    """403 naming the tier, where it has no Protobuf."""
    if not tier.protobuf:
        raise Problem("forbidden", f"This key's tier, {tier.name}, has no Protobuf; send and accept application/json.")


async def aside(data: bytes, read: Callable[[bytes], T]) -> T:
    """read(data): in a thread, where it would keep the event loop from others for more than a moment."""
    return read(data) if len(data) <= ASIDE_BYTES else await asyncio.to_thread(read, data)


def read_values(model: type[BaseModel], data: bytes) -> dict[str, Any]:
    """A request's message as the values it stands for. Raises Problem: 400 for no message, 422 for too much in one."""
    try:
        if len(data) > LARGE_BYTES:
            bounds_of(model).require_few(data)
        return codec_of(model).decode(data)
    except WireError as error:
        raise Problem("malformed-request", f"{error}.") from None


def dump_request(values: Any) -> bytes:
    """Raises Problem 422 for what JSON cannot say."""
    try:
        return dump_json(values)
    except (ValueError, RecursionError):
        expected = "numbers that are finite"
        raise Problem(
            "invalid-request", f"body: expected {expected}", (FieldError("body", expected=expected),)
        ) from None


class Writer:
    """An ASGI `send` that turns what JSON dialects send into Protobuf; other answers pass as they are."""

    def __init__(self, send: Send, answer: Codec, frame: Codec) -> None:
        self._send, self._answer, self._frame = send, answer, frame
        self._start: Message | None = None
        self._whole: list[bytes] | None = None
        self._events: EventReader | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif self._whole is not None:
            self._whole.append(message.get("body", b""))
            if not message.get("more_body", False):
                await self._send_whole(b"".join(self._whole))
        elif self._events is not None and message["type"] == "http.response.body":
            frames = b"".join(map(self._delimited, self._events.feed(message.get("body", b""))))
            more = message.get("more_body", False)
            if frames or not more:
                await self._send({"type": "http.response.body", "body": frames, "more_body": more})
        else:
            await self._send(message)

    async def _begin(self, message: Message) -> None:
        kind = next((value for name, value in message["headers"] if name.lower() == b"content-type"), b"")
        kind = kind.partition(b";")[0]
        if message["status"] == 200 and kind == b"application/json":
            self._start, self._whole = message, []
        elif message["status"] == 200 and kind == b"text/event-stream":
            self._events = EventReader()
            await self._send({**message, "headers": _headers(message, self._frame, "; encoding=delimited")})
        else:
            await self._send(message)

    async def _send_whole(self, body: bytes) -> None:
        assert self._start is not None
        data = self._answer.encode(json.loads(body))
        headers = [*_headers(self._start, self._answer), (b"content-length", str(len(data)).encode())]
        await self._send({**self._start, "headers": headers})
        await self._send({"type": "http.response.body", "body": data})

    def _delimited(self, values: dict[str, Any]) -> bytes:
        data = self._frame.encode(values)
        return varint(len(data)) + data


def _headers(start: Message, codec: Codec, more: str = "") -> list[Header]:
    kept = [pair for pair in start["headers"] if pair[0].lower() not in (b"content-type", b"content-length")]
    return [*kept, (b"content-type", f"{PROTOBUF}; proto={codec.name}{more}".encode()), (b"vary", b"accept")]


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first, the eighth bit set on all but the last."""
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)
