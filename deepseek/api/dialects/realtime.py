"""/v1/stream: a WebSocket for real-time use. Several requests share one connection; each message is one JSON object.

    -> {"type": "auth", "key": "dsk_..."}              only where no header could carry the key, before anything else
    -> {"type": "generate", "id": "a", ...}            the fields of /v1/generate, or
    -> {"type": "chat", "id": "b", ...}                of /v1/chat/completions, without `stream`
    -> {"type": "cancel", "id": "a"}
    <- {"type": "ready", "id": "a", "seed": 7}
    <- {"type": "delta", "id": "a", "index": 0, "text": "..."}      or "thinking", or "tool_call"; "logprobs" if asked for
    <- {"type": "final", "id": "a", "finish_reasons": ["stop"], "usage": {...}}
    <- {"type": "error", "id": "a", "error": {a problem document}}

Every request counts against the rate, and each is asked for its key again: one that is good no more ends the connection
with 1008. An `id` is the client's own and may be used again once its request has ended. A
reader that is too slow holds its requests back, and is closed with 1013 after a while; closing the connection ends them all.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter
from starlette.datastructures import Headers
from starlette.websockets import WebSocket, WebSocketDisconnect

from deepseek.api.admission import adapter_of, completion_limit, encode, new_id, refuse_while_draining
from deepseek.api.body import require_few_values, validated
from deepseek.api.dialects.chat_dialect import chat_usage
from deepseek.api.dialects.chat_request import ChatRequest
from deepseek.api.dialects.fields import Only, StrictModel
from deepseek.api.dialects.generate import GenerateRequest, with_plugins
from deepseek.api.dialects.logprobs import own_entries
from deepseek.api.dialects.openai import prepare
from deepseek.api.dialects.structured import constraint_of
from deepseek.api.guard import ASKS_LATER, CALLER, admitted, enter, identified, refuse_handshake
from deepseek.api.identity.caller import Caller
from deepseek.api.metrics import RequestMeter
from deepseek.api.passage import passage
from deepseek.api.plugin_stage import Asked, PluginStage, Said
from deepseek.api.problems import Problem, problem_of
from deepseek.api.scopes import Scope, needs
from deepseek.api.spoken import Speech, ThinkingCount
from deepseek.api.state import ServerState, TextCodec
from deepseek.api.wire import dump_json
from deepseek.chat.parsing import StreamParser
from deepseek.core.deltas import Delta, TextDelta, ThinkingDelta, ToolCallArguments, ToolCallStart
from deepseek.core.engine import Event, Finish, PromptScores, Ready, Request, Tokens
from deepseek.core.errors import AdmissionError, EngineError

log = logging.getLogger("deepseek.api")

ROUTE = "/v1/stream"
MAX_REQUESTS = 16
"""Of one connection at once."""
MAX_UNSENT = 64
"""Messages that wait for the reader; beyond it the requests wait."""
AUTH_WAIT_S = 10.0
MAX_AUTH_BYTES = 16 * 1024
"""Of the message that says the key: nobody is known yet, and nothing else is read."""

GOING_AWAY, POLICY_VIOLATION, TOO_BIG, INTERNAL, TRY_AGAIN_LATER = 1001, 1008, 1009, 1011, 1013

ClientId = Annotated[str, Field(min_length=1, max_length=128)]


class AuthMessage(StrictModel):
    type: Literal["auth"]
    key: Annotated[str, Field(min_length=1, max_length=8192)]


class CancelMessage(StrictModel):
    type: Literal["cancel"]
    id: ClientId


class GenerateMessage(GenerateRequest):
    type: Literal["generate"]
    id: ClientId
    stream: Annotated[Literal[True] | None, Field(description="It always streams.")] = None


class ChatMessage(ChatRequest):
    type: Literal["chat"]
    id: ClientId
    stream: Annotated[Literal[True] | None, Field(description="It always streams.")] = None
    stream_options: Annotated[None, Only()] = None


AUTH = TypeAdapter(AuthMessage)
MESSAGES: dict[str, TypeAdapter[Any]] = {
    "auth": AUTH,
    "cancel": TypeAdapter(CancelMessage),
    "generate": TypeAdapter(GenerateMessage),
    "chat": TypeAdapter(ChatMessage),
}


class _TooSlow(Exception):
    """The reader takes nothing."""


class _Stranger(Exception):
    """Whoever opened the connection may not use the server any more."""

    def __init__(self, client_id: str, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.client_id, self.problem = client_id, problem


@dataclass(frozen=True, slots=True)
class _Work:
    """One request as the engine takes it."""

    request: Request
    model: str
    parsers: Sequence[StreamParser]
    logprobs: bool
    echo: str
    fields: dict[str, str]
    plugins: PluginStage | None


@needs(Scope.INFER)
async def stream(socket: WebSocket) -> None:
    """Serve one connection to its end."""
    state: ServerState = socket.app.state.server
    caller: Caller | None = socket.scope.get(CALLER)
    if _foreign(socket.headers) and caller is not None and not _has_key(socket.headers):
        # A page of another site may open a connection from its visitor's machine; only a key shows that it may.
        problem = Problem("forbidden", "A page of another site needs a key: send it as the first message.")
        await refuse_handshake(problem, socket.scope, socket.receive, socket.send)
        return
    await socket.accept()
    connection = _Connection(socket, state)
    try:
        if caller is not None or await connection.authenticate():
            await connection.serve()
    except WebSocketDisconnect:
        return
    except _Stranger as stranger:
        await connection.turn_away(stranger.client_id, stranger.problem)
    except _TooSlow:
        log.warning("a WebSocket takes no data; its requests are ended")
        await connection.close(TRY_AGAIN_LATER, "the connection takes no data")


stream.__dict__[ASKS_LATER] = True


def _foreign(headers: Headers) -> bool:
    """Whether a page of another site than this server opens the connection (Cross-site WebSocket hijacking)."""
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower()


def _has_key(headers: Headers) -> bool:
    return "authorization" in headers or "x-api-key" in headers


class _Connection:
    """One socket: what runs on it by the client's ids, and what waits to be sent."""

    def __init__(self, socket: WebSocket, state: ServerState) -> None:
        self._socket, self._state = socket, state
        self._headers = socket.headers  # what says who asks
        self._running: dict[str, asyncio.Task[None]] = {}
        self._engine_ids: dict[str, str] = {}
        self._unsent: asyncio.Queue[bytes] = asyncio.Queue(MAX_UNSENT)
        self._wait_s = state.settings.send_timeout_s

    async def authenticate(self) -> bool:
        """Whether the first message says a good key; if none does in time the connection is closed."""
        try:
            async with asyncio.timeout(AUTH_WAIT_S):
                text = await self._receive(MAX_AUTH_BYTES)
            try:
                message = validated(text.encode(), AUTH)
            except Problem:
                detail = 'Send {"type": "auth", "key": ...} first, or the key in a header.'
                raise Problem("unauthenticated", detail) from None
            self._headers = Headers({"authorization": f"Bearer {message.key}"})
            await enter(self._state, self._headers, Scope.INFER)
            return True
        except TimeoutError:
            await self.close(POLICY_VIOLATION, "no key came")
        except Problem as problem:
            await self.turn_away(None, problem)
        return False

    async def turn_away(self, client_id: str | None, problem: Problem) -> None:
        """Say why, and close."""
        await self._send(_error(client_id, problem))
        await self.close(POLICY_VIOLATION, problem.title)

    async def serve(self) -> None:
        """Take messages until the connection ends; then end what runs. Raises _Stranger."""
        sending = asyncio.create_task(self._send_all())
        receiving = asyncio.create_task(self._take_all())
        try:
            done, _ = await asyncio.wait((sending, receiving), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            tasks = [sending, receiving, *self._running.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self, code: int, reason: str) -> None:
        try:
            async with asyncio.timeout(1.0):
                await self._socket.close(code, reason)
        except (TimeoutError, RuntimeError, WebSocketDisconnect):
            return

    async def _take_all(self) -> None:
        while True:
            text = await self._receive(self._state.settings.max_body_bytes)
            arrived = time.perf_counter()
            client_id = None
            try:
                body = text.encode()
                given = _parsed(body)
                client_id = _id_of(given)
                message = _read(given, body)
                if isinstance(message, CancelMessage):
                    await self._cancel(message.id)
                elif isinstance(message, AuthMessage):
                    raise Problem("invalid-request", "The connection says whose it is already.")
                else:
                    await self._begin(message, arrived)
            except Problem as problem:
                await self._put(_error(client_id, problem))

    async def _begin(self, message: GenerateMessage | ChatMessage, arrived: float) -> None:
        refuse_while_draining(self._state)
        if message.id in self._running:
            raise Problem("duplicate-request", f"A request with the id {message.id!r} runs on this connection.")
        if len(self._running) >= MAX_REQUESTS:
            raise Problem("queue-full", f"At most {MAX_REQUESTS} requests may run on one connection.")
        caller = await self._asked_again(message.id)
        await admitted(self._state, caller, Scope.INFER)
        task = asyncio.create_task(self._answer(caller, message, arrived))
        self._running[message.id] = task

        def ended(done: asyncio.Task[None]) -> None:
            self._running.pop(message.id, None)
            self._engine_ids.pop(message.id, None)
            if not done.cancelled() and done.exception() is not None:
                log.error("a WebSocket's request failed", exc_info=done.exception())

        task.add_done_callback(ended)

    async def _asked_again(self, client_id: str) -> Caller:
        """The caller as it is now: a key may have been revoked, a tenant suspended, a token expired, and a server that
        asked nobody may have keys."""
        try:
            return await identified(self._state, self._headers, Scope.INFER)
        except Problem as problem:
            if problem.status not in (401, 403):
                raise
            raise _Stranger(client_id, problem) from None

    async def _cancel(self, client_id: str) -> None:
        """End a request; its last message still comes. One that has ended, or never was, is no error: they may cross."""
        engine_id = self._engine_ids.get(client_id)
        if engine_id is not None:
            await self._state.lifecycle.cancel(engine_id)
        elif client_id in self._running:
            # Not in the engine yet.
            self._running[client_id].cancel()
            problem = Problem("cancelled", "The request was cancelled before it began.")
            await self._put(_error(client_id, problem))

    async def _answer(self, caller: Caller, message: GenerateMessage | ChatMessage, arrived: float) -> None:
        try:
            if isinstance(message, ChatMessage):
                work = await _chat(self._state, caller, message, arrived)
            else:
                work = await _generate(self._state, caller, message, arrived)
        except Exception as error:
            await self._put(_error(message.id, problem_of(error)))
            return
        running = self._state.lifecycle.running
        self._engine_ids[message.id] = work.request.id
        running.add(work.request.id)
        try:
            await self._run(caller, message.id, work, RequestMeter(self._state.metrics, arrived))
        except asyncio.CancelledError:
            self._state.metrics.finished.labels("client_gone").inc()
            raise
        except Exception as error:
            if isinstance(error, EngineError):
                self._state.lifecycle.engine_failed()
            if work.plugins is not None:
                work.plugins.failed(error)
            wait = self._state.engine.load().oldest_wait_s if isinstance(error, AdmissionError) else 1.0
            await self._put(_error(message.id, problem_of(error, retry_after_s=wait, fields=work.fields)))
        finally:
            running.discard(work.request.id)

    async def _run(self, caller: Caller, client_id: str, work: _Work, meter: RequestMeter) -> None:
        speech, thinking = Speech(work.parsers), ThinkingCount()
        head = {"type": "delta", "id": client_id}
        events = passage(self._state, caller, work.request, model=work.model, route=ROUTE)
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Tokens):
                    meter.tokens(event)
                    deltas = speech.of(event)
                    thinking.add(event, deltas)
                    said = [(event, deltas)] if work.plugins is None else await work.plugins.of(event, deltas)
                    await self._put_said(head, said, work)
                elif isinstance(event, Finish):
                    meter.finish(event)
                    if "error" in event.reasons:
                        log.error("%s: the engine ended the request: %s", work.request.id, event.error)
                        raise Problem("internal", "The engine failed on this request.")
                    rest = speech.rest()
                    if work.plugins is not None:
                        released, rest = await work.plugins.end(rest)
                        await self._put_said(head, released, work)
                    for index, deltas in rest.items():
                        for message in _deltas(index, deltas, None):
                            await self._put({**head, **message})
                    await self._put(
                        {
                            "type": "final",
                            "id": client_id,
                            "finish_reasons": list(event.reasons),
                            "usage": chat_usage(event.usage, thinking.tokens),
                        }
                        | ({} if event.budget is None else {"limited_by": f"budget:{event.budget}"})
                    )
                else:
                    for other in _beginning(event, client_id, work, self._state.text):
                        await self._put(other)

    async def _put_said(self, head: dict[str, str], said: Iterable[Said], work: _Work) -> None:
        for tokens, deltas in said:
            for message in _deltas(tokens.choice, deltas, _entries(tokens, work, self._state.text)):
                await self._put({**head, **message})

    async def _receive(self, limit: int) -> str:
        """The next message's text. Raises WebSocketDisconnect once the client has left."""
        message = await self._socket.receive()
        if message["type"] != "websocket.receive":
            raise WebSocketDisconnect(message.get("code", 1005))
        text = message.get("text")
        if text is None:
            await self.close(1003, "messages are text")
            raise WebSocketDisconnect(1003)
        if len(text) > limit:
            await self.close(TOO_BIG, "the message is too large")
            raise WebSocketDisconnect(TOO_BIG)
        return str(text)

    async def _put(self, message: dict[str, Any]) -> None:
        """Raises _TooSlow if there is no room for too long: the sender has noticed by then too, and ends it all."""
        await self._unsent.put(dump_json(message))

    async def _send_all(self) -> None:
        while True:
            await self._send_text((await self._unsent.get()).decode())

    async def _send(self, message: dict[str, Any]) -> None:
        await self._send_text(dump_json(message).decode())

    async def _send_text(self, text: str) -> None:
        try:
            async with asyncio.timeout(self._wait_s):
                await self._socket.send_text(text)
        except TimeoutError:
            raise _TooSlow from None


async def _generate(state: ServerState, caller: Caller, body: GenerateMessage, arrived: float) -> _Work:
    adapter = adapter_of(state, caller, body.model)
    constraint, field = await constraint_of(body.response_format, body.structured_outputs)
    asked = Asked(caller, new_id("ws"), ROUTE, body.model)
    body, plugins = await with_plugins(state, asked, body)
    prompt = body.prompt
    ids = await encode(state, lambda: state.text.encode_prompt(prompt), len(prompt), "prompt")
    request = body.to_request(
        asked.request_id,
        ids,
        max_tokens=completion_limit(state, len(ids), body.max_tokens, "max_tokens"),
        stop=tuple(body.stop_sequences or ()),
        logprobs=body.logprobs,
        constraint=constraint,
        adapter=adapter,
        arrived=arrived,
    )
    fields = {"constraint": field, "adapter": "model"}
    return _Work(request, body.model, (), body.logprobs is not None, prompt if body.echo else "", fields, plugins)


async def _chat(state: ServerState, caller: Caller, body: ChatMessage, arrived: float) -> _Work:
    found = await prepare(state, caller, body, arrived, route=ROUTE)
    return _Work(found.request, body.model, found.parsers, bool(body.logprobs), "", found.fields, found.plugins)


def _beginning(event: Event, client_id: str, work: _Work, text: TextCodec) -> list[dict[str, Any]]:
    if isinstance(event, Ready):
        messages: list[dict[str, Any]] = [{"type": "ready", "id": client_id, "seed": event.seed}]
        if work.echo:
            choices = range(work.request.sampling.n)
            messages += [{"type": "delta", "id": client_id, "index": index, "text": work.echo} for index in choices]
        return messages
    if isinstance(event, PromptScores):
        entries = own_entries(event.logprobs, text)
        return [{"type": "scores", "id": client_id, "prompt_logprobs": entries, "prompt_start": event.start}]
    return []


def _entries(tokens: Tokens, work: _Work, text: TextCodec) -> list[Any] | None:
    return own_entries(tokens.logprobs, text) if work.logprobs and tokens.logprobs else None


def _deltas(index: int, deltas: Sequence[Delta], entries: list[Any] | None) -> list[dict[str, Any]]:
    """What was said as messages; log-probabilities go with the first of them."""
    messages: list[dict[str, Any]] = []
    for delta in deltas:
        if isinstance(delta, TextDelta | ThinkingDelta):
            if delta.text:
                kind = "text" if isinstance(delta, TextDelta) else "thinking"
                messages.append({"index": index, kind: delta.text})
        elif isinstance(delta, ToolCallStart):
            call: dict[str, Any] = {"index": delta.index, "id": delta.id, "name": delta.name}
            messages.append({"index": index, "tool_call": call})
        elif isinstance(delta, ToolCallArguments):
            messages.append({"index": index, "tool_call": {"index": delta.index, "arguments": delta.text}})
        else:
            messages.append({"index": index, "tool_call": {"index": delta.index, "complete": True}})
    if entries is not None:
        first = messages[0] if messages else {"index": index, "text": ""}
        messages = [{**first, "logprobs": entries}, *messages[1:]]
    return messages


def _error(client_id: str | None, problem: Problem) -> dict[str, Any]:
    document = problem.document(instance=None)
    if problem.headers.get("Retry-After"):
        document["retry_after_s"] = int(problem.headers["Retry-After"])
    return {"type": "error", "id": client_id, "error": document}


def _parsed(body: bytes) -> Any:
    """A message's JSON, after a look at how much it holds."""
    require_few_values(body)
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Problem("malformed-json", "The message is not valid JSON.") from None


def _id_of(given: Any) -> str | None:
    """The id of a message that may otherwise be wrong, so that its client knows which one it was."""
    client_id = given.get("id") if isinstance(given, dict) else None
    return client_id if isinstance(client_id, str) and len(client_id) <= 128 else None


def _read(given: Any, body: bytes) -> Any:
    """The message whose type it claims. Raises Problem."""
    kind = given.get("type") if isinstance(given, dict) else None
    adapter = MESSAGES.get(kind) if isinstance(kind, str) else None
    if adapter is None:
        raise Problem("invalid-request", f"type: expected one of {', '.join(MESSAGES)}")
    return validated(body, adapter)
