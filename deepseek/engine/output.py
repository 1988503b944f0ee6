"""One choice on its way out: tokens become text, a stop string ends it, nothing is shown that may still change."""

from __future__ import annotations

from collections.abc import Sequence

from deepseek.engine.stopping import StopMatcher
from deepseek.models.detokenize import Detokenizer, TokenTable


class ChoiceOutput:
    """Text of one choice. `push` per step; `end` once, when no more tokens come."""

    def __init__(self, tokenizer: TokenTable, stops: Sequence[str]) -> None:
        self._detokenizer = Detokenizer(tokenizer)
        self._matcher = StopMatcher(stops)

    @property
    def stopped(self) -> bool:
        """Whether a stop string was completed; the text then ends before it."""
        return self._matcher.stopped is not None

    def push(self, token_ids: Sequence[int]) -> str:
        """The text that became final with these tokens."""
        return self._matcher.push(self._detokenizer.push(token_ids))[0]

    def end(self) -> str:
        """The text still held back: half characters show as U+FFFD, the beginning of a stop string as it is."""
        text = self._matcher.push(self._detokenizer.flush())[0]
        return text + (self._matcher.flush() if not self.stopped else "")
