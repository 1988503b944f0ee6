"""Functions that run in processes of their own: they have to be found by import."""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from deepseek.agent import ToolContext
from deepseek.agent.execution.errors import ToolRetry, ToolTransient
from deepseek.tenancy.context import current_tenant


@dataclass
class Point:
    x: int
    y: int


def echo(value: Any, process: bool = False) -> Any:
    return os.getpid() if process else value


def typed(when: date, point: Point, number: int, /) -> str:
    return f"{when:%d.%m.%Y} {point.x + point.y} {number}"


async def later(text: str) -> str:
    await asyncio.sleep(0)
    return text


def whose(context: ToolContext) -> str:
    return f"{context.run_id} {context.call_id} {context.deadline is not None}"


def tenant() -> str:
    return current_tenant()


def spin() -> None:
    while True:
        pass


def spin_with_child(path: str) -> None:
    """Starts a process that would go on for a minute, notes its id, and hangs."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path(path).write_text(str(child.pid))
    spin()


def leave(status: int) -> None:
    os._exit(status)


def crash() -> None:
    ctypes.string_at(0)


def flood() -> str:
    return "x" * (1 << 30)


def grow() -> int:
    kept = []
    while True:
        kept.append(bytearray(1 << 24))


def chatter() -> str:
    print("x" * 10_000_000)
    print("y" * 10_000_000, file=sys.stderr)
    return "done"


def complain() -> None:
    raise ValueError("no such thing")


def again() -> None:
    raise ToolRetry("with other words")


def busy() -> None:
    raise ToolTransient("busy", retry_after_s=7.0)


def last_words() -> None:
    print("I am out of cheese", file=sys.stderr, flush=True)
    os._exit(1)


def leave_a_thread() -> str:
    threading.Thread(target=threading.Event().wait).start()
    return "done"


def unwritable() -> Any:
    return object()
