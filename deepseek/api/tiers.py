"""Tiers: what a key may do and how fast. The three of the product, and the one of a server without keys."""

from __future__ import annotations

from dataclasses import dataclass, field

from deepseek.core.messages import MediaKind


@dataclass(frozen=True, slots=True)
class Tier:
    """One level of service.

    requests_per_second: of each key; None: not limited. burst_s: seconds of that rate that may come at once.
    media: kinds of message parts, beside text, that are accepted. protobuf, grpc: whether answers may come in that form.
    priority: added to every request's own; smaller is served first. may_prioritise: whether a request may ask for a
    priority below 0. dynamic: the limit follows what the engine can take (`deepseek.api.limits`).
    share: weight among tiers when load must be shed.
    """

    name: str
    requests_per_second: float | None
    burst_s: float = 1.0
    media: frozenset[MediaKind] = frozenset()
    protobuf: bool = False
    grpc: bool = False
    priority: int = 0
    may_prioritise: bool = False
    dynamic: bool = False
    share: float = 1.0


_ALL_MEDIA: frozenset[MediaKind] = frozenset(("image", "audio", "video"))

BASIC = Tier("basic", 100.0, priority=2)
PROFESSIONAL = Tier("professional", 500.0, media=_ALL_MEDIA, protobuf=True, priority=1, share=2.0)
ENTERPRISE = Tier(
    "enterprise",
    None,
    media=_ALL_MEDIA,
    protobuf=True,
    grpc=True,
    may_prioritise=True,
    dynamic=True,
    share=4.0,
)
LOCAL = Tier("local", None, media=_ALL_MEDIA, protobuf=True, grpc=True, may_prioritise=True)
"""Of a keyless server on loopback: everything, unlimited."""


@dataclass(frozen=True, slots=True)
class Tiers:
    """The tiers of one server by name."""

    by_name: dict[str, Tier] = field(default_factory=lambda: {tier.name: tier for tier in DEFAULT_TIERS})

    def __getitem__(self, name: str) -> Tier:
        return self.by_name[name]


DEFAULT_TIERS: tuple[Tier, ...] = (BASIC, PROFESSIONAL, ENTERPRISE)
