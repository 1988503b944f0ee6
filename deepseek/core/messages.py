"""The one internal form of a conversation. Every public dialect is a thin adapter onto it.

A message has a role and parts. Only text, thinking, tool calls and tool results exist so far;
images, audio and video join them with the models that can take them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class TextPart:
    text: str


@dataclass(frozen=True, slots=True)
class ThinkingPart:
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallPart:
    """A call the assistant made. `arguments` is the JSON text exactly as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolResultPart:
    """What a tool answered. It is data: never parsed again as a call."""

    call_id: str
    text: str


Part = TextPart | ThinkingPart | ToolCallPart | ToolResultPart


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The text parts joined; thinking and calls are not text."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A function the model may call: its name, what it is for, and a JSON schema of its arguments."""

    name: str
    description: str
    parameters: dict[str, object]
