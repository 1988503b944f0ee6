"""The `limits` section of a platform's configuration: what connections may cost, and how much runs at once.

limits:
  connections: {total: 4096, per_address: 256, head_timeout_s: 10}
  dynamic:
    floor: 16
    ceiling: 1024
    contracts: {acme: {floor: 8, ceiling: 64}}
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

Seconds = Annotated[float, Field(gt=0, le=3600)]
Bytes = Annotated[int, Field(ge=1024, le=2**30)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ConnectionConfig(_Section):
    """What one connection, and all of them together, may hold. Times in seconds, sizes in bytes.

    total, per_address: connections at once; beyond them one is answered 503 and closed. per_address: None where many
    clients share an address, behind a proxy for one.
    head_timeout_s: from the first byte of a request (of a new connection: from its beginning) to the end of its head.
    keep_alive_s: a connection may rest between two requests. linger_s: after a refusal, what the client still sends is
    read and thrown away for so long, since closing at once would take the answer away from it.
    head_bytes, headers, target_bytes: of one request. pipelined: requests sent before the answers to those before them.
    write_buffer_bytes: of answers that wait for a slow reader; more is not made until it has read.
    message_bytes: of one WebSocket message. ping_s: how often a WebSocket is asked whether it is still there.
    """

    total: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    per_address: Annotated[int, Field(ge=1)] | None = None
    head_timeout_s: Seconds = 10.0
    keep_alive_s: Annotated[int, Field(ge=1, le=3600)] = 30
    linger_s: Seconds = 2.0
    head_bytes: Bytes = 32 * 1024
    headers: Annotated[int, Field(ge=8, le=10_000)] = 100
    target_bytes: Bytes = 8 * 1024
    pipelined: Annotated[int, Field(ge=0, le=1000)] = 16
    write_buffer_bytes: Bytes = 64 * 1024
    message_bytes: Bytes = 1024 * 1024
    ping_s: Seconds = 20.0


class Contract(_Section):
    """Of one tenant: choices that may always run at once, whatever the limit says, and those that never are exceeded."""

    floor: Annotated[int, Field(ge=0)] = 0
    ceiling: Annotated[int, Field(ge=1)] = 1024

    @model_validator(mode="after")
    def _in_order(self) -> Contract:
        if self.floor > self.ceiling:
            raise ValueError(f"the floor, {self.floor}, is above the ceiling, {self.ceiling}")
        return self


class DynamicConfig(_Section):
    """The limit on choices running at once, which follows what the engine can take (`gradient.Gradient2`).

    floor, ceiling, initial: of the limit; initial: the ceiling, if not given. Keep the ceiling below what the engine
    runs and queues together, so that the lowest tier is refused before the engine refuses everybody.
    unhurried_s: while first tokens come within so long on average, the limit does not fall: many at once take longer than
    few on any engine, and nobody minds. tolerance: times the usual time per prompt token that is not yet called overload.
    smoothing: share of a step that is taken. queue: choices above what fits that are tried, at least; the square root of
    the limit, if that is more.
    baseline_windows: over how many windows the usual time is averaged. window_s, window_samples: a window lasts at least
    so long, and has at least so many first tokens unless it becomes ten times as long.
    headroom: share of the limit that the lowest tier may not borrow; those between it and the highest, in proportion.
    contracts: by tenant.
    """

    floor: Annotated[int, Field(ge=1)] = 16
    ceiling: Annotated[int, Field(ge=1)] = 1024
    initial: Annotated[int, Field(ge=1)] | None = None
    tolerance: Annotated[float, Field(ge=1, le=10)] = 1.5
    smoothing: Annotated[float, Field(gt=0, le=1)] = 0.2
    unhurried_s: Annotated[float, Field(ge=0, le=3600)] = 0.1
    queue: Annotated[int, Field(ge=1)] = 4
    baseline_windows: Annotated[int, Field(ge=10)] = 600
    window_s: Seconds = 0.5
    window_samples: Annotated[int, Field(ge=1)] = 10
    headroom: Annotated[float, Field(ge=0, le=0.9)] = 0.1
    contracts: dict[str, Contract] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _in_order(self) -> DynamicConfig:
        if not self.floor <= (self.initial or self.ceiling) <= self.ceiling:
            raise ValueError(
                f"expected floor <= initial <= ceiling; found {self.floor}, {self.initial or self.ceiling}, {self.ceiling}"
            )
        promised = sum(contract.floor for contract in self.contracts.values())
        if promised > self.ceiling:
            raise ValueError(f"the contracts promise {promised} choices at once; the ceiling is {self.ceiling}")
        return self


class LimitConfig(_Section):
    """connections: bounds of the server. dynamic: None refuses nobody for load; the engine's own queue still does.

    shared_timeout_s: for Redis to answer about a rate; after that the server counts by itself for a while.
    """

    connections: ConnectionConfig = ConnectionConfig()
    dynamic: DynamicConfig | None = DynamicConfig()
    shared_timeout_s: Annotated[float, Field(gt=0, le=5)] = 0.05
