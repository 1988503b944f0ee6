"""A caller: whose request it is, what it may do, and at which tier. Made by an `Identifier` from a request's headers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from starlette.datastructures import Headers

from deepseek.api.scopes import Scope
from deepseek.api.tiers import LOCAL, Tier
from deepseek.core.engine import LOCAL_TENANT

EVERYTHING = frozenset(Scope)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    tenant: whose data, cache and fair share. subject: what limits and budgets are counted by: a key's public id, a
    token's subject, or the tenant. key_id: the key's public id; None without one. models: the only models it may use;
    None: those its tenant may.
    """

    tenant: str
    tier: Tier
    scopes: frozenset[Scope]
    subject: str
    key_id: str | None = None
    models: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class WrittenCaller:
    """What is kept of a caller for work that goes on after its request: names only, and never a key."""

    tenant: str
    subject: str
    tier: str
    scopes: tuple[str, ...]
    key_id: str | None = None
    models: tuple[str, ...] | None = None


LOCAL_CALLER = Caller(LOCAL_TENANT, LOCAL, EVERYTHING, LOCAL_TENANT)


class Identifier(Protocol):
    """How a server tells its callers apart."""

    async def identify(self, headers: Headers) -> Caller:
        """The caller of a request with these headers (of gRPC: its metadata). Raises Problem "unauthenticated"."""
        ...


class LocalIdentifier:
    """Everybody is the local tenant: a server without keys, which only listens on loopback."""

    async def identify(self, headers: Headers) -> Caller:
        return LOCAL_CALLER

    def recall(self, written: WrittenCaller) -> Caller | None:
        """The local tenant again; nobody else, for it cannot tell whether they may still ask."""
        return LOCAL_CALLER if written.tenant == LOCAL_TENANT and written.key_id is None else None
