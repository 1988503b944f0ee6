"""What the scheduler knows about a request while it lives.

A `Request` asks for one or more choices; each choice is a `Sequence`: the prompt, followed by the
tokens generated so far. There is no prefill phase and no decode phase, only two numbers: `total`
tokens are known, and the keys and values of the first `computed` of them are in the cache. A step
moves `computed` towards `total`; when it arrives, one new token is sampled and `total` grows by one.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from deepseek.core.engine import FinishReason, Lease, Request, Usage
from deepseek.engine.blocks import BlockKey, block_key
from deepseek.engine.sampling.history import History
from deepseek.engine.speculation.ngram import NgramIndex

if TYPE_CHECKING:
    from deepseek.engine.grammar.matcher import Matcher


def samples(request: Request) -> bool:
    """Whether tokens are wanted of it, not just something about its prompt."""
    return request.task == "generate" and request.sampling.max_tokens > 0


class Status(Enum):
    HELD = "held"
    WAITING = "waiting"
    RUNNING = "running"
    STARVED = "starved"
    FINISHED = "finished"


class Rank(NamedTuple):
    """A fixed total order of importance; smaller goes first.

    `urgency` is priority x ageing + arrival, in seconds: one step of priority is worth `ageing_s`
    seconds of waiting, so nothing waits for ever, and the order of two sequences never changes.
    """

    urgency: float
    order: int


class Sequence:
    """One choice of a request on the scheduler's side.

    token_ids: prompt, then output. blocks: its block table, int32. computed: tokens whose keys and
    values are in the cache. served: the most tokens ever computed, which a tenant has paid for.
    cached_tokens: tokens of the prompt found in the prefix cache when it was first admitted.
    draft: guesses at what comes next, to be confirmed or not by the next step; dropped when it stops running.
    holes: whether the model's draft layer missed tokens of it.
    reported: positions of the prompt whose scores or hidden states have been handed out.
    fed: whether its request's lease has a token for it; always, where there is no lease.
    grammar: where its constraint has come to. history, ngrams: what sampling and drafting remember of its tokens.
    """

    __slots__ = (
        "_keys",
        "blocks",
        "cached_tokens",
        "choice",
        "computed",
        "draft",
        "fed",
        "finish_reason",
        "grammar",
        "history",
        "holes",
        "ngrams",
        "rank",
        "reported",
        "served",
        "state",
        "status",
        "token_ids",
    )

    def __init__(self, state: RequestState, choice: int, rank: Rank) -> None:
        self.state = state
        self.choice = choice
        self.rank = rank
        self.token_ids: list[int] = list(state.request.prompt_ids)
        self.blocks: array[int] = array("i")
        self.computed = 0
        self.served = 0
        self.cached_tokens: int | None = None
        self.status = Status.HELD
        self.fed = True
        self.finish_reason: FinishReason | None = None
        self.draft: list[int] = []
        self.reported = 0
        self.holes = False
        self.grammar: Matcher | None = None
        self.history: History | None = None
        self.ngrams: NgramIndex | None = None
        self._keys: list[BlockKey] = []

    def __repr__(self) -> str:
        return (
            f"Sequence({self.request.id!r}, choice={self.choice}, {self.status.value}, "
            f"computed={self.computed}/{self.total}, blocks={len(self.blocks)})"
        )

    @property
    def request(self) -> Request:
        return self.state.request

    @property
    def adapter(self) -> int:
        """Its adapter's handle; -1: none."""
        return self.state.adapter

    @property
    def total(self) -> int:
        return len(self.token_ids)

    @property
    def prompt_tokens(self) -> int:
        return len(self.state.request.prompt_ids)

    @property
    def generated(self) -> int:
        return len(self.token_ids) - len(self.state.request.prompt_ids)

    @property
    def output_ids(self) -> list[int]:
        return self.token_ids[self.prompt_tokens :]

    def keys(self, count: int, block_size: int) -> Iterator[BlockKey]:
        """The cache keys of the first `count` full blocks, hashed only as far as the caller reads."""
        for index in range(count):
            yield self.key(index, block_size)

    def key(self, index: int, block_size: int) -> BlockKey:
        """The cache key of full block `index`. Kept, because tokens are only ever appended."""
        keys = self._keys
        while len(keys) <= index:
            parent = keys[-1].digest if keys else self.state.cache_root
            start = len(keys) * block_size
            keys.append(block_key(parent, tuple(self.token_ids[start : start + block_size])))
        return keys[index]

    def forget_keys(self) -> None:
        """After a change of the cache root."""
        self._keys.clear()


class RequestState:
    """One live request: its sequences, one a choice, and how it ended.

    Choices after the first are held back until the first has computed the part of the prompt that
    fills whole blocks; they then find it in the prefix cache.
    samples: whether tokens are wanted. embeds: whether a vector is, instead. reads_prompt: whether the first choice
    hands out something for positions of the prompt, scores or hidden states.
    lease: what bounds the tokens of all choices together; None where nothing does. granted, final: what it was last
    seen to say. spare: tokens of it that the next step has for drafts.
    """

    __slots__ = (
        "adapter",
        "arrival",
        "cache_root",
        "embeds",
        "error",
        "final",
        "granted",
        "held",
        "lease",
        "reads_prompt",
        "request",
        "samples",
        "seed",
        "sequences",
        "spare",
        "started",
    )

    def __init__(
        self,
        request: Request,
        *,
        arrival: float,
        seed: int,
        order: int,
        ageing_s: float,
        cache_root: bytes,
        adapter: int = -1,
        new_grammar: Callable[[], Matcher] | None = None,
    ) -> None:
        self.request = request
        self.embeds = request.task == "embed"
        self.samples = samples(request)
        self.lease: Lease | None = request.lease if self.samples else None
        self.granted = 0
        self.final = False
        self.spare = 0
        self.reads_prompt = self.embeds or request.sampling.prompt_logprobs is not None
        self.adapter = adapter
        self.arrival = arrival
        self.seed = seed
        self.cache_root = cache_root
        self.started = False
        self.error: str | None = None
        urgency = request.priority * ageing_s + arrival
        # Where nothing is sampled, more choices would be the same one again.
        choices = range(request.sampling.n if self.samples else 1)
        self.sequences = [Sequence(self, choice, Rank(urgency, order + choice)) for choice in choices]
        self.held: list[Sequence] = self.sequences[1:]
        if new_grammar is not None:
            for sequence in self.sequences:
                sequence.grammar = new_grammar()

    def note_error(self, error: str) -> None:
        """What went wrong; of several the first is told."""
        self.error = self.error or error

    @property
    def finished(self) -> bool:
        return all(sequence.status is Status.FINISHED for sequence in self.sequences)

    @property
    def reasons(self) -> tuple[FinishReason, ...]:
        """Why each choice ended. Complete once `finished`."""
        return tuple(sequence.finish_reason for sequence in self.sequences if sequence.finish_reason is not None)

    @property
    def generated(self) -> int:
        """Tokens of all choices together."""
        return sum([sequence.generated for sequence in self.sequences])

    @property
    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=len(self.request.prompt_ids),
            completion_tokens=self.generated,
            cached_tokens=self.sequences[0].cached_tokens or 0,
        )
