"""What a step did to each request, as the events its reader gets.

Tokens are read one by one, in the order in which the sequence gained them, also where one step brought several:
a stop string ends the sequence at the token that completes it, as if the others had never been drawn.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from deepseek.core.engine import Embedding, Event, FinishReason, PromptScores, Ready, TokenLogprob, Tokens
from deepseek.core.errors import INTERRUPTS
from deepseek.engine.output import ChoiceOutput
from deepseek.engine.plan import StepPlan
from deepseek.engine.request import RequestState, Sequence
from deepseek.engine.result import StepResult
from deepseek.engine.sampling.plan import KIND_EMBED
from deepseek.engine.scheduler import Update

log = logging.getLogger("deepseek.engine")

Sink = Callable[[list[Event]], None]
"""Receives a request's events in order; called with the loop's lock held, so it must only hand them over."""


class Live:
    """One request's way out: its events not delivered yet, the text of each choice, and its vector as far as it is."""

    __slots__ = ("events", "outputs", "pooled", "pooled_count", "ready", "sink", "state")

    def __init__(self, state: RequestState, sink: Sink, outputs: list[ChoiceOutput]) -> None:
        self.state, self.sink, self.outputs = state, sink, outputs
        self.ready = False
        self.events: list[Event] = []
        self.pooled: npt.NDArray[np.float64] | None = None
        self.pooled_count = 0

    def pool(self, hidden: npt.NDArray[np.float32], start: int) -> None:
        """Add hidden states [n, D] of positions `start` on; from the first one on everything is new."""
        if self.pooled is None or start == 0 or self.state.request.pooling == "last":
            self.pooled, self.pooled_count = np.zeros(hidden.shape[1]), 0
        # Row by row in order of position: however the prompt was cut into steps, the sum has the same bits.
        for row in hidden:
            self.pooled += row
        self.pooled_count += len(hidden)

    def vector(self) -> npt.NDArray[np.float32]:
        """What was pooled, float32 [D] of length 1 (zeros stay zeros)."""
        assert self.pooled is not None
        mean = self.pooled / self.pooled_count
        length = float(np.sqrt((mean * mean).sum()))
        return (mean / length if length else mean).astype(np.float32)


class StepReader:
    """Reads one step's tokens as the scheduler takes them (a `TokenReader`), then makes its updates into events.

    begun: when the step began, on the clock that requests arrive by, in seconds.
    """

    def __init__(
        self, live: Mapping[str, Live], plan: StepPlan, result: StepResult, weights_version: int, begun: float
    ) -> None:
        self._live, self._plan, self._result, self._version, self._begun = live, plan, result, weights_version, begun
        self._texts: dict[Sequence, tuple[int, list[str]]] = {}  # the row of its first token; a text for each token

    def __call__(
        self, sequence: Sequence, token_id: int, row: int, reason: FinishReason | None, hidden: bool
    ) -> FinishReason | None:
        output = self._live[sequence.state.request.id].outputs[sequence.choice]
        try:
            text = "" if hidden else output.push((token_id,))
            if reason is not None and not output.stopped:
                text += output.end()
        except INTERRUPTS:
            raise
        except BaseException as error:
            log.exception("the output of request %s failed; it ends with an error", sequence.request.id)
            sequence.state.note_error(f"its text could not be made: {type(error).__name__}")
            return "error"
        said = self._texts.get(sequence)
        if said is None:
            self._texts[sequence] = row, [text]
        else:
            said[1].append(text)
        return "stop" if output.stopped else reason

    def take(self, update: Update) -> None:
        """Queue the events of one sequence's step."""
        sequence = update.sequence
        state = sequence.state
        live = self._live[state.request.id]
        if not live.ready:
            live.ready = True
            queued_s = max(0.0, self._begun - state.arrival)
            live.events.append(Ready(state.request.id, state.seed, queued_s, state.usage.cached_tokens))
        if state.reads_prompt and sequence.choice == 0:
            self._read_prompt(live, update)
        said = self._texts.get(sequence)
        if said is not None:
            row, texts = said
            count = len(texts)
            logprobs = None
            if state.request.sampling.logprobs is not None:
                found = self._result.logprobs[row : row + count]
                logprobs = tuple([logprob for logprob in found if logprob is not None])
            live.events.append(
                Tokens(
                    state.request.id,
                    sequence.choice,
                    texts[0] if count == 1 else "".join(texts),
                    tuple(update.token_ids[:count]),
                    logprobs,
                    self._version,
                    live.outputs[sequence.choice].controls(),
                )
            )

    def _read_prompt(self, live: Live, update: Update) -> None:
        state, positions = live.state, update.positions
        if update.reason == "error":
            return
        if state.embeds:
            if positions:
                live.pool(self._hidden(update.row, len(positions)), positions.start)
            if update.reason == "stop":
                live.events.append(Embedding(state.request.id, live.vector(), self._version))
            return
        alone = len(state.request.prompt_ids) == 1 and not update.sequence.generated > len(update.token_ids)
        if positions or alone:
            scores: list[TokenLogprob | None] = self._result.logprobs[update.row : update.row + len(positions)]
            start = positions.start + 1
            if alone or positions.start == 0:
                scores, start = [None, *scores], 0
            live.events.append(PromptScores(state.request.id, start, tuple(scores), self._version))

    def _hidden(self, row: int, count: int) -> npt.NDArray[np.float32]:
        """Of `count` rows from `row` on, which all embed."""
        assert self._result.embeddings is not None
        first = int(np.count_nonzero(self._plan.row_kind[:row] == KIND_EMBED))
        return self._result.embeddings[first : first + count]
