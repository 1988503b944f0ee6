"""What a request is charged to. `Meter.open` sets a part of the budgets aside before the engine sees the request; its
`Account` gives the engine a lease, and settles what was really used, before the last frame goes out."""

from __future__ import annotations

from typing import Protocol

from deepseek.api.identity.caller import Caller
from deepseek.core.engine import Event, FinishReason, Lease, Request, Usage


class Account(Protocol):
    """One request's bill."""

    @property
    def lease(self) -> Lease | None:
        """What the engine may generate; None where no budget bounds the caller."""
        ...

    @property
    def limit(self) -> str | None:
        """The budget that left the lease no more, by scope and period: "tenant/month". None: none did, so far."""
        ...

    def note(self, event: Event) -> None:
        """This came from the engine: what a request that is cut short has used is counted by it."""
        ...

    async def settle(self, usage: Usage, reasons: tuple[FinishReason, ...]) -> None:
        """Write what was used and give back the rest. Returns once it is on disk. Only the first call counts."""
        ...

    async def close(self) -> None:
        """Settle by what the lease, or the events, say was used, if nobody has settled: the request was cut short."""
        ...


class Meter(Protocol):
    async def start(self) -> None:
        """Before the first request."""
        ...

    async def stop(self) -> None:
        """After the last one."""
        ...

    async def open(self, caller: Caller, request: Request, model: str, route: str) -> Account:
        """Set aside what the request may use at first. Raises Problem "budget-exhausted" where that is not there."""
        ...


class FreeAccount:
    """Of what is not charged, or was before."""

    lease: Lease | None = None
    limit: str | None = None

    def note(self, event: Event) -> None:
        return

    async def settle(self, usage: Usage, reasons: tuple[FinishReason, ...]) -> None:
        return

    async def close(self) -> None:
        return


class FreeMeter:
    """Charges nobody and remembers nothing."""

    async def start(self) -> None:
        return

    async def stop(self) -> None:
        return

    async def open(self, caller: Caller, request: Request, model: str, route: str) -> Account:
        return FreeAccount()
