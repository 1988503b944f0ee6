"""The one way from an admitted request to an answer, whole or streamed: events, parser, dialect, bytes. A dialect only
says what the bytes look like.

A reader slower than the engine gets several tokens in one frame: while a frame waits to be taken, the engine's stream
joins what comes (`deepseek.engine.stream`), so nothing piles up here.

Whatever happens, the engine's request is ended when this is left: the client went away, read too
slowly, the server is shutting down, or something failed.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deepseek.api.client import ClientWatch, SlowReader
from deepseek.api.identity.caller import Caller
from deepseek.api.metrics import RequestMeter
from deepseek.api.passage import passage
from deepseek.api.plugin_stage import PluginStage
from deepseek.api.problems import Envelope, Problem, problem_of
from deepseek.api.spoken import Speech, Spoken, gather
from deepseek.api.state import ServerState
from deepseek.api.wire import dump_json, sse_frame
from deepseek.chat.parsing import StreamParser
from deepseek.core.deltas import Delta
from deepseek.core.engine import Event, Finish, PromptScores, Ready, Request, Tokens
from deepseek.core.errors import AdmissionError, EngineError

log = logging.getLogger("deepseek.api")


class Dialect(Protocol):
    """How one public form writes an answer. One object answers one request."""

    @property
    def envelope(self) -> Envelope:
        """How errors look."""
        ...

    @property
    def media_type(self) -> str:
        """Of the whole answer."""
        ...

    @property
    def stream_type(self) -> str:
        """The media type of the frames."""
        ...

    @property
    def parsers(self) -> Sequence[StreamParser]:
        """One for each choice; empty: its text is written as it is."""
        ...

    def opening(self) -> bytes:
        """Frames before the first text; may be empty."""
        ...

    def delta(self, tokens: Tokens, deltas: Sequence[Delta]) -> bytes:
        """The frames of new output of `tokens.choice`; may be empty. deltas: what the parser made of it."""
        ...

    def closing(self, finish: Finish, deltas: Mapping[int, Sequence[Delta]]) -> bytes:
        """The last frames, with reason and usage. deltas: what the parsers still held back, by choice.

        Raises Problem where the dialect has no word for the reason.
        """
        ...

    def scores(self, scores: PromptScores) -> bytes:
        """The frame of the prompt's scores; may be empty."""
        ...

    def whole(self, choices: Sequence[Spoken], scores: Sequence[PromptScores], finish: Finish) -> bytes:
        """The unstreamed answer. Raises Problem as `closing` does."""
        ...

    def failure(self, problem: Problem, instance: str | None) -> bytes:
        """The last frame of a stream that failed after it began. instance: the id of the HTTP request."""
        ...


class ServerSentEvents:
    """What dialects of JSON and server-sent events share."""

    envelope: Envelope = "own"
    media_type = "application/json"
    stream_type = "text/event-stream; charset=utf-8"
    parsers: Sequence[StreamParser] = ()

    def scores(self, scores: PromptScores) -> bytes:
        return b""

    def failure(self, problem: Problem, instance: str | None) -> bytes:
        return sse_frame(dump_json(problem.document(instance=instance, envelope=self.envelope)), "error")


class Answer(Response):
    """An ASGI response that runs the request while it writes.

    The status is sent only when the engine has answered for the first time, so a refusal or an early
    failure is a problem document with its own status; after that an error is a last `event: error` frame.
    fields: what the dialect calls a field of the engine's, where the two differ.
    events: where they come from, if not from this one request (`deepseek.api.several`).
    before_last: awaited once the dialect has written its last bytes and before they are sent.
    plugins: those that take part; None where there are none.
    """

    def __init__(
        self,
        state: ServerState,
        request: Request,
        dialect: Dialect,
        *,
        caller: Caller,
        model: str,
        route: str,
        stream: bool,
        arrived: float,
        fields: Mapping[str, str] = MappingProxyType({}),
        events: AsyncGenerator[Event] | None = None,
        before_last: Callable[[], Awaitable[None]] | None = None,
        plugins: PluginStage | None = None,
    ) -> None:
        self.background = None
        self.status_code = 200
        self.raw_headers = []
        self._state = state
        self._request = request
        self._dialect = dialect
        self._caller, self._model, self._route = caller, model, route
        self._stream = stream
        self._fields = fields
        self._events = events
        self._before_last = before_last
        self._plugins = plugins
        self._meter = RequestMeter(state.metrics, arrived)
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        lifecycle = self._state.lifecycle
        client = ClientWatch(receive, send, self._state.settings.send_timeout_s)
        events = self._events
        if events is None:
            # A parser counts what it reads by the tokens that it comes with, one by one.
            whole = not self._stream and not self._dialect.parsers
            state, caller, request = self._state, self._caller, self._request
            events = passage(state, caller, request, model=self._model, route=self._route, whole=whole)
        lifecycle.running.add(self._request.id)
        try:
            async with client:
                if self._stream:
                    await self._write_stream(events, client, scope)
                else:
                    await self._write_whole(events, client)
        except SlowReader:
            client.gone = True
            log.warning("%s: the client takes no data; its request is ended", self._request.id)
        except AdmissionError as error:
            self._failed(error)
            wait = self._state.engine.load().oldest_wait_s
            raise problem_of(error, retry_after_s=wait, fields=self._fields) from error
        except EngineError as error:
            self._failed(error)
            lifecycle.engine_failed()
            raise
        except Exception as error:
            self._failed(error)
            raise
        finally:
            lifecycle.running.discard(self._request.id)
            if client.gone:
                self._meter.client_gone()
            await events.aclose()

    async def _write_whole(self, events: AsyncIterator[Event], client: ClientWatch) -> None:
        dialect = self._dialect
        answer = await gather(events, dialect.parsers, self._meter.tokens, self._plugins)
        body = dialect.whole(answer.choices, answer.scores, self._finished(answer.finish))
        if self._before_last is not None:
            await self._before_last()
        headers = [
            (b"content-type", dialect.media_type.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"x-seed", str(answer.seed).encode()),
        ]
        await client.send({"type": "http.response.start", "status": 200, "headers": headers})
        await client.send({"type": "http.response.body", "body": body})

    async def _write_stream(self, events: AsyncIterator[Event], client: ClientWatch, scope: Scope) -> None:
        dialect = self._dialect
        speech = Speech(dialect.parsers)
        try:
            async for event in events:
                if isinstance(event, Tokens):
                    self._meter.tokens(event)
                    frame = await self._said(event, speech.of(event))
                elif isinstance(event, Ready):
                    frame = await self._start(client, event.seed)
                elif isinstance(event, PromptScores):
                    frame = dialect.scores(event)
                elif not isinstance(event, Finish):
                    continue  # no dialect asks for an embedding
                else:
                    frame = await self._closing(self._finished(event), speech.rest())
                    if not self._started:
                        frame = await self._start(client, None) + frame
                    if self._before_last is not None:
                        await self._before_last()
                    await client.send({"type": "http.response.body", "body": frame})
                    return
                if frame:
                    await client.send({"type": "http.response.body", "body": frame, "more_body": True})
            raise EngineError("a request ended without a finish", where=self._request.id)
        except SlowReader:
            raise
        except Exception as error:
            if not self._started:
                raise
            if not isinstance(error, Problem):
                log.exception("%s: failed while streaming", self._request.id)
            self._failed(error)
            frame = dialect.failure(problem_of(error), scope.get("deepseek.request_id"))
            if self._before_last is not None:
                await self._before_last()
            await client.send({"type": "http.response.body", "body": frame})
            if isinstance(error, EngineError):
                self._state.lifecycle.engine_failed()

    async def _said(self, tokens: Tokens, deltas: Sequence[Delta]) -> bytes:
        if self._plugins is None:
            return self._dialect.delta(tokens, deltas)
        return b"".join([self._dialect.delta(*said) for said in await self._plugins.of(tokens, deltas)])

    async def _closing(self, finish: Finish, rest: Mapping[int, Sequence[Delta]]) -> bytes:
        if self._plugins is None:
            return self._dialect.closing(finish, rest)
        released, rest = await self._plugins.end(rest)
        frames = b"".join([self._dialect.delta(*said) for said in released])
        return frames + self._dialect.closing(finish, rest)

    def _failed(self, error: Exception) -> None:
        if self._plugins is not None:
            self._plugins.failed(error)

    async def _start(self, client: ClientWatch, seed: int | None) -> bytes:
        headers = [
            (b"content-type", self._dialect.stream_type.encode()),
            (b"cache-control", b"no-store"),
            # Asks nginx and its like not to gather frames.
            (b"x-accel-buffering", b"no"),
        ]
        if seed is not None:
            headers.append((b"x-seed", str(seed).encode()))
        await client.send({"type": "http.response.start", "status": 200, "headers": headers})
        self._started = True
        return self._dialect.opening()

    def _finished(self, event: Finish) -> Finish:
        self._meter.finish(event)
        if "error" in event.reasons:
            log.error("%s: the engine ended the request: %s", self._request.id, event.error)
            raise Problem("internal", "The engine failed on this request; the log has it under this request's id.")
        return event
