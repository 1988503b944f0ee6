"""One choice on its way out: tokens become text, a stop string ends it, nothing is shown that may still change."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from deepseek.engine.stopping import StopMatcher
from deepseek.models.detokenize import Detokenizer, TokenTable


class ChoiceOutput:
    """Text of one choice. `push` per step; `end` once, when no more tokens come."""

    def __init__(self, tokenizer: TokenTable, stops: Sequence[str], skip_special: bool = True) -> None:
        self._detokenizer = Detokenizer(tokenizer, skip_special)
        self._matcher = StopMatcher(stops)
        self._skip_special = skip_special
        self._shown = 0  # characters that became final before the last call of `controls`
        self._fresh = 0  # and since
        self._controls: list[int] = []  # counted from the beginning of the text

    @property
    def stopped(self) -> bool:
        """Whether a stop string was completed; the text then ends before it."""
        return self._matcher.stopped is not None

    @property
    def stop(self) -> str | None:
        """The stop string that was completed."""
        return self._matcher.stopped

    def push(self, token_ids: Sequence[int]) -> str:
        """The text that became final with these tokens."""
        text = self._matcher.push(self._detokenizer.push(token_ids))[0]
        self._fresh += len(text)
        return text

    def end(self) -> str:
        """The text still held back: half characters show as U+FFFD, the beginning of a stop string as it is."""
        text = self._matcher.push(self._detokenizer.flush())[0]
        text += self._matcher.flush() if not self.stopped else ""
        self._fresh += len(text)
        return text

    def controls(self) -> tuple[int, ...]:
        """Where control tokens begin in all the text returned since the last call; none where they are not shown."""
        if self._skip_special:
            return ()
        self._controls += self._detokenizer.controls()
        begin, self._shown = self._shown, self._shown + self._fresh
        self._fresh = 0
        count = bisect_left(self._controls, self._shown)
        fresh, self._controls = self._controls[:count], self._controls[count:]
        return tuple(at - begin for at in fresh)
