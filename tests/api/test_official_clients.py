"""What the official clients do beside asking: many at once, retries, time-outs, leaving early, and answers cut short."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest
from api_support import QUEUE_FULL, HeldEngine, quick, state_of
from pydantic import BaseModel
from tools_support import saying

from deepseek.api import serving
from deepseek.core.engine import Event, FinishReason, Request
from deepseek.engine.fake import FakeEngine, say

MODEL = "deepseek-tiny"
ASK: list[Any] = [{"role": "user", "content": "Hi"}]


class BusyOnce(FakeEngine):
    """Refuses the first request, as a full queue does."""

    def __init__(self) -> None:
        super().__init__(reply=say("ok"), ttft_s=0.0, inter_token_s=0.0)
        self.asked = 0

    def generate(self, request: Request) -> AsyncIterator[Event]:
        if not request.id.startswith("probe-"):
            self.asked += 1
            if self.asked == 1:
                raise QUEUE_FULL
        return super().generate(request)


def openai_of(url: str, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", **{"max_retries": 0, **options})


def anthropic_of(url: str, **options: Any) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key="none", **{"max_retries": 0, **options})


def test_openais_client_comes_again_after_429() -> None:
    engine = BusyOnce()
    with serving(state_of(engine)) as server, openai_of(server.url, max_retries=1) as client:
        answer = client.chat.completions.create(model=MODEL, messages=ASK)
    assert answer.choices[0].message.content == "ok" and engine.asked == 2


def test_anthropics_client_comes_again_after_429() -> None:
    engine = BusyOnce()
    with serving(state_of(engine)) as server, anthropic_of(server.url, max_retries=1) as client:
        message = client.messages.create(model=MODEL, max_tokens=10, messages=ASK)
    assert message.content[0].type == "text" and message.content[0].text == "ok" and engine.asked == 2


def test_many_streams_of_the_async_client_are_answered_at_once() -> None:
    async def ask(client: openai.AsyncOpenAI) -> str:
        chunks = await client.chat.completions.create(model=MODEL, messages=ASK, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

    async def ask_all(url: str) -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(ask(client) for _ in range(12)))

    with serving(state_of(quick())) as server:
        assert asyncio.run(ask_all(server.url)) == ["Hello, 世界!"] * 12


def test_an_answer_is_parsed_into_a_model_of_the_caller() -> None:
    class Weather(BaseModel):
        city: str
        days: int

    with serving(saying('{"city": "北京", "days": 3}')) as server, openai_of(server.url) as client:
        answer = client.chat.completions.parse(model=MODEL, messages=ASK, response_format=Weather)
    assert answer.choices[0].message.parsed == Weather(city="北京", days=3)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_waits_no_longer_ends_the_request(stream: bool) -> None:
    engine = HeldEngine()
    with serving(state_of(engine)) as server, openai_of(server.url, timeout=0.5) as client:
        with pytest.raises(openai.APITimeoutError):
            client.chat.completions.create(model=MODEL, messages=ASK, stream=stream)
        assert engine.ended.wait(5)


def test_leaving_an_endless_stream_stops_the_engine_within_its_step() -> None:
    engine = HeldEngine(endless=True)
    with serving(state_of(engine)) as server, openai_of(server.url) as client:
        stream = client.chat.completions.create(model=MODEL, messages=ASK, stream=True)
        next(stream)
        stream.close()
        assert engine.ended.wait(5)
        said = engine.yielded
        client.models.list()
        assert engine.yielded == said


@pytest.mark.parametrize("reason", ["budget", "deadline"])
@pytest.mark.parametrize("stream", [False, True])
def test_what_cut_an_answer_short_is_named_beside_each_dialects_own_word(reason: FinishReason, stream: bool) -> None:
    engine = HeldEngine(["Hello"])

    def let_go() -> None:
        assert engine.started.wait(5)
        engine.release(reason)

    with serving(state_of(engine)) as server, openai_of(server.url) as one, anthropic_of(server.url) as other:
        letting = threading.Thread(target=let_go)
        letting.start()
        answer: Any = one.chat.completions.create(model=MODEL, messages=ASK, stream=stream)
        choice = [chunk.choices[0] for chunk in answer][-1] if stream else answer.choices[0]
        letting.join()
        assert (choice.finish_reason, choice.limited_by) == ("length", reason)
        engine.started.clear()
        letting = threading.Thread(target=let_go)
        letting.start()
        options: dict[str, Any] = {"model": MODEL, "max_tokens": 100, "messages": ASK}
        if stream:
            events = list(other.messages.create(**options, stream=True))
            (ending,) = [event.delta for event in events if event.type == "message_delta"]
        else:
            ending = other.messages.create(**options)
        letting.join()
        assert (ending.stop_reason, ending.limited_by) == ("max_tokens", reason)


def test_models_are_listed_in_the_form_of_the_client_that_asks() -> None:
    with serving(state_of(quick())) as server, openai_of(server.url) as one, anthropic_of(server.url) as other:
        assert [model.id for model in one.models.list()] == ["deepseek-7b", MODEL]
        page = other.models.list()
        assert [(model.id, model.type, model.display_name) for model in page] == [
            ("deepseek-7b", "model", "deepseek-7b"),
            (MODEL, "model", MODEL),
        ]
        assert one.models.retrieve(MODEL).id == other.models.retrieve(MODEL).id == MODEL
        with pytest.raises(openai.NotFoundError, match="served: deepseek-7b"):
            one.models.retrieve("gpt-9")
        assert page.has_more is False and page.data[0].created_at.year >= 2020
