"""What the front holds for as long as it runs: the engine, the text codec, the names it serves, its limits."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from deepseek.api.agents.configured import AgentsConfig
from deepseek.api.idempotency_store import IdempotencyStore
from deepseek.api.identity.caller import Caller, Identifier, LocalIdentifier
from deepseek.api.kept.shelf import Shelf
from deepseek.api.lifecycle import Lifecycle
from deepseek.api.limits.collector import LimitCollector
from deepseek.api.limits.config import LimitConfig
from deepseek.api.limits.overload import Overload
from deepseek.api.limits.rate import RateLimiter, Unlimited
from deepseek.api.metering.meter import FreeMeter, Meter
from deepseek.api.metering.report import UsageReports
from deepseek.api.metrics import Metrics
from deepseek.api.salts import TenantSalts
from deepseek.api.tiers import Tiers
from deepseek.chat.parsing import StreamParser
from deepseek.core.constraint import Constraint
from deepseek.core.engine import Engine
from deepseek.core.errors import ConfigError
from deepseek.core.messages import MediaKind, Message, ToolChoice, ToolSpec
from deepseek.plugins.manager import PluginManager
from deepseek.plugins.reload import ConfigWatch

if TYPE_CHECKING:
    from deepseek.api.admin import KeyAdmin

if TYPE_CHECKING:
    from deepseek.api.agents.runs import AgentRuns
    from deepseek.api.dialects.responses import RunningResponse
    from deepseek.api.kept.runner import BatchRunner


class TextCodec(Protocol):
    """Text to token ids and back, for one model. Content never becomes special tokens; only a template's literals do.

    Methods may be called from a worker thread (long prompts are encoded off the event loop).
    """

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a raw completion prompt, with the model's beginning-of-sequence token where it has one."""
        ...

    def encode_chat(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], *, thinking: bool = False
    ) -> list[int]:
        """Ids of a conversation up to where the assistant speaks next. Raises TokenizerError without a template.

        thinking: whether the model is to think before it answers, where its template leaves that open.
        """
        ...

    def parser(self, tools: bool, thinking: bool) -> StreamParser:
        """A fresh parser for one choice of an answer. A model without such markup gets one that emits text only.

        tools: whether calls are read as such; thinking: as in `encode_chat`.
        """
        ...

    def tool_constraint(
        self, tools: Sequence[ToolSpec], choice: ToolChoice, parallel: bool, *, thinking: bool = False
    ) -> Constraint | None:
        """What the answer must match so that the choice is kept; None where nothing has to be enforced.

        parallel: whether there may be more than one call. thinking: as in `encode_chat`; it ends before a call that
        is demanded. Raises AdmissionError where the choice cannot be enforced.
        """
        ...

    def answer_constraint(
        self, text: Constraint, tools: Sequence[ToolSpec], choice: ToolChoice, parallel: bool, *, thinking: bool = False
    ) -> Constraint | None:
        """What the whole answer must match, where its text must match something: the text, or calls instead of it.

        Raises AdmissionError where that cannot be enforced together.
        """
        ...

    @property
    def thinks(self) -> bool:
        """Whether the model thinks before it answers, if it is asked to."""
        ...

    def thinking_end(self) -> int | None:
        """The token that closes the thinking which a prompt opens; None where there is no such token."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes one token stands for; half a character is allowed."""
        ...


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """Limits of the front. Times in seconds, sizes in bytes.

    default_max_tokens: tokens to generate when a request names no number, or what the context leaves, if less.
    body_timeout_s: for the whole body to arrive. send_timeout_s: for a reader to take one frame.
    long_text_chars: prompts longer than this are encoded in a worker thread.
    max_text_chars: prompts longer than this cannot fit the context and are refused unread; None encodes whatever comes.
    """

    max_body_bytes: int = 4 * 1024 * 1024
    body_timeout_s: float = 30.0
    send_timeout_s: float = 30.0
    default_max_tokens: int = 256
    long_text_chars: int = 8192
    max_text_chars: int | None = None


@dataclass(slots=True)
class ServerState:
    """One model behind one front. Raises ConfigError for a name given twice.

    models: the names clients may use, the first being the one shown; never empty.
    max_model_len: tokens of prompt and completion together.
    adapters: names of adapters that the engine has loaded; clients ask for one as they ask for a model.
    private: of names that not every tenant may use, the tenants that may.
    media: of names that take more than text, the kinds of parts they take.
    media_addresses: whether a part may name an http(s) address. It is handed on as it is: the server fetches nothing.
    tiers: named where a caller's own does not reach.
    identifier, limiter, meter: who asks, how fast they may, and what they are charged; by default a server without keys.
    idempotency, usage, admin: kept answers, the ledger's reports, keys and tenants; None where there is no database.
    limits: bounds of connections and of load; overload: what is in flight, and who gives way when it is too much.
    shelf: where answers, files and batches of tenants are kept; by default for as long as the server runs.
    responses: those to be kept that are being made, by tenant and id. batches: what runs them; set by `create_app`.
    agents: those that are served. runs: of them; set by `create_app`.
    created: when this server started to serve, in seconds since 1970.
    plugins: those that look at prompts and answers; plugin_watch: what reads their configuration again, if anything.
    """

    engine: Engine
    text: TextCodec
    models: tuple[str, ...]
    max_model_len: int
    settings: ApiSettings = field(default_factory=ApiSettings)
    adapters: tuple[str, ...] = ()
    created: int = field(default_factory=lambda: int(time.time()))
    private: Mapping[str, frozenset[str]] = field(default_factory=dict)
    media: Mapping[str, frozenset[MediaKind]] = field(default_factory=dict)
    media_addresses: bool = False
    tiers: Tiers = field(default_factory=Tiers)
    identifier: Identifier = field(default_factory=LocalIdentifier)
    limiter: RateLimiter = field(default_factory=Unlimited)
    meter: Meter = field(default_factory=FreeMeter)
    idempotency: IdempotencyStore | None = None
    usage: UsageReports | None = None
    admin: KeyAdmin | None = None
    salts: TenantSalts = field(default_factory=TenantSalts)
    limits: LimitConfig = field(default_factory=LimitConfig)
    shelf: Shelf = field(default_factory=Shelf)
    plugins: PluginManager = field(default_factory=PluginManager)
    plugin_watch: ConfigWatch | None = None
    agents: AgentsConfig = field(default_factory=AgentsConfig)
    responses: dict[tuple[str, str], RunningResponse] = field(default_factory=dict)
    batches: BatchRunner = field(init=False)
    runs: AgentRuns = field(init=False)
    overload: Overload = field(init=False)
    metrics: Metrics = field(init=False)
    lifecycle: Lifecycle = field(init=False)

    def __post_init__(self) -> None:
        taken = next((name for name in self.adapters if name in self.models), None)
        if taken is not None:
            raise ConfigError("an adapter and the model have the same name", where="adapter", found=taken)
        self.overload = Overload(self.limits.dynamic, self.tiers.by_name.values())
        self.metrics = Metrics(self.engine)
        self.metrics.registry.register(LimitCollector(self.overload, lambda: self.limiter))
        self.plugins.observe = self.metrics.plugin_called
        if self.plugin_watch is not None:
            self.plugin_watch.told = self.metrics.plugins_read
        self.lifecycle = Lifecycle(self.engine, probe_ids=lambda: tuple(self.text.encode_prompt("1")))

    def names_for(self, caller: Caller) -> tuple[str, ...]:
        """The models and adapters this caller may use, in the order they are shown."""
        return tuple(name for name in (*self.models, *self.adapters) if self.may_use(caller, name))

    def may_use(self, caller: Caller, name: str) -> bool:
        owners = self.private.get(name)
        return (owners is None or caller.tenant in owners) and (caller.models is None or name in caller.models)
