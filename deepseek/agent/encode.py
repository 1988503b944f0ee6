"""Messages and tool results as JSON values and back: for what is recorded, and for a run that is put away."""

from __future__ import annotations

import base64
from dataclasses import asdict
from typing import Any

from deepseek.agent.errors import AgentError
from deepseek.agent.execution.approval import ApprovalRequest
from deepseek.agent.execution.results import ToolResult
from deepseek.core.messages import (
    MediaPart,
    Message,
    Part,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
)

Json = dict[str, Any]


def message_json(message: Message) -> Json:
    return {"role": message.role, "parts": [_part_json(part) for part in message.parts]}


def message_of(value: Json) -> Message:
    """Raises AgentError for what `message_json` did not write."""
    try:
        role = value["role"]
        if role not in ("system", "user", "assistant", "tool"):
            raise ValueError(f"role {role!r}")
        return Message(role, tuple(_part_of(part) for part in value["parts"]))
    except (KeyError, TypeError, ValueError) as error:
        raise AgentError("not a message", found=f"{type(error).__name__}: {error}"[:200]) from None


def _part_json(part: Part) -> Json:
    match part:
        case TextPart(text):
            return {"text": text}
        case ThinkingPart(text):
            return {"thinking": text}
        case ToolCallPart(call_id, name, arguments):
            return {"call": call_id, "name": name, "arguments": arguments}
        case ToolResultPart(call_id, text):
            return {"result": call_id, "text": text}
        case MediaPart():
            data = base64.b64encode(part.data).decode()
            return {"media": part.kind, "type": part.media_type, "data": data, "url": part.url}


def _part_of(value: Json) -> Part:
    if "call" in value:
        return ToolCallPart(_text(value["call"]), _text(value["name"]), _text(value["arguments"]))
    if "result" in value:
        return ToolResultPart(_text(value["result"]), _text(value["text"]))
    if "thinking" in value:
        return ThinkingPart(_text(value["thinking"]))
    if "media" in value:
        return MediaPart(value["media"], _text(value["type"]), base64.b64decode(value["data"]), value.get("url"))
    return TextPart(_text(value["text"]))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} for a text")
    return value


def result_json(result: ToolResult) -> Json:
    return asdict(result)


def result_of(value: Json) -> ToolResult:
    """Raises AgentError for what `result_json` did not write."""
    try:
        approval = value.get("approval")
        return ToolResult(**{**value, "approval": None if approval is None else ApprovalRequest(**approval)})
    except (TypeError, AttributeError) as error:
        raise AgentError("not a tool's result", found=str(error)[:200]) from None
