"""What streams are made of, as models: each is what one server-sent event holds, and one message of a Protobuf stream.

And the way back from our own server-sent events to those values.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from deepseek.api.dialects.chat_dialect import ChatUsage, LimitedBy
from deepseek.api.dialects.generate import GenerateChoice, Reason, UsageModel
from deepseek.api.dialects.logprobs import ChatLogprobs, LogprobModel
from deepseek.api.problems import ProblemModel

Failure = Annotated[
    ProblemModel | None,
    Field(description="Why the answer ends here. In JSON it stands alone, in an event named error."),
]


class GenerateFrame(BaseModel):
    """More of an answer. The last one has finish_reason and usage, or choices with a finish_reason each where n is above 1."""

    id: str
    text: str
    index: Annotated[int | None, Field(description="Whose text it is, where n is above 1.")] = None
    logprobs: list[LogprobModel] | None = None
    prompt_logprobs: list[LogprobModel | None] | None = None
    prompt_start: Annotated[int | None, Field(description="The place of the first of prompt_logprobs.")] = None
    model: str | None = None
    finish_reason: Reason | None = None
    usage: UsageModel | None = None
    choices: list[GenerateChoice] | None = None
    limited_by: str | None = None
    problem: Failure = None


class FunctionPiece(BaseModel):
    name: str | None = None
    arguments: str


class ToolCallPiece(BaseModel):
    """A call begins with id and name; its arguments follow in pieces."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionPiece


class ChatDelta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallPiece] | None = None


class ChunkChoice(BaseModel):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length", "tool_calls"] | None = None
    limited_by: LimitedBy = None


class ChatChunk(BaseModel):
    """More of a chat completion."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: ChatUsage | None = None
    problem: Failure = None


class EventReader:
    """Server-sent events, as our dialects write them, to the values of frames; cut anywhere."""

    def __init__(self) -> None:
        self._unread = b""

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        *events, self._unread = (self._unread + data).split(b"\n\n")
        return [values for event in events if (values := _values(event)) is not None]


def _values(event: bytes) -> dict[str, Any] | None:
    name, data = b"", b""
    for line in event.split(b"\n"):
        key, _, value = line.partition(b": ")
        if key == b"data":
            data = value
        elif key == b"event":
            name = value
    if not data or data == b"[DONE]":
        return None
    found: dict[str, Any] = json.loads(data)
    return {"problem": found} if name == b"error" else found
