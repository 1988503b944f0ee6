"""A caller, written down, for work that goes on after its request: what a batch is run as, after a restart too.

A key itself is never kept. Whoever it stood for is asked for again before each line, so a key that was revoked, or a tenant
that was suspended, runs nothing more.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from deepseek.api.identity.caller import Caller, WrittenCaller


@runtime_checkable
class Recaller(Protocol):
    """An identifier that finds a caller again."""

    def recall(self, written: WrittenCaller) -> Caller | None:
        """Who this caller is now; None if it may not use the server any more."""
        ...


def write_caller(caller: Caller) -> dict[str, Any]:
    """As JSON."""
    return {
        "tenant": caller.tenant,
        "subject": caller.subject,
        "tier": caller.tier.name,
        "scopes": sorted(scope.value for scope in caller.scopes),
        "key_id": caller.key_id,
        "models": None if caller.models is None else sorted(caller.models),
    }


def recall(identifier: object, written: dict[str, Any]) -> Caller | None:
    """The caller that was written, as it is now; None where it, or who could tell, is gone."""
    if not isinstance(identifier, Recaller):
        return None
    models = written["models"]
    return identifier.recall(
        WrittenCaller(
            written["tenant"],
            written["subject"],
            written["tier"],
            tuple(written["scopes"]),
            written["key_id"],
            None if models is None else tuple(models),
        )
    )
