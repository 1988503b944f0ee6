"""Finding what rules describe in a text that comes in pieces: the leftmost, of these the longest, none overlapping.

All patterns are one automaton, of which every state that may still come to something is followed at once; each remembers where
it began. So a character costs as many steps as there are beginnings under way, mostly none, and a piece of text is let go as
soon as nothing that was begun in it can still come to something, whatever pieces it was cut into.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from deepseek.core.errors import ToolError
from deepseek.plugins.moderation.folding import SKIPPED, folded, is_word
from deepseek.plugins.moderation.pattern import CharClass, Node, Pattern

MAX_SPAN_CHARS = 256
"""A match is no longer, and no more is held back."""
MAX_STEPS = 30_000_000
"""In one text: some seconds."""


@dataclass(frozen=True, slots=True)
class Match:
    """rule: the number of the pattern. start, end: in characters since the text began."""

    rule: int
    start: int
    end: int
    text: str


class Automaton:
    """patterns: numbered by their place."""

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        anywhere, at_word = Node(), Node()
        for rule, pattern in enumerate(patterns):
            pattern.attach(at_word if pattern.begins else anywhere).ends.append((rule, pattern.ends))
        self._numbers: dict[int, int] = {}
        self._nodes: list[Node] = []
        self.chars: list[dict[str, tuple[int, ...]]] = []
        self.classes: list[tuple[tuple[CharClass, tuple[int, ...]], ...]] = []
        self.ends: list[int] = []
        """The rule that a state ends, whatever comes next; -1 for none."""
        self.word_ends: list[int] = []
        """The rule that it ends if no word goes on there."""
        self.anywhere = self._closed(anywhere)
        self.at_word = self._closed(at_word)
        at = 0
        while at < len(self._nodes):  # which grows
            self._fill(self._nodes[at])
            at += 1
        self.goes_on = [
            bool(self.chars[state] or self.classes[state] or self.word_ends[state] >= 0)
            for state in range(len(self._nodes))
        ]
        self._nodes.clear()
        self.first = self._first()

    def __bool__(self) -> bool:
        return bool(self.anywhere or self.at_word)

    def _closed(self, node: Node) -> tuple[int, ...]:
        """The states that a node comes to without a character."""
        seen, waiting, found = {id(node)}, [node], []
        while waiting:
            here = waiting.pop()
            if here.on or here.classes or here.ends:
                found.append(self._number(here))
            for following in here.then:
                if id(following) not in seen:
                    seen.add(id(following))
                    waiting.append(following)
        return tuple(sorted(found))

    def _number(self, node: Node) -> int:
        number = self._numbers.setdefault(id(node), len(self._nodes))
        if number == len(self._nodes):
            self._nodes.append(node)
        return number

    def _fill(self, node: Node) -> None:
        self.chars.append({char: self._closed(following) for char, following in node.on.items()})
        self.classes.append(tuple((has, self._closed(following)) for has, following in node.classes))
        self.ends.append(min((rule for rule, border in node.ends if not border), default=-1))
        self.word_ends.append(min((rule for rule, border in node.ends if border), default=-1))

    def _first(self) -> re.Pattern[str]:
        """What any match begins with: one character."""
        roots = (*self.anywhere, *self.at_word)
        chars = sorted({char for state in roots for char in self.chars[state]})
        classes = sorted({has.pattern for state in roots for has, _ in self.classes[state]})
        alternatives = [f"[{''.join(map(re.escape, chars))}]"] if chars else []
        return re.compile("|".join([*alternatives, *(f"(?i:{pattern})" for pattern in classes)]) or r"(?!)")


class Scanner:
    """One text."""

    def __init__(self, automaton: Automaton) -> None:
        self._automaton = automaton
        self._text = ""  # what is held back, or not read yet
        self._form = ""
        self._before = 0  # characters that were let go
        self._at = 0  # the next to read
        self._last = ""  # the last that was read and can be seen
        self._live: dict[int, tuple[int, int]] = {}  # state: where what came to it began, the first and the last of it
        self._best: tuple[int, int, int] | None = None  # start, end, rule
        self._steps = 0

    def feed(self, text: str, *, last: bool = False) -> Iterator[str | Match]:
        """More of the text; what of it is settled: matches, and the text between them. last: no more comes.

        Raises ToolError where the text takes too many steps.
        """
        self._text += text
        self._form += folded(text)
        while (found := self._settled(last)) is not None:
            start, end, rule = found
            if start:
                yield self._text[:start]
            yield Match(rule, self._before + start, self._before + end, self._text[start:end])
            self._last = next((char for char in reversed(self._form[:end]) if char != SKIPPED), self._last)
            self._cut(end)
        held = min((first for first, _ in self._live.values()), default=self._at)
        if self._best is not None:
            held = min(held, self._best[0])
        if held:
            free = self._text[:held]
            at, live, best = self._at - held, self._live, self._best
            self._cut(held)
            self._at = at
            self._live = {state: (first - held, final - held) for state, (first, final) in live.items()}
            self._best = None if best is None else (best[0] - held, best[1] - held, best[2])
            yield free

    def _cut(self, end: int) -> None:
        self._text, self._form = self._text[end:], self._form[end:]
        self._before += end
        self._at, self._live, self._best = 0, {}, None

    def _settled(self, last: bool) -> tuple[int, int, int] | None:
        """Read on until the first match is certain."""
        form = self._form
        while self._at < len(form):
            if not self._live and self._best is None:
                self._skip(form)
                if self._at == len(form):
                    break
            char = form[self._at]
            if char != SKIPPED:
                self._step(char)
                self._last = char
            self._at += 1
            if self._best is not None and not self._live:
                return self._best
        if not last:
            return None
        self._end_words(self._at)
        self._live = {}
        return self._best

    def _skip(self, form: str) -> None:
        """To the next character that something may begin with."""
        found = self._automaton.first.search(form, self._at)
        following = len(form) if found is None else found.start()
        passed = form[self._at : following]
        self._last = next((char for char in reversed(passed) if char != SKIPPED), self._last)
        self._at = following

    def _step(self, char: str) -> None:
        automaton, at = self._automaton, self._at
        border = not (is_word(char) and is_word(self._last))
        if border:
            self._end_words(at)
        begun = list(self._live.items())
        if self._best is None:
            begun += [(state, (at, at)) for state in automaton.anywhere]
            if border:
                begun += [(state, (at, at)) for state in automaton.at_word]
        self._steps += 1 + len(begun)
        if self._steps > MAX_STEPS:
            raise ToolError("the text takes too many steps to be held to the rules", expected=f"at most {MAX_STEPS}")
        oldest = at - MAX_SPAN_CHARS
        reached: dict[int, tuple[int, int]] = {}
        for state, (first, final) in begun:
            if final <= oldest:
                continue
            first = first if first > oldest else final
            following = automaton.chars[state].get(char, ())
            for has, targets in automaton.classes[state]:
                if has.has(char):
                    following += targets
            for target in following:
                other = reached.get(target)
                reached[target] = (first, final) if other is None else (min(first, other[0]), max(final, other[1]))
        for state, (first, _) in reached.items():
            if automaton.ends[state] >= 0:
                self._ended(first, at + 1, automaton.ends[state])
        best = self._best
        self._live = {
            state: starts
            for state, starts in reached.items()
            if automaton.goes_on[state] and (best is None or starts[0] <= best[0])
        }

    def _end_words(self, at: int) -> None:
        for state, (first, _) in self._live.items():
            if self._automaton.word_ends[state] >= 0:
                self._ended(first, at, self._automaton.word_ends[state])

    def _ended(self, start: int, end: int, rule: int) -> None:
        best = self._best
        if best is None or (start, -end, rule) < (best[0], -best[1], best[2]):
            self._best = (start, end, rule)
