"""The one way from an admitted request to an answer, whole or streamed; a dialect only says what the bytes look like.

Whatever happens, the engine's request is ended when this is left: the client went away, read too
slowly, the server is shutting down, or something failed.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deepseek.api.client import ClientWatch, SlowReader
from deepseek.api.metrics import RequestMeter
from deepseek.api.problems import Problem, problem_of
from deepseek.api.state import ServerState
from deepseek.api.wire import dump_json, sse_frame
from deepseek.core.engine import Event, Finish, PromptScores, Ready, Request, Tokens
from deepseek.core.errors import AdmissionError, EngineError

log = logging.getLogger("deepseek.api")


class Dialect(Protocol):
    """How one public form writes an answer. One object answers one request."""

    openai: bool

    def opening(self) -> bytes:
        """Frames before the first text; may be empty."""
        ...

    def delta(self, tokens: Tokens) -> bytes:
        """The frame of new text; may be empty."""
        ...

    def closing(self, finish: Finish) -> bytes:
        """The last frames, with reason and usage. Raises Problem where the dialect has no word for the reason."""
        ...

    def scores(self, scores: PromptScores) -> bytes:
        """The frame of the prompt's scores; may be empty."""
        ...

    def whole(self, parts: list[Tokens], scores: list[PromptScores], finish: Finish) -> bytes:
        """The unstreamed answer, as JSON. Raises Problem as `closing` does."""
        ...


class Answer(Response):
    """An ASGI response that runs the request while it writes.

    The status is sent only when the engine has answered for the first time, so a refusal or an early
    failure is a problem document with its own status; after that an error is a last `event: error` frame.
    fields: what the dialect calls a field of the engine's, where the two differ.
    """

    def __init__(
        self,
        state: ServerState,
        request: Request,
        dialect: Dialect,
        *,
        stream: bool,
        arrived: float,
        fields: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.background = None
        self.status_code = 200
        self.raw_headers = []
        self._state = state
        self._request = request
        self._dialect = dialect
        self._stream = stream
        self._fields = fields
        self._meter = RequestMeter(state.metrics, arrived)
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        lifecycle = self._state.lifecycle
        client = ClientWatch(receive, send, self._state.settings.send_timeout_s)
        events: AsyncIterator[Event] | None = None
        lifecycle.running.add(self._request.id)
        try:
            events = self._state.engine.generate(self._request)
            async with client:
                if self._stream:
                    await self._write_stream(events, client, scope)
                else:
                    await self._write_whole(events, client)
        except SlowReader:
            client.gone = True
            log.warning("%s: the client takes no data; its request is ended", self._request.id)
        except AdmissionError as error:
            wait = self._state.engine.load().oldest_wait_s
            raise problem_of(error, retry_after_s=wait, fields=self._fields) from error
        except EngineError:
            lifecycle.engine_failed()
            raise
        finally:
            lifecycle.running.discard(self._request.id)
            if client.gone:
                self._meter.client_gone()
            await self._end(events)

    async def _write_whole(self, events: AsyncIterator[Event], client: ClientWatch) -> None:
        parts: list[Tokens] = []
        scores: list[PromptScores] = []
        seed = 0
        async for event in events:
            if isinstance(event, Tokens):
                self._meter.tokens(event)
                parts.append(event)
            elif isinstance(event, Ready):
                seed = event.seed
            elif isinstance(event, PromptScores):
                scores.append(event)
            elif isinstance(event, Finish):
                body = self._dialect.whole(parts, scores, self._finished(event))
                headers = [
                    (b"content-type", b"application/json"),
                    (b"content-length", str(len(body)).encode()),
                    (b"x-seed", str(seed).encode()),
                ]
                await client.send({"type": "http.response.start", "status": 200, "headers": headers})
                await client.send({"type": "http.response.body", "body": body})
                return
        raise EngineError("a request ended without a finish", where=self._request.id)

    async def _write_stream(self, events: AsyncIterator[Event], client: ClientWatch, scope: Scope) -> None:
        try:
            async for event in events:
                if isinstance(event, Tokens):
                    self._meter.tokens(event)
                    frame = self._dialect.delta(event)
                elif isinstance(event, Ready):
                    frame = await self._start(client, event.seed)
                elif isinstance(event, PromptScores):
                    frame = self._dialect.scores(event)
                elif not isinstance(event, Finish):
                    continue  # no dialect asks for an embedding
                else:
                    frame = self._dialect.closing(self._finished(event))
                    if not self._started:
                        frame = await self._start(client, None) + frame
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
            document = problem_of(error).document(
                instance=scope.get("deepseek.request_id"), openai=self._dialect.openai
            )
            await client.send({"type": "http.response.body", "body": sse_frame(dump_json(document), "error")})
            if isinstance(error, EngineError):
                self._state.lifecycle.engine_failed()

    async def _start(self, client: ClientWatch, seed: int | None) -> bytes:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
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

    async def _end(self, events: AsyncIterator[Event] | None) -> None:
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()
        elif events is not None:
            await self._state.engine.abort(self._request.id)
