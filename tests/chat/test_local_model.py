"""The language model over an engine: the built-in model for real, and made-up engines for what it never does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from deepseek.chat.codec import TextCodec
from deepseek.chat.local import LocalModel
from deepseek.core.deltas import Delta, TextDelta
from deepseek.core.engine import Event, Finish, FinishReason, Ready, Request, Tokens, Usage
from deepseek.core.errors import AdmissionError, EngineError, ModelError
from deepseek.core.language import Turn
from deepseek.core.messages import (
    MediaPart,
    Message,
    NamedTool,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    ToolSpec,
)
from deepseek.core.sampling import SamplingParams
from deepseek.engine.build import EngineOptions
from deepseek.models.locate import builtin_dir
from deepseek.models.tokenizer import Tokenizer
from deepseek.tenancy import TenantContext

CALCULATOR = ToolSpec(
    "calculator",
    "Evaluate an arithmetic expression.",
    {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]},
)
PICKY = ToolSpec(
    "pick",
    "Pick a colour.",
    {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}, "times": {"type": "integer", "minimum": 1, "maximum": 3}},
        "required": ["colour", "times"],
        "additionalProperties": False,
    },
)
HOPELESS = ToolSpec("odd", "", {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}})


def user(text: str) -> Message:
    return Message("user", (TextPart(text),))


async def asked(model: LocalModel, *messages: Message, **options: Any) -> tuple[list[Delta], Turn]:
    pieces = [piece async for piece in model.chat(messages, **options)]
    assert isinstance(pieces[-1], Turn) and not any(isinstance(piece, Turn) for piece in pieces[:-1])
    return pieces[:-1], pieces[-1]  # type: ignore[return-value]


class Script:
    """An engine that says certain pieces of text, of certain tokens, and keeps what it was asked."""

    def __init__(self, *said: Tokens | Exception, reason: FinishReason = "stop", error: str | None = None) -> None:
        self.said, self.reason, self.error = said, reason, error
        self.requests: list[Request] = []
        self.closed = 0

    async def generate(self, request: Request) -> AsyncIterator[Event]:
        self.requests.append(request)
        try:
            yield Ready(request.id, 7)
            for piece in self.said:
                if isinstance(piece, Exception):
                    raise piece
                yield piece
            yield Finish(request.id, (self.reason,), Usage(len(request.prompt_ids), len(self.said)), self.error)
        finally:
            self.closed += 1


@pytest.fixture(scope="module")
def codec() -> TextCodec:
    return TextCodec(Tokenizer.from_dir(builtin_dir()))


def over(engine: Any, codec: TextCodec, **options: Any) -> LocalModel:
    return LocalModel(engine.generate, codec, name="m", context_tokens=512, **options)


def said(codec: TextCodec, *pieces: str) -> list[Tokens]:
    """Control tokens by their literals, each piece one event."""
    events = []
    for piece in pieces:
        ids = codec.tokenizer.encode(piece, add_bos=False, parse_control=True)
        text, controls = "", []
        for token in ids:
            shown = codec.tokenizer.decode([token], skip_special=False)
            if token in {control.id for control in codec.tokenizer.control_tokens.values()}:
                controls.append(len(text))
            text += shown
        events.append(Tokens("r", 0, text, tuple(ids), controls=tuple(controls)))
    return events


OPEN = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>"
SEP, END, CLOSE = "<｜tool▁sep｜>", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"


@pytest.fixture(scope="module")
def model() -> Iterator[LocalModel]:
    """The built-in model, for tests that share an event loop each."""
    built = LocalModel.load("builtin", EngineOptions(max_sequences=4))
    yield built
    asyncio.run(built.close())


def test_the_built_in_model_calls_its_calculator_and_reads_the_result(model: LocalModel) -> None:
    async def main() -> None:
        question = user("What is 17 times 23?")
        _, turn = await asked(model, question, tools=[CALCULATOR])
        assert turn.end == "calls" and not turn.cut
        (call,) = turn.message.parts
        assert isinstance(call, ToolCallPart) and call.name == "calculator"
        expression = json.loads(call.arguments)["expression"]
        assert "17" in expression and "23" in expression
        answer = Message("tool", (ToolResultPart(call.id, "391"),))
        deltas, turn = await asked(model, question, turn.message, answer, tools=[CALCULATOR])
        assert turn.end == "stop" and "391" in turn.message.text
        assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)) == turn.message.text

    asyncio.run(main())


def test_a_turn_tells_what_a_replay_needs(model: LocalModel) -> None:
    async def main() -> None:
        sampling = SamplingParams(max_tokens=8, temperature=1.0, logprobs=0)
        _, turn = await asked(model, user("Hello"), sampling=sampling)
        assert turn.seed is not None and turn.logprobs is not None and turn.token_ids is not None
        assert turn.prompt_ids == tuple(model.codec.encode_chat([user("Hello")]))
        assert len(turn.logprobs) == len(turn.token_ids) == turn.usage.completion_tokens
        assert turn.usage.prompt_tokens == len(turn.prompt_ids)
        again = SamplingParams(max_tokens=8, temperature=1.0, seed=turn.seed)
        assert (await asked(model, user("Hello"), sampling=again))[1].token_ids == turn.token_ids

    asyncio.run(main())


def test_a_demanded_call_fits_its_schema_whatever_was_asked(model: LocalModel) -> None:
    async def main() -> None:
        for choice in ("required", NamedTool("pick")):
            for seed in range(4):
                sampling = SamplingParams(max_tokens=200, temperature=1.5, seed=seed)
                _, turn = await asked(model, user("Hello"), tools=[PICKY], choice=choice, sampling=sampling)
                for call in turn.message.parts:
                    assert isinstance(call, ToolCallPart) and call.name == "pick"
                    arguments = json.loads(call.arguments)
                    assert arguments["colour"] in ("red", "blue") and 1 <= arguments["times"] <= 3

    asyncio.run(main())


def test_a_chosen_call_fits_its_schema_and_text_stays_free(model: LocalModel) -> None:
    """At a temperature at which the model says anything, all that opens as a call ends as a right one."""

    async def main() -> None:
        opened = model.codec.tokenizer.token_id("<｜tool▁calls▁begin｜>")
        assert opened is not None
        called = spoke = 0
        for seed in range(12):
            # The bias keeps every other answer from opening a call.
            bias = ((opened, -20.0 * (seed % 2)),)
            sampling = SamplingParams(max_tokens=120, temperature=2.0, seed=seed, logit_bias=bias)
            _, turn = await asked(model, user("Paint it 2 times"), tools=[PICKY], sampling=sampling)
            spoke += any(isinstance(part, TextPart) for part in turn.message.parts)
            for call in turn.message.parts:
                if isinstance(call, ToolCallPart):
                    called += 1
                    assert call.name == "pick" and json.loads(call.arguments)["times"] in (1, 2, 3)
        assert called and spoke

    asyncio.run(main())


def test_an_answer_follows_its_schema(model: LocalModel) -> None:
    async def main() -> None:
        schema = {
            "type": "object",
            "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}},
            "required": ["n"],
            "additionalProperties": False,
        }
        _, turn = await asked(model, user("What is 2 + 2?"), schema=schema)
        assert set(json.loads(turn.message.text)) == {"n"}

    asyncio.run(main())


def test_a_schema_that_no_grammar_holds_leaves_its_tool_any_object(model: LocalModel) -> None:
    async def main() -> None:
        sampling = SamplingParams(max_tokens=60, temperature=0)
        _, turn = await asked(model, user("Hello"), tools=[HOPELESS, PICKY], choice=NamedTool("odd"), sampling=sampling)
        for call in turn.message.parts:
            assert isinstance(call, ToolCallPart) and isinstance(json.loads(call.arguments), dict)

    asyncio.run(main())


def test_leaving_early_frees_the_engine(model: LocalModel) -> None:
    async def main() -> None:
        pieces = model.chat([user("Hello")], sampling=SamplingParams(max_tokens=300, ignore_eos=True))
        async for _ in pieces:
            break
        await pieces.aclose()  # type: ignore[attr-defined]
        assert model._engine is not None
        while model._engine.load().running:
            await asyncio.sleep(0)

    asyncio.run(main())


def test_a_conversation_without_room_for_an_answer_is_refused(model: LocalModel) -> None:
    async def main() -> None:
        with pytest.raises(AdmissionError) as refused:
            await asked(model, user("word " * 600))
        assert refused.value.reason == "too_long"

    asyncio.run(main())


def test_max_tokens_are_cut_to_the_room_there_is(codec: TextCodec) -> None:
    engine = Script(*said(codec, "Hi"))
    asyncio.run(asked(over(engine, codec), user("Hello"), sampling=SamplingParams(max_tokens=9999, min_tokens=600)))
    (request,) = engine.requests
    assert len(request.prompt_ids) + request.sampling.max_tokens == 512
    assert request.sampling.min_tokens == request.sampling.max_tokens


def test_a_call_that_was_cut_off_is_not_in_the_turn(codec: TextCodec) -> None:
    first, second = f'calculator{SEP}{{"expression": "1"}}{END}', f'calculator{SEP}{{"expression": "2'
    engine = Script(*said(codec, OPEN + first, "<｜tool▁call▁begin｜>" + second), reason="length")
    _, turn = asyncio.run(asked(over(engine, codec), user("x"), tools=[CALCULATOR]))
    assert turn.cut and turn.end == "calls"
    assert [part.arguments for part in turn.message.parts if isinstance(part, ToolCallPart)] == ['{"expression": "1"}']
    engine = Script(*said(codec, OPEN + second), reason="length")
    _, turn = asyncio.run(asked(over(engine, codec), user("x"), tools=[CALCULATOR]))
    assert turn.cut and turn.end == "length" and turn.message.parts == ()


def test_markup_that_was_only_spelt_is_text(codec: TextCodec) -> None:
    spelt = OPEN + f'calculator{SEP}{{"expression": "1"}}{END}' + CLOSE
    engine = Script(Tokens("r", 0, spelt, tuple(codec.tokenizer.encode(spelt, add_bos=False))))
    _, turn = asyncio.run(asked(over(engine, codec), user("x"), tools=[CALCULATOR]))
    assert turn.end == "stop" and turn.message.parts == (TextPart(spelt),)


def test_no_tools_are_shown_where_none_may_be_called(codec: TextCodec) -> None:
    engine = Script(*said(codec, "Hi"))
    asyncio.run(asked(over(engine, codec), user("x"), tools=[CALCULATOR], choice="none"))
    (request,) = engine.requests
    assert list(request.prompt_ids) == codec.encode_chat([user("x")]) and request.constraint is None


def test_requests_go_out_in_the_name_of_the_tenant_at_hand(codec: TextCodec) -> None:
    engine = Script(*said(codec, "Hi"))
    model = over(engine, codec, cache_salt="s", priority=3)
    asyncio.run(asked(model, user("x"), deadline=5.0))
    with TenantContext("acme"):
        asyncio.run(asked(model, user("x")))
        asyncio.run(asked(over(engine, codec, tenant="other"), user("x")))
    assert [request.tenant for request in engine.requests] == ["local", "acme", "other"]
    first = engine.requests[0]
    assert (first.cache_salt, first.priority, first.deadline) == ("s", 3, 5.0)


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (AdmissionError("full", reason="queue_full"), True),
        (EngineError("closed"), False),
    ],
)
def test_an_engine_that_cannot_serve_is_a_model_error(codec: TextCodec, error: Exception, retryable: bool) -> None:
    with pytest.raises(ModelError) as raised:
        asyncio.run(asked(over(Script(error), codec), user("x")))
    assert raised.value.retryable is retryable


def test_a_failed_request_is_a_model_error(codec: TextCodec) -> None:
    with pytest.raises(ModelError, match="boom"):
        asyncio.run(asked(over(Script(reason="error", error="boom"), codec), user("x")))


@pytest.mark.parametrize("reason", ["length", "budget", "deadline", "cancelled"])
def test_a_turn_tells_why_it_ended(codec: TextCodec, reason: FinishReason) -> None:
    _, turn = asyncio.run(asked(over(Script(*said(codec, "Hi"), reason=reason), codec), user("x")))
    assert turn.end == reason and not turn.cut


def test_media_are_refused_by_name(codec: TextCodec) -> None:
    picture = Message("user", (MediaPart("image", "image/png", b"x"),))
    with pytest.raises(AdmissionError, match="image"):
        asyncio.run(asked(over(Script(), codec), picture))
