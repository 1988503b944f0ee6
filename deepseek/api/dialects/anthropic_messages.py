"""Messages in Anthropic's form and the conversation that they are inside: content blocks of every kind that is taken."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from deepseek.api.dialects.chat_messages import require_call
from deepseek.api.dialects.fields import CallId, FunctionName, Only, StrictModel, tag_of, tagged
from deepseek.api.dialects.media import Given
from deepseek.api.problems import FieldError, Problem
from deepseek.core.media.sniff import canonical
from deepseek.core.messages import MediaPart, Message, Part, TextPart, ThinkingPart, ToolCallPart, ToolResultPart


class CacheControl(StrictModel):
    """Taken, and not needed: prefixes are always cached, for their own tenant."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class Block(StrictModel):
    cache_control: CacheControl | None = None


class TextBlock(Block):
    type: Literal["text"]
    text: str
    citations: Annotated[object, Only([])] = None


class Base64Source(StrictModel):
    type: Literal["base64"]
    media_type: Annotated[str, Field(max_length=256)]
    data: Annotated[str, Field(min_length=1)]


class UrlSource(StrictModel):
    type: Literal["url"]
    url: Annotated[str, Field(min_length=1)]


class TextSource(StrictModel):
    type: Literal["text"]
    media_type: Literal["text/plain"]
    data: str


class ContentSource(StrictModel):
    type: Literal["content"]
    content: str | list[TextBlock]


class ImageBlock(Block):
    type: Literal["image"]
    source: Annotated[
        Annotated[Base64Source, tagged("base64")] | Annotated[UrlSource, tagged("url")],
        tag_of("type", "a source of type base64 or url"),
    ]


class DocumentBlock(Block):
    """A text with a name. Other documents, PDF among them, are not read: send their text."""

    type: Literal["document"]
    source: Annotated[
        Annotated[TextSource, tagged("text")] | Annotated[ContentSource, tagged("content")],
        tag_of("type", "a source of type text or content; other documents are not read"),
    ]
    title: str | None = None
    context: str | None = None
    citations: Annotated[object, Only({"enabled": False})] = None


class ToolUseBlock(Block):
    type: Literal["tool_use"]
    id: CallId
    name: FunctionName
    input: dict[str, Any]
    caller: Annotated[object, Only({"type": "direct"})] = None


class ToolResultBlock(Block):
    type: Literal["tool_result"]
    tool_use_id: CallId
    content: str | list[TextBlock] | None = None
    is_error: bool | None = None


class ThinkingBlock(StrictModel):
    """What it thought; sent back as it was received."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


UserBlock = Annotated[
    Annotated[TextBlock, tagged("text")]
    | Annotated[ImageBlock, tagged("image")]
    | Annotated[DocumentBlock, tagged("document")]
    | Annotated[ToolResultBlock, tagged("tool_result")],
    tag_of("type", "a block of type text, image, document or tool_result"),
]
AssistantBlock = Annotated[
    Annotated[TextBlock, tagged("text")]
    | Annotated[ThinkingBlock, tagged("thinking")]
    | Annotated[ToolUseBlock, tagged("tool_use")],
    tag_of("type", "a block of type text, thinking or tool_use"),
]


class UserTurn(StrictModel):
    role: Literal["user"]
    content: str | Annotated[list[UserBlock], Field(min_length=1)]


class AssistantTurn(StrictModel):
    role: Literal["assistant"]
    content: str | list[AssistantBlock]


class SystemTurn(StrictModel):
    """An instruction in the middle of a conversation."""

    role: Literal["system"]
    content: str | Annotated[list[TextBlock], Field(min_length=1)]


InputMessage = Annotated[
    Annotated[UserTurn, tagged("user")]
    | Annotated[AssistantTurn, tagged("assistant")]
    | Annotated[SystemTurn, tagged("system")],
    tag_of("role", "a message with role user, assistant or system"),
]


def media_of(messages: Sequence[InputMessage]) -> list[Given]:
    """The images, in order."""
    found = []
    for at, message in enumerate(messages):
        if not isinstance(message, UserTurn) or isinstance(message.content, str):
            continue
        for index, block in enumerate(message.content):
            if isinstance(block, ImageBlock):
                field, source = _data_field(at, index, block), block.source
                if isinstance(source, UrlSource):
                    found.append(Given(field, "image", address=source.url))
                else:
                    found.append(Given(field, "image", canonical(source.media_type), source.data))
    return found


def conversation_of(
    system: str | Sequence[TextBlock] | None, messages: Sequence[InputMessage], media: Mapping[str, MediaPart]
) -> tuple[Message, ...]:
    """media: the checked parts by field.

    Raises Problem for the result of a call that was not made, and for a last message that is the assistant's.
    """
    found: list[Message] = []
    if system:
        found.append(Message("system", tuple(_texts(system))))
    calls: set[str] = set()
    for at, message in enumerate(messages):
        if isinstance(message, SystemTurn):
            found.append(Message("system", tuple(_texts(message.content))))
        elif isinstance(message, AssistantTurn):
            parts = tuple(_assistant_parts(message))
            calls.update(part.id for part in parts if isinstance(part, ToolCallPart))
            found.append(Message("assistant", parts))
        else:
            found += _user_messages(message, at, media, calls)
    if isinstance(messages[-1], AssistantTurn):
        expected = "the user's, or a result; an answer cannot be begun for the model"
        field = f"messages.{len(messages) - 1}"
        raise Problem(
            "invalid-request",
            f"{field}: expected the last message to be {expected}",
            (FieldError(field, "assistant", expected),),
        )
    return tuple(found)


def _user_messages(message: UserTurn, at: int, media: Mapping[str, MediaPart], calls: set[str]) -> Iterator[Message]:
    """The results of calls first, each a message of its own, then what the user said."""
    if isinstance(message.content, str):
        yield Message("user", (TextPart(message.content),))
        return
    said: list[Part] = []
    for index, block in enumerate(message.content):
        if isinstance(block, ToolResultBlock):
            require_call(block.tool_use_id, calls, f"messages.{at}.content.{index}.tool_use_id")
            text = "".join(part.text for part in _texts(block.content or ""))
            text = f"Error: {text}" if block.is_error else text
            yield Message("tool", (ToolResultPart(block.tool_use_id, text),))
        elif isinstance(block, TextBlock):
            said.append(TextPart(block.text))
        elif isinstance(block, ImageBlock):
            said.append(media[_data_field(at, index, block)])
        else:
            said.append(TextPart(_document(block)))
    if said:
        yield Message("user", tuple(said))


def _document(block: DocumentBlock) -> str:
    source = block.source
    content = source.data if isinstance(source, TextSource) else "".join(part.text for part in _texts(source.content))
    head = [text for text in (block.title, block.context) if text]
    return "\n".join([*head, content]) + "\n"


def _texts(content: str | Sequence[TextBlock]) -> list[TextPart]:
    return [TextPart(content)] if isinstance(content, str) else [TextPart(block.text) for block in content]


def _assistant_parts(message: AssistantTurn) -> Iterator[Part]:
    if isinstance(message.content, str):
        yield TextPart(message.content)
        return
    for block in message.content:
        if isinstance(block, TextBlock):
            yield TextPart(block.text)
        elif isinstance(block, ThinkingBlock):
            yield ThinkingPart(block.thinking)
        else:
            yield ToolCallPart(block.id, block.name, json.dumps(block.input, ensure_ascii=False))


def _data_field(at: int, index: int, block: ImageBlock) -> str:
    return f"messages.{at}.content.{index}.source.{'url' if isinstance(block.source, UrlSource) else 'data'}"
