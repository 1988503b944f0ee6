"""The one internal form of a conversation. Every public dialect is a thin adapter onto it.

A message has a role and parts. Images, audio and video are parts like any other; which of them a model can take is the
model's to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]
MediaKind = Literal["image", "audio", "video"]


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


@dataclass(frozen=True, slots=True)
class MediaPart:
    """An image, a sound or a film: checked bytes of a known type, or an address that somebody else may fetch."""

    kind: MediaKind
    media_type: str
    data: bytes = b""
    url: str | None = None


Part = TextPart | ThinkingPart | ToolCallPart | ToolResultPart | MediaPart


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


@dataclass(frozen=True, slots=True)
class NamedTool:
    """A choice of tools that leaves one: the answer must call this function."""

    name: str


ToolChoice = Literal["auto", "none", "required"] | NamedTool
"""Whether an answer may call ("auto"), must not, must call some tool ("required"), or must call a certain one."""
