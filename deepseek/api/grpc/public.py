"""Calls without a key: health and reflection. They have places of their own, few and not for long, so that no number of
them takes a place from callers with one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from deepseek.api.grpc.calls import Context, Handler

MAX_STREAMS = 64  # Health.Watch and reflection
MAX_CALLS = 64  # Health.Check and List: a probe must not wait for those who watch
STREAM_S, CALL_S = 600.0, 10.0


class PublicCalls:
    """Counts what is let through. stream_s, call_s: how long a stream, or another call with its message, may last."""

    def __init__(
        self,
        *,
        max_streams: int = MAX_STREAMS,
        max_calls: int = MAX_CALLS,
        stream_s: float = STREAM_S,
        call_s: float = CALL_S,
    ) -> None:
        self._streams = _Places(max_streams, stream_s)
        self._calls = _Places(max_calls, call_s)

    def bounded(self, handler: Handler) -> Handler:
        """The same calls: RESOURCE_EXHAUSTED for one too many, DEADLINE_EXCEEDED for one that lasts too long."""
        inner = _answering(handler)
        streams = handler.request_streaming or handler.response_streaming
        places = self._streams if streams else self._calls

        async def behaviour(messages: Any, context: Context) -> Any:
            return await places.run(inner, messages, context)

        # Whatever the call is, its messages are read here: an endpoint of one message would wait for it without a bound.
        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        return make(behaviour, handler.request_deserializer, handler.response_serializer)


class _Places:
    """So many at a time, each for so long."""

    def __init__(self, most: int, seconds: float) -> None:
        self._free, self._seconds = most, seconds

    async def run(self, inner: Callable[[Any, Context], Awaitable[Any]], messages: Any, context: Context) -> Any:
        if not self._free:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many calls without a key; come back later.")
        self._free -= 1
        try:
            async with asyncio.timeout(self._seconds):
                return await inner(messages, context)
        except TimeoutError:
            detail = f"Without a key a call like this lasts at most {self._seconds:g} s."
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, detail)
        finally:
            self._free += 1


def _answering(handler: Handler) -> Callable[[Any, Context], Awaitable[Any]]:
    """The handler's function, for messages that come as a stream."""
    if handler.request_streaming:
        give: Any = handler.stream_stream

        async def write_all(messages: Any, context: Context) -> None:
            async for answer in give(messages, context):
                await context.write(answer)

        return write_all
    answer: Any = handler.unary_stream if handler.response_streaming else handler.unary_unary

    async def read_one(messages: Any, context: Context) -> Any:
        return await answer(await only_message(context), context)

    return read_one


async def only_message(context: Context) -> Any:
    """The message of a call that has one. Ends the call where none comes."""
    message = await context.read()
    if message is grpc.aio.EOF:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "A call has one message; found none.")
    return message
