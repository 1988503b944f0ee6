"""What came of a call, as plain data: what the model reads, and how it ended. And how a tool's value becomes a text.

A result's text is bounded, says where it was cut, and is data: nothing reads calls, roles or markup out of it again.
A value is written without ever being copied whole: texts are cut, lists and objects left off where the room ends.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, Literal
from uuid import UUID

from deepseek.agent.execution.approval import ApprovalRequest
from deepseek.agent.execution.errors import ToolFailed
from deepseek.core.errors import DeepSeekError
from deepseek.core.messages import ToolResultPart

Status = Literal["ok", "error", "refused", "suspended"]
ErrorKind = Literal[
    "unknown_tool", "arguments", "retry", "failed", "timeout", "deadline", "busy", "dependency", "refused", "internal"
]
RETRYABLE_BY_MODEL = frozenset({"unknown_tool", "arguments", "retry", "timeout", "busy"})

MAX_DEPTH = 32
_MAX_INT_BITS = 4096
_MIN_NODE_BYTES = 2


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What came of one call.

    status: ok; error: it ran, or could not, and went wrong; refused: somebody did not allow it; suspended: it waits for
    a person (`approval`) or for a call that does (no `approval`). text: for the model. kind: of what went wrong.
    attempts: how often the function was called, 0 from the cache. truncated: the text is not all of it.
    """

    call_id: str
    name: str
    status: Status
    text: str
    kind: ErrorKind | None = None
    attempts: int = 0
    cached: bool = False
    truncated: bool = False
    duration_ms: float = 0.0
    approval: ApprovalRequest | None = None

    @property
    def retryable(self) -> bool:
        """Whether the model may mend it by calling again, with other arguments or another tool."""
        return self.kind in RETRYABLE_BY_MODEL

    @property
    def final(self) -> bool:
        return self.status != "suspended"

    def part(self) -> ToolResultPart:
        """As it stands in the conversation."""
        return ToolResultPart(self.call_id, self.text)


def render(value: object, max_bytes: int) -> tuple[str, bool]:
    """The value as text of about `max_bytes` at most, and whether that is not all of it.

    A text is itself; anything else JSON. Raises ToolFailed for a value that JSON cannot say.
    """
    if isinstance(value, str):
        return bounded_text(value, max_bytes)
    if value is None:
        return "null", False
    writer = _Plain(max_bytes)
    plain = writer.plain(value, 0)
    if isinstance(plain, str):
        text, cut = bounded_text(plain, max_bytes)
        return text, cut or writer.cut
    text, cut = bounded_text(json.dumps(plain, ensure_ascii=False), max_bytes)
    if writer.cut and not cut:
        text += f"\n[cut: more than {max_bytes} bytes]"
    return text, cut or writer.cut


def bounded_text(text: str, max_bytes: int) -> tuple[str, bool]:
    """The text's beginning as far as it fits, with a word on what is missing; what is not Unicode is replaced."""
    head = str(text[:max_bytes])
    # Most text is ASCII, and then nothing has to be encoded to be measured.
    shown = head if head.isascii() else head.encode("utf-8", "replace")[:max_bytes].decode("utf-8", "ignore")
    if len(shown) >= len(text):
        return shown, False
    return f"{shown}\n[cut: {len(shown)} of {len(text)} characters]", True


class _Plain:
    """A value as JSON's types, within a budget of bytes."""

    def __init__(self, budget: int) -> None:
        self._left = budget
        self.cut = False

    def plain(self, value: object, depth: int) -> Any:
        self._left -= _MIN_NODE_BYTES
        if depth > MAX_DEPTH:
            self.cut = True
            return "…"
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, Enum):
            return self.plain(value.value, depth + 1)
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, int):
            return int(value) if value.bit_length() <= _MAX_INT_BITS else f"<an integer of {value.bit_length()} bits>"
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else str(value)
        if (fields := getattr(type(value), "model_fields", None)) is not None:  # pydantic's, which need not be loaded
            return self._mapping({name: getattr(value, name) for name in fields}, depth)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._mapping({f.name: getattr(value, f.name) for f in dataclasses.fields(value)}, depth)
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        if isinstance(value, list | tuple | set | frozenset):
            return self._list(value, depth)
        if isinstance(value, date | time):
            return value.isoformat()
        if isinstance(value, Decimal | UUID | PurePath):
            return self._text(str(value))
        if isinstance(value, bytes | bytearray | memoryview):
            return f"<{len(value)} bytes>"
        raise ToolFailed("the tool returned what cannot be written as JSON", found=type(value).__name__[:100])

    def _text(self, value: str) -> str:
        if len(value) > self._left:
            self.cut = True
        kept = value[: max(self._left, 0)]
        if not kept.isascii():
            kept = kept.encode("utf-8", "replace").decode()
        self._left -= len(kept)
        return kept

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        written: dict[str, Any] = {}
        for key, inner in value.items():
            if self._left <= 0:
                self.cut = True
                break
            if not isinstance(key, str):
                key = self._key(key, depth)
            written[self._text(key)] = self.plain(inner, depth + 1)
        return written

    def _key(self, key: object, depth: int) -> str:
        plain = self.plain(key, depth + 1)
        return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)

    def _list(self, value: Any, depth: int) -> list[Any]:
        written = []
        for item in value:
            if self._left <= 0:
                self.cut = True
                break
            written.append(self.plain(item, depth + 1))
        return written


def error_text(error: BaseException, max_chars: int = 2000) -> str:
    """What an exception says, whatever it is, bounded. Only the message, never the traceback."""
    name = type(error).__name__[:100]
    try:
        said = str(error)[:max_chars]
    except BaseException as worse:  # a __str__ that fails is the tool's fault too
        said = f"(its message cannot be read: {type(worse).__name__[:100]})"
    text = said if isinstance(error, DeepSeekError) else f"{name}: {said}" if said else name
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
