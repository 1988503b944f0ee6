"""A client that goes away stops its request, before the first token too; one that does not read is given up."""

import json
import socket
from urllib.parse import urlsplit

import pytest
import requests
from api_support import HeldEngine, quick, state_of

from deepseek.api import serving

GENERATE = {"model": "deepseek-7b", "prompt": "a"}
CHAT = {"model": "deepseek-7b", "messages": [{"role": "user", "content": "a"}]}


def ask(url: str, path: str, body: object, receive_buffer: int | None = None) -> socket.socket:
    """Post over a bare socket and leave the answer unread."""
    address = urlsplit(url)
    raw = socket.socket()
    if receive_buffer:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    raw.connect((address.hostname, address.port))
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    raw.sendall(head.encode() + data)
    return raw


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body"), [("/v1/generate", GENERATE), ("/v1/chat/completions", CHAT)])
def test_leaving_before_the_first_token_ends_the_request(path: str, body: dict[str, object], stream: bool) -> None:
    engine = HeldEngine()
    with serving(state_of(engine)) as server:
        raw = ask(server.url, path, body | {"stream": stream})
        assert engine.started.wait(5)
        assert not engine.ended.is_set()
        raw.close()
        assert engine.ended.wait(5)


def test_leaving_in_the_middle_of_a_stream_ends_the_request() -> None:
    engine = HeldEngine(["Hel", "lo"])
    with serving(state_of(engine)) as server:
        raw = ask(server.url, "/v1/generate", GENERATE | {"stream": True})
        seen = b""
        while b'"lo"' not in seen:
            seen += raw.recv(4096)
        assert not engine.ended.is_set()
        raw.close()
        assert engine.ended.wait(5)


def test_leaving_while_others_run_leaves_them_alone() -> None:
    engine = HeldEngine(["Hello"])
    with serving(state_of(engine)) as server:
        other = requests.post(f"{server.url}/v1/generate", json=GENERATE | {"stream": True}, stream=True)
        raw = ask(server.url, "/v1/generate", GENERATE)
        raw.close()
        assert engine.ended.wait(5)
        engine.release()
        assert '"finish_reason":"stop"' in other.content.decode()


def test_a_client_that_left_is_counted() -> None:
    engine = HeldEngine()
    with serving(state_of(engine)) as server:
        raw = ask(server.url, "/v1/generate", GENERATE)
        assert engine.started.wait(5)
        raw.close()
        assert engine.ended.wait(5)
        text = requests.get(f"{server.url}/metrics").text
    assert 'deepseek_finished_requests_total{reason="client_gone"} 1.0' in text
    assert 'deepseek_http_requests_total{route="/v1/generate",status="499",tier="local"} 1.0' in text


def test_a_reader_that_takes_nothing_is_given_up_and_holds_little() -> None:
    engine = HeldEngine(endless=True)
    with serving(state_of(engine, send_timeout_s=0.1), grace_s=0.1) as server:
        raw = ask(server.url, "/v1/generate", GENERATE | {"stream": True}, receive_buffer=4096)
        assert engine.ended.wait(10)
        raw.close()
    # The frames were made only as fast as they were taken: what kernel and server buffer, not what could be generated.
    assert engine.yielded * 4096 < 16 * 2**20


def test_the_connection_serves_on_after_an_answer() -> None:
    with serving(state_of(quick())) as server, requests.Session() as session:
        for _ in range(3):
            assert session.post(f"{server.url}/v1/generate", json=GENERATE).json()["text"] == "Hello, 世界!"
        assert session.post(f"{server.url}/v1/generate", json={"prompt": 1}).status_code == 422
        assert session.post(f"{server.url}/v1/generate", json=GENERATE | {"stream": True}).status_code == 200
