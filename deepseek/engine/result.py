"""What a worker hands back for a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deepseek.core.engine import TokenLogprob
from deepseek.engine.plan import KIND_EMBED, StepPlan

FAILED_ROW = -1
"""In place of a token id: the row's logits were no numbers, or nothing was left to choose from."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """For each of the plan's R rows, in their order:

    token_ids: the token sampled (or FAILED_ROW), the one scored, -1 where only the hidden state was wanted.
    logprobs: of that token, where asked for.
    embeddings: float32 [E, D], hidden states of the E rows that embed, in their order; None if there are none.
    drafts: what the model itself guesses to come next, for each of the plan's B sequences; None if it does not guess.
    """

    token_ids: list[int]
    logprobs: list[TokenLogprob | None]
    embeddings: npt.NDArray[np.float32] | None = None
    drafts: list[list[int]] | None = None


def joined(plan: StepPlan, results: Sequence[StepResult | None]) -> StepResult:
    """A step's result from those of its B sequences, of which there is at least one; None: its rows failed."""
    token_ids: list[int] = []
    logprobs: list[TokenLogprob | None] = []
    embeddings: list[npt.NDArray[np.float32]] = []
    drafts: list[list[int]] = []
    known = [result for result in results if result is not None]
    width = next((result.embeddings.shape[1] for result in known if result.embeddings is not None), 0)
    for index, result in enumerate(results):
        rows = plan.row_kind[plan.row_sequence == index]
        if result is None:
            result = StepResult([FAILED_ROW] * len(rows), [None] * len(rows))
        token_ids += result.token_ids
        logprobs += result.logprobs
        drafts += result.drafts or [[]]
        embeds = int(np.count_nonzero(rows == KIND_EMBED))
        embeddings.append(np.zeros((embeds, width), np.float32) if result.embeddings is None else result.embeddings)
    return StepResult(
        token_ids,
        logprobs,
        np.concatenate(embeddings) if width else None,
        None if all(result.drafts is None for result in known) else drafts,
    )
