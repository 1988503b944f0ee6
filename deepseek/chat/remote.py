"""A `LanguageModel` behind any OpenAI-compatible address: this package's own server, DeepSeek's API, vLLM, llama.cpp.

    model = RemoteModel("https://api.deepseek.com/v1", "deepseek-chat", api_key=...)

Answers are streamed. What fails before the first piece came, and may pass, is tried again with full-jitter back-off
(https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/), not before the server's `Retry-After`; what
fails later is a retryable ModelError. The key goes to the one address only: redirects are not followed, and no error
shows it.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from deepseek.chat.openai_wire import AnswerReader, request_body
from deepseek.core.deltas import Delta
from deepseek.core.errors import AdmissionError, ModelError
from deepseek.core.language import Turn
from deepseek.core.messages import MediaKind, MediaPart, Message, ToolChoice, ToolSpec
from deepseek.core.sampling import SamplingParams

MAX_LINE_BYTES = 4 << 20
MAX_ANSWER_BYTES = 64 << 20
MAX_ERROR_BYTES = 64 << 10
_BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 20.0


class RemoteModel:
    """url: up to where `/chat/completions` follows. takes: the kinds of media that the model understands.

    attempts: how often a turn is asked for at most. connect_s, read_s: how long to wait for a connection, and for the
    next piece of an answer. extra: more fields of every request's body; headers: more headers. transport: instead of
    the network. Close it with `aclose`.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: str | None = None,
        takes: frozenset[MediaKind] = frozenset(),
        attempts: int = 3,
        connect_s: float = 10.0,
        read_s: float = 300.0,
        extra: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        draw: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._url = url.rstrip("/") + "/chat/completions"
        self._model, self._takes, self._attempts = model, takes, max(1, attempts)
        self._key, self._extra, self._headers = api_key, dict(extra or {}), dict(headers or {})
        self._timeout = httpx.Timeout(read_s, connect=connect_s)
        self._transport, self._draw, self._sleep = transport, draw, sleep
        self._client: tuple[asyncio.AbstractEventLoop, httpx.AsyncClient] | None = None

    def __repr__(self) -> str:
        return f"RemoteModel({self._url!r}, {self._model!r})"

    @property
    def name(self) -> str:
        return self._model

    @property
    def takes(self) -> frozenset[MediaKind]:
        return self._takes

    async def aclose(self) -> None:
        """Close the connections. It may be used again."""
        client, self._client = self._client, None
        if client is not None and client[0] is asyncio.get_running_loop():
            await client[1].aclose()

    close = aclose

    async def chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec] = (),
        *,
        choice: ToolChoice = "auto",
        parallel: bool = True,
        schema: Mapping[str, object] | None = None,
        thinking: bool = False,
        sampling: SamplingParams | None = None,
        deadline: float | None = None,
    ) -> AsyncIterator[Delta | Turn]:
        """See the protocol. A server that does not count tokens is counted by its chunks, the prompt not at all.

        thinking: asked for by `thinking: {"type": "enabled"}`, as DeepSeek's API has it; servers that know no such
        field refuse it. Whether schemas are enforced is the server's matter.
        """
        self._require_takes(messages)
        body = request_body(self._model, messages, tools, choice, parallel, schema, sampling) | self._extra
        if thinking:
            body.setdefault("thinking", {"type": "enabled"})
        attempt = 0
        while True:
            attempt += 1
            begun = False
            try:
                async with aclosing(self._answer(body, deadline)) as pieces:
                    async for piece in pieces:
                        begun = True
                        yield piece
                return
            except ModelError as error:
                pause_s = self._pause_s(attempt, error.retry_after_s)
                late = deadline is not None and time.monotonic() + pause_s >= deadline
                if begun or not error.retryable or attempt >= self._attempts or late:
                    raise
            await self._sleep(pause_s)

    def _require_takes(self, messages: Sequence[Message]) -> None:
        for message in messages:
            for part in message.parts:
                if isinstance(part, MediaPart) and part.kind not in self._takes:
                    expected = "text alone" if not self._takes else ", ".join(sorted(self._takes))
                    found = f"a part of kind {part.kind}"
                    raise AdmissionError(
                        "this model does not take it", where="messages", found=found, expected=expected
                    )

    def _pause_s(self, attempt: int, asked_s: float | None) -> float:
        drawn = self._draw() * min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** (attempt - 1))
        return max(drawn, asked_s or 0.0)

    async def _answer(self, body: Mapping[str, Any], deadline: float | None) -> AsyncGenerator[Delta | Turn]:
        reader = AnswerReader(self._url)
        try:
            async with aclosing(self._chunks(body, deadline)) as chunks:
                async for chunk in chunks:
                    for delta in reader.feed(chunk):
                        yield delta
        except TimeoutError:
            for delta in reader.close("deadline"):
                yield delta
            yield reader.turn("deadline")
            return
        if not reader.finished:
            raise ModelError("the answer broke off", retryable=True, where=self._url)
        for delta in reader.close():
            yield delta
        yield reader.turn()

    async def _chunks(self, body: Mapping[str, Any], deadline: float | None) -> AsyncGenerator[object]:
        """The JSON values of an answer. Raises TimeoutError at the deadline."""
        client = self._http()
        content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        headers = {"content-type": "application/json", "accept": "text/event-stream", **self._headers}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        request = client.build_request("POST", self._url, content=content, headers=headers, timeout=self._timeout)
        response: httpx.Response | None = None
        try:
            async with asyncio.timeout(_left_s(deadline)):
                response = await client.send(request, stream=True)
            pieces = response.aiter_bytes()
            if response.status_code != 200:
                raise self._refusal(response, await _head(pieces, deadline))
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                yield self._parsed(await _head(pieces, deadline, MAX_ANSWER_BYTES))
                return
            async with aclosing(_lines(pieces, deadline, self._url)) as lines:
                async for line in lines:
                    field, _, value = line.partition(b":")
                    value = value.strip()
                    if field != b"data" or not value:
                        continue
                    if value == b"[DONE]":
                        return
                    yield self._parsed(value)
        except httpx.TimeoutException as error:
            raise ModelError("the server does not answer", retryable=True, where=self._url) from error
        except httpx.HTTPError as error:
            found = self._clean(f"{type(error).__name__}: {error}")
            raise ModelError("no connection", retryable=True, where=self._url, found=found) from error
        finally:
            if response is not None:
                await response.aclose()

    def _http(self) -> httpx.AsyncClient:
        """The client of this event loop: connections belong to the loop that made them."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._client[0] is not loop:
            self._client = loop, httpx.AsyncClient(transport=self._transport, follow_redirects=False)
        return self._client[1]

    def _parsed(self, value: bytes) -> object:
        try:
            return json.loads(value)
        except (ValueError, RecursionError) as error:
            found = self._clean(value[:200].decode("utf-8", "replace"))
            raise ModelError("the server's answer is no JSON", where=self._url, found=found) from error

    def _refusal(self, response: httpx.Response, body: bytes) -> ModelError | AdmissionError:
        status = response.status_code
        text = body.decode("utf-8", "replace")
        code = ""
        try:
            told = json.loads(text)
            error = told.get("error", told) if isinstance(told, dict) else told
            if isinstance(error, dict):
                code = str(error.get("code") or error.get("type") or "")
                text = str(error.get("message") or error.get("detail") or text)
        except (ValueError, RecursionError):
            text = " ".join(text.split())
        found = self._clean(f"HTTP {status}: {text[:500]}")
        if status in _BUSY:
            pause_s = retry_after_s(response.headers.get("retry-after"))
            return ModelError("the server is busy", retryable=True, retry_after_s=pause_s, where=self._url, found=found)
        if status in (401, 403):
            return ModelError("the server does not let us in", where=self._url, found=found, fix="check the API key")
        if status == 413 or "context_length" in code or "maximum context length" in text or "too-long" in code:
            return AdmissionError("too long for the model", reason="too_long", where=self._url, found=found)
        if status == 404:
            return AdmissionError("no such model or route", reason="unknown_model", where=self._url, found=found)
        if status in (400, 422):
            return AdmissionError("the server refuses the request", where=self._url, found=found)
        return ModelError("the server answers something else", where=self._url, found=found, expected="HTTP 200")

    def _clean(self, text: str) -> str:
        return text.replace(self._key, "[hidden]") if self._key else text


def retry_after_s(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which is a number or a date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    try:
        return max(0.0, min(float(value), 3600.0))
    except ValueError:
        pass
    try:
        return max(0.0, min(parsedate_to_datetime(value).timestamp() - time.time(), 3600.0))
    except (TypeError, ValueError, OverflowError):
        return None


def _left_s(deadline: float | None) -> float | None:
    return None if deadline is None else deadline - time.monotonic()


async def _head(pieces: AsyncIterator[bytes], deadline: float | None, most: int = MAX_ERROR_BYTES) -> bytes:
    """The first so many bytes of a body."""
    read = bytearray()
    async with asyncio.timeout(_left_s(deadline)):
        async for piece in pieces:
            read += piece
            if len(read) >= most:
                break
    return bytes(read[:most])


async def _lines(pieces: AsyncIterator[bytes], deadline: float | None, where: str) -> AsyncGenerator[bytes]:
    """Lines of an event stream. Raises ModelError for one, or an answer, beyond all measure."""
    held, total = bytearray(), 0
    while True:
        try:
            async with asyncio.timeout(_left_s(deadline)):
                piece = await anext(pieces)
        except StopAsyncIteration:
            break
        total += len(piece)
        held += piece
        if total > MAX_ANSWER_BYTES:
            raise ModelError("the answer does not end", where=where, expected=f"at most {MAX_ANSWER_BYTES} bytes")
        if b"\n" in piece:
            *lines, rest = held.split(b"\n")
            held = bytearray(rest)
            for line in lines:
                yield bytes(line.rstrip(b"\r"))
        if len(held) > MAX_LINE_BYTES:
            raise ModelError("a line does not end", where=where, expected=f"at most {MAX_LINE_BYTES} bytes")
    if held:
        yield bytes(held)
