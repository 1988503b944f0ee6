"""The built-in tools of agents, as `Tool`s.

    registry = ToolRegistry(builtin_tools(["calculator", "date"]))

`KNOWN` carry the names, descriptions, parameters and answers that the built-in model was trained on
(`deepseek.training.curriculum.schema`), and are what is given when no names are. The others reach further: they are
given only by name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import cache, partial
from typing import Any

from deepseek.agent.environments.python_sandbox import MAX_AT_ONCE, PythonSandbox
from deepseek.agent.environments.workspace import Workspace
from deepseek.agent.execution.tool import Tool
from deepseek.agent.tools.calculator import calculator
from deepseek.agent.tools.dates import Now, clock_tool, date_tool, local_now
from deepseek.agent.tools.files import file_tools, opener
from deepseek.agent.tools.http import http_tool
from deepseek.agent.tools.memory import memory_tools
from deepseek.agent.tools.python import python_tool
from deepseek.agent.tools.search import Find, pages_of, retrieve_tool, search_tool
from deepseek.agent.tools.services import Databases, Documents
from deepseek.agent.tools.sql import sql_tool
from deepseek.agent.tools.units import convert
from deepseek.core.documents import DocumentSearch
from deepseek.core.errors import ConfigError
from deepseek.core.web import WebClient
from deepseek.plugins.search import SearchEngine
from deepseek.tenancy.database import TenantDatabases

__all__ = ["FURTHER", "GROUPS", "KNOWN", "builtin_tools"]

KNOWN = ("calculator", "convert", "date", "clock", "memory_set", "memory_get", "web_search")
FURTHER = (
    "http_get",
    "retrieve",
    "query_database",
    "change_database",
    "python",
    "list_files",
    "read_file",
    "write_file",
    "search_files",
)
GROUPS: Mapping[str, tuple[str, ...]] = {
    "memory": ("memory_set", "memory_get"),
    "files": ("list_files", "read_file", "write_file", "search_files"),
}
"""Names for several tools at once."""

_QUICK = {"inline": True}  # microseconds, bounded


def builtin_tools(
    names: Iterable[str] | None = None,
    *,
    now: Now = local_now,
    databases: TenantDatabases | None = None,
    workspace: Workspace | str | os.PathLike[str] | None = None,
    sandbox: PythonSandbox | None = None,
    web: WebClient | None = None,
    search: SearchEngine | Find | None = None,
    documents: DocumentSearch | None = None,
) -> list[Tool]:
    """The tools of these names, or groups of them, in their order; `KNOWN` without names.

    now: the clock of `date` and `clock`. databases: whose memory and SQL is used; opened when first needed if not given.
    workspace: of the file tools, for all tenants; None: each tenant has its own. sandbox: of `python`.
    web: what `http_get` fetches with; the public web alone if not given.
    search: how `web_search` finds pages; without one it looks into the tenant's documents, as `retrieve` does: in
    documents, or the index in the tenant's database.
    Raises ConfigError for an unknown name.
    """
    makers = _makers(now, Databases(databases), workspace, sandbox, web, search, documents)
    wanted = list(
        dict.fromkeys(tool for name in (KNOWN if names is None else names) for tool in GROUPS.get(name, (name,)))
    )
    for name in wanted:
        if name not in makers:
            near = get_close_matches(name, (*makers, *GROUPS), n=1)
            raise ConfigError(
                "no built-in tool of this name",
                where="tools",
                found=repr(name),
                expected=f"one of {', '.join((*makers, *GROUPS))}",
                fix=f"perhaps {near[0]}" if near else None,
            )
    return [makers[name]() for name in wanted]


def _makers(
    now: Now,
    databases: Databases,
    workspace: Workspace | str | os.PathLike[str] | None,
    sandbox: PythonSandbox | None,
    web: WebClient | None,
    search: SearchEngine | Find | None,
    documents: DocumentSearch | None,
) -> dict[str, Callable[[], Tool]]:
    """How each is made; what it needs is made with it, not before."""

    def made(make: Callable[[], Callable[..., Any]], name: str, **options: Any) -> Callable[[], Tool]:
        return lambda: Tool.of(make(), name=name, **options)

    def python() -> Tool:
        chosen = sandbox or PythonSandbox()
        return Tool.of(python_tool(chosen), timeout_s=chosen.limits.wall_s + 20, concurrency=MAX_AT_ONCE)

    passages = Documents(databases, documents)
    pages = pages_of(search) if isinstance(search, SearchEngine) else search or passages

    @cache
    def files() -> Mapping[str, Callable[..., Any]]:  # all on one workspace
        return file_tools(opener(workspace))

    makers: dict[str, Callable[[], Tool]] = {
        "calculator": made(lambda: calculator, "calculator", pure=True, **_QUICK),
        "convert": made(lambda: convert, "convert", pure=True, **_QUICK),
        "date": made(lambda: date_tool(now), "date", **_QUICK),
        "clock": made(lambda: clock_tool(now), "clock"),  # in a thread: zones are files
        "http_get": made(lambda: http_tool(web or WebClient()), "http_get", idempotent=True, retries=2),
        "web_search": made(lambda: search_tool(pages), "web_search", pure=True, cache_ttl_s=300.0, retries=2),
        "retrieve": made(lambda: retrieve_tool(passages), "retrieve", idempotent=True),
        "query_database": made(lambda: sql_tool(databases), "query_database", idempotent=True, retries=2),
        "change_database": made(lambda: sql_tool(databases, may_write=True), "change_database"),
        "python": python,
    }
    for name in GROUPS["memory"]:
        makers[name] = made(partial(_of, partial(memory_tools, databases), name), name, idempotent=True)
    for name in GROUPS["files"]:
        makers[name] = made(partial(_of, files, name), name, idempotent=True)
    return makers


def _of(tools: Callable[[], Mapping[str, Callable[..., Any]]], name: str) -> Callable[..., Any]:
    return tools()[name]
