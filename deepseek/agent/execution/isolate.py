"""A function in a process of its own, which can be killed: it may hang, leak, exit or crash, and takes nobody with it.

The process is told by JSON which function (module and name) to call with what, and answers by JSON; nothing is
pickled. It has a limit on memory, leads a process group that is killed as a whole (a child that leaves the group gets
away), and its result is read no further than a bound. That makes it stoppable, not harmless: it may read files and use
the network like any other program. For code that nobody trusts there is the sandbox (`deepseek.agent.environments`).
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek.agent.execution.errors import ToolFailed, ToolRefused, ToolRetry, ToolTimeout, ToolTransient
from deepseek.core.errors import ToolError

CHILD = Path(__file__).with_name("child.py")
_ANSWER_SLACK_BYTES = 1 << 16
_STDERR_BYTES = 2000
_ERRORS: dict[str, type[ToolError]] = {
    "ToolRetry": ToolRetry,
    "ToolTransient": ToolTransient,
    "ToolFailed": ToolFailed,
    "ToolRefused": ToolRefused,
}


def address_of(function: Callable[..., Any], where: str) -> dict[str, str]:
    """Where another process finds the function. Raises ToolError for one that it could not find."""
    inner: Any = function
    module, name = getattr(inner, "__module__", None), getattr(inner, "__qualname__", None)
    fix = "define it at the top of a module that can be imported"
    if isinstance(inner, functools.partial) or not inspect.isroutine(inner) or inspect.ismethod(inner):
        raise ToolError("isolate=True takes plain functions only", where=where, found=type(inner).__name__, fix=fix)
    if not isinstance(module, str) or not isinstance(name, str) or "<" in name:
        raise ToolError("another process could not find it", where=where, found=f"{module}.{name}", fix=fix)
    address = {"module": module, "name": name}
    if module == "__main__":
        path = getattr(sys.modules["__main__"], "__file__", None)
        if path is None:
            raise ToolError("another process could not find it", where=where, found="an interactive session", fix=fix)
        address["path"] = os.path.abspath(path)
    return address


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a call: the value as text, already bounded, and whether that is JSON or was a text from the first."""

    text: str
    truncated: bool
    is_json: bool = False


class IsolatedCall:
    """One call. `run` blocks and belongs in a thread; `cancel` may be called from any other."""

    def __init__(self, request: dict[str, Any], timeout_s: float, max_result_bytes: int) -> None:
        self._request = json.dumps(request).encode()
        self._timeout_s = timeout_s
        self._most_bytes = 6 * max_result_bytes + _ANSWER_SLACK_BYTES  # JSON may write a character in six
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False

    def run(self) -> Answer:
        """The answer. Raises ToolError and its kin: what the function raised, a time-out, an end without an answer."""
        until = time.monotonic() + self._timeout_s
        receive, send = os.pipe()
        try:
            with self._lock:
                if self._killed:
                    raise ToolFailed("the call was cancelled")
                self._process = process = subprocess.Popen(
                    [sys.executable, "-P", str(CHILD), str(send)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    pass_fds=(send,),
                    start_new_session=True,
                )
            os.close(send)
            send = -1
            answer, said = self._talk(process, receive, until)
        finally:
            self.kill()
            os.close(receive)
            if send >= 0:
                os.close(send)
        return self._read(answer, process.returncode, said, until)

    def cancel(self) -> None:
        """Have `run` end soon; from any thread, without waiting."""
        self._killed = True
        if self._lock.acquire(blocking=False):  # else it is being started or ended just now, and the flag is seen
            try:
                self._kill_group()
            finally:
                self._lock.release()

    def _kill_group(self) -> None:
        # Nobody else's group can come by while the leader has not been waited for.
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def kill(self) -> None:
        """End the process and all it started, now, and wait for it. Idempotent."""
        with self._lock:
            self._killed = True
            process = self._process
            if process is None:
                return
            self._kill_group()
            process.wait()
            for stream in (process.stdin, process.stderr):
                if stream is not None and not stream.closed:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()

    def _talk(self, process: subprocess.Popen[bytes], receive: int, until: float) -> tuple[bytes, bytes]:
        """Send the request, and read until the answer's end; also what it wrote to standard error."""
        assert process.stdin is not None and process.stderr is not None
        answer, said = bytearray(), bytearray()
        left = memoryview(self._request)
        send, complaints = process.stdin.fileno(), process.stderr.fileno()
        for pipe in (send, complaints, receive):
            os.set_blocking(pipe, False)
        with selectors.DefaultSelector() as selector:
            selector.register(send, selectors.EVENT_WRITE)
            selector.register(complaints, selectors.EVENT_READ)
            selector.register(receive, selectors.EVENT_READ)
            while receive in selector.get_map():
                remaining = until - time.monotonic()
                if remaining <= 0 or self._killed:
                    break
                for key, _ in selector.select(min(remaining, 1.0)):
                    if key.fd == send:
                        try:
                            left = left[os.write(key.fd, left) :]
                        except BrokenPipeError:
                            left = left[len(left) :]
                        if not left:
                            selector.unregister(key.fd)
                            with contextlib.suppress(BrokenPipeError):
                                process.stdin.close()
                        continue
                    piece = os.read(key.fd, 1 << 16)
                    if not piece:
                        selector.unregister(key.fd)
                    elif key.fd == receive:
                        answer += piece
                        if len(answer) > self._most_bytes:
                            raise ToolFailed(
                                "the tool's process answered more than it may", found=f"{len(answer)} bytes"
                            )
                        if answer.endswith(b"\n"):
                            return bytes(answer), bytes(said)
                    else:
                        said = (said + piece)[-_STDERR_BYTES:]
            # It is over without an answer; its last words may still be in the pipe.
            with contextlib.suppress(BlockingIOError):
                said = (said + os.read(complaints, 1 << 16))[-_STDERR_BYTES:]
        _await_end(process.pid, min(until, time.monotonic() + 1.0))
        return bytes(answer), bytes(said)

    def _read(self, answer: bytes, status: int | None, said: bytes, until: float) -> Answer:
        if not answer.endswith(b"\n"):
            if time.monotonic() >= until:
                raise ToolTimeout(f"the tool took longer than {self._timeout_s:g} s and was killed", stopped=True)
            words = said.decode("utf-8", "replace").strip().splitlines()
            raise ToolFailed(
                "the tool's process ended without an answer",
                found=_status(status) + (f": {words[-1][:200]}" if words else ""),
            )
        message: dict[str, Any] = json.loads(answer)
        if "text" in message:
            return Answer(str(message["text"]), bool(message["truncated"]), bool(message["is_json"]))
        kind = _ERRORS.get(message["kind"], ToolFailed)
        if kind is ToolTransient:
            raise ToolTransient(message["error"], retry_after_s=message.get("retry_after_s"))
        raise kind(message["error"])


def _await_end(pid: int, until: float) -> None:
    """Wait for a process that has let go of its pipe, so that its status is its own; it stays to be waited for, since
    its group can be killed only as long as its id is not free."""
    while hasattr(os, "waitid") and time.monotonic() < until:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.001)


def _status(status: int | None) -> str:
    if status is None:
        return "no exit status"
    if status < 0:
        try:
            return f"signal {signal.Signals(-status).name}"
        except ValueError:
            return f"signal {-status}"
    return f"exit status {status}"
