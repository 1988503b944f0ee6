"""A WebSocket is bounded like every other connection: handshake, messages, pongs, number."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import requests
import uvicorn
from api_support import quick, state_of
from starlette.types import Receive, Scope, Send
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.sync.client import connect

from deepseek.api.connections import Gate, GatedConfig
from deepseek.api.guard import Guard
from deepseek.api.limits.config import ConnectionConfig
from deepseek.api.problems import Problem
from deepseek.api.scopes import Scope as Needed


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        return
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


class Watched(Gate):
    """Says when a connection has gone."""

    def __init__(self, bounds: ConnectionConfig, stall_s: float) -> None:
        super().__init__(bounds, stall_s)
        self.over = threading.Event()

    def leave(self, address: str) -> None:
        super().leave(address)
        self.over.set()


@contextmanager
def running(app: object, **bounds: object) -> Iterator[tuple[str, Watched]]:
    gate = Watched(ConnectionConfig.model_validate({"head_timeout_s": 0.5, "linger_s": 0.5, **bounds}), 0.5)
    config = GatedConfig(app, gate, lifespan="off", log_level="critical", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{port}/", gate
        finally:
            server.should_exit = True
            thread.join(10)


def test_messages_come_back_and_the_connection_outlives_the_time_for_a_head() -> None:
    with running(echo) as (url, gate), connect(url) as client:
        client.send("a")
        assert client.recv(timeout=5) == "a"
        ends = time.monotonic() + 0.7
        while time.monotonic() < ends:
            client.send("b")
            assert client.recv(timeout=5) == "b"
        assert gate.open == 1


def test_a_connection_that_became_a_websocket_is_counted_until_it_ends() -> None:
    with running(echo, total=1) as (url, gate):
        with connect(url):
            refused = requests.get(url.replace("ws:", "http:"), timeout=5)
            assert refused.json()["type"] == "urn:deepseek:problem:too-many-connections"
        ends = time.monotonic() + 10
        while gate.open:
            assert time.monotonic() < ends
        with connect(url):
            pass


def test_a_large_message_ends_the_connection() -> None:
    with running(echo, message_bytes=1024) as (url, _), connect(url) as client:
        client.send("a" * 1025)
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(timeout=5)
        assert caught.value.rcvd is not None and caught.value.rcvd.code == 1009


FLOODS: dict[str, tuple[Frame, int]] = {
    "pings whose answers are not read": (Frame(Opcode.PING, b"x" * 125), 120_000),
    "messages faster than they are taken": (Frame(Opcode.TEXT, b"x"), 20_000),
}
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_ends_the_connection(flood: str) -> None:
    frame, count = FLOODS[flood]
    with running(echo) as (url, gate), socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(20)
        raw.connect(("127.0.0.1", int(url.rsplit(":", 1)[1].rstrip("/"))))
        raw.sendall(HANDSHAKE)
        assert raw.recv(12) == b"HTTP/1.1 101"
        with suppress(OSError):
            raw.sendall(frame.serialize(mask=True) * count)  # and nothing is read
        assert gate.over.wait(20)


def test_empty_parts_of_a_message_take_no_memory() -> None:
    with running(echo) as (url, _), connect(url) as client:
        parts = [Frame(Opcode.TEXT, b"a", fin=False), *[Frame(Opcode.CONT, b"", fin=False)] * 1000]
        client.socket.sendall(b"".join(part.serialize(mask=True) for part in [*parts, Frame(Opcode.CONT, b"b")]))
        assert client.recv(timeout=5) == "ab"


def test_a_handshake_that_is_refused_gets_the_answer_a_request_would() -> None:
    class Nobody:
        async def identify(self, headers: object) -> object:
            raise Problem("unauthenticated", "Say who you are.", headers={"WWW-Authenticate": "Bearer"})

    state = state_of(quick())
    state.identifier = Nobody()  # type: ignore[assignment]
    with running(Guard(echo, Needed.INFER, state)) as (url, _), pytest.raises(InvalidStatus) as caught, connect(url):
        pass
    response = caught.value.response
    assert response.status_code == 401
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["www-authenticate"] == "Bearer"
    assert b'"urn:deepseek:problem:unauthenticated"' in (response.body or b"")


def test_a_handshake_of_a_known_caller_goes_through() -> None:
    state = state_of(quick())
    with running(Guard(echo, Needed.INFER, state)) as (url, _), connect(url) as client:
        client.send("a")
        assert client.recv(timeout=5) == "a"
