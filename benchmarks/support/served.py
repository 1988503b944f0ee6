"""Servers as their users start them, each in a process of its own, and clients that add next to nothing to a measurement.

The streaming client is a bare socket: one kept-alive connection, no header parsing beyond what it needs, no event loop.
"""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

HOST = "127.0.0.1"
_START_LIMIT_S = 120.0
_ANSWER_LIMIT_S = 60.0
_WHOLE_ANSWER_LIMIT_S = 1800.0
_POLL_S = 0.01

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Served:
    """A running server: its port, the seconds from its start to the first 200 of /readyz, its process."""

    port: int
    ready_s: float
    pid: int


@contextmanager
def served(model: str = "builtin", *options: str) -> Iterator[Served]:
    """Start `deepseek serve`, wait until it is ready, and stop it with SIGTERM after the block.

    Raises RuntimeError with what the server printed if it does not become ready.
    """
    port = free_port()
    command = [*_deepseek(), "serve", "--model", model, "--host", HOST, "--port", str(port), "--grace", "1", *options]
    # A database of its own: keys of whoever runs this must not be asked for.
    with (
        tempfile.TemporaryDirectory() as directory,
        running([*command, "--database", f"{directory}/control.db"], port, "/readyz") as server,
    ):
        yield server


@contextmanager
def running(command: list[str], port: int, ready_path: str) -> Iterator[Served]:
    """Any server: from starting its command to the first 200 of `ready_path`, and SIGTERM after the block.

    Raises RuntimeError with what it printed if it does not become ready.
    """
    with tempfile.TemporaryFile("w+") as printed:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=printed, stderr=printed)
        try:
            while not _is_ready(port, ready_path):
                if process.poll() is not None or time.perf_counter() - start > _START_LIMIT_S:
                    printed.seek(0)
                    raise RuntimeError(f"{' '.join(command)} did not become ready:\n{printed.read()[-4000:]}")
                time.sleep(_POLL_S)
            yield Served(port, time.perf_counter() - start, process.pid)
        finally:
            _stop(process)


def post(port: int, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """One JSON request on a connection of its own. Raises RuntimeError unless the answer is a 200."""
    connection = http.client.HTTPConnection(HOST, port, timeout=_WHOLE_ANSWER_LIMIT_S)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        received = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise RuntimeError(f"{path} answered {response.status}: {received[:1000].decode(errors='replace')}")
    answer: dict[str, Any] = json.loads(received)
    return answer


def together(calls: Sequence[Callable[[], T]]) -> tuple[list[T], float]:
    """Make all calls at once, each in a thread of its own. What they returned, and the seconds until the last had."""
    with ThreadPoolExecutor(len(calls)) as pool:
        start = time.perf_counter()
        made = [pool.submit(call) for call in calls]
        answers = [future.result() for future in made]
        return answers, time.perf_counter() - start


@dataclass(frozen=True, slots=True)
class Streamed:
    """first_text_s: from sending the request to receiving the first piece of text; None if there was none."""

    first_text_s: float | None
    frames: list[dict[str, Any]]

    @property
    def prompt_tokens(self) -> int:
        return int(self.frames[-1]["usage"]["prompt_tokens"])


class Client:
    """One kept-alive connection."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((HOST, port), timeout=_ANSWER_LIMIT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def get_s(self, path: str) -> float:
        """Seconds a GET takes, there and back."""
        start = time.perf_counter()
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._receive()
        head, _, body = received.partition(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
        )
        while len(body) < length:
            body += self._receive()
        return time.perf_counter() - start

    def stream(self, body: dict[str, Any]) -> Streamed:
        """POST /v1/generate, reading to the end of the stream. Raises RuntimeError unless the answer is a 200."""
        payload = json.dumps(body | {"stream": True}, ensure_ascii=False).encode()
        head = f"POST /v1/generate HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
        request = head.encode() + payload
        received, first_text_s = b"", None
        start = time.perf_counter()
        self._socket.sendall(request)
        while not received.endswith(b"\r\n0\r\n\r\n"):
            received += self._receive()
            now = time.perf_counter() - start
            if not received.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"/v1/generate answered {received[:1000].decode(errors='replace')}")
            if first_text_s is None and any(frame.get("text") for frame in _frames(received)):
                first_text_s = now
        return Streamed(first_text_s, _frames(received))

    def _receive(self) -> bytes:
        data = self._socket.recv(65536)
        if not data:
            raise RuntimeError("the server closed the connection in the middle of an answer")
        return data


def _frames(received: bytes) -> list[dict[str, Any]]:
    """The whole `data:` frames so far; the chunk sizes between them are lines of their own."""
    whole = received[: received.rfind(b"\n\n") + 2] if b"\n\n" in received else b""
    return [json.loads(line[6:]) for line in whole.split(b"\n") if line.startswith(b"data: {")]


def _is_ready(port: int, path: str) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=_START_LIMIT_S) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
            return connection.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False  # not listening yet, or the port was only tried


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _deepseek() -> list[str]:
    script = Path(sys.executable).with_name("deepseek")
    if script.exists():
        return [str(script)]
    return [sys.executable, "-c", "from deepseek.cli import main; main()"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
