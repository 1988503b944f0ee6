"""What reads a model's text as it comes: text, thinking and tool calls apart.

A `StreamParser` is a state machine over one choice's text. It never fails: whatever a model writes comes out as text,
thinking or calls, and what cannot be a call is text again. However the text is cut into pieces, the deltas joined are
the same. `deepseek.chat.formats` says which parser belongs to which model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from deepseek.core.deltas import Delta, TextDelta


class StreamParser(Protocol):
    """One choice's text, on its way to being deltas. Feeding takes time in proportion to the text."""

    def feed(self, text: str, controls: Sequence[int] = ()) -> list[Delta]:
        """What has become certain with this piece of text.

        controls: where in it control tokens begin, ascending (`deepseek.core.engine.Tokens.controls`).
        """
        ...

    def close(self) -> list[Delta]:
        """What was still held back, once no more text comes. Nothing may be fed afterwards."""
        ...


class PlainParser:
    """Everything is text: for raw completion, and for models without markup."""

    def feed(self, text: str, controls: Sequence[int] = ()) -> list[Delta]:
        return [TextDelta(text)] if text else []

    def close(self) -> list[Delta]:
        return []
