"""Messages in OpenAI's form and the conversation that they are inside: system, user, assistant, tool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from deepseek.api.dialects.chat_tools import FunctionToolCall
from deepseek.api.dialects.fields import CallId, Only, Opaque, StrictModel, Unread, tag_of, tagged
from deepseek.api.dialects.media import (
    AudioContent,
    FileContent,
    Given,
    ImageContent,
    VideoContent,
    field_of,
    given_of,
)
from deepseek.api.problems import FieldError, Problem, shown
from deepseek.core.messages import MediaPart, Message, Part, TextPart, ThinkingPart, ToolResultPart


class TextContent(StrictModel):
    """One part of a message's content."""

    type: Literal["text"]
    text: str


class RefusalContent(StrictModel):
    type: Literal["refusal"]
    refusal: str


UserContent = Annotated[
    Annotated[TextContent, tagged("text")]
    | Annotated[ImageContent, tagged("image_url")]
    | Annotated[AudioContent, tagged("input_audio")]
    | Annotated[VideoContent, tagged("video_url")]
    | Annotated[FileContent, tagged("file")],
    tag_of("type", "a part of type text, image_url, input_audio, video_url or file"),
]
AssistantContent = Annotated[
    Annotated[TextContent, tagged("text")] | Annotated[RefusalContent, tagged("refusal")],
    tag_of("type", "a part of type text or refusal"),
]
Texts = Annotated[list[TextContent], Field(min_length=1)]
Speaker = Annotated[Opaque, Field(description="Taken, and not shown to the model.")]


class SystemMessage(StrictModel):
    """What the model is told beforehand."""

    role: Literal["system", "developer"]
    content: str | Texts
    name: Speaker | None = None


class UserMessage(StrictModel):
    role: Literal["user"]
    content: str | Annotated[list[UserContent], Field(min_length=1)]
    name: Speaker | None = None


class AssistantMessage(StrictModel):
    """An answer, which may be sent back as it was received."""

    role: Literal["assistant"]
    content: str | list[AssistantContent] | None = None
    reasoning_content: Annotated[str | None, Field(description="What it thought.")] = None
    tool_calls: list[FunctionToolCall] | None = None
    name: Speaker | None = None
    refusal: str | None = None
    function_call: Annotated[object, Only()] = None
    audio: Annotated[object, Only()] = None
    annotations: Annotated[object, Only([])] = None
    parsed: Annotated[object, Unread()] = None


class ToolMessage(StrictModel):
    """What a call gave."""

    role: Literal["tool"]
    content: str | Texts
    tool_call_id: CallId
    name: Speaker | None = None


ChatMessage = Annotated[
    Annotated[SystemMessage, tagged("system")]
    | Annotated[SystemMessage, tagged("developer")]
    | Annotated[UserMessage, tagged("user")]
    | Annotated[AssistantMessage, tagged("assistant")]
    | Annotated[ToolMessage, tagged("tool")],
    tag_of("role", "a message with role system, developer, user, assistant or tool"),
]


def media_of(messages: Sequence[ChatMessage]) -> list[Given]:
    """The parts that are no text, in order. Raises Problem as `given_of`."""
    return [
        given_of(content, _place(at, index))
        for at, message in enumerate(messages)
        if isinstance(message, UserMessage) and not isinstance(message.content, str)
        for index, content in enumerate(message.content)
        if not isinstance(content, TextContent)
    ]


def conversation_of(messages: Sequence[ChatMessage], media: Mapping[str, MediaPart]) -> tuple[Message, ...]:
    """media: the checked parts by field. Raises Problem for a tool's message that answers no call before it."""
    found: list[Message] = []
    calls: set[str] = set()
    for at, message in enumerate(messages):
        if isinstance(message, SystemMessage):
            found.append(Message("system", _texts(message.content)))
        elif isinstance(message, UserMessage):
            found.append(Message("user", tuple(_user_parts(message, at, media))))
        elif isinstance(message, AssistantMessage):
            calls.update(call.id for call in message.tool_calls or ())
            found.append(Message("assistant", tuple(_assistant_parts(message))))
        else:
            require_call(message.tool_call_id, calls, f"messages.{at}.tool_call_id")
            text = "".join(part.text for part in _texts(message.content))
            found.append(Message("tool", (ToolResultPart(message.tool_call_id, text),)))
    return tuple(found)


def require_call(call_id: str, calls: set[str], field: str) -> None:
    """Raise Problem invalid-request for the result of a call that was not made."""
    if call_id not in calls:
        expected = "the id of a call that the assistant made before"
        error = FieldError(field, shown(call_id), expected)
        raise Problem("invalid-request", f"{field}: expected {expected}; found {shown(call_id)}", (error,))


def _place(message: int, part: int) -> str:
    return f"messages.{message}.content.{part}"


def _texts(content: str | Sequence[TextContent]) -> tuple[TextPart, ...]:
    return (TextPart(content),) if isinstance(content, str) else tuple(TextPart(part.text) for part in content)


def _user_parts(message: UserMessage, at: int, media: Mapping[str, MediaPart]) -> Iterable[Part]:
    if isinstance(message.content, str):
        yield TextPart(message.content)
        return
    for index, content in enumerate(message.content):
        if isinstance(content, TextContent):
            yield TextPart(content.text)
        else:
            yield media[field_of(content, _place(at, index))]


def _assistant_parts(message: AssistantMessage) -> Iterable[Part]:
    if message.reasoning_content:
        yield ThinkingPart(message.reasoning_content)
    if isinstance(message.content, str):
        yield TextPart(message.content)
    for content in message.content if isinstance(message.content, list) else ():
        yield TextPart(content.text if isinstance(content, TextContent) else content.refusal)
    if message.refusal:
        yield TextPart(message.refusal)
    for call in message.tool_calls or ():
        yield call.part()
