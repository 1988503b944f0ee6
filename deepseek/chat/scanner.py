"""Finds markers in text that arrives in pieces, and tells a marker that was sampled from one that was spelt.

A `Marker` is a literal such as `<｜tool▁call▁begin｜>`, and says where in it control tokens have to begin. DeepSeek's
tokenizers have most markers as one token each: then only that token is the marker, and the same characters spelt with
ordinary tokens are text. Where a tokenizer has no token for it, the characters themselves are the marker.

The leftmost marker counts, of several at one place the longest. Text that may still become a marker is held back, so
what comes out does not depend on how the text was cut. Searching takes time in proportion to the text: the only
regular expressions are sets of single characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Marker:
    """A literal, and at which characters of it a control token has to begin; none: the literal alone is enough."""

    literal: str
    controls: tuple[int, ...] = ()

    @classmethod
    def of(cls, literal: str, control_tokens: Iterable[str]) -> Marker:
        """The marker as a tokenizer with these control tokens writes it."""
        tokens = sorted((token for token in control_tokens if token), key=len, reverse=True)
        found, at = [], 0
        while at < len(literal):
            token = next((token for token in tokens if literal.startswith(token, at)), None)
            if token is not None:
                found.append(at)
            at += len(token or "x")
        return cls(literal, tuple(found))


class Markers:
    """Several markers to look for at once; the `ignored` ones vanish from the text. Immutable."""

    def __init__(self, markers: Iterable[Marker], ignored: Iterable[Marker] = ()) -> None:
        found = frozenset(markers)
        self.ignored = frozenset(ignored) - found
        ordered = sorted(found | self.ignored, key=lambda marker: (-len(marker.literal), marker.literal))
        self._by_first: dict[str, list[Marker]] = {}
        for marker in ordered:
            self._by_first.setdefault(marker.literal[0], []).append(marker)
        firsts = "".join(map(re.escape, self._by_first))
        self.first = re.compile(f"[{firsts}]" if firsts else "(?!)")

    def beginning_with(self, character: str) -> Sequence[Marker]:
        """Those that begin with this character, the longest first."""
        return self._by_first[character]


class Scanner:
    """A text on its way: what was fed and not yet taken."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0  # what is before it was taken
        self._base = 0  # where in the whole stream `_text` begins
        self._controls: set[int] = set()  # counted in the whole stream

    def feed(self, text: str, controls: Sequence[int] = ()) -> None:
        taken, self._at = self._at, 0
        self._base += taken
        if self._controls:
            self._controls = {at for at in self._controls if at >= self._base}
        held = self._text[taken:]
        begin = self._base + len(held)
        self._controls.update(begin + at for at in controls)
        self._text = held + text

    def take(self, markers: Markers, closing: bool) -> tuple[str, Marker | None]:
        """The text before the next marker, and that marker; or all the text that is certain, and None.

        closing: no more text comes, so nothing is held back.
        """
        text, begin = self._text, self._at
        before: list[str] = []
        for found in markers.first.finditer(text, begin):
            at = found.start()
            if at < begin:
                continue  # within an ignored marker
            marker, undecided = self._marker_at(markers, at, closing)
            if undecided:
                self._at = at
                return "".join([*before, text[begin:at]]), None
            if marker is None:
                continue
            before.append(text[begin:at])
            self._at = begin = at + len(marker.literal)
            if marker not in markers.ignored:
                return "".join(before), marker
        self._at = len(text)
        return "".join([*before, text[begin:]]) if before else text[begin:], None

    def character(self) -> str | None:
        """The next character, whatever it belongs to; None where there is none yet."""
        if self._at == len(self._text):
            return None
        self._at += 1
        return self._text[self._at - 1]

    def _marker_at(self, markers: Markers, at: int, closing: bool) -> tuple[Marker | None, bool]:
        text = self._text
        rest = len(text) - at
        for marker in markers.beginning_with(text[at]):
            literal = marker.literal
            if len(literal) <= rest:
                if text.startswith(literal, at) and self._sampled(marker, at, rest):
                    return marker, False
            elif not closing and literal.startswith(text[at:]) and self._sampled(marker, at, rest):
                return None, True
        return None, False

    def _sampled(self, marker: Marker, at: int, known: int) -> bool:
        """Whether the marker's control tokens are where they must be, as far as the text goes."""
        begin = self._base + at
        return all(offset >= known or begin + offset in self._controls for offset in marker.controls)
