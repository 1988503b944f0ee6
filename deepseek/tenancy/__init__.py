"""Who data belongs to, and where it lies: a tenant is a context variable, a directory and a database of its own.

    with TenantContext("tenant_123"):
        data = query_database("SELECT * FROM user_profiles")

Where no tenant is set, that is an error, never "all of them".
"""

from deepseek.tenancy.context import TenantContext, check_tenant, current_tenant
from deepseek.tenancy.database import QueryError, QueryLimits, Rows, TenantDatabase, TenantDatabases, query_database
from deepseek.tenancy.files import data_directory, tenant_directory

__all__ = [
    "QueryError",
    "QueryLimits",
    "Rows",
    "TenantContext",
    "TenantDatabase",
    "TenantDatabases",
    "check_tenant",
    "current_tenant",
    "data_directory",
    "query_database",
    "tenant_directory",
]
