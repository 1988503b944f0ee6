"""The tenant that work is done for: a context variable, so that tasks inherit it and threads do not share it.

A context is left in the reverse order of entering: leaving another than the innermost one is an error and changes nothing,
since work would go on in a wrong name. `create_task` and `asyncio.to_thread` copy it; a thread of one's own needs
`contextvars.copy_context().run`.
"""

from __future__ import annotations

import re
from contextvars import ContextVar, Token
from types import TracebackType

from deepseek.core.errors import TenancyError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class _Frame:
    """One entering. owner: the `TenantContext` that did, None where `switch` did."""

    __slots__ = ("owner", "tenant", "token")

    def __init__(self, tenant: str, owner: TenantContext | None) -> None:
        self.tenant = tenant
        self.owner = owner
        self.token: Token[_Frame | None] | None = None


_CURRENT: ContextVar[_Frame | None] = ContextVar("deepseek_tenant", default=None)


def check_tenant(name: object) -> str:
    """The name, if it is one: letters, digits and . _ -, the first a letter or digit, at most 128. Raises TenancyError."""
    if isinstance(name, str) and NAME.fullmatch(name):
        return "".join((name,))
    expected = "letters, digits, . _ -, beginning with a letter or digit, at most 128"
    raise TenancyError("not a name of a tenant", found=repr(name)[:80], expected=expected)


def current_tenant() -> str:
    """Whom work is done for now. Raises TenancyError where nobody is set."""
    frame = _CURRENT.get()
    if frame is None:
        raise TenancyError("no tenant is set", fix='do this within `with TenantContext("name"):`')
    return frame.tenant


def switch(tenant_id: str, owner: TenantContext | None = None) -> None:
    """Work for this tenant from now on, until `reset`. Raises TenancyError for what is no name."""
    frame = _Frame(check_tenant(tenant_id), owner)
    frame.token = _CURRENT.set(frame)


def reset(owner: TenantContext | None = None) -> None:
    """Back to the tenant before the last `switch`. Raises TenancyError where that is not what comes next."""
    frame = _CURRENT.get()
    if frame is None:
        raise TenancyError("no tenant is set, so there is none to leave")
    if frame.owner is not owner:
        raise TenancyError(
            "a tenant was left out of order",
            found=f"the innermost one is {frame.tenant!r}",
            fix="leave the one entered last first, in the task that entered it",
        )
    assert frame.token is not None
    try:
        _CURRENT.reset(frame.token)
    except ValueError:  # a copy of the context, of another task or thread
        raise TenancyError(
            "a tenant was left in another task than it was entered in", found=repr(frame.tenant)
        ) from None


class TenantContext:
    """`with TenantContext("acme"):` work for that tenant. It may be used again, but not while it is entered."""

    def __init__(self, tenant_id: str) -> None:
        self.tenant_id = check_tenant(tenant_id)
        self._entered = False

    def __enter__(self) -> TenantContext:
        if self._entered:
            raise TenancyError("this TenantContext is entered already", found=repr(self.tenant_id), fix="make another")
        switch(self.tenant_id, self)
        self._entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        reset(self)
        self._entered = False
