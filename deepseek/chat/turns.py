"""A model's deltas put together to one assistant's message: thinking, text and whole calls in the order they came."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from deepseek.core.deltas import Delta, TextDelta, ThinkingDelta, ToolCallStart
from deepseek.core.deltas import ToolCallArguments as Arguments
from deepseek.core.messages import Message, Part, TextPart, ThinkingPart, ToolCallPart


@dataclass(slots=True)
class _Piece:
    kind: type[TextPart] | type[ThinkingPart] | type[ToolCallPart]
    texts: list[str]
    call: ToolCallStart | None = None
    ended: bool = False

    def part(self) -> Part:
        text = "".join(self.texts)
        if self.call is not None:
            return ToolCallPart(self.call.id, self.call.name, text)
        return TextPart(text) if self.kind is TextPart else ThinkingPart(text)


@dataclass(slots=True)
class TurnBuilder:
    """Takes deltas as they come."""

    _pieces: list[_Piece] = field(default_factory=list)
    _calls: dict[int, _Piece] = field(default_factory=dict)

    def add(self, deltas: Iterable[Delta]) -> None:
        for delta in deltas:
            if isinstance(delta, TextDelta):
                self._say(TextPart, delta.text)
            elif isinstance(delta, ThinkingDelta):
                self._say(ThinkingPart, delta.text)
            elif isinstance(delta, ToolCallStart):
                piece = self._calls[delta.index] = _Piece(ToolCallPart, [], delta)
                self._pieces.append(piece)
            elif isinstance(delta, Arguments):
                self._calls[delta.index].texts.append(delta.text)
            else:
                self._calls[delta.index].ended = True

    @property
    def cut(self) -> bool:
        """Whether a call has no end."""
        return any(not piece.ended for piece in self._calls.values())

    @property
    def calls(self) -> bool:
        """Whether there is a whole call."""
        return any(piece.ended for piece in self._calls.values())

    def message(self) -> Message:
        """All that was said; a call without an end is left out."""
        whole = [piece.part() for piece in self._pieces if piece.call is None or piece.ended]
        return Message("assistant", tuple(whole))

    def _say(self, kind: type[TextPart] | type[ThinkingPart], text: str) -> None:
        if not text:
            return
        if self._pieces and self._pieces[-1].kind is kind:
            self._pieces[-1].texts.append(text)
        else:
            self._pieces.append(_Piece(kind, [text]))
