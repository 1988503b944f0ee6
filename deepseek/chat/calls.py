"""What readers of tool calls share: where their deltas go, where a JSON value ends, what stands between two calls."""

from __future__ import annotations

import enum
import re
import secrets
from collections.abc import Callable
from typing import Protocol

from deepseek.chat.scanner import Marker, Scanner
from deepseek.core.deltas import Delta, TextDelta, ThinkingDelta, ToolCallArguments, ToolCallEnd, ToolCallStart

# What comes before a call's name is known is held back; more than this cannot be the head of a call.
MAX_HEAD_CHARS = 512
# White space between calls is dropped; more than this is text that somebody means.
MAX_BLANK_CHARS = 256

NewId = Callable[[], str]


def new_call_id() -> str:
    """An id as OpenAI's API writes them: `call_` and 24 hexadecimal digits, drawn anew each time."""
    return "call_" + secrets.token_hex(12)


class DeltaWriter:
    """Collects deltas, neighbours of one kind joined; numbers the calls and gives them ids."""

    def __init__(self, new_id: NewId) -> None:
        self._new_id = new_id
        self._deltas: list[Delta] = []
        self._calls = 0
        self._make: Callable[[str], Delta] = TextDelta  # of what the pieces are
        self._pieces: list[str] = []

    def text(self, text: str) -> None:
        if text:
            self._add(TextDelta, text)

    def thinking(self, text: str) -> None:
        if text:
            self._add(ThinkingDelta, text)

    def arguments(self, text: str) -> None:
        """Of the call that was started last."""
        if text:
            self._add(self._arguments, text)

    def start_call(self, name: str) -> None:
        self._join()
        self._deltas.append(ToolCallStart(self._calls, self._new_id(), name))
        self._calls += 1

    def end_call(self) -> None:
        self._join()
        self._deltas.append(ToolCallEnd(self._calls - 1))

    def take(self) -> list[Delta]:
        self._join()
        taken, self._deltas = self._deltas, []
        return taken

    def _arguments(self, text: str) -> Delta:
        return ToolCallArguments(self._calls - 1, text)

    def _add(self, make: Callable[[str], Delta], text: str) -> None:
        if make != self._make:
            self._join()
            self._make = make
        self._pieces.append(text)

    def _join(self) -> None:
        if self._pieces:
            self._deltas.append(self._make("".join(self._pieces)))
            self._pieces = []


class Progress(enum.Enum):
    """What a reader's step came to."""

    AGAIN = enum.auto()  # something was read, and there may be more
    WAIT = enum.auto()  # more text is needed
    DONE = enum.auto()  # the calls are over


class CallReader(Protocol):
    """Reads one block of calls, beginning behind the marker that opened it."""

    def begin(self, marker: Marker) -> None: ...

    def step(self, scanner: Scanner, out: DeltaWriter, closing: bool) -> Progress: ...

    def close(self, out: DeltaWriter) -> None:
        """The text ended within the block."""
        ...


class JsonExtent:
    """Finds the end of a JSON object or array, by its brackets and strings alone: what is broken inside stays so."""

    _OUTSIDE = re.compile(r'["{}\[\]]')
    _INSIDE = re.compile(r'["\\]')

    def __init__(self) -> None:
        self.in_string = False
        self._depth = 0
        self._escaped = False

    def feed(self, text: str) -> int | None:
        """How many characters of this piece belong to the value, if it ends here; else None, and all of them do."""
        at = 0
        while at < len(text):
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            found = (self._INSIDE if self.in_string else self._OUTSIDE).search(text, at)
            if found is None:
                return None
            at = found.end()
            character = found[0]
            if character == '"':
                self.in_string = not self.in_string
            elif character == "\\":
                self._escaped = True
            elif character in "{[":
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth <= 0:
                    return at
        return None


class Between:
    """What stands between two calls: white space is dropped, anything else is text.

    Behind a call in a fence, the fence's end ("```") is dropped too.
    """

    def __init__(self) -> None:
        self._held = ""
        self._fence = False

    def begin(self, *, fence: bool) -> None:
        """A call ended, or the block began. fence: three backticks may follow."""
        self._held, self._fence = "", fence

    def text(self, text: str, out: DeltaWriter) -> None:
        """More of it; a character at a time only as far as it is white space or a fence."""
        at = 0
        while at < len(text):
            if self._blank(self._held + text[at]) and len(self._held) < MAX_BLANK_CHARS:
                self._held += text[at]
                at += 1
                if self._fence and self._held.endswith("```"):
                    self._held, self._fence = "", False
                continue
            begin = at
            while at < len(text) and not text[at].isspace():
                at += 1
            at = max(at, begin + 1)
            out.text(self._held + text[begin:at])
            self._held, self._fence = "", False

    def marker(self) -> None:
        """A marker came: what is held was white space in front of it."""
        self._held = ""

    def _blank(self, text: str) -> bool:
        return text.isspace() or (self._fence and "```".startswith(text.strip()))
