"""What a caller must be allowed to do to use a route. Every route declares it; `create_app` refuses one that does not, and
puts a `Guard` before every other."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class Scope(Enum):
    """PUBLIC needs no identity ever; INFER spends tokens; READ shows what is served; OPERATE is for whoever runs it."""

    PUBLIC = "public"
    READ = "read"
    INFER = "infer"
    OPERATE = "operate"


def needs(scope: Scope) -> Callable[[F], F]:
    """Declare the scope of an endpoint."""

    def mark(endpoint: F) -> F:
        endpoint.__dict__["deepseek_scope"] = scope
        return endpoint

    return mark


def scope_of(route: object) -> Scope | None:
    """The declared scope of a route, or None, which no route may have."""
    found = getattr(getattr(route, "endpoint", None), "__dict__", {}).get("deepseek_scope")
    return found if isinstance(found, Scope) else None
