"""The soak over HTTP: clients that leave, send nonsense, or read nothing, against a server process of its own."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from soak_requests import MALFORMED, VALID, matches

from deepseek.core.constraint import Constraint

START_S = 120.0
CLIENTS = 12
REASONS = {"stop", "length", "deadline", "cancelled"}


class Tally:
    """What came of the requests; written by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []

    def count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def fail(self, what: str) -> None:
        with self._lock:
            self.failures.append(what)


@contextmanager
def server(*options: str) -> Iterator[tuple[subprocess.Popen[bytes], str, int]]:
    """`deepseek serve` on the built-in model with a small cache: the process, its host and port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-c", "from deepseek.cli import main; main()", "serve", "--port", str(port), *options]
    with tempfile.TemporaryDirectory() as directory:
        yield from _running([*command, "--database", f"{directory}/control.db"], port)


def _running(command: list[str], port: int) -> Iterator[tuple[subprocess.Popen[bytes], str, int]]:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        begun = time.monotonic()
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            if process.poll() is not None or time.monotonic() - begun > START_S:
                raise AssertionError(f"the server did not start: exit code {process.poll()}")
            threading.Event().wait(0.1)
        yield process, "127.0.0.1", port
    finally:
        process.kill()
        process.wait()


def soak_http(requests: int, seed: int) -> tuple[Counter[str], list[str]]:
    """What happened, and what must not have."""
    tally = Tally()
    options = ("--kv-bytes", "800000", "--max-sequences", "4", "--max-waiting", "3", "--grace", "5")
    with server(*options) as (process, host, port):
        base = f"http://{host}:{port}"
        _one(0, random.Random(-1), host, port, tally)  # everything is loaded and warm
        before = _rss_mib(process.pid)
        with ThreadPoolExecutor(CLIENTS) as pool:
            for index in range(requests):
                pool.submit(_guarded, index, random.Random(f"{seed} {index}"), host, port, tally)
        metrics = _settled(base)
        for name in ("running_requests", "waiting_requests", "kv_blocks_used"):
            if metrics[f"deepseek_{name}"] != 0:
                tally.fail(f"{name} is {metrics[f'deepseek_{name}']} at the end")
        answer = httpx.post(f"{base}/v1/generate", json=_body(prompt="Once", max_tokens=5), timeout=60)
        if answer.status_code != 200:
            tally.fail(f"it does not serve on: {answer.status_code}")
        tally.counts["preemptions"] = int(metrics["deepseek_preemptions_total"])
        grown = _rss_mib(process.pid) - before
        tally.counts["MiB grown"] = int(grown)
        if grown > 150:
            tally.fail(f"the server grew by {grown:.0f} MiB")
        process.terminate()
        if process.wait(30) != 0:
            tally.fail(f"exit code {process.returncode}")
    return tally.counts, tally.failures


def _guarded(*arguments: Any) -> None:
    try:
        _one(*arguments)
    except Exception as error:
        arguments[-1].fail(f"request {arguments[0]}: {error!r}")


def _one(index: int, rng: random.Random, host: str, port: int, tally: Tally) -> None:
    kind = rng.choice(
        ["whole"] * 4 + ["stream"] * 4 + ["leave"] * 3 + ["malformed"] * 2 + ["raw", "constraint", "idle"]
    )
    if kind == "raw":
        _raw(rng, host, port, tally)
        return
    if kind == "idle":  # sends half of what it announced, or nothing, and goes
        with socket.create_connection((host, port), timeout=10) as connection:
            connection.sendall(
                b"POST /v1/generate HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n{" * rng.randint(0, 1)
            )
        tally.count("left while sending")
        return
    body = _body(
        prompt="Once upon a time there was " * rng.randint(1, 12),
        max_tokens=rng.choice([1, 8, 40]),
        temperature=rng.choice([0.0, 0.8]),
        n=rng.choice([1, 1, 2]),
        stream=kind != "whole",
    )
    constraint: Constraint | None = None
    if kind == "malformed":
        body |= rng.choice(
            [
                {"max_tokens": -1},
                {"temperature": "hot"},
                {"unknown": 1},
                {"model": "nobody's"},
                {"prompt": ""},
                {"stop_sequences": [""]},
                {"seed": 2**70},
                {"prompt": "x " * 5000},
                {"structured_outputs": {"regex": "(unclosed"}},
                {"structured_outputs": {"regex": "a", "choice": ["b"]}},
                {"response_format": {"type": "json_schema"}},
            ]
        )
    elif kind == "constraint":
        constraint = rng.choice([one for one in (*VALID, *MALFORMED) if one.kind in ("regex", "choice")])
        value = list(constraint.choices) if constraint.kind == "choice" else constraint.source
        body |= {"structured_outputs": {constraint.kind: value}, "stream": False, "n": 1}
    with httpx.Client(base_url=f"http://{host}:{port}", timeout=120) as client:
        if kind == "leave":
            _leave(rng, client, body, tally)
            return
        answer = client.post("/v1/generate", json=body)
    if kind == "malformed":
        if not 400 <= answer.status_code < 500:
            tally.fail(f"{answer.status_code} for {str(body)[:300]}")
        tally.count(f"malformed {answer.status_code}")
        return
    tally.count(f"{kind} {answer.status_code}")
    if answer.status_code != 200:
        allowed = {429} | ({400} if constraint in MALFORMED else set())
        if answer.status_code not in allowed or "detail" not in answer.text:
            tally.fail(f"{answer.status_code} {answer.text[:200]} for {str(body)[:300]}")
        if answer.status_code == 429 and "retry-after" not in answer.headers:
            tally.fail("429 without Retry-After")
        return
    last = _last_of(answer.text) if kind == "stream" else answer.json()
    if last.get("finish_reason") not in REASONS or last["usage"]["completion_tokens"] > 80:
        tally.fail(f"{kind} ended with {str(last)[:300]}")
    if constraint is not None and last["finish_reason"] == "stop" and not matches(constraint, last["text"]):
        tally.fail(f"{last['text']!r} for {constraint}")


def _last_of(stream: str) -> dict[str, Any]:
    """The one frame that ends a stream."""
    frames = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    ends = [frame for frame in frames if "finish_reason" in frame]
    assert len(ends) == 1 and frames[-1] is ends[0], f"{len(ends)} ends in {len(frames)} frames"
    return ends[0]


def _leave(rng: random.Random, client: httpx.Client, body: dict[str, Any], tally: Tally) -> None:
    """Read a little of the stream, or nothing, and go."""
    with client.stream("POST", "/v1/generate", json=body) as answer:
        for count, _ in enumerate(answer.iter_raw()):
            if count >= rng.randint(0, 3):
                break
    tally.count("left while reading")


def _raw(rng: random.Random, host: str, port: int, tally: Tally) -> None:
    """Bytes that are no request, or whose body is none."""
    bodies = [b"", b"{", b"[1]", b"\xff\xfe", b'{"prompt": NaN}', b'"text"', b"[" * 3000, b'{"a": ' * 500]
    data = rng.choice(bodies)
    head = b"POST /v1/generate HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
    whole = head + b"content-length: %d\r\n\r\n" % len(data) + data
    if rng.random() < 0.2:
        whole = rng.randbytes(200)
    with socket.create_connection((host, port), timeout=30) as connection:
        connection.sendall(whole)
        connection.shutdown(socket.SHUT_WR)
        try:
            answer = connection.recv(100)
        except OSError:
            answer = b""
    if answer and not answer.startswith(b"HTTP/1.1 4"):
        tally.fail(f"{answer!r} for {whole[-60:]!r}")
    tally.count("not a request")


def _body(**fields: Any) -> dict[str, Any]:
    return {"model": "deepseek-tiny", "seed": 1, **fields}


def _settled(base: str) -> dict[str, float]:
    """The metrics once nothing runs, or what they say after half a minute."""
    for _ in range(300):
        lines = httpx.get(f"{base}/metrics", timeout=30).text.splitlines()
        found = {
            name: float(value)
            for name, _, value in (line.rpartition(" ") for line in lines if line[:1] not in ("#", ""))
        }
        if found["deepseek_running_requests"] == found["deepseek_waiting_requests"] == 0:
            return found
        threading.Event().wait(0.1)
    return found


def _rss_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20


if __name__ == "__main__":
    counts, failures = soak_http(int(sys.argv[1]) if len(sys.argv) > 1 else 400, 1)
    print(counts, *failures, sep="\n")
