"""/v1/stream over a real socket, by the `websockets` client: several requests on one connection, cancelled, left, refused."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from api_support import BROKEN, CONTEXT, HeldEngine, RecordingEngine, RefusingEngine, quick, state_of
from identity_support import asking_state, keys_beside
from realtime_support import close_code, hear, opened, say, until_final
from starlette.datastructures import Headers
from tools_support import TOOLS, ToolCodec, call, calls, saying
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from deepseek.api import serving
from deepseek.api.identity.caller import EVERYTHING, Caller
from deepseek.api.identity.credentials import credential_of, unauthenticated
from deepseek.api.limits.rate import Unlimited, Verdict
from deepseek.api.metering.meter import Account, FreeMeter
from deepseek.api.scopes import Scope
from deepseek.api.store import keys as store
from deepseek.api.tiers import BASIC
from deepseek.engine.fake import FakeEngine

MODEL = "deepseek-7b"
ASK = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def connection(url: str) -> Iterator[ClientConnection]:
    with opened(url) as connection:
        yield connection


def test_a_prompt_is_continued_piece_by_piece(connection: ClientConnection) -> None:
    say(connection, type="generate", id="a", model=MODEL, prompt="Hi", seed=7)
    ready, *deltas, final = until_final(connection)
    assert ready == {"type": "ready", "id": "a", "seed": 7}
    assert "".join(delta["text"] for delta in deltas) == "Hello, 世界!"
    assert final["finish_reasons"] == ["stop"] and final["usage"]["completion_tokens"] == 14


def test_a_conversation_is_answered_with_its_thinking_and_calls() -> None:
    codec = ToolCodec()
    text = "Hm.</think>Look." + calls(call("weather", city="Rome"))
    with serving(saying(text, codec), grace_s=1.0) as server, opened(server.url) as connection:
        say(connection, type="chat", id="c", model=MODEL, messages=ASK, tools=TOOLS, reasoning_effort="high")
        _, *deltas, final = until_final(connection)
    assert "".join(delta.get("thinking", "") for delta in deltas) == "Hm."
    assert "".join(delta.get("text", "") for delta in deltas) == "Look."
    made = [delta["tool_call"] for delta in deltas if "tool_call" in delta]
    assert made[0]["name"] == "weather" and made[0]["id"] and made[-1]["complete"]
    assert json.loads("".join(part.get("arguments", "") for part in made)) == {"city": "Rome"}
    assert final["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0


def test_several_requests_share_a_connection() -> None:
    engine = FakeEngine(
        ttft_s=0.0, inter_token_s=0.002, max_model_len=CONTEXT, reply=lambda request, *_: request.prompt_ids * 5
    )
    with serving(state_of(engine), grace_s=1.0) as server, opened(server.url) as connection:
        for client_id in "abc":
            say(connection, type="generate", id=client_id, model=MODEL, prompt=client_id * 4)
        texts, order, finals = dict.fromkeys("abc", ""), [], set()
        while len(finals) < 3:
            message = hear(connection)
            if message["type"] == "delta":
                texts[message["id"]] += message["text"]
                order.append(message["id"])
            elif message["type"] == "final":
                finals.add(message["id"])
    assert texts == {client_id: client_id * 20 for client_id in "abc"}
    assert order != sorted(order), "the requests ran one after the other"


def test_several_choices_and_scores_come_with_their_index(connection: ClientConnection) -> None:
    say(connection, type="generate", id="a", model=MODEL, prompt="Hi", n=2, logprobs=1, echo=True, prompt_logprobs=1)
    messages = until_final(connection)
    for index in (0, 1):
        deltas = [message for message in messages if message["type"] == "delta" and message["index"] == index]
        assert "".join(delta["text"] for delta in deltas) == "HiHello, 世界!"
        assert sum(len(delta.get("logprobs", ())) for delta in deltas) == 14
    assert [len(message["prompt_logprobs"]) for message in messages if message["type"] == "scores"] == [2]


def test_an_id_may_be_used_again_once_its_request_has_ended(connection: ClientConnection) -> None:
    for _ in range(3):
        say(connection, type="generate", id="a", model=MODEL, prompt="Hi")
        assert until_final(connection)[-1]["type"] == "final"


def test_a_request_is_cancelled_and_the_others_go_on() -> None:
    engine = HeldEngine(["Hel"])
    with serving(state_of(engine), grace_s=0.2) as server, opened(server.url) as connection:
        for client_id in "ab":
            say(connection, type="generate", id=client_id, model=MODEL, prompt=client_id)
        seen = [hear(connection) for _ in range(4)]
        assert {message["id"] for message in seen if message["type"] == "delta"} == {"a", "b"}
        say(connection, type="cancel", id="a")
        final = hear(connection)
        assert (final["type"], final["id"], final["finish_reasons"]) == ("final", "a", ["cancelled"])
        say(connection, type="cancel", id="a")  # the two may cross
        engine.release("length")
        assert hear(connection)["id"] == "b"


def test_closing_the_connection_ends_everything_on_it() -> None:
    engine = HeldEngine(["Hel"])
    state = state_of(engine)
    with serving(state, grace_s=0.2) as server:
        with opened(server.url) as connection:
            for client_id in "ab":
                say(connection, type="generate", id=client_id, model=MODEL, prompt=client_id)
            assert len([hear(connection) for _ in range(4)]) == 4
        assert engine.ended.wait(5)
        with opened(server.url):
            assert not state.lifecycle.running


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("nonsense", "malformed-json"),
        ("[]", "invalid-request"),
        ('{"type": "other", "id": "a"}', "invalid-request"),
        ('{"type": "generate", "id": "a", "model": "m"}', "invalid-request"),
        ('{"type": "generate", "id": "a", "model": "deepseek-7b", "prompt": "a", "stream": false}', "invalid-request"),
        ('{"type": "generate", "id": "a", "model": "gpt-9", "prompt": "a"}', "unknown-model"),
        ('{"type": "chat", "id": "a", "model": "deepseek-7b", "messages": []}', "invalid-request"),
        ('{"type": "auth", "key": "x"}', "invalid-request"),
        ("[" * 100_000, "malformed-json"),
    ],
)
def test_what_is_wrong_is_answered_and_the_connection_goes_on(
    connection: ClientConnection, text: str, kind: str
) -> None:
    connection.send(text)
    message = hear(connection)
    assert message["type"] == "error" and message["error"]["type"] == f"urn:deepseek:problem:{kind}"
    if '"id"' in text:
        assert message["id"] == "a"
    say(connection, type="generate", id="b", model=MODEL, prompt="Hi")
    assert until_final(connection)[-1]["type"] == "final"


def test_an_id_that_runs_and_too_many_requests_are_refused() -> None:
    with serving(state_of(HeldEngine(["Hel"])), grace_s=0.1) as server, opened(server.url) as connection:
        for index in range(16):
            say(connection, type="generate", id=f"{index}", model=MODEL, prompt="a")
        for _ in range(32):
            hear(connection)
        say(connection, type="generate", id="0", model=MODEL, prompt="a")
        assert hear(connection)["error"]["type"].endswith("duplicate-request")
        say(connection, type="generate", id="more", model=MODEL, prompt="a")
        message = hear(connection)
        assert message["id"] == "more" and message["error"]["type"].endswith("queue-full")


def test_a_failure_ends_its_request_alone() -> None:
    engine = quick(fail_at=lambda request: 2 if request.prompt_ids == (98,) else None)
    with serving(state_of(engine)) as server, opened(server.url) as connection:
        say(connection, type="generate", id="b", model=MODEL, prompt="b")
        assert until_final(connection)[-1]["error"]["type"].endswith("internal")
        say(connection, type="generate", id="a", model=MODEL, prompt="a")
        assert until_final(connection)[-1]["type"] == "final"


def test_an_engine_that_broke_tells_nothing_of_its_inside() -> None:
    with serving(state_of(RefusingEngine(BROKEN))) as server, opened(server.url) as connection:
        say(connection, type="generate", id="a", model=MODEL, prompt="a")
        message = hear(connection)
    assert message["error"]["status"] == 500 and "worker" not in json.dumps(message)


class Keyed:
    """Two keys: one may ask for text, one may not."""

    async def identify(self, headers: Headers) -> Caller:
        key = credential_of(headers)
        if key not in ("good", "reader"):
            raise unauthenticated("This key is not valid.")
        scopes = EVERYTHING if key == "good" else frozenset({Scope.READ})
        return Caller("t", BASIC, scopes, key)


@pytest.fixture(scope="module")
def keyed() -> Iterator[str]:
    state = state_of(quick())
    state.identifier = Keyed()
    with serving(state, grace_s=1.0) as server:
        yield server.url


def test_a_key_in_a_header_opens_the_connection(keyed: str) -> None:
    with opened(keyed, additional_headers={"authorization": "Bearer good"}) as connection:
        say(connection, type="generate", id="a", model=MODEL, prompt="Hi")
        assert until_final(connection)[-1]["type"] == "final"


@pytest.mark.parametrize(("key", "status"), [("bad", 401), ("reader", 403)])
def test_a_key_that_is_no_good_gets_an_http_answer(keyed: str, key: str, status: int) -> None:
    with pytest.raises(InvalidStatus) as caught, opened(keyed, additional_headers={"authorization": f"Bearer {key}"}):
        pass
    assert caught.value.response.status_code == status
    assert json.loads(caught.value.response.body or b"")["status"] == status


def test_a_browser_says_its_key_in_the_first_message(keyed: str) -> None:
    with opened(keyed, origin="https://app.example") as connection:
        say(connection, type="auth", key="good")
        say(connection, type="generate", id="a", model=MODEL, prompt="Hi")
        assert until_final(connection)[-1]["type"] == "final"


@pytest.mark.parametrize(
    "first",
    [
        {"type": "auth", "key": "bad"},
        {"type": "auth", "key": "reader"},
        {"type": "generate", "id": "a", "model": MODEL, "prompt": "Hi"},
        {"type": "cancel", "id": "a"},
        {"type": "nonsense"},
    ],
)
def test_without_a_good_key_nothing_is_answered_and_the_connection_closes(keyed: str, first: dict[str, Any]) -> None:
    with opened(keyed) as connection:
        say(connection, **first)
        assert hear(connection)["type"] == "error"
        with pytest.raises(ConnectionClosed) as caught:
            hear(connection)
        assert caught.value.rcvd is not None and caught.value.rcvd.code == 1008


def test_a_connection_that_says_no_key_is_closed(monkeypatch: pytest.MonkeyPatch, keyed: str) -> None:
    monkeypatch.setattr("deepseek.api.dialects.realtime.AUTH_WAIT_S", 0.1)
    with opened(keyed) as connection, pytest.raises(ConnectionClosed) as caught:
        hear(connection)
    assert caught.value.rcvd is not None and caught.value.rcvd.code == 1008


def test_a_page_of_another_site_cannot_use_a_server_without_keys(url: str) -> None:
    with pytest.raises(InvalidStatus) as caught, opened(url, origin="https://evil.example"):
        pass
    assert caught.value.response.status_code == 403
    with opened(url, origin=url) as connection:
        say(connection, type="generate", id="a", model=MODEL, prompt="Hi")
        assert until_final(connection)[-1]["type"] == "final"


class Counted(Unlimited):
    """So many may pass."""

    def __init__(self, passes: int) -> None:
        self.passes = passes

    async def take(self, caller: Caller) -> Verdict:
        self.passes -= 1
        return Verdict(self.passes >= 0, 1, max(0, self.passes), 0.0, 3.0)


def test_every_request_counts_against_the_rate() -> None:
    state = state_of(quick())
    with serving(state) as server:
        state.limiter = Counted(3)
        with opened(server.url) as connection:
            for client_id in "abc":
                say(connection, type="generate", id=client_id, model=MODEL, prompt="Hi")
            ends = [until_final(connection)[-1] for _ in range(3)]
        refused = [end for end in ends if end["type"] == "error"]
        assert [end["error"]["type"] for end in refused] == ["urn:deepseek:problem:rate-limited"]
        assert refused[0]["error"]["retry_after_s"] == 3
        with pytest.raises(InvalidStatus) as caught, opened(server.url):
            pass
        assert caught.value.response.status_code == 429


def test_a_message_that_is_too_large_closes_the_connection() -> None:
    with serving(state_of(quick(), max_body_bytes=1000)) as server, opened(server.url) as connection:
        connection.send("x" * 1001)
        with pytest.raises(ConnectionClosed) as caught:
            hear(connection)
    assert caught.value.rcvd is not None and caught.value.rcvd.code == 1009


def test_a_reader_that_takes_nothing_is_given_up() -> None:
    engine = HeldEngine(endless=True)
    with serving(state_of(engine, send_timeout_s=0.2), grace_s=0.1) as server:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = server.url.removeprefix("http://").split(":")
        raw.connect((host, int(port)))
        with opened(server.url, sock=raw, max_queue=1) as connection:
            say(connection, type="generate", id="a", model=MODEL, prompt="a")
            assert engine.ended.wait(20)
    assert engine.yielded * 4096 < 64 * 2**20


def test_a_draining_server_refuses_new_requests_and_ends_the_running_ones() -> None:
    engine = HeldEngine(["Hel"])
    with serving(state_of(engine), grace_s=5.0) as server, opened(server.url) as connection:
        say(connection, type="generate", id="a", model=MODEL, prompt="a")
        assert [hear(connection)["type"] for _ in range(2)] == ["ready", "delta"]
        server.begin_drain()
        say(connection, type="generate", id="b", model=MODEL, prompt="a")
        assert hear(connection)["error"]["type"].endswith("draining")
        engine.release("stop")
        assert hear(connection)["finish_reasons"] == ["stop"]
        with pytest.raises(ConnectionClosed):
            hear(connection)


@pytest.mark.parametrize("kind", ["generate", "chat"])
def test_before_a_key_nothing_but_a_short_key_is_read(keyed: str, kind: str) -> None:
    with opened(keyed) as connection:
        connection.send(json.dumps({"type": kind, "id": "a", "messages": [{}] * 5000}))
        assert close_code(connection) == 1009
    with opened(keyed) as connection:
        connection.send(json.dumps({"type": kind, "id": "a", "messages": [{}] * 100}))
        message = hear(connection)
        assert message["error"]["type"].endswith("unauthenticated") and "errors" not in message["error"]
        assert close_code(connection) == 1008


@pytest.mark.parametrize(
    "messages",
    [[{"role": "user", "content": "a", "x": 1}] * 20_000, [{}] * 5000],
    ids=["more fields than any", "nothing but mistakes"],
)
def test_a_message_is_held_to_the_bounds_of_a_body(connection: ClientConnection, messages: list[Any]) -> None:
    say(connection, type="chat", id="a", model=MODEL, messages=messages)
    error = hear(connection)["error"]
    assert error["type"].endswith("invalid-request") and error["errors"][0]["field"] == "body"
    say(connection, type="generate", id="b", model=MODEL, prompt="Hi")
    assert until_final(connection)[-1]["type"] == "final"


@pytest.mark.parametrize("in_header", [True, False])
def test_a_key_that_is_revoked_ends_its_connection_at_the_next_request(tmp_path: Path, in_header: bool) -> None:
    with keys_beside(tmp_path) as keys:
        record, key = keys.make()
        keys.ring.load()
        headers = {"authorization": f"Bearer {key}"} if in_header else {}
        with (
            serving(asking_state(keys), grace_s=1.0) as server,
            opened(server.url, additional_headers=headers) as connection,
        ):
            if not in_header:
                say(connection, type="auth", key=key)
            say(connection, type="generate", id="a", model=MODEL, prompt="Hi")
            assert until_final(connection)[-1]["type"] == "final"
            keys.database.write_now(lambda db: store.revoke_key(db, record.id, keys.clock.now))
            keys.ring.load()
            say(connection, type="generate", id="b", model=MODEL, prompt="Hi")
            message = hear(connection)
            assert message["id"] == "b" and message["error"]["type"].endswith("unauthenticated")
            assert close_code(connection) == 1008


def test_the_first_key_ends_the_connections_that_came_without_one(tmp_path: Path) -> None:
    with keys_beside(tmp_path) as keys:
        state = asking_state(keys, open_until_keyed=True)
        with serving(state, grace_s=1.0) as server, opened(server.url) as connection:
            say(connection, type="generate", id="a", model=MODEL, prompt="Hi")
            assert until_final(connection)[-1]["type"] == "final"
            keys.make()
            keys.ring.load()
            say(connection, type="generate", id="b", model=MODEL, prompt="Hi")
            assert hear(connection)["error"]["type"].endswith("unauthenticated")
            assert close_code(connection) == 1008


def test_a_request_is_cancelled_before_its_lease_is_open() -> None:
    engine = RecordingEngine()
    state, asked, may = state_of(engine), threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    class SlowToOpen(FreeMeter):
        async def open(self, *request: Any) -> Account:
            loops.append(asyncio.get_running_loop())
            asked.set()
            await may.wait()
            return await super().open(*request)

    state.meter = SlowToOpen()
    with serving(state, grace_s=1.0) as server, opened(server.url) as connection:
        say(connection, type="generate", id="a", model=MODEL, prompt="Hi")
        assert asked.wait(5)
        say(connection, type="cancel", id="a")
        say(connection, type="cancel", id="unknown")
        say(connection, type="nonsense")  # whose answer says that those before it were taken
        assert hear(connection)["type"] == "error"
        loops[0].call_soon_threadsafe(may.set)
        assert hear(connection)["finish_reasons"] == ["cancelled"]
    assert not engine.requests
