"""The process of one isolated call (see `isolate`), run as a file of its own: `python -P child.py FD`.

Reads a request, JSON, from standard input until it ends; calls the function; writes one line of JSON to FD: `text` and
`truncated`, or `error` and `kind`. The package is imported only as far as it is needed, since this is paid by each call.
"""

import contextlib
import inspect
import json
import os
import resource
import sys
import time
from importlib import import_module
from typing import Any


def main() -> None:
    """Answer, and end without waiting for threads that the function may have left."""
    pipe = int(sys.argv[1])
    os.set_inheritable(pipe, False)
    request = json.loads(sys.stdin.buffer.read())
    sys.path[:] = request["path"]
    try:
        answer = _answer(request)
    except MemoryError:
        answer = {"kind": "ToolFailed", "error": "the tool needs more memory than it may have"}
    left = memoryview(json.dumps(answer).encode() + b"\n")
    while left:
        left = left[os.write(pipe, left) :]
    os._exit(0)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    from deepseek.agent.execution.results import error_text, render

    try:
        function = _found(request["function"])
        with contextlib.ExitStack() as stack:
            if request["tenant"] is not None:
                stack.enter_context(import_module("deepseek.tenancy.context").TenantContext(request["tenant"]))
            arguments, named = _arguments(request, function)
            _limit(request["memory_bytes"])
            value = function(*arguments, **named)
            if inspect.iscoroutine(value):
                import asyncio

                value = asyncio.run(value)
        text, truncated = render(value, request["max_result_bytes"])
    except MemoryError:
        raise
    except BaseException as error:
        kind = next((base.__name__ for base in type(error).__mro__ if base.__name__.startswith("Tool")), "")
        return {
            "kind": kind,
            "error": error_text(error),
            "retry_after_s": getattr(error, "retry_after_s", None),
        }
    return {"text": text, "truncated": truncated, "is_json": not isinstance(value, str)}


def _found(address: dict[str, str]) -> Any:
    if "path" in address:  # of the program's main file; under this name it does not run its `if __name__ == "__main__"`
        import runpy

        found: Any = runpy.run_path(address["path"], run_name="__tool__")
        first, *rest = address["name"].split(".")
        found = found[first]
    else:
        found = import_module(address["module"])
        rest = address["name"].split(".")
    for name in rest:
        found = getattr(found, name)
    return found


def _arguments(request: dict[str, Any], function: Any) -> tuple[list[Any], dict[str, Any]]:
    values = request["values"]
    if request["typed"]:  # dates, dataclasses and their kind: JSON does not carry them, so they are made again here
        from deepseek.agent.execution.schema import read_function
        from deepseek.agent.execution.tool import ToolContext

        values = read_function(function, where="tool", context_type=ToolContext, closed=False).form.check(values)
    if request["context"] is not None:
        from deepseek.agent.execution.context import ToolContext as Context

        given = request["context"]
        deadline = None if given["left_s"] is None else time.monotonic() + given["left_s"]
        values[given["parameter"]] = Context(
            request["tenant"],
            given["run_id"],
            deadline,
            metadata=given["metadata"],
            call_id=given["call_id"],
        )
    positional = [values.pop(name) for name in request["positional"] if name in values]
    return positional, values


def _limit(memory_bytes: int) -> None:
    """No more memory than what the imports took and so much more; no core files. Only Linux says and holds the first."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "linux":
        return
    with open("/proc/self/statm") as statistics:
        pages = int(statistics.read().split()[0])
    limit = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
