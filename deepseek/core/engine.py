"""The contract between whoever wants tokens and whoever makes them.

A `Request` goes in; `Ready`, any number of `Tokens` and exactly one `Finish` come out, whatever
happens in between. `Engine` is the protocol; `deepseek.engine.Engine` runs a model behind it and
`deepseek.engine.FakeEngine` paces made-up tokens, so that everything above can be tested without one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

from deepseek.core.sampling import SamplingParams

LOCAL_TENANT = "local"

FinishReason = Literal["stop", "length", "budget", "deadline", "cancelled", "error"]


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt and what to do with it.

    id: unique among the requests alive in the engine.
    prompt_ids: token ids; never empty.
    tenant: whose fair share it draws on.
    cache_salt: prefix-cache blocks are shared only between equal salts of one tenant.
    priority: smaller is served first.
    deadline: on the engine's monotonic clock, in seconds; past it the request ends with reason "deadline".
    """

    id: str
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    tenant: str = LOCAL_TENANT
    cache_salt: str = ""
    priority: int = 0
    deadline: float | None = None


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
class Finish:
    """The one end of a request: a reason per choice, what was used, and for "error" what went wrong."""

    request_id: str
    reasons: tuple[FinishReason, ...]
    usage: Usage
    error: str | None = None


Event = Ready | Tokens | Finish


@dataclass(frozen=True, slots=True)
class Load:
    """What limits and probes read. Waiting time is that of the oldest request still in the queue."""

    waiting: int
    running: int
    blocks_used: int
    blocks_total: int
    oldest_wait_s: float

    @property
    def kv_use(self) -> float:
        return self.blocks_used / self.blocks_total if self.blocks_total else 0.0


class Engine(Protocol):
    """What a front needs of an engine. Methods may be called from any task of one event loop."""

    def generate(self, request: Request) -> AsyncIterator[Event]:
        """Yield the request's events. Leaving the iterator early aborts the request. Raises AdmissionError at once."""
        ...

    async def abort(self, request_id: str) -> None:
        """End a request within one step with reason "cancelled". Unknown ids are ignored."""
        ...

    def load(self) -> Load: ...

    async def close(self) -> None:
        """End every request and release the model. Idempotent."""
        ...
