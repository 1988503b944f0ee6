"""Idempotency-Key (draft-ietf-httpapi-idempotency-key-header): a request that is sent twice runs, and is charged, once.

    first                          runs; its answer, streamed or not, is kept before its last byte goes out
    again, the same request        the kept answer, with `idempotency-replayed: true`; nothing is charged
    again, another body            422
    again, while the first runs    409 with Retry-After
    again, charged but not kept    409: it was larger than is kept, or the server died and it was charged all the same

What failed is not kept, and neither is what the client did not stay for: with the same key it may be tried again. A key
belongs to the API key (or token's subject) and the route it was used with. Without the header nothing happens here.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from typing import NoReturn

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepseek.api.body import read_body
from deepseek.api.guard import caller_of
from deepseek.api.idempotency_store import IdempotencyStore, KeptAnswer
from deepseek.api.identity.caller import Caller
from deepseek.api.metering.claim import Claim, current_claim
from deepseek.api.problems import Problem, retry_after
from deepseek.api.state import ServerState
from deepseek.core.errors import StoreError

log = logging.getLogger("deepseek.api")

HEADER = b"idempotency-key"
MAX_KEY_CHARS = 255
HEADER_PARAMETER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Drawn by the client for each request: sent again with it, a request does not run again.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARS, "pattern": "^[!-~]([ -~]*[!-~])?$"},
}
REPLAYED = (b"idempotency-replayed", b"true")
PIECE_BYTES = 1 << 16
SOON_S = 1.0


class Idempotent:
    """One route's ASGI application, with the keys before it. Stands behind the `Guard`: it must know whose keys they are.

    Forms (multipart) pass by: a file may be larger than what is read here.
    """

    def __init__(self, app: ASGIApp, state: ServerState) -> None:
        self._app, self._state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        store = self._state.idempotency
        given = [value for name, value in scope["headers"] if name == HEADER] if scope["type"] == "http" else []
        if store is None or not given or _is_form(scope):
            await self._app(scope, receive, send)
            return
        caller, route = caller_of(scope), scope["route"].path
        key = key_of(given)
        reading = _HashedReading(scope, receive)
        body = await read_body(Request(scope, reading.receive), self._state.settings)
        taken = await store.take(_row_id(caller, route, key), caller.tenant, reading.fingerprint())
        if isinstance(taken, KeptAnswer):
            await _replay(taken, send, self._state.settings.send_timeout_s)
        elif isinstance(taken, Claim):
            await self._run(taken, store, scope, _read_before(body, receive), send)
        else:
            _refuse(taken)

    async def _run(self, claim: Claim, store: IdempotencyStore, scope: Scope, receive: Receive, send: Send) -> None:
        recorder = _Recorder(claim, store, send)
        reset = current_claim.set(claim)
        try:
            await self._app(scope, receive, recorder.send)
        finally:
            current_claim.reset(reset)
            if not claim.over:
                store.release(claim)


class _Recorder:
    """Passes an answer on and keeps it, before its last message goes out, if it is one to be kept."""

    def __init__(self, claim: Claim, store: IdempotencyStore, send: Send) -> None:
        self._claim, self._store, self._send = claim, store, send
        self._status = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        self._size = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status, self._headers = message["status"], list(message.get("headers", ()))
        elif message["type"] == "http.response.body" and not self._claim.over:
            self._record(message.get("body", b""))
            if not message.get("more_body", False):
                await self._end()
        await self._send(message)

    def _record(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size <= self._store.max_answer_bytes:
            self._pieces.append(piece)
        else:
            self._pieces.clear()

    async def _end(self) -> None:
        claim, store = self._claim, self._store
        try:
            if claim.failed or not 200 <= self._status < 300:
                store.release(claim)
            elif self._size > store.max_answer_bytes:
                await store.lose(claim)
            else:
                await store.keep(claim, self._status, self._headers, b"".join(self._pieces))
        except StoreError as error:
            # The answer is complete and charged: its client gets it, whether or not anybody will again.
            log.error("an answer could not be kept for its Idempotency-Key: %s", error)


class _HashedReading:
    """Hashes a body while it is read."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        headers = Headers(scope=scope)
        # The same body may ask for another answer by these.
        others = (headers.get("content-type", ""), headers.get("accept", ""), scope["query_string"].decode("latin-1"))
        self._digest = hashlib.sha256(b"\0".join(part.encode("latin-1") for part in (*others, "")))

    async def receive(self) -> Message:
        message = await self._receive()
        self._digest.update(message.get("body", b""))
        return message

    def fingerprint(self) -> str:
        return self._digest.hexdigest()


def key_of(given: list[bytes]) -> str:
    """The header's value; quotes, which the draft wants around it, may be there or not. Raises Problem."""
    key = given[0].decode("latin-1")
    if len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if len(given) > 1 or not 0 < len(key) <= MAX_KEY_CHARS or not key.isascii() or not key.isprintable():
        expected = f"1 to {MAX_KEY_CHARS} printable ASCII characters, once"
        raise Problem("invalid-idempotency-key", f"Idempotency-Key: expected {expected}.")
    return key


def _row_id(caller: Caller, route: str, key: str) -> str:
    parts = (caller.tenant, caller.subject, route, key)
    return hashlib.sha256("".join(f"{len(part)}:{part}" for part in parts).encode()).hexdigest()


def _read_before(body: bytes, receive: Receive) -> Receive:
    unread = [body]

    async def again() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        return await receive()

    return again


async def _replay(answer: KeptAnswer, send: Send, send_timeout_s: float) -> None:
    """A reader that takes nothing for so long is given up: the connection is closed before the answer's end."""
    pieces = [answer.body[start : start + PIECE_BYTES] for start in range(0, len(answer.body), PIECE_BYTES)]
    await send({"type": "http.response.start", "status": answer.status, "headers": [*answer.headers, REPLAYED]})
    try:
        for piece in pieces:
            async with asyncio.timeout(send_timeout_s):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
    except TimeoutError:
        log.warning("a client takes no data of a repeated answer; it is given up")
        return
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _refuse(state: str) -> NoReturn:
    if state == "other":
        raise Problem("idempotency-key-reused", "This Idempotency-Key was used for another request; draw a new one.")
    if state == "running":
        raise Problem(
            "idempotency-key-in-use", "The request with this Idempotency-Key still runs.", headers=retry_after(SOON_S)
        )
    raise Problem(
        "outcome-unknown",
        "A request with this Idempotency-Key was charged, and its answer is not kept: it was too large, or the server "
        "stopped before it was. Use a new key to ask again.",
        headers={"x-should-retry": "false"},
    )


def _is_form(scope: Scope) -> bool:
    return any(name == b"content-type" and value[:10].lower() == b"multipart/" for name, value in scope["headers"])
