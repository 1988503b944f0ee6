"""What built-in tools reach through, each opened when it is first used: the tenants' databases, and the index in them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property

from deepseek.agent.execution.context import ToolContext
from deepseek.agent.tenant import tenant_of
from deepseek.agent.tools.search import Found
from deepseek.core.documents import DocumentSearch
from deepseek.tenancy.database import TenantDatabase, TenantDatabases


class Databases:
    """The databases of tenants: those that are given, or one's own, made when first asked for."""

    def __init__(self, given: TenantDatabases | None = None) -> None:
        self._databases = given
        self._lock = threading.Lock()

    def all(self) -> TenantDatabases:
        with self._lock:
            if self._databases is None:
                self._databases = TenantDatabases()
            return self._databases

    def of(self, context: ToolContext) -> TenantDatabase:
        """The call's tenant's. Ask anew for each use. Raises TenancyError for a name that is none."""
        return self.all().of(tenant_of(context.tenant))


class Documents:
    """Passages of the call's tenant's documents: in the index that is given, or the one in the tenant's database."""

    def __init__(self, databases: Databases, given: DocumentSearch | None = None) -> None:
        self._databases, self._given = databases, given

    async def __call__(self, query: str, most: int, context: ToolContext) -> Sequence[Found]:
        index = self._given or self._own
        passages = await index.search(query, tenant=tenant_of(context.tenant), limit=most)
        return [Found(passage.text, passage.title, passage.name) for passage in passages]

    @cached_property
    def _own(self) -> DocumentSearch:
        from deepseek.tenancy.documents import DocumentIndex

        return DocumentIndex(databases=self._databases.all())
