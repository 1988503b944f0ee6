"""Speculation: several tokens in one step, without changing one of them.

A step is mostly the reading of weights, and they are read once for as many tokens as there are. So a sequence guesses
what comes next (`draft`), computes its last token and the guesses together, and draws a token at each of those rows
with the noise that belongs to the row's position. As long as the token drawn is the one guessed, the next row has seen
the right past, and its token counts too; the first that differs counts, and what follows it is worthless. Every token
taken was therefore drawn from the same logits with the same noise as without guessing: the output is the same, not
just its distribution (as it is in Leviathan et al., Fast inference from transformers via speculative decoding, 2023).

Guesses come from the grammar, where it leaves no choice; from the model's own multi-token-prediction head, computed by
the worker; or from what followed the same tokens before (`deepseek.engine.speculation.ngram`).
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

from deepseek.engine.plan import DRAFT_LATER, DRAFT_NOW, DRAFT_SKIPPED
from deepseek.engine.request import Sequence
from deepseek.engine.scheduler_config import SpeculationMode
from deepseek.engine.speculation.ngram import NgramIndex
from deepseek.engine.speculation.payoff import Payoff

MAX_FORCED = 16
"""Tokens that a grammar leaves no alternative to and that one step takes at most. They are never wrong."""


def confirmed(draft: Seq[int], drawn: Seq[int]) -> int:
    """How many tokens of `draft` the rows drawn at their places agree with, from the first on.

    drawn: one token more than `draft`. Those up to and including drawn[confirmed(draft, drawn)] are the output.
    """
    count = 0
    for guess, token in zip(draft, drawn, strict=False):
        if guess != token:
            break
        count += 1
    return count


class Speculation:
    """Whether and what to guess, for the scheduler.

    mode: "mtp" guesses what the worker drafts; "ngram" what came before. "auto" tries both, where the worker drafts at
    all, and uses what the time of the steps says is best: the draft layer, or else n-grams, or else nothing; when the
    draft layer is not used, it is not computed either. max_draft_tokens: a sequence's guesses in one step, at most.
    """

    def __init__(self, mode: SpeculationMode, max_draft_tokens: int) -> None:
        self.on = mode != "off" and max_draft_tokens > 0
        self.draft_layer = DRAFT_SKIPPED
        self._max = max_draft_tokens
        self._mode = mode
        self._worker_drafts = mode != "ngram"  # until it is known better
        self._layer_pays, self._ngrams_pay = Payoff(), Payoff()
        self._ngrams = False

    @property
    def drafting(self) -> bool:
        """Whether the last step was allowed any guesses but those of grammars."""
        return self._ngrams or self.draft_layer == DRAFT_NOW

    def begin(self, sequences: Seq[Sequence]) -> None:
        """A step of these sequences is being planned."""
        if not self.on:
            return
        running = len(sequences)
        self.draft_layer = self._what_of_the_layer(sequences) if self._worker_drafts else DRAFT_SKIPPED
        if self.draft_layer == DRAFT_SKIPPED and self._worker_drafts:
            for sequence in sequences:
                sequence.holes = True
        self._ngrams = self._mode == "ngram" or (
            self._mode == "auto" and self.draft_layer != DRAFT_NOW and self._ngrams_pay.wants_drafts(running)
        )

    def proposals(self, sequences: Seq[Sequence]) -> list[int] | None:
        """How many tokens the worker shall draft for each; None: none for any."""
        if self.draft_layer != DRAFT_NOW:
            return None
        return [0 if sequence.holes else self._max for sequence in sequences]

    def guess(self, sequence: Sequence, limit: int) -> list[int]:
        """At most `limit` tokens that may come next. Raises what the sequence's grammar raises."""
        grammar = sequence.grammar
        if grammar is not None:
            forced = list(grammar.forced(min(limit, MAX_FORCED)))
            if forced:
                return forced
        limit = min(limit, self._max)
        draft: list[int] = []
        if self.draft_layer == DRAFT_NOW:
            draft = sequence.draft[:limit]
        elif self._ngrams:
            if sequence.ngrams is None:
                sequence.ngrams = NgramIndex()
            sequence.ngrams.follow(sequence.token_ids)
            draft = sequence.ngrams.guess(sequence.token_ids, limit)
        if draft and grammar is not None:
            draft = draft[: grammar.valid_prefix(draft)]
        return draft

    def hear(self, drafts: list[list[int]] | None) -> None:
        """What came of asking the worker for drafts: from then on it is known whether it makes any."""
        self._worker_drafts = drafts is not None

    def observe(self, running: int, drafted: bool, tokens: int, seconds: float) -> None:
        """A step of single tokens and drafts took `seconds` and gained `tokens`."""
        if self._mode != "auto":
            return
        if self.draft_layer == DRAFT_NOW:
            if drafted:  # else it drafted for the next step only, which costs and gains nothing yet
                self._layer_pays.observe(running, True, tokens, seconds)
            return
        if self._worker_drafts:
            self._layer_pays.observe(running, False, tokens, seconds)
        if self._ngrams or not drafted:  # else the drafts are a grammar's, which are made in any case
            self._ngrams_pay.observe(running, drafted, tokens, seconds)

    def _what_of_the_layer(self, sequences: Seq[Sequence]) -> int:
        if self._mode == "mtp":
            return DRAFT_NOW
        running = len(sequences)
        if self._layer_pays.wants_drafts(running):
            # Where it has missed something of every sequence, it cannot be tried before the next request.
            return DRAFT_SKIPPED if all(sequence.holes for sequence in sequences) else DRAFT_NOW
        return DRAFT_LATER if self._layer_pays.in_use(running) else DRAFT_SKIPPED
