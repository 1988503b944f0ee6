"""Whatever comes over a bare socket is bounded, answered where it can be, and leaves everybody else alone."""

import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from api_support import CONTEXT, MODELS, ByteCodec, HeldEngine, quick

from deepseek.api import ApiSettings, ServerState, serving
from deepseek.api.limits.config import ConnectionConfig, LimitConfig
from deepseek.api.server import DrainingServer
from deepseek.engine.fake import FakeEngine, say

GOOD = {"model": "deepseek-7b", "prompt": "a"}
POST = b"POST /v1/generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
GET = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
BLOCK = b" " * 65536


def bounded(engine: object = None, **bounds: object) -> ServerState:
    """A server that loses patience quickly."""
    hasty = {"head_timeout_s": 0.3, "linger_s": 0.5, **bounds}
    limits = LimitConfig(connections=ConnectionConfig.model_validate(hasty))
    settings = ApiSettings(body_timeout_s=0.5, send_timeout_s=0.3, max_body_bytes=4 * 2**20)
    return ServerState(engine or quick(), ByteCodec(), MODELS, CONTEXT, settings, limits=limits)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def server() -> Iterator[DrainingServer]:
    with serving(bounded(), grace_s=1.0) as running:
        yield running


@contextmanager
def connection(server: DrainingServer, receive_buffer: int | None = None) -> Iterator[socket.socket]:
    address = urlsplit(server.url)
    with socket.socket() as raw:
        if receive_buffer:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        raw.settimeout(20)
        raw.connect((address.hostname, address.port))
        yield raw


def everything(raw: socket.socket) -> bytes:
    """What comes until the server closes. A reset is an end like any other, if something was sent into it."""
    seen = b""
    try:
        while data := raw.recv(65536):
            seen += data
    except ConnectionResetError:
        pass
    return seen


def said(server: DrainingServer, data: bytes) -> bytes:
    with connection(server) as raw:
        raw.sendall(data)
        return everything(raw)


def refused_as(answer: bytes, status: int, kind: str) -> None:
    """One whole problem document, and a connection that is told to close."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer[:200]
    headers = {line.partition(b": ")[0].lower(): line.partition(b": ")[2] for line in head.split(b"\r\n")[1:]}
    assert headers[b"content-type"] == b"application/problem+json"
    assert headers[b"connection"] == b"close"
    assert int(headers[b"content-length"]) == len(body)
    document = json.loads(body)
    assert (document["type"], document["status"]) == (f"urn:deepseek:problem:{kind}", status)


def resident_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


def send_much(raw: socket.socket, size: int) -> int:
    """Send up to so many bytes, as long as anybody takes them."""
    sent = 0
    try:
        while sent < size:
            sent += raw.send(BLOCK)
    except OSError:
        pass
    return sent


def still_serves(server: DrainingServer) -> None:
    assert requests.post(f"{server.url}/v1/generate", json=GOOD, timeout=20).json()["text"] == "Hello, 世界!"


# Bodies


@pytest.mark.parametrize("path", [b"/v1/generate", b"/v1/chat/completions"])
def test_a_body_of_100_mb_is_refused_at_its_first_bytes_and_the_connection_closed(
    server: DrainingServer, path: bytes
) -> None:
    before = resident_bytes()
    with connection(server) as raw:
        raw.sendall(POST.replace(b"/v1/generate", path) + b"content-length: 104857600\r\n\r\n")
        send_much(raw, 100 * 2**20)
        answer = everything(raw)
    assert answer.startswith(b"HTTP/1.1 413 ") and b"\r\nconnection: close\r\n" in answer.lower()
    assert resident_bytes() - before < 24 * 2**20
    still_serves(server)


def test_an_endless_chunked_body_is_cut_at_the_bound(server: DrainingServer) -> None:
    before = resident_bytes()
    with connection(server) as raw:
        raw.sendall(POST + b"transfer-encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + BLOCK + b"\r\n"
        try:
            for _ in range(1600):
                raw.sendall(chunk)
        except OSError:
            pass
        answer = everything(raw)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert resident_bytes() - before < 24 * 2**20


def test_who_stops_sending_after_a_refusal_is_let_go(server: DrainingServer) -> None:
    with connection(server) as raw:
        raw.sendall(POST + b"content-length: 104857600\r\n\r\n")
        begun = time.monotonic()
        assert everything(raw).startswith(b"HTTP/1.1 413 ")  # and our side stays open
        with pytest.raises(OSError):
            while time.monotonic() - begun < 10:
                raw.sendall(b"x")
        assert time.monotonic() - begun < 5


def test_a_small_body_that_nobody_reads_does_not_end_the_connection(server: DrainingServer) -> None:
    with connection(server) as raw:
        raw.sendall(POST.replace(b"application/json", b"text/plain") + b"content-length: 5\r\n\r\n")
        seen = b""
        while b"\r\n\r\n" not in seen:
            seen += raw.recv(65536)
        assert seen.startswith(b"HTTP/1.1 415 ")
        raw.sendall(b"hello" + GET.replace(b"host: x", b"host: x\r\nconnection: close"))
        assert b"HTTP/1.1 200 OK" in everything(raw)


def test_a_slow_body_is_408(server: DrainingServer) -> None:
    with connection(server) as raw:
        raw.sendall(POST + b"content-length: 10\r\n\r\n{")
        assert everything(raw).startswith(b"HTTP/1.1 408 ")


DEEP = [b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000, b'{"prompt":' + b"[" * 100_000]


@pytest.mark.parametrize("body", DEEP)
def test_deep_json_is_400(server: DrainingServer, body: bytes) -> None:
    response = requests.post(f"{server.url}/v1/generate", data=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["type"].endswith("malformed-json")


MANY_KEYS = {
    "a body": b'{"model":"deepseek-7b","prompt":"a",%s}',
    "a message": b'{"model":"deepseek-7b","messages":[{"role":"user","content":"a",%s}]}',
    "a schema": b'{"model":"deepseek-7b","prompt":"a","response_format":{"type":"json_schema","json_schema":{"name":"x",'
    b'"schema":{"type":"object","properties":{%s}}}}}',
}


@pytest.mark.parametrize("shape", MANY_KEYS)
def test_a_body_of_as_many_keys_as_fit_is_refused_without_stopping_the_others(
    server: DrainingServer, shape: str
) -> None:
    keys = b",".join(b'"%x\\\\" :{}' % number for number in range(270_000))
    body = MANY_KEYS[shape] % keys
    assert 3 * 2**20 < len(body) < 4 * 2**20
    path = "/v1/chat/completions" if shape == "a message" else "/v1/generate"
    slowest = 0.0
    over = threading.Event()

    def look_on() -> None:
        nonlocal slowest
        with requests.Session() as session:
            while not over.is_set():
                begun = time.monotonic()
                assert session.get(f"{server.url}/healthz", timeout=20).status_code == 200
                slowest = max(slowest, time.monotonic() - begun)

    onlooker = threading.Thread(target=look_on)
    onlooker.start()
    try:
        response = requests.post(server.url + path, data=body, headers={"content-type": "application/json"}, timeout=30)
    finally:
        over.set()
        onlooker.join()
    assert response.status_code == (400 if shape == "a message" else 422)
    assert response.json()["errors"][0]["expected"] in ("at most 20000 fields", "at most 100000 strings")
    assert slowest < 0.5


def test_a_million_keys_are_more_than_a_body_may_hold(server: DrainingServer) -> None:
    body = b"{" + b",".join(b'"%06x":0' % number for number in range(1_000_000)) + b"}"
    head = POST + b"content-length: %d\r\n\r\n" % len(body)
    with connection(server) as raw:
        raw.sendall(head)
        with suppress(OSError):
            raw.sendall(body)
        assert everything(raw).startswith(b"HTTP/1.1 413 ")


# Heads


def test_a_head_that_never_ends_is_408_however_often_a_byte_comes(server: DrainingServer) -> None:
    with connection(server) as raw:
        raw.sendall(b"GET /healthz HTTP/1.1\r\nx-slow: ")
        raw.settimeout(0.02)
        begun, answer = time.monotonic(), b""
        while not answer and time.monotonic() - begun < 10:
            raw.sendall(b"a")
            try:
                answer = raw.recv(65536)
            except TimeoutError:
                continue
    refused_as(answer, 408, "head-timeout")
    assert 0.2 < time.monotonic() - begun < 5


@pytest.mark.parametrize("rest", [b"", b"\r\n", b"\r\n\r\n\r\n"])
def test_a_connection_that_asks_for_nothing_is_closed(server: DrainingServer, rest: bytes) -> None:
    assert said(server, rest) == b""


def test_line_breaks_after_an_answer_do_not_keep_a_connection(server: DrainingServer) -> None:
    with connection(server) as raw:
        raw.sendall(GET)
        assert raw.recv(65536).startswith(b"HTTP/1.1 200 ")
        raw.sendall(b"\r\n")
        assert everything(raw).count(b"HTTP/1.1") == 0


def test_a_second_head_has_its_time_counted_too(server: DrainingServer) -> None:
    with connection(server) as raw:
        raw.sendall(GET)
        assert raw.recv(65536).startswith(b"HTTP/1.1 200 ")
        raw.sendall(b"GET /healthz HT")
        refused_as(everything(raw), 408, "head-timeout")


FLOODS = {
    "many headers": b"".join(b"x-%d: a\r\n" % number for number in range(200)),
    "one long header": b"x-long: " + b"a" * 200_000 + b"\r\n",
    "one long name": b"a" * 200_000 + b": a\r\n",
    "several long headers": b"".join(b"x-%d: %s\r\n" % (number, b"a" * 8000) for number in range(8)),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_of_headers_is_431(server: DrainingServer, flood: str) -> None:
    refused_as(said(server, b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + FLOODS[flood] + b"\r\n"), 431, "head-too-large")


def test_a_header_without_end_is_431_long_before_its_time_is_up(server: DrainingServer) -> None:
    before = resident_bytes()
    with connection(server) as raw:
        raw.sendall(b"GET /healthz HTTP/1.1\r\nx-long: ")
        send_much(raw, 32 * 2**20)
        refused_as(everything(raw), 431, "head-too-large")
    assert resident_bytes() - before < 8 * 2**20


def test_a_long_target_is_414(server: DrainingServer) -> None:
    target = b"/healthz?" + b"a" * 9000
    refused_as(said(server, b"GET %s HTTP/1.1\r\nhost: x\r\n\r\n" % target), 414, "target-too-long")


NOT_HTTP = {
    "noise": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a null byte in the target": b"GET /\x00 HTTP/1.1\r\nhost: x\r\n\r\n",
    "bytes beyond ASCII in the target": b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
    "a null byte in a header": b"GET / HTTP/1.1\r\nhost: x\r\nx-a: \x00\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "another version": b"GET / HTTP/2.0\r\n\r\n",
    "two lengths": POST + b"content-length: 1\r\ncontent-length: 2\r\n\r\n{}",
    "a length and chunks": POST + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a negative length": POST + b"content-length: -1\r\n\r\n",
    "a length beyond counting": POST + b"content-length: 99999999999999999999999\r\n\r\n",
    "a bad size of a chunk": POST + b"transfer-encoding: chunked\r\n\r\nxyz\r\n{}\r\n0\r\n\r\n",
    "a chunk longer than said": POST + b"transfer-encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n",
    "a size of a chunk beyond counting": POST + b"transfer-encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\n",
    "a method that is none": b"\r\n".join((b"BREW /healthz HTTP/1.1", b"host: x", b"", b"")),
    "a header without a name": b"GET / HTTP/1.1\r\n: a\r\n\r\n",
    "an address without a host": b"GET http:// HTTP/1.1\r\nhost: x\r\n\r\n",
}


@pytest.mark.parametrize("wrong", NOT_HTTP)
def test_what_is_not_http_is_400_as_a_problem_document(server: DrainingServer, wrong: str) -> None:
    refused_as(said(server, NOT_HTTP[wrong]), 400, "malformed-request")


@pytest.mark.parametrize("path", ["/%00", "/v1/%00generate", "/%ff", "/..%2f..%2fetc/passwd", "/%0d%0aset-cookie:a"])
def test_an_odd_path_is_a_404_that_repeats_nothing_dangerous(server: DrainingServer, path: str) -> None:
    answer = said(server, b"GET %s HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" % path.encode())
    assert answer.startswith(b"HTTP/1.1 404 ") and b"\x00" not in answer
    assert b"\nset-cookie" not in answer.lower()


def test_more_wrapping_than_content_is_refused(server: DrainingServer) -> None:
    with connection(server) as raw:
        raw.sendall(POST + b"transfer-encoding: chunked\r\n\r\n1;")
        send_much(raw, 4 * 2**20)  # one extension of a chunk, without end
        refused_as(everything(raw), 400, "malformed-request")


def test_trailers_do_not_become_headers_of_the_request(server: DrainingServer) -> None:
    body = json.dumps(GOOD).encode()
    chunked = b"%x\r\n%s\r\n0\r\nx-request-id: forged\r\n\r\n" % (len(body), body)
    answer = said(server, POST + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n" + chunked)
    assert answer.startswith(b"HTTP/1.1 200 ") and b"forged" not in answer


# Connections


def test_requests_sent_ahead_are_answered_in_order(server: DrainingServer) -> None:
    last = GET.replace(b"host: x", b"host: x\r\nconnection: close").replace(b"/healthz", b"/nowhere")
    answer = said(server, GET * 8 + last)
    assert answer.count(b"HTTP/1.1 200 OK") == 8
    assert answer.count(b"HTTP/1.1 404 ") == 1 and answer.index(b" 404 ") > answer.rindex(b" 200 OK")


def test_too_many_requests_sent_ahead_end_the_connection(server: DrainingServer) -> None:
    before = resident_bytes()
    with connection(server) as raw:
        try:
            for _ in range(64):
                raw.sendall(GET * 4096)
        except OSError:
            pass
        assert everything(raw).count(b"HTTP/1.1 200 OK") <= 64
    assert resident_bytes() - before < 24 * 2**20


def test_noise_behind_a_running_request_ends_it_and_is_not_written_into_its_answer() -> None:
    engine = HeldEngine(["Hel", "lo"])
    body = json.dumps(GOOD | {"stream": True}).encode()
    with serving(bounded(engine), grace_s=0.1) as held, connection(held) as raw:
        raw.sendall(POST + b"content-length: %d\r\n\r\n%s" % (len(body), body))
        seen = b""
        while b'"lo"' not in seen:
            seen += raw.recv(65536)
        raw.sendall(b"\x00\x01 noise\r\n\r\n")
        assert b"400" not in everything(raw)
        assert engine.ended.wait(5)


def test_http_1_0_is_answered_without_chunks_and_the_connection_closed(server: DrainingServer) -> None:
    assert said(server, b"GET /healthz HTTP/1.0\r\n\r\n").endswith(b'\r\n\r\n{"status":"alive"}')
    body = json.dumps(GOOD | {"stream": True}).encode()
    answer = said(server, POST.replace(b"1.1", b"1.0") + b"content-length: %d\r\n\r\n%s" % (len(body), body))
    head, _, frames = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower() and b"connection: close" in head
    assert all(frame.startswith(b"data: ") for frame in frames.rstrip().split(b"\n\n"))


def test_an_upgrade_to_something_else_is_answered_as_the_request_it_is(server: DrainingServer) -> None:
    answer = said(server, GET.replace(b"host: x", b"host: x\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c"))
    assert answer.startswith(b"HTTP/1.1 200 ") and b"connection: close" in answer


@pytest.mark.parametrize(("bounds", "others"), [({"total": 3}, 3), ({"per_address": 2}, 2)])
def test_too_many_connections_are_503_until_one_is_free(bounds: dict[str, int], others: int) -> None:
    with serving(bounded(head_timeout_s=20.0, **bounds), grace_s=0.1) as small:
        address = urlsplit(small.url)
        idle = [socket.create_connection((address.hostname, address.port)) for _ in range(others)]
        for raw in idle:
            raw.sendall(GET)
            assert raw.recv(65536).startswith(b"HTTP/1.1 200 ")
        answer = said(small, GET)
        refused_as(answer, 503, "too-many-connections")
        assert b"Retry-After: 1" in answer
        idle.pop().close()
        ends = time.monotonic() + 10
        while not said(small, GET.replace(b"host: x", b"host: x\r\nconnection: close")).startswith(b"HTTP/1.1 200 "):
            assert time.monotonic() < ends
        for raw in idle:
            raw.close()


def test_a_reader_of_nothing_is_cut_whatever_it_asks_for(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_bytes(b"x" * 16 * 2**20)  # more than the kernel keeps for a connection
    with (
        serving(bounded(), grace_s=0.1, pages={"/page": page}) as hasty,
        connection(hasty, receive_buffer=4096) as raw,
    ):
        raw.sendall(b"GET /page HTTP/1.1\r\nhost: x\r\n\r\n")
        ends = time.monotonic() + 15
        while not hasty.gate.open:
            assert time.monotonic() < ends
        while hasty.gate.open:
            assert time.monotonic() < ends, "the connection is still held"


def test_who_asks_once_and_rests_is_let_go() -> None:
    with serving(bounded(keep_alive_s=1), grace_s=0.1) as hasty, connection(hasty) as raw:
        raw.sendall(GET)
        assert everything(raw).startswith(b"HTTP/1.1 200 ")


def test_hostile_and_good_requests_together_leave_the_good_ones_answered() -> None:
    def fresh(server: DrainingServer, data: bytes) -> None:
        with suppress(OSError):
            said(server, data)

    hostile: list[Callable[[DrainingServer], None]] = [
        lambda server: fresh(server, b"GET / HTTP/1.1\r\nx-slow: "),
        lambda server: fresh(server, POST + b"content-length: 104857600\r\n\r\n" + BLOCK * 8),
        lambda server: fresh(server, POST + b"content-length: 9\r\n\r\n{"),
        lambda server: fresh(server, POST + b"connection: close\r\ncontent-length: 99999\r\n\r\n" + b"[" * 99_999),
        lambda server: fresh(server, GET * 300),
        lambda server: fresh(server, GET[:-2] + FLOODS["many headers"]),
        lambda server: fresh(server, NOT_HTTP["noise"]),
        lambda server: fresh(server, POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n"),
    ]
    engine = FakeEngine(reply=say("Hello"), ttft_s=0.0, inter_token_s=0.0, max_model_len=CONTEXT)
    over = threading.Event()
    with serving(bounded(engine), grace_s=1.0) as server:

        def attack(turn: int) -> None:
            for does in itertools.islice(itertools.cycle(hostile), turn, None):
                if over.is_set():
                    return
                does(server)

        attackers = [threading.Thread(target=attack, args=(turn,)) for turn in range(64)]
        for thread in attackers:
            thread.start()
        try:
            answers = []
            with requests.Session() as session:
                for number in range(100):
                    body = GOOD | {"stream": bool(number % 2)}
                    answers.append(session.post(f"{server.url}/v1/generate", json=body, timeout=20))
        finally:
            over.set()
            for thread in attackers:
                thread.join()
        assert [answer.status_code for answer in answers] == [200] * 100
        assert all(answer.text.count("stop") == 1 for answer in answers)
