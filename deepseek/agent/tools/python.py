"""The tool `python`: a program of the model's, run in the sandbox (`environments.python_sandbox`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from deepseek.agent.environments.python_sandbox import PythonSandbox


def python_tool(sandbox: PythonSandbox) -> Callable[[str], Awaitable[str]]:
    async def python(code: str) -> str:
        """Run Python code in a sandbox"""
        result = await sandbox.run(code)
        return result.text(sandbox.limits)

    return python
