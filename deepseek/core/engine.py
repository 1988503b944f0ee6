"""The contract between whoever wants tokens and whoever makes them.

A `Request` goes in; `Ready`, any number of `Tokens` (or `PromptScores`, or an `Embedding`) and exactly
one `Finish` come out, whatever happens in between. `Engine` is the protocol; `deepseek.engine.Engine`
runs a model behind it and `deepseek.engine.FakeEngine` paces made-up tokens, so that everything above
can be tested without one.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from deepseek.core.constraint import Constraint
from deepseek.core.errors import AdmissionError
from deepseek.core.sampling import SamplingParams

LOCAL_TENANT = "local"
MAX_PRIORITY = 2**31

FinishReason = Literal["stop", "length", "budget", "deadline", "cancelled", "error"]
Task = Literal["generate", "embed"]
Pooling = Literal["last", "mean"]
SwapMode = Literal["recompute", "drain"]


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt and what to do with it.

    id: unique among the requests alive in the engine.
    prompt_ids: token ids; never empty.
    tenant: whose fair share it draws on.
    cache_salt: prefix-cache blocks are shared only between equal salts of one tenant.
    priority: smaller is served first.
    deadline: on the engine's monotonic clock, in seconds; past it the request ends with reason "deadline".
    constraint: what every choice's text must match; it is compiled when the request is admitted.
    adapter: name of a loaded adapter to compute with. The version loaded when the request comes is kept to its end.
    task: "embed" computes the prompt and gives one `Embedding`; sampling is then not looked at.
    pooling: of an embedding, over the hidden states after the final norm: the last token's, or the mean of all.

    Raises AdmissionError for fields of other types, or that do not go together: queues, sorts and hashes that all
    requests share stand on them.
    """

    id: str
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    tenant: str = LOCAL_TENANT
    cache_salt: str = ""
    priority: int = 0
    deadline: float | None = None
    constraint: Constraint | None = None
    adapter: str | None = None
    task: Task = "generate"
    pooling: Pooling = "last"

    def __post_init__(self) -> None:
        if not isinstance(self.prompt_ids, tuple) or not set(map(type, self.prompt_ids)) <= {int}:
            found = next(
                (type(i).__name__ for i in self.prompt_ids if type(i) is not int), type(self.prompt_ids).__name__
            )
            raise AdmissionError("not token ids", where="prompt", found=found, expected="a tuple of integers")
        for name in ("id", "tenant", "cache_salt"):
            _require_type(name, getattr(self, name), str)
        if self.adapter is not None:
            _require_type("adapter", self.adapter, str)
        _require_type("priority", self.priority, int)
        if not -MAX_PRIORITY <= self.priority <= MAX_PRIORITY:
            expected = f"-{MAX_PRIORITY} to {MAX_PRIORITY}"
            raise AdmissionError("out of range", where="priority", expected=expected)
        if self.deadline is not None:
            _require_type("deadline", self.deadline, int, float)
            if not math.isfinite(self.deadline):
                raise AdmissionError("not a time", where="deadline", found=self.deadline, expected="seconds, or None")
        for name, kinds in (("task", Task), ("pooling", Pooling)):
            if getattr(self, name) not in get_args(kinds):
                raise AdmissionError(
                    "unknown", where=name, found=repr(getattr(self, name)), expected=" or ".join(get_args(kinds))
                )
        if self.task == "embed" and self.constraint is not None:
            raise AdmissionError("an embedding has no text to constrain", where="constraint", fix="leave it out")


def _require_type(name: str, value: object, *types: type) -> None:
    if type(value) not in types:
        expected = " or ".join(kind.__name__ for kind in types)
        raise AdmissionError("of the wrong type", where=name, found=type(value).__name__, expected=expected)


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural-log probability of a chosen token under temperature 1 without truncation, and the best alternatives."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Counted on token ids. `cached_tokens` of the prompt were found in the prefix cache."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Ready:
    """The request was admitted and its first step has been computed. `seed` is the one in use, drawn if none was given."""

    request_id: str
    seed: int


@dataclass(frozen=True, slots=True)
class Tokens:
    """New output of one choice. `text` may be empty while half a character or a possible stop string is held back."""

    request_id: str
    choice: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] | None = None
    weights_version: int = 0


@dataclass(frozen=True, slots=True)
class PromptScores:
    """How likely the prompt's own tokens are, from position `start` on; comes in pieces as the prompt is computed.

    logprobs: one for each position, given everything before it; None for position 0, which nothing comes before.
    """

    request_id: str
    start: int
    logprobs: tuple[TokenLogprob | None, ...]
    weights_version: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """The prompt as one vector, float32 [D]: pooled as the request asked, then scaled to length 1."""

    request_id: str
    values: npt.NDArray[np.float32]
    weights_version: int = 0


@dataclass(frozen=True, slots=True)
class Finish:
    """The one end of a request: a reason per choice, what was used, and for "error" what went wrong."""

    request_id: str
    reasons: tuple[FinishReason, ...]
    usage: Usage
    error: str | None = None


Event = Ready | Tokens | PromptScores | Embedding | Finish


@dataclass(frozen=True, slots=True)
class Load:
    """What limits, probes and metrics read. Waiting time is that of the oldest request still in the queue.

    prefix_query_tokens, prefix_hit_tokens: since the start, tokens of admitted sequences that were looked up in the
    prefix cache, and found there; prefix_evicted_blocks: whose contents gave way to others. preemptions: since the
    start, sequences set back to be computed anew. weights_version: of the weights in use. sleeping: nothing is computed
    until `wake`; requests queue up. drafted_tokens, accepted_tokens: since the start, guesses that were computed, and
    those of them that became output; speculating: whether the last step was allowed any. grammars_compiled,
    grammars_refused, grammar_seconds: since the start, constraints that were compiled, could not be, and the time it took.
    """

    waiting: int
    running: int
    blocks_used: int
    blocks_total: int
    oldest_wait_s: float
    prefix_query_tokens: int = 0
    prefix_hit_tokens: int = 0
    preemptions: int = 0
    weights_version: int = 0
    sleeping: bool = False
    prefix_evicted_blocks: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    speculating: bool = False
    grammars_compiled: int = 0
    grammars_refused: int = 0
    grammar_seconds: float = 0.0

    @property
    def kv_use(self) -> float:
        return self.blocks_used / self.blocks_total if self.blocks_total else 0.0


class Engine(Protocol):
    """What a front needs of an engine. Methods may be called from any task of one event loop.

    Whatever fails in a method, its caller is told and the engine serves on as before the call.
    """

    def generate(self, request: Request) -> AsyncIterator[Event]:
        """Yield the request's events. Leaving the iterator early aborts the request. Raises AdmissionError at once."""
        ...

    async def score(self, request: Request) -> PromptScores:
        """The log-probability of every prompt token; nothing is generated.

        `request.sampling.prompt_logprobs` says how many alternatives stand beside each (None: none). Raises
        AdmissionError, and EngineError if the request ended otherwise (aborted, past its deadline, failed).
        """
        ...

    async def encode(self, request: Request) -> Embedding:
        """The prompt as a vector, pooled by `request.pooling`. Raises as `score` does."""
        ...

    async def abort(self, request_id: str) -> None:
        """End a request within one step with reason "cancelled". Unknown ids are ignored."""
        ...

    async def load_adapter(self, name: str, path: str | Path) -> int:
        """Read a LoRA adapter in PEFT's form; from now on `Request.adapter = name` computes with it.

        A name loaded before gets a new version: requests alive go on with theirs. Returns the version, counted from 1
        over all adapters. Raises ConfigError or CheckpointError if the files are no adapter of this model.
        """
        ...

    async def unload_adapter(self, name: str) -> None:
        """Refuse the name from now on, and return once the requests alive that use it have ended and it is freed.

        Raises ConfigError for a name that is not loaded.
        """
        ...

    async def update_weights(self, source: str | Path | Mapping[str, Any], mode: SwapMode = "recompute") -> int:
        """Serve other weights, from between two steps on, without dropping a request. Returns their version.

        source: a checkpoint directory with the same configuration, or tensors by their Hugging Face names; those not
        named stay as they are. mode: "recompute" preempts what runs, to be computed anew under the new weights, output
        so far included; "drain" lets it end on the old ones while all others wait. Updates queue up. Every `Tokens`
        carries the version it was computed with. Raises ConfigError or CheckpointError, and changes nothing, if the
        weights do not fit; EngineError if the engine is closed meanwhile.
        """
        ...

    async def sleep(self, level: int = 1, *, weights: str | Path | None = None) -> None:
        """Free memory until `wake`. Running requests are set back and wait, new ones queue up; none is dropped.

        level: 1 frees the key-value cache, 2 the weights too. weights: where level 2 reads them back from; needed where
        those in use came from tensors, else ConfigError. Asleep already: only what is not freed yet is.
        """
        ...

    async def wake(self) -> None:
        """Take back what `sleep` freed and go on. Awake already: does nothing. Raises if the memory, or the files that
        the weights came from, are not there; the engine then sleeps on and can be woken again."""
        ...

    @property
    def is_sleeping(self) -> bool: ...

    def load(self) -> Load: ...

    async def close(self) -> None:
        """End every request and release the model. Idempotent."""
        ...
