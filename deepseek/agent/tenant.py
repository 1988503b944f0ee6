"""In whose name a run goes: the tenant at hand, and without one the tenant `local`, as for all offline fronts."""

from __future__ import annotations

from deepseek.core.engine import LOCAL_TENANT
from deepseek.core.errors import TenancyError
from deepseek.tenancy.context import TenantContext, check_tenant, current_tenant


def tenant_of(named: str | None, default: str = LOCAL_TENANT) -> str:
    """The tenant that is named, else the one at hand, else the default. Raises TenancyError for a name that is none."""
    if named is not None:
        return check_tenant(named)
    try:
        return current_tenant()
    except TenancyError:
        return default


def as_tenant(tenant: str) -> TenantContext:
    """Let the tenant be at hand."""
    return TenantContext(tenant)
