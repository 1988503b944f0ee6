"""The bytes of a chat completion: OpenAI's chunks and whole answers, with DeepSeek's `reasoning_content`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from deepseek.api.answer import ServerSentEvents
from deepseek.api.dialects.chat_request import ChatRequest
from deepseek.api.dialects.logprobs import ChatLogprobs, openai_entries, vllm_entries
from deepseek.api.problems import Problem, retry_after
from deepseek.api.spoken import Spoken, ThinkingCount
from deepseek.api.state import TextCodec
from deepseek.api.wire import DONE_FRAME, dump_json, sse_frame
from deepseek.chat.parsing import StreamParser
from deepseek.core.deltas import Delta, TextDelta, ThinkingDelta, ToolCallArguments, ToolCallEnd, ToolCallStart
from deepseek.core.engine import Finish, FinishReason, PromptScores, TokenLogprob, Tokens, Usage
from deepseek.engine.reading import join_scores

# OpenAI's words for why an answer ended; a budget and a deadline both cut it short.
FINISH_REASONS = {"stop": "stop", "length": "length", "budget": "length", "deadline": "length"}
CUT_SHORT = frozenset(("budget", "deadline"))
"""Reasons that OpenAI and Anthropic have no word for; an extension field, `limited_by`, names them."""
LimitedBy = Annotated[
    str | None,
    Field(
        description='What cut the answer off, beside its own limit of tokens: "deadline", "budget", or which one, as in '
        '"budget:tenant/month".',
        examples=["budget:key/day"],
    ),
]


def limited_by(reason: FinishReason, budget: str | None) -> dict[str, str]:
    """The extension field, where it has something to say. budget: which one, of Finish."""
    if reason not in CUT_SHORT:
        return {}
    return {"limited_by": f"budget:{budget}" if reason == "budget" and budget is not None else reason}


class FunctionCallModel(BaseModel):
    name: str
    arguments: str


class ToolCallModel(BaseModel):
    id: str
    type: Literal["function"]
    function: FunctionCallModel


class AnswerMessage(BaseModel):
    """content is null where the answer is calls alone."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallModel] | None = None


class ChatChoice(BaseModel):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]
    limited_by: LimitedBy = None


class PromptDetails(BaseModel):
    cached_tokens: int


class CompletionDetails(BaseModel):
    reasoning_tokens: int


class ChatUsage(BaseModel):
    """Counted on token ids."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class PromptToken(BaseModel):
    """A token at one place of the prompt; `rank` counts from 1 among the alternatives."""

    logprob: float
    rank: int | None
    decoded_token: str


class ChatResponse(BaseModel):
    """What /v1/chat/completions answers."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage
    prompt_logprobs: Annotated[
        list[dict[str, PromptToken] | None] | None,
        Field(description="For each token of the prompt, null for the first: token id -> its score."),
    ] = None


class ChatDialect(ServerSentEvents):
    """parsers: one for each choice."""

    envelope = "openai"

    def __init__(self, request_id: str, body: ChatRequest, text: TextCodec, parsers: Sequence[StreamParser]) -> None:
        self.parsers = parsers
        self._text = text
        self._n = body.n or 1
        self._logprobs = bool(body.logprobs)
        self._usage = bool(body.stream_options and body.stream_options.include_usage)
        self._head = {"id": request_id, "created": int(time.time()), "model": body.model}
        self._thinking = ThinkingCount()
        self._called: set[int] = set()  # choices with a complete call
        # Every chunk of a choice but its text is the same, so it is written once.
        self._around = [self._written(index) for index in range(self._n)] if body.stream else []

    def opening(self) -> bytes:
        return b"".join(self._chunk(index, {"role": "assistant", "content": ""}) for index in range(self._n))

    def delta(self, tokens: Tokens, deltas: Sequence[Delta]) -> bytes:
        self._thinking.add(tokens, deltas)
        scored = self._logprobs and tokens.logprobs
        if len(deltas) == 1 and not scored and isinstance(deltas[0], TextDelta) and deltas[0].text:
            before, after = self._around[tokens.choice]
            return b"data: " + before + dump_json(deltas[0].text) + after + b"\n\n"
        written = [self._delta(tokens.choice, delta) for delta in deltas]
        chunks = [found for found in written if found is not None]
        if scored:
            logprobs = self._logprobs_of(tokens.logprobs or ())
            first = self._chunk(tokens.choice, chunks[0] if chunks else {"content": ""}, logprobs=logprobs)
            return first + b"".join([self._chunk(tokens.choice, chunk) for chunk in chunks[1:]])
        return b"".join([self._chunk(tokens.choice, chunk) for chunk in chunks])

    def closing(self, finish: Finish, deltas: Mapping[int, Sequence[Delta]]) -> bytes:
        frames = []
        for index, reason in enumerate(finish.reasons):
            rest = [self._delta(index, delta) for delta in deltas.get(index, ())]
            frames += [self._chunk(index, delta) for delta in rest if delta is not None]
            frames.append(self._chunk(index, {}, **_ending(reason, index in self._called, finish.budget)))
        if self._usage:
            frames.append(self._frame([], usage=chat_usage(finish.usage, self._thinking.tokens)))
        return b"".join(frames) + DONE_FRAME

    def whole(self, choices: Sequence[Spoken], scores: Sequence[PromptScores], finish: Finish) -> bytes:
        written = []
        for spoken in choices:
            calls = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in spoken.calls
            ]
            thought = spoken.thinking
            message: dict[str, Any] = {"role": "assistant", "content": spoken.text or (None if calls else "")}
            message["refusal"] = None
            if thought:
                message["reasoning_content"] = thought
            if calls:
                message["tool_calls"] = calls
            logprobs = self._logprobs_of(spoken.logprobs()) if self._logprobs else None
            ending = _ending(spoken.reason, bool(calls), finish.budget)
            written.append({"index": spoken.index, "message": message, "logprobs": logprobs, **ending})
        thinking = sum(spoken.thinking_tokens for spoken in choices)
        body = {**self._head, "object": "chat.completion", "choices": written}
        body["usage"] = chat_usage(finish.usage, thinking)
        if scores:
            body["prompt_logprobs"] = vllm_entries(join_scores(list(scores)).logprobs, self._text)
        return dump_json(body)

    def _delta(self, choice: int, delta: Delta) -> dict[str, Any] | None:
        if isinstance(delta, TextDelta):
            return {"content": delta.text} if delta.text else None
        if isinstance(delta, ThinkingDelta):
            return {"reasoning_content": delta.text} if delta.text else None
        if isinstance(delta, ToolCallStart):
            function = {"name": delta.name, "arguments": ""}
            return {"tool_calls": [{"index": delta.index, "id": delta.id, "type": "function", "function": function}]}
        if isinstance(delta, ToolCallArguments):
            return {"tool_calls": [{"index": delta.index, "function": {"arguments": delta.text}}]}
        assert isinstance(delta, ToolCallEnd)
        self._called.add(choice)
        return None

    def _chunk(self, index: int, delta: dict[str, Any], **members: Any) -> bytes:
        return self._frame([{"index": index, "delta": delta, "finish_reason": None, **members}])

    def _frame(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        chunk: dict[str, Any] = {**self._head, "object": "chat.completion.chunk", "choices": choices}
        if self._usage:
            chunk["usage"] = usage
        return sse_frame(dump_json(chunk))

    def _written(self, index: int) -> tuple[bytes, bytes]:
        frame = self._chunk(index, {"content": ""}).removeprefix(b"data: ").rstrip(b"\n")
        before, _, after = frame.rpartition(b'""')
        return before, after

    def _logprobs_of(self, entries: Iterable[TokenLogprob]) -> dict[str, Any]:
        return {"content": openai_entries(entries, self._text), "refusal": None}


def chat_usage(usage: Usage, thinking: int) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": min(thinking, usage.completion_tokens)},
    }


def refuse_cancelled(reason: FinishReason) -> None:
    """Raise Problem for an answer that was cut off, which neither OpenAI nor Anthropic has a word for."""
    if reason == "cancelled":
        raise Problem("draining", "The answer was cut off: the server is shutting down.", headers=retry_after(5.0))


def _ending(reason: FinishReason, called: bool, budget: str | None) -> dict[str, Any]:
    refuse_cancelled(reason)
    ending = {"finish_reason": "tool_calls" if called and reason == "stop" else FINISH_REASONS[reason]}
    return ending | limited_by(reason, budget)
