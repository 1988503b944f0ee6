"""A load generator for one core: keep-alive HTTP/1.1 over raw sockets, because a client library would be what is measured.

It understands what a server may answer (Content-Length, chunked, a stream of server-sent events) and nothing else.
Times are on time.perf_counter, in seconds.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit


@dataclass(slots=True)
class Answer:
    """One answer. sent, done: when the last byte went and came. frames: when each frame of a stream came."""

    sent: float
    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    done: float = 0.0
    frames: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return self.done - self.sent

    def json(self) -> Any:
        return json.loads(self.body)


class Connection(asyncio.Protocol):
    """One request at a time. on_frame: called as each frame of a stream comes."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._answer: Answer | None = None
        self._left = -1  # bytes of the body still to come; -1: headers; -2: chunked
        self._waiter: asyncio.Future[Answer] | None = None
        self._transport: asyncio.Transport | None = None
        self.on_frame: Callable[[Answer], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def connection_lost(self, error: Exception | None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error or ConnectionResetError("the server closed the connection"))

    def request(self, payload: bytes) -> asyncio.Future[Answer]:
        assert self._transport is not None
        self._waiter = asyncio.get_running_loop().create_future()
        self._answer, self._left = Answer(time.perf_counter()), -1
        self._transport.write(payload)
        return self._waiter

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self._buffer += data
        answer = self._answer
        if answer is None:
            return
        if self._left == -1 and not self._read_head(answer):
            return
        if self._left == -2:
            self._read_chunks(answer, now)
        elif len(self._buffer) >= self._left:
            answer.body = bytes(self._buffer[: self._left])
            del self._buffer[: self._left]
            self._end(answer, now)

    def _read_head(self, answer: Answer) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        first, *lines = bytes(self._buffer[:end]).split(b"\r\n")
        del self._buffer[: end + 4]
        answer.status = int(first.split(b" ", 2)[1])
        for line in lines:
            name, _, value = line.partition(b":")
            answer.headers[name.strip().lower()] = value.strip()
        chunked = answer.headers.get(b"transfer-encoding", b"") == b"chunked"
        self._left = -2 if chunked else int(answer.headers.get(b"content-length", b"0"))
        return True

    def _read_chunks(self, answer: Answer, now: float) -> None:
        while True:
            line = self._buffer.find(b"\r\n")
            if line < 0:
                return
            size = int(self._buffer[:line].split(b";")[0], 16)
            if len(self._buffer) < line + 2 + size + 2:
                return
            chunk = bytes(self._buffer[line + 2 : line + 2 + size])
            del self._buffer[: line + 2 + size + 2]
            if not size:
                self._end(answer, now)
                return
            answer.body += chunk
            answer.frames += [now] * max(1, chunk.count(b"\n\n"))
            if self.on_frame is not None:
                self.on_frame(answer)

    def _end(self, answer: Answer, now: float) -> None:
        answer.done = now
        waiter, self._waiter, self._answer = self._waiter, None, None
        if waiter is not None and not waiter.done():
            waiter.set_result(answer)


async def connect(url: str) -> Connection:
    parts = urlsplit(url)
    _, connection = await asyncio.get_running_loop().create_connection(Connection, parts.hostname, parts.port)
    return connection


def post(url: str, path: str, body: Mapping[str, Any], key: str | None, **headers: str) -> bytes:
    """The bytes of a POST."""
    content = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", f"Host: {urlsplit(url).netloc}", "Content-Type: application/json"]
    lines.append(f"Content-Length: {len(content)}")
    if key:
        lines.append(f"Authorization: Bearer {key}")
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


async def closed_loop(url: str, payload: bytes, concurrency: int, seconds: float) -> tuple[list[Answer], float]:
    """As fast as `concurrency` connections go, each sending as soon as it was answered. The answers, and the time it took."""
    connections = [await connect(url) for _ in range(concurrency)]
    answers: list[Answer] = []
    start = time.perf_counter()
    end = start + seconds

    async def run(connection: Connection) -> None:
        while time.perf_counter() < end:
            answers.append(await connection.request(payload))

    await asyncio.gather(*map(run, connections))
    took = time.perf_counter() - start
    for connection in connections:
        connection.close()
    return answers, took


async def counted(url: str, payload: bytes, concurrency: int, count: int, at: Callable[[int], None]) -> int:
    """`count` requests over `concurrency` connections; `at` is told how many are done. How many were not answered 200."""
    connections = [await connect(url) for _ in range(concurrency)]
    started = done = failed = 0

    async def run(connection: Connection) -> None:
        nonlocal started, done, failed
        while started < count:
            started += 1
            answer = await connection.request(payload)
            failed += answer.status != 200
            done += 1
            at(done)

    await asyncio.gather(*map(run, connections))
    for connection in connections:
        connection.close()
    return failed


async def open_loop(url: str, payload: bytes, per_second: float, seconds: float) -> list[Answer]:
    """Requests at a fixed rate, whether or not those before were answered: a slow server cannot slow its own measure down.

    A request's time counts from when it was due, not from when it was sent (coordinated omission).
    """
    free: list[Connection] = [await connect(url) for _ in range(16)]
    answers: list[Answer] = []

    async def one(due: float) -> None:
        connection = free.pop() if free else await connect(url)
        answer = await connection.request(payload)
        answer.sent = due
        answers.append(answer)
        free.append(connection)

    start = time.perf_counter() + 0.05
    tasks = []
    for index in range(round(per_second * seconds)):
        due = start + index / per_second
        while (left := due - time.perf_counter()) > 0:
            # The last stretch is waited for awake: a timer is late by up to a millisecond.
            await asyncio.sleep(left - 0.0015 if left > 0.0025 else 0)
        tasks.append(asyncio.create_task(one(due)))
    await asyncio.gather(*tasks)
    for connection in free:
        connection.close()
    return answers


async def many_streams(url: str, payload: bytes, count: int, spread_s: float) -> list[Answer]:
    """`count` streams at the same time, begun evenly over `spread_s` seconds, each read to its end."""

    async def one(index: int) -> Answer:
        await asyncio.sleep(spread_s * index / count)
        connection = await connect(url)
        answer = await connection.request(payload)
        connection.close()
        return answer

    return list(await asyncio.gather(*(one(index) for index in range(count))))


def lateness(frames: Sequence[float], gap_s: float) -> list[float]:
    """How much later than its turn each frame came, the luckiest one counting as on time."""
    offsets = [at - index * gap_s for index, at in enumerate(frames)]
    first = min(offsets)
    return [offset - first for offset in offsets]
