"""Finds stop strings in text that arrives in pieces.

A stop string may begin in one piece and end in another, so any trailing text that could still become
one is held back. Each stop string is followed by the automaton of Knuth, Morris and Pratt (1977): its
state is the length of the longest beginning of the stop that the text ends with, so one character
costs one step for each stop, and the answer does not depend on how the text was cut.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Passes text on up to the first stop string to be completed; the stop itself is never passed on.

    When several stops are completed by the same character the longest one counts.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if not all(stops):
            raise ValueError("a stop string must not be empty")
        self._stops = tuple(dict.fromkeys(stops))
        self._failures = tuple(_failure_table(stop) for stop in self._stops)
        self._states = [0] * len(self._stops)
        self._held = ""
        self._stopped: str | None = None

    @property
    def stopped(self) -> str | None:
        """The stop string that was found, if any."""
        return self._stopped

    def push(self, text: str) -> tuple[str, str | None]:
        """Take the next piece. Returns (text that is final, the stop found or None). After a stop nothing comes."""
        if self._stopped is not None:
            return "", self._stopped
        if not self._stops:
            return text, None
        buffer = self._held + text
        for position, character in enumerate(text, start=len(self._held) + 1):
            completed = self._step(character)
            if completed is not None:
                self._held = ""
                self._stopped = completed
                return buffer[: position - len(completed)], completed
        keep = max(self._states)
        self._held = buffer[len(buffer) - keep :]
        return buffer[: len(buffer) - keep], None

    def flush(self) -> str:
        """The text still held back, once no more will come."""
        held, self._held = self._held, ""
        self._states = [0] * len(self._stops)
        return held

    def _step(self, character: str) -> str | None:
        completed: str | None = None
        for index, stop in enumerate(self._stops):
            state, failure = self._states[index], self._failures[index]
            while state and stop[state] != character:
                state = failure[state - 1]
            if stop[state] == character:
                state += 1
            self._states[index] = state
            if state == len(stop) and (completed is None or len(stop) > len(completed)):
                completed = stop
        return completed


def _failure_table(stop: str) -> list[int]:
    """`table[i]` is the length of the longest proper beginning of `stop[:i + 1]` that also ends it."""
    table = [0] * len(stop)
    length = 0
    for i in range(1, len(stop)):
        while length and stop[i] != stop[length]:
            length = table[length - 1]
        if stop[i] == stop[length]:
            length += 1
        table[i] = length
    return table
