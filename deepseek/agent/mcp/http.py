"""A server at an address, over streamable HTTP. What it answers is bounded, whatever it says of its length."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager

import httpx2
from mcp.client._transport import TransportStreams
from mcp.client.streamable_http import streamable_http_client

_STREAM_S = 300.0
"""How long a stream of events may be silent; servers send something in between."""


@asynccontextmanager
async def address(
    url: str, headers: Mapping[str, str], connect_s: float, max_message_bytes: int
) -> AsyncGenerator[TransportStreams]:
    """The streams of a server at this address. headers: of every request; a key belongs there."""
    timeout = httpx2.Timeout(connect_s, read=_STREAM_S)
    # Compressed answers would be bounded before they are unpacked; so none is asked for, and none taken.
    asked = {**headers, "accept-encoding": "identity"}
    transport = _Bounded(max_message_bytes)
    async with (
        httpx2.AsyncClient(headers=asked, timeout=timeout, transport=transport) as client,
        streamable_http_client(url, http_client=client, max_sse_event_size=max_message_bytes) as streams,
    ):
        yield streams


class _Bounded(httpx2.AsyncHTTPTransport):
    """Answers up to a bound, streams of events aside: of these each event is bounded."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__()
        self._most = most_bytes

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise httpx2.DecodingError("the answer is compressed, which was not asked for", request=request)
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            response.stream = _BoundedStream(response.stream, self._most)
        return response


class _BoundedStream(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream, most_bytes: int) -> None:
        self._inner, self._most = inner, most_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._most
        async for piece in self._inner:
            left -= len(piece)
            if left < 0:
                raise httpx2.ReadError(f"the server sent a message of more than {self._most} bytes")
            yield piece

    async def aclose(self) -> None:
        await self._inner.aclose()
