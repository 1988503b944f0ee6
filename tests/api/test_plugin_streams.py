"""What plugins do to answers: text alone is changed, and token counts, scores, stop strings, thinking and calls stay whole,
streamed or not, however the answer is cut."""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from api_support import ByteCodec
from hypothesis import given
from hypothesis import strategies as st
from plugins_support import ANSWER, MODEL, Recording, managed, registered_here, state_with
from tools_support import LONG, TOOLS, ToolCodec, call, calls

from deepseek.api import serving
from deepseek.api.plugin_stage import PluginStage
from deepseek.api.spoken import ThinkingCount
from deepseek.core.deltas import Delta, TextDelta, ThinkingDelta, ToolCallArguments, ToolCallEnd, ToolCallStart
from deepseek.core.engine import TokenLogprob, Tokens
from deepseek.plugins.errors import PluginRefusal
from deepseek.plugins.hooks import PluginContext


@pytest.fixture(autouse=True, scope="module")
def own_registry() -> Iterator[None]:
    with registered_here():
        yield


class Same:
    """Needs the whole text, and leaves it."""

    def post_process(self, text: str) -> str:
        return text


class Whole:
    async def post_process(self, text: str) -> str:
        return f"[{text.upper()}]"


class Upper:
    async def on_token(self, text: str) -> str:
        return text.upper()


class Piecewise:
    whole_text = False

    async def post_process(self, text: str) -> str:
        return text.upper()


class Redacts:
    """Takes a word out, and so keeps back what may be the beginning of it."""

    WORD = "bad"

    async def on_token(self, text: str, context: PluginContext, last: bool) -> str:
        kept = context.metadata.get(("redacts", context.choice), "") + text
        kept = kept.replace(self.WORD, "***")
        keep = 0 if last else next((n for n in (2, 1) if kept.endswith(self.WORD[:n])), 0)
        context.metadata["redacts", context.choice] = kept[len(kept) - keep :]
        return kept[: len(kept) - keep]


KINDS = {"same": Same, "whole": Whole, "upper": Upper, "piecewise": Piecewise, "redacts": Redacts}
MAKES = {
    "same": lambda text: text,
    "whole": lambda text: f"[{text.upper()}]" if text else "",
    "upper": str.upper,
    "piecewise": str.upper,
    "redacts": lambda text: text.replace("bad", "***"),
}

words = st.text("abd ", min_size=1, max_size=4)
deltas_of_one_event = st.lists(
    st.one_of(st.builds(TextDelta, words), st.builds(ThinkingDelta, words), st.just("call")), max_size=4
)


@st.composite
def answers(draw: st.DrawFn) -> list[tuple[Tokens, list[Delta]]]:
    """Events of one or two choices, each with the deltas that its parser made of it."""
    scored = draw(st.booleans())
    events, number = [], 0
    for _ in range(draw(st.integers(0, 10))):
        choice, count = draw(st.integers(0, 1)), draw(st.integers(1, 4))
        said: list[Delta] = []
        for delta in draw(deltas_of_one_event):
            if delta == "call":
                said += [ToolCallStart(number, str(number), "f"), ToolCallArguments(number, "{}"), ToolCallEnd(number)]
                number += 1
            else:
                said.append(delta)
        ids = tuple(range(number, number + count))
        number += count
        scores = tuple(TokenLogprob(token, -1.0) for token in ids) if scored else None
        events.append((Tokens("r", choice, "", ids, scores), said))
    return events


async def through(
    name: str, events: list[tuple[Tokens, list[Delta]]], rest: dict[int, list[Delta]]
) -> list[tuple[Tokens | None, int, list[Delta]]]:
    session = managed([KINDS[name]]).begin("x", PluginContext())
    stage = PluginStage((session,))
    said: list[tuple[Tokens | None, int, list[Delta]]] = []
    for tokens, deltas in events:
        said += [(part, part.choice, list(run)) for part, run in await stage.of(tokens, deltas)]
    released, after = await stage.end(rest)
    said += [(part, part.choice, list(run)) for part, run in released]
    return said + [(None, choice, list(run)) for choice, run in after.items()]


@given(
    st.sampled_from(sorted(KINDS)), answers(), st.dictionaries(st.integers(0, 1), st.lists(st.builds(TextDelta, words)))
)
def test_nothing_but_text_is_changed_and_nothing_is_lost(
    name: str, events: list[tuple[Tokens, list[Delta]]], rest: dict[int, list[Delta]]
) -> None:
    said = asyncio.run(through(name, events, rest))
    for choice in (0, 1):
        before = [(tokens, deltas) for tokens, deltas in events if tokens.choice == choice]
        after = [(tokens, deltas) for tokens, of, deltas in said if of == choice]
        ids = [token for tokens, _ in after if tokens is not None for token in tokens.token_ids]
        assert ids == [token for tokens, _ in before for token in tokens.token_ids]

        everything = [delta for _, deltas in before for delta in deltas] + rest.get(choice, [])
        spoken = [delta for _, deltas in after for delta in deltas]
        text = "".join(delta.text for delta in everything if isinstance(delta, TextDelta))
        assert "".join(delta.text for delta in spoken if isinstance(delta, TextDelta)) == MAKES[name](text)
        assert [d for d in spoken if not isinstance(d, TextDelta)] == [
            d for d in everything if not isinstance(d, TextDelta)
        ]

        scores = [entry for tokens, _ in after if tokens is not None for entry in tokens.logprobs or ()]
        all_scores = [entry for tokens, _ in before for entry in tokens.logprobs or ()]
        # A piece that was kept back was changed, though all is the same in the end.
        unchanged = MAKES[name](text) == text and name != "redacts"
        assert scores == all_scores if unchanged else set(scores) <= set(all_scores)
        assert abs(thought(after) - thought(before)) <= len(before)


def thought(said: list[tuple[Any, list[Delta]]]) -> int:
    count = ThinkingCount()
    for tokens, deltas in said:
        if tokens is not None:
            count.add(tokens, deltas)
    return count.tokens


def ask(state: Any, path: str, body: dict[str, Any]) -> httpx.Response:
    with serving(state, grace_s=1.0) as server:
        return httpx.post(server.url + path, json={"model": MODEL} | body, timeout=20)


def frames(answer: httpx.Response) -> list[Any]:
    return [json.loads(line[6:]) for line in answer.text.split("\n") if line.startswith("data: {")]


CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
SCORED = CHAT | {"logprobs": True, "top_logprobs": 1, "max_tokens": 60}
STREAM = {"stream": True, "stream_options": {"include_usage": True}}


def content(answer: httpx.Response) -> str:
    return "".join(c["delta"].get("content") or "" for f in frames(answer) for c in f["choices"])


def scores(answer: httpx.Response) -> list[str]:
    chosen = [c for f in frames(answer) for c in f["choices"] if c.get("logprobs")]
    return [entry["token"] for c in chosen for entry in c["logprobs"]["content"]]


@pytest.mark.parametrize("kind", [None, Same, Whole, Upper])
def test_usage_and_the_reason_are_those_without_a_plugin(kind: type | None) -> None:
    plugins = [kind] if kind is not None else []
    streamed = ask(state_with(Recording(), *plugins), "/v1/chat/completions", CHAT | STREAM)
    *_, ending, usage = frames(streamed)
    whole = ask(state_with(Recording(), *plugins), "/v1/chat/completions", CHAT).json()
    count = len(ANSWER.encode())
    assert usage["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"] == count
    assert ending["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"] == "stop"
    assert content(streamed) == whole["choices"][0]["message"]["content"]


def test_scores_stay_where_a_text_is_unchanged_and_go_where_it_is_not() -> None:
    kept = ask(state_with(Recording(), Same), "/v1/chat/completions", SCORED | STREAM)
    assert len(scores(kept)) == len(ANSWER.encode()) and content(kept) == ANSWER
    gone = ask(state_with(Recording(), Whole), "/v1/chat/completions", SCORED | STREAM)
    assert scores(gone) == [] and content(gone) == "[HELLO, 世界!]"
    whole = ask(state_with(Recording(), Whole), "/v1/chat/completions", SCORED).json()
    assert whole["choices"][0]["logprobs"]["content"] == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/generate", "/v1/responses"])
def test_what_is_taken_out_of_a_text_is_not_spelt_by_its_scores(path: str, stream: bool) -> None:
    body: dict[str, Any] = {
        "/v1/chat/completions": SCORED,
        "/v1/completions": {"prompt": "a", "logprobs": 1, "max_tokens": 60},
        "/v1/generate": {"prompt": "a", "logprobs": 1, "max_tokens": 60},
        "/v1/responses": {"input": "a", "top_logprobs": 1, "include": ["message.output_text.logprobs"]},
    }[path]
    answer = ask(state_with(Recording("say bad things"), Redacts), path, body | {"stream": stream})
    assert answer.status_code == 200, answer.text
    spelt = "".join(tokens_of(frames(answer) if stream else answer.json()))
    # How much of the rest is left depends on how many tokens came together.
    assert "bad" not in spelt and "*" not in spelt
    assert set(spelt) <= set("say things")


def tokens_of(found: Any) -> list[str]:
    """Every chosen token in a document, in order, each once."""
    if isinstance(found, list):
        return [token for entry in found for token in tokens_of(entry)]
    if not isinstance(found, dict):
        return []
    if "token" in found and "logprob" in found:
        return [found["token"]]
    if isinstance(found.get("tokens"), list):
        return list(found["tokens"])
    if found.get("type", "").startswith("response.") and not found["type"].endswith(".delta"):
        return []
    return [token for key, value in found.items() if key != "prompt_logprobs" for token in tokens_of(value)]


def test_a_stop_string_is_the_models_and_not_the_plugins() -> None:
    class Dots:
        async def on_token(self, text: str) -> str:
            return text.replace("o", "STOP")

    body = CHAT | {"stop": ["wor", "STOP"]}
    answer = ask(state_with(Recording("hello world"), Dots), "/v1/chat/completions", body).json()
    assert answer["choices"][0]["message"]["content"] == "hellSTOP "
    assert answer["choices"][0]["finish_reason"] == "stop"


SAID = "Hm, a bad thought.</think>Look, bad." + calls(call("weather", city="bad Rome"))


@pytest.mark.parametrize("kind", [Redacts, Whole])
@pytest.mark.parametrize("stream", [False, True])
def test_thinking_and_calls_are_left_alone(kind: type, stream: bool) -> None:
    body = CHAT | {"tools": TOOLS, "reasoning_effort": "high", "max_tokens": 4000, "stream": stream}
    engine = Recording(SAID, max_model_len=LONG)
    answer = ask(state_with(engine, kind, codec=ToolCodec()), "/v1/chat/completions", body)
    if not stream:
        message = answer.json()["choices"][0]["message"]
        thought, arguments = message["reasoning_content"], message["tool_calls"][0]["function"]["arguments"]
        text, reason = message["content"], answer.json()["choices"][0]["finish_reason"]
    else:
        deltas = [c["delta"] for f in frames(answer) for c in f["choices"]]
        thought = "".join(delta.get("reasoning_content", "") for delta in deltas)
        text = "".join(delta.get("content") or "" for delta in deltas)
        made = [one for delta in deltas for one in delta.get("tool_calls", ())]
        arguments = "".join(one["function"].get("arguments", "") for one in made)
        reason = frames(answer)[-1]["choices"][0]["finish_reason"]
    assert thought == "Hm, a bad thought." and json.loads(arguments) == {"city": "bad Rome"}
    assert text == ("Look, ***." if kind is Redacts else "[LOOK, BAD.]") and reason == "tool_calls"


def test_text_that_was_held_still_comes_before_the_call_it_was_said_before() -> None:
    body = {"messages": CHAT["messages"], "max_tokens": 4000, "stream": True}
    body["tools"] = [{"name": "weather", "input_schema": TOOLS[0]["function"]["parameters"]}]
    engine = Recording("Look." + calls(call("weather", city="Rome")), max_model_len=LONG)
    answer = ask(state_with(engine, Whole, codec=ToolCodec()), "/v1/messages", body)
    blocks = [f["content_block"]["type"] for f in frames(answer) if f["type"] == "content_block_start"]
    assert blocks == ["text", "tool_use"]
    assert (
        "".join(f["delta"].get("text", "") for f in frames(answer) if f["type"] == "content_block_delta") == "[LOOK.]"
    )


def test_a_call_is_held_until_the_text_before_it_may_be_said() -> None:
    class Refuses:
        def post_process(self) -> None:
            raise PluginRefusal("no")

    body = CHAT | {"tools": TOOLS, "stream": True, "max_tokens": 4000}
    engine = Recording("Look." + calls(call("weather", city="Rome")), max_model_len=LONG)
    answer = ask(state_with(engine, Refuses, codec=ToolCodec()), "/v1/chat/completions", body)
    assert "weather" not in answer.text and "Look" not in answer.text
    assert "event: error" in answer.text and "refused-by-plugin" in answer.text


def test_a_refusal_in_the_middle_of_a_stream_ends_it_and_the_engines_request() -> None:
    class Third:
        async def on_token(self, text: str, context: PluginContext) -> None:
            context.metadata["n"] = context.metadata.get("n", 0) + 1
            if context.metadata["n"] == 3:
                raise PluginRefusal("enough")

    engine = Recording("x" * 400, inter_token_s=0.05, max_model_len=LONG)
    state = state_with(engine, Third)
    with serving(state, grace_s=1.0) as server:
        body = {"model": MODEL, "max_tokens": 400, "stream": True} | CHAT
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=20)
        # It would go on for 20 seconds if it were not told to stop.
        ends = time.monotonic() + 10
        while engine.load().running:
            assert time.monotonic() < ends, "the engine goes on"
    assert "enough" in frames(answer)[-1]["detail"]
    assert len(content_until_error(answer)) >= 2


def content_until_error(answer: httpx.Response) -> str:
    return "".join(c["delta"].get("content") or "" for f in frames(answer)[:-1] for c in f["choices"])


@pytest.mark.parametrize("stream", [False, True])
def test_an_empty_answer_needs_no_plugin(stream: bool) -> None:
    answer = ask(state_with(Recording(""), Whole, Redacts), "/v1/chat/completions", CHAT | {"stream": stream})
    assert answer.status_code == 200
    assert (content(answer) if stream else answer.json()["choices"][0]["message"]["content"]) == ""


def test_a_text_that_a_plugin_takes_away_leaves_no_empty_pieces() -> None:
    class Nothing:
        async def on_token(self) -> str:
            return ""

    answer = ask(state_with(Recording(), Nothing), "/v1/chat/completions", CHAT | {"stream": True})
    texts = [c["delta"]["content"] for f in frames(answer) for c in f["choices"] if "content" in c["delta"]]
    assert texts == [""]  # the opening's
    anthropic = ask(state_with(Recording(), Nothing), "/v1/messages", CHAT | {"stream": True, "max_tokens": 50})
    assert not [f for f in frames(anthropic) if f["type"] == "content_block_delta"]


def test_a_long_prompt_is_looked_through_for_trigger_words() -> None:
    class Marks:
        def pre_process(self, prompt: str) -> str:
            return "short"

    engine = Recording(max_model_len=100_000)
    state = state_with(engine, (Marks, {"trigger_words": ["最新"]}), codec=ByteCodec())
    state = replace_length(state)
    answer = ask(state, "/v1/generate", {"prompt": "a " * 40_000 + "最新", "max_tokens": 5})
    assert answer.status_code == 200 and engine.prompts == ["short"]


def replace_length(state: Any) -> Any:
    state.settings = replace(state.settings, max_text_chars=1000)
    return state
