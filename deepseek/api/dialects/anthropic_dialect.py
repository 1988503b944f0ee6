"""The bytes of a message in Anthropic's form, whole or as its events: a message of blocks, each begun, filled and ended.

message_start, ping, (content_block_start, content_block_delta*, content_block_stop)*, message_delta, message_stop
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel

from deepseek.api.answer import ServerSentEvents
from deepseek.api.dialects.anthropic_request import MessagesRequest
from deepseek.api.dialects.chat_dialect import LimitedBy, limited_by, refuse_cancelled
from deepseek.api.spoken import Spoken, ThinkingCount
from deepseek.api.wire import dump_json, sse_frame
from deepseek.chat.parsing import StreamParser
from deepseek.core.deltas import Delta, TextDelta, ThinkingDelta, ToolCallArguments, ToolCallEnd, ToolCallStart
from deepseek.core.engine import Finish, PromptScores, Tokens, Usage
from deepseek.core.messages import TextPart, ThinkingPart, ToolCallPart

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"]
EVENTS = (
    *("message_start", "ping", "content_block_start", "content_block_delta", "content_block_stop"),
    *("message_delta", "message_stop", "error"),
)
_PING = sse_frame(b'{"type":"ping"}', "ping")
_MESSAGE_STOP = sse_frame(b'{"type":"message_stop"}', "message_stop")


class TextAnswer(BaseModel):
    type: Literal["text"]
    text: str
    citations: None = None


class ThinkingAnswer(BaseModel):
    """There is nobody to check a signature, so it is empty."""

    type: Literal["thinking"]
    thinking: str
    signature: str


class ToolUseAnswer(BaseModel):
    """Arguments that are no JSON object stand under INVALID_JSON."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class OutputDetails(BaseModel):
    thinking_tokens: int


class MessageUsage(BaseModel):
    """Counted on token ids. The prompt is input_tokens and cache_read_input_tokens together."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: OutputDetails


class MessageResponse(BaseModel):
    """What /v1/messages answers."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[TextAnswer | ThinkingAnswer | ToolUseAnswer]
    stop_reason: StopReason
    stop_sequence: str | None
    usage: MessageUsage
    limited_by: LimitedBy = None


class TokenCount(BaseModel):
    """What /v1/messages/count_tokens answers."""

    input_tokens: int


class MessagesDialect(ServerSentEvents):
    """prompt_tokens: shown when the message starts, before anybody knows which of them were cached. room: tokens that the
    context has for the answer."""

    envelope = "anthropic"

    def __init__(
        self,
        request_id: str,
        body: MessagesRequest,
        parsers: Sequence[StreamParser],
        *,
        prompt_tokens: int,
        room: int,
    ) -> None:
        self.parsers = parsers
        self._limited: StopReason = "max_tokens" if body.max_tokens <= room else "model_context_window_exceeded"
        self._id, self._model, self._prompt_tokens = request_id, body.model, prompt_tokens
        self._shows_thinking = body.shows_thinking
        self._thinking = ThinkingCount()
        self._blocks = 0  # begun so far
        self._open: type | int | None = None  # the block being filled: a kind of delta, or a call's index
        self._called = False
        self._before_text, self._after_text = b"", b""

    def opening(self) -> bytes:
        usage = message_usage(Usage(self._prompt_tokens, 0), 0)
        message = self._message([], usage) | {"stop_reason": None, "stop_sequence": None}
        return _frame({"type": "message_start", "message": message}) + _PING

    def delta(self, tokens: Tokens, deltas: Sequence[Delta]) -> bytes:
        self._thinking.add(tokens, deltas)
        if len(deltas) == 1 and self._open is TextDelta and isinstance(deltas[0], TextDelta) and deltas[0].text:
            return self._before_text + dump_json(deltas[0].text) + self._after_text
        return b"".join([self._written(delta) for delta in deltas])

    def closing(self, finish: Finish, deltas: Mapping[int, Sequence[Delta]]) -> bytes:
        frames = [self._written(delta) for delta in deltas.get(0, ())]
        frames.append(self._close())
        usage = message_usage(finish.usage, self._thinking.tokens)
        frames.append(_frame({"type": "message_delta", "delta": self._ending(finish, self._called), "usage": usage}))
        return b"".join(frames) + _MESSAGE_STOP

    def whole(self, choices: Sequence[Spoken], scores: Sequence[PromptScores], finish: Finish) -> bytes:
        spoken = choices[0]
        content: list[dict[str, Any]] = []
        called = False
        for part in spoken.parts():
            if isinstance(part, TextPart):
                content.append({"type": "text", "text": part.text, "citations": None})
            elif isinstance(part, ThinkingPart):
                thought = part.text if self._shows_thinking else ""
                content.append({"type": "thinking", "thinking": thought, "signature": ""})
            elif isinstance(part, ToolCallPart):
                called = True
                content.append(
                    {"type": "tool_use", "id": part.id, "name": part.name, "input": input_of(part.arguments)}
                )
        usage = message_usage(finish.usage, spoken.thinking_tokens)
        return dump_json(self._message(content, usage) | self._ending(finish, called))

    def _message(self, content: list[dict[str, Any]], usage: dict[str, Any]) -> dict[str, Any]:
        head = {"id": self._id, "type": "message", "role": "assistant", "model": self._model}
        return {**head, "content": content, "usage": usage}

    def _written(self, delta: Delta) -> bytes:
        if isinstance(delta, TextDelta):
            if not delta.text:
                return b""
            begun = self._begin(TextDelta, {"type": "text", "text": "", "citations": None})
            return begun + self._filled({"type": "text_delta", "text": delta.text})
        if isinstance(delta, ThinkingDelta):
            begun = self._begin(ThinkingDelta, {"type": "thinking", "thinking": "", "signature": ""})
            if not self._shows_thinking or not delta.text:
                return begun
            return begun + self._filled({"type": "thinking_delta", "thinking": delta.text})
        if isinstance(delta, ToolCallStart):
            return self._begin(delta.index, {"type": "tool_use", "id": delta.id, "name": delta.name, "input": {}})
        if isinstance(delta, ToolCallArguments):
            return self._filled({"type": "input_json_delta", "partial_json": delta.text})
        assert isinstance(delta, ToolCallEnd)
        self._called = True
        return self._close()

    def _ending(self, finish: Finish, called: bool) -> dict[str, Any]:
        reason = finish.reasons[0]
        refuse_cancelled(reason)
        matched = finish.stops[0] if finish.stops else None
        stop: StopReason
        if reason != "stop":
            stop = self._limited if reason == "length" else "max_tokens"
        elif matched is not None:
            stop = "stop_sequence"
        else:
            stop = "tool_use" if called else "end_turn"
        ending: dict[str, Any] = {"stop_reason": stop, "stop_sequence": matched if stop == "stop_sequence" else None}
        return ending | limited_by(reason, finish.budget)

    def _begin(self, kind: type | int, block: dict[str, Any]) -> bytes:
        """End the block before and begin this one, unless it is being filled already."""
        if self._open == kind:
            return b""
        closed = self._close()
        self._open = kind
        index, self._blocks = self._blocks, self._blocks + 1
        if kind is TextDelta:
            # Every delta of a block but its text is the same, so it is written once.
            frame = self._filled({"type": "text_delta", "text": ""})
            self._before_text, _, self._after_text = frame.rpartition(b'""')
        return closed + _frame({"type": "content_block_start", "index": index, "content_block": block})

    def _filled(self, delta: dict[str, Any]) -> bytes:
        return _frame({"type": "content_block_delta", "index": self._blocks - 1, "delta": delta})

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        return _frame({"type": "content_block_stop", "index": self._blocks - 1})


def message_usage(usage: Usage, thinking: int) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": min(thinking, usage.completion_tokens)},
    }


def input_of(arguments: str) -> dict[str, Any]:
    """A call's arguments as the object they are; as Anthropic advises for what is none, wrapped so that it is seen."""
    try:
        found = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {"INVALID_JSON": arguments}


def _frame(event: dict[str, Any]) -> bytes:
    return sse_frame(dump_json(event), event["type"])
