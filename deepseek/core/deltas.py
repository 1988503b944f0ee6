"""What a model says, in pieces as it says it: text, thinking, tool calls. What stream parsers emit and dialects write."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TextDelta:
    text: str


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """A call begins. `index` counts the calls of one answer from 0; its arguments follow in pieces."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """More of a call's arguments: JSON text exactly as the model wrote it."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallEnd:
    """A call is complete. A call without an end was cut off, and must not be executed."""

    index: int


Delta = TextDelta | ThinkingDelta | ToolCallStart | ToolCallArguments | ToolCallEnd
