"""What an agent sees of a model: a conversation goes in, what it says comes out in pieces, then once more as a whole.

`deepseek.chat.local` speaks so to an engine of ours, `deepseek.chat.remote` to any OpenAI-compatible address, and
`deepseek.agent.testing` plays a script.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from deepseek.core.deltas import Delta
from deepseek.core.engine import TokenLogprob, Usage
from deepseek.core.messages import MediaKind, Message, ToolChoice, ToolSpec
from deepseek.core.sampling import SamplingParams

TurnEnd = Literal["stop", "calls", "length", "budget", "deadline", "cancelled"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One whole answer of a model.

    message: thinking, text and calls in the order they came. A call that was cut off is not in it.
    end: "calls" where there is at least one call, else why the model stopped.
    cut: whether something was cut off in the middle of a call, which must not be executed.
    seed, prompt_ids, token_ids, logprobs, weights_version: what a replay or a trainer needs; None where the model is
    somebody else's and does not tell. token_ids is everything generated, the markup and the end included.
    """

    message: Message
    end: TurnEnd
    usage: Usage
    cut: bool = False
    seed: int | None = None
    prompt_ids: tuple[int, ...] | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    weights_version: int | None = None


class LanguageModel(Protocol):
    """A model one can talk to. Several conversations may go on at once."""

    @property
    def name(self) -> str: ...

    @property
    def takes(self) -> frozenset[MediaKind]:
        """The kinds of parts besides text that it takes."""
        ...

    def chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec] = (),
        *,
        choice: ToolChoice = "auto",
        parallel: bool = True,
        schema: Mapping[str, object] | None = None,
        thinking: bool = False,
        sampling: SamplingParams | None = None,
        deadline: float | None = None,
    ) -> AsyncIterator[Delta | Turn]:
        """The assistant's next turn: its pieces as they come, then exactly one `Turn`, the last thing yielded.

        choice: whether it may or must call. parallel: whether several calls may stand in one turn. schema: what its
        text must match; a turn of calls has none. deadline: of `time.monotonic()`.
        Raises AdmissionError for what the model cannot be asked, ModelError where it failed to answer. Leaving the
        iterator early (`aclose`) stops the work within one step.
        """
        ...


class Embedder(Protocol):
    """A model that makes vectors of texts, such that texts of like meaning lie near each other."""

    @property
    def name(self) -> str:
        """Which model, and which version of it: vectors of different names are never compared."""
        ...

    async def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """One vector of length 1 for each text, all of the same dimension. Raises ModelError."""
        ...
