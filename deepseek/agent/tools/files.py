"""The files of a workspace, as tools. What they read is data; what they may touch is `environments.workspace`'s to say."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from deepseek.agent.environments.workspace import Workspace
from deepseek.agent.execution.context import ToolContext
from deepseek.agent.tenant import tenant_of
from deepseek.tenancy.files import tenant_directory

Opened = Callable[[ToolContext], AbstractContextManager[Workspace]]


def opener(workspace: Workspace | str | os.PathLike[str] | None) -> Opened:
    """The workspace of a call: the one that is given, whoever calls; or, if none is, each tenant's own."""
    if isinstance(workspace, Workspace):
        return lambda context: nullcontext(workspace)
    if workspace is not None:
        shared = Workspace(workspace)
        return lambda context: nullcontext(shared)
    return _tenants_own


@contextmanager
def _tenants_own(context: ToolContext) -> Iterator[Workspace]:
    with Workspace(tenant_directory(tenant=tenant_of(context.tenant)) / "workspace") as workspace:
        yield workspace


def file_tools(opened: Opened) -> dict[str, Callable[..., str]]:
    """By name."""

    def list_files(context: ToolContext) -> str:
        """List the files of the workspace"""
        with opened(context) as workspace:
            entries = workspace.entries()
        return (
            "\n".join(e.path if e.path.endswith("/") else f"{e.path} ({e.bytes} bytes)" for e in entries) or "no files"
        )

    def read_file(path: str, context: ToolContext) -> str:
        """Read a file of the workspace"""
        with opened(context) as workspace:
            return workspace.read(path)

    def write_file(path: str, text: str, context: ToolContext) -> str:
        """Write a file of the workspace"""
        with opened(context) as workspace:
            return f"written: {workspace.write(path, text)} bytes"

    def search_files(text: str, context: ToolContext) -> str:
        """Find lines in the files of the workspace"""
        with opened(context) as workspace:
            matches = workspace.search(text)
        return "\n".join(f"{match.path}:{match.line}: {match.text}" for match in matches) or "not found"

    return {"list_files": list_files, "read_file": read_file, "write_file": write_file, "search_files": search_files}
