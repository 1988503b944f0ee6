"""Plugins in the one request path, through the real application, in every dialect there is."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from api_support import BROKEN, RefusingEngine
from grpc_support import KEYS, TestKeys, grpc_server
from plugins_support import ANSWER, ASKS, HTTP, MODEL, Recording, Said, managed, registered_here, state_with
from test_client_leaves import ask as leave_unread

from deepseek.api import serving
from deepseek.api.server import DrainingServer
from deepseek.plugins.errors import PluginRefusal
from deepseek.plugins.hooks import PluginContext
from deepseek.tenancy.context import current_tenant


@pytest.fixture(autouse=True, scope="module")
def own_registry() -> Iterator[None]:
    with registered_here():
        yield


class Polite:
    """Asks politely, and shouts the answer."""

    def pre_process(self, prompt: str) -> str:
        return f"Please, {prompt}"

    async def post_process(self, text: str, context: PluginContext) -> str:
        return f"{text.upper()} ({context.tenant})"


class Loud:
    """Each piece on its own."""

    async def on_token(self, text: str) -> str:
        return text.upper()


class Strict:
    def pre_process(self, prompt: str, context: PluginContext) -> None:
        if "cats" in prompt:
            raise PluginRefusal("not about cats")

    def post_process(self, text: str) -> None:
        if "世界" in text:
            raise PluginRefusal("not about the world")


class Broken:
    def pre_process(self) -> None:
        raise RuntimeError("broken")


@pytest.fixture(scope="module")
def polite() -> Iterator[tuple[DrainingServer, Recording]]:
    engine = Recording()
    with grpc_server(state_with(engine, Polite)) as server:
        yield server, engine


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
def test_the_prompt_and_the_whole_answer_go_through_a_plugin(ask: Any, polite: Any) -> None:
    server, engine = polite
    assert ask(server, "ask") == Said("HELLO, 世界! (local)")
    assert "Please, ask" in engine.prompts[-1]


@pytest.fixture(scope="module")
def loud() -> Iterator[DrainingServer]:
    with grpc_server(state_with(Recording(), Loud)) as server:
        yield server


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
def test_each_piece_goes_through_a_plugin(ask: Any, loud: DrainingServer) -> None:
    assert ask(loud, "ask") == Said("HELLO, 世界!")


@pytest.fixture(scope="module")
def strict() -> Iterator[tuple[DrainingServer, Recording]]:
    engine = Recording()
    with grpc_server(state_with(engine, Strict)) as server:
        yield server, engine


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
def test_a_refused_prompt_is_403_and_never_reaches_the_engine(ask: Any, strict: Any) -> None:
    server, engine = strict
    before = len(engine.requests)
    said = ask(server, "tell me about cats")
    assert said.status == 403 and "not about cats" in said.detail
    assert len(engine.requests) == before


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
def test_a_refused_answer_says_nothing_of_it(ask: Any, strict: Any) -> None:
    server, _ = strict
    said = ask(server, "dogs")
    assert said.problem and "not about the world" in said.detail and not said.text


@pytest.fixture(scope="module")
def closed() -> Iterator[DrainingServer]:
    with grpc_server(state_with(Recording(), (Broken, {"on_failure": "closed"}))) as server:
        yield server


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
def test_a_plugin_that_must_not_be_left_out_and_fails_is_503(ask: Any, closed: DrainingServer) -> None:
    said = ask(closed, "x")
    assert said.status == 503 and "broken" in said.detail.lower() and "RuntimeError" not in said.detail


@pytest.fixture(scope="module")
def triggered() -> Iterator[tuple[DrainingServer, Recording]]:
    engine = Recording()
    with grpc_server(state_with(engine, (Polite, {"trigger_words": ["search", "最新"]}), Broken)) as server:
        yield server, engine


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
def test_a_plugin_that_is_not_triggered_and_one_that_fails_open_change_nothing(ask: Any, triggered: Any) -> None:
    server, engine = triggered
    assert ask(server, "research") == Said(ANSWER)
    assert "Please" not in engine.prompts[-1]
    assert ask(server, "查最新消息") == Said("HELLO, 世界! (local)")


def test_the_problem_is_of_its_own_kind_in_every_envelope(strict: Any) -> None:
    url = strict[0].url
    own = httpx.post(f"{url}/v1/generate", json={"model": MODEL, "prompt": "cats"})
    assert own.json()["type"] == "urn:deepseek:problem:refused-by-plugin"
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "cats"}]}
    openai = httpx.post(f"{url}/v1/chat/completions", json=chat)
    assert openai.json()["error"]["code"] == "refused_by_plugin"
    anthropic = httpx.post(f"{url}/v1/messages", json=chat | {"max_tokens": 5})
    assert anthropic.status_code == 403 and anthropic.json()["error"]["type"] == "permission_error"


def test_in_a_conversation_the_users_last_text_is_read_and_nothing_else() -> None:
    seen: list[str] = []

    class Reads:
        def pre_process(self, prompt: str) -> str:
            seen.append(prompt)
            return "CHANGED"

    engine = Recording()
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "se"}, {"type": "text", "text": "cond"}]},
        {"role": "assistant", "content": "b"},
    ]
    with serving(state_with(engine, Reads), grace_s=1.0) as server:
        httpx.post(f"{server.url}/v1/chat/completions", json={"model": MODEL, "messages": messages})
        httpx.post(f"{server.url}/v1/chat/completions", json={"model": MODEL, "messages": messages[:1]})
    assert seen == ["second"]
    assert engine.prompts[0] == "<system>s<user>first<assistant>a<user>CHANGED<assistant>b<assistant>"
    assert engine.prompts[1] == "<system>s<assistant>"


def test_a_response_that_goes_on_is_read_at_its_last_text_and_kept_as_it_was_asked() -> None:
    engine = Recording()
    with serving(state_with(engine, Polite), grace_s=1.0) as server:
        first = httpx.post(f"{server.url}/v1/responses", json={"model": MODEL, "input": "one"}).json()
        body = {"model": MODEL, "input": "two", "previous_response_id": first["id"]}
        httpx.post(f"{server.url}/v1/responses", json=body)
        items = httpx.get(f"{server.url}/v1/responses/{first['id']}/input_items").json()["data"]
    assert items[0]["content"][0]["text"] == "one"
    assert engine.prompts[1].endswith("<user>one<assistant>HELLO, 世界! (local)<user>Please, two<assistant>")


def test_prompts_of_token_ids_are_read_as_the_text_they_stand_for() -> None:
    engine = Recording()
    with serving(state_with(engine, Strict), grace_s=1.0) as server:
        refused = httpx.post(
            f"{server.url}/v1/completions", json={"model": MODEL, "prompt": list(b"cats"), "max_tokens": 2}
        )
        taken = httpx.post(
            f"{server.url}/v1/completions", json={"model": MODEL, "prompt": list(b"dogs"), "max_tokens": 2}
        )
    assert refused.status_code == 403 and taken.status_code == 200
    assert engine.prompts == ["dogs"]


def test_several_prompts_and_choices_are_each_read_on_their_own() -> None:
    seen: list[tuple[str, int]] = []

    class Each:
        def pre_process(self, prompt: str, context: PluginContext) -> str:
            context.metadata["each"] = prompt
            return prompt * 2

        def post_process(self, text: str, context: PluginContext) -> str:
            seen.append((context.metadata["each"], context.choice))
            return f"{context.metadata['each']}{context.choice}"

    engine = Recording()
    with serving(state_with(engine, Each), grace_s=1.0) as server:
        body = {"model": MODEL, "prompt": ["a", "b", "c"], "n": 2, "max_tokens": 3}
        answer = httpx.post(f"{server.url}/v1/completions", json=body).json()
    assert [choice["text"] for choice in answer["choices"]] == ["a0", "a1", "b0", "b1", "c0", "c1"]
    assert sorted(engine.prompts) == ["aa", "bb", "cc"]
    assert sorted(seen) == [(letter, choice) for letter in "abc" for choice in (0, 1)]


def test_counting_tokens_asks_no_plugin() -> None:
    with serving(state_with(Recording(), Strict, Polite), grace_s=1.0) as server:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "cats"}]}
        counted = httpx.post(f"{server.url}/v1/messages/count_tokens", json=body)
    assert counted.status_code == 200
    assert counted.json()["input_tokens"] == len("<user>cats<assistant>")


def test_a_plugin_serves_the_tenants_it_is_for() -> None:
    engine = Recording()
    state = state_with(engine, (Polite, {"tenants": ["other"]}), (Loud, {"tenants": ["acme"]}))
    state.identifier = TestKeys()
    with serving(state, grace_s=1.0) as server:
        headers = {"authorization": f"Bearer {KEYS['basic']}"}
        body = {"model": MODEL, "prompt": "a"}
        answer = httpx.post(f"{server.url}/v1/generate", json=body, headers=headers)
    assert answer.json()["text"] == "HELLO, 世界!" and engine.prompts == ["a"]


def test_a_plugin_works_in_its_tenants_name_in_whatever_thread() -> None:
    seen: list[str] = []

    class Who:
        def pre_process(self) -> None:
            seen.append(current_tenant())

        async def on_token(self) -> None:
            seen.append(current_tenant())

    state = state_with(Recording("a"), Who)
    state.identifier = TestKeys()
    with serving(state, grace_s=1.0) as server:
        headers = {"authorization": f"Bearer {KEYS['basic']}"}
        httpx.post(f"{server.url}/v1/generate", json={"model": MODEL, "prompt": "a"}, headers=headers)
    assert seen == ["acme", "acme"]


def test_calls_of_hooks_are_counted_by_plugin_and_outcome(polite: Any) -> None:
    server, _ = polite
    ASKS["chat, whole"](server, "x")
    text = httpx.get(f"{server.url}/metrics").text
    assert 'deepseek_plugin_calls_total{hook="pre_process",outcome="changed",plugin="polite"}' in text
    assert 'deepseek_plugin_seconds_total{hook="post_process",plugin="polite"}' in text


def test_the_time_of_plugins_is_not_our_overhead() -> None:
    class Slow:
        def pre_process(self) -> None:
            threading.Event().wait(0.2)

    with serving(state_with(Recording(), Slow), grace_s=1.0) as server:
        answer = httpx.post(f"{server.url}/v1/generate", json={"model": MODEL, "prompt": "a"})
    assert float(answer.headers["x-overhead-ms"]) < 150


def test_a_plugin_that_hangs_costs_its_deadline_and_soon_nothing() -> None:
    release = threading.Event()

    class Hangs:
        def pre_process(self) -> None:
            release.wait(30)

    with serving(state_with(Recording(), (Hangs, {"deadline_ms": 50}), Loud), grace_s=1.0) as server:
        for _ in range(4):
            assert HTTP["generate"](server, "x", stream=False) == Said("HELLO, 世界!")
        counted = httpx.get(f"{server.url}/metrics").text
        release.set()
    assert 'hook="pre_process",outcome="timeout",plugin="hangs"} 3.0' in counted
    assert 'hook="pre_process",outcome="unavailable",plugin="hangs"} 1.0' in counted


@pytest.mark.parametrize("path", ["/v1/generate", "/v1/chat/completions", "/v1/completions"])
def test_a_client_that_leaves_ends_a_plugins_work(path: str) -> None:
    import asyncio

    begun, ended = threading.Event(), threading.Event()

    class Waits:
        async def pre_process(self) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

    engine = Recording()
    with serving(state_with(engine, (Waits, {"deadline_ms": 60_000})), grace_s=1.0) as server:
        body = {"model": MODEL, "prompt": "a"}
        if "chat" in path:
            body = {"model": MODEL, "messages": [{"role": "user", "content": "a"}]}  # type: ignore[dict-item]
        raw = leave_unread(server.url, path, body)
        assert begun.wait(5)
        raw.close()
        assert ended.wait(5)
    assert engine.requests == []


def test_those_who_take_part_are_told_that_the_engine_failed() -> None:
    told, happened = [], threading.Event()

    class Told:
        async def on_error(self, error: Exception, context: PluginContext) -> None:
            told.append((type(error).__name__, context.route))
            happened.set()

    engine = RefusingEngine(BROKEN)
    with serving(state_with(engine, Told), grace_s=1.0) as server:
        assert httpx.post(f"{server.url}/v1/generate", json={"model": MODEL, "prompt": "a"}).status_code == 500
        assert happened.wait(5)
    assert told == [("EngineError", "/v1/generate")]


def test_those_who_take_part_are_told_that_another_refused() -> None:
    told, happened = [], threading.Event()

    class Told:
        def on_error(self, error: Exception) -> None:
            told.append(str(error))
            happened.set()

    with serving(state_with(Recording(), Told, Strict), grace_s=1.0) as server:
        httpx.post(f"{server.url}/v1/generate", json={"model": MODEL, "prompt": "cats"})
        assert happened.wait(5)
    assert told == ["not about cats"]


def test_a_line_of_a_batch_goes_through_plugins_too() -> None:
    import asyncio

    from deepseek.api.app import create_app
    from deepseek.api.dialects.openai import ROUTE, chat_completions
    from deepseek.api.identity.caller import LOCAL_CALLER
    from deepseek.api.inner import ask_inside

    async def ask() -> Any:
        state = state_with(Recording(), Polite)
        body = {"model": MODEL, "messages": [{"role": "user", "content": "a"}]}
        return await ask_inside(create_app(state), LOCAL_CALLER, chat_completions, ROUTE, json.dumps(body).encode())

    answer = asyncio.run(ask())
    assert json.loads(answer.body)["choices"][0]["message"]["content"] == "HELLO, 世界! (local)"


def test_a_new_configuration_holds_from_the_next_request_on() -> None:
    state = state_with(Recording(), Polite)
    with serving(state, grace_s=1.0) as server:
        assert HTTP["generate"](server, "x", stream=False).text == "HELLO, 世界! (local)"
        state.plugins.use(managed([Loud]).plugins)
        assert HTTP["generate"](server, "x", stream=False).text == "HELLO, 世界!"
