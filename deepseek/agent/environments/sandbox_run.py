"""One program in the sandbox, seen from outside: its process is started, fed, read, watched, and killed at a limit."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from deepseek.agent.environments.scratch import collect, fits, put, remove_tree
from deepseek.agent.execution.errors import ToolFailed, ToolRefused
from deepseek.core.errors import ToolError

CHILD = Path(__file__).with_name("sandbox_child.py")

End = Literal["ok", "error", "time", "cpu", "memory", "output", "disk", "killed"]

_REPORT_BYTES = 1 << 16
_WATCH_S = 0.05


@dataclass(frozen=True, slots=True)
class Limits:
    """wall_s: until it is killed. cpu_s: of computing, in whole seconds. memory_bytes: of address space, the
    interpreter's own 30 MB included. output_bytes: of both streams together. disk_bytes, files: in its directory."""

    wall_s: float = 10.0
    cpu_s: int = 5
    memory_bytes: int = 512 << 20
    output_bytes: int = 64 << 10
    disk_bytes: int = 32 << 20
    files: int = 1000

    def __post_init__(self) -> None:
        for name in ("wall_s", "cpu_s", "memory_bytes", "output_bytes", "disk_bytes", "files"):
            if not getattr(self, name) > 0:
                raise ToolError("a sandbox's limit must be positive", where=name, found=getattr(self, name))


@dataclass(frozen=True, slots=True)
class SandboxResult:
    """How a program ended, and what it left.

    end: ok; error: by an exception or a status that is not 0; else the limit it met, or killed: by a signal.
    status: exit status; None if it was killed. files: what is in its directory afterwards, if it was asked for.
    """

    end: End
    stdout: str
    stderr: str
    status: int | None
    wall_s: float
    cpu_s: float
    files: Mapping[str, bytes] = field(default_factory=dict)

    def text(self, limits: Limits) -> str:
        """For a model: the output, then what went wrong."""
        parts = [self.stdout.rstrip("\n"), self.stderr.rstrip("\n")]
        why = {
            "time": f"stopped: it took longer than {limits.wall_s:g} s",
            "cpu": f"stopped: it computed longer than {limits.cpu_s} s",
            "memory": f"it needs more memory than {limits.memory_bytes >> 20} MB",
            "output": f"stopped: it wrote more than {limits.output_bytes} bytes of output",
            "disk": f"stopped: it wrote more than {limits.disk_bytes >> 20} MB or {limits.files} files",
            "killed": "it was killed by a signal",
            "error": "" if self.stderr else f"it ended with status {self.status}",
        }.get(self.end, "")
        return "\n".join(part for part in (*parts, why) if part) or "(no output)"


class SandboxRun:
    """One program. `run` blocks; `cancel` may be called from any thread."""

    def __init__(
        self,
        request: dict[str, object],
        limits: Limits,
        directory: str | None,
        files: dict[str, bytes],
        stdin: bytes,
        collect: bool,
    ) -> None:
        self._request, self._limits, self._directory = request, limits, directory
        self._files, self._stdin, self._collect = files, stdin, collect
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._cancelled = False
        self._met: End | None = None
        self._output = {"stdout": bytearray(), "stderr": bytearray()}
        self._reported = bytearray()
        self.layers: dict[str, list[str]] = {}

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            self._kill()

    def run(self) -> SandboxResult:
        with contextlib.ExitStack() as stack:
            directory = self._directory
            if directory is None:
                directory = tempfile.mkdtemp(prefix="sandbox-")
                stack.callback(remove_tree, directory)
            put(directory, self._files)
            return self._in(directory)

    def _in(self, directory: str) -> SandboxResult:
        begun = time.monotonic()
        request, to_child = os.pipe()
        from_child, report = os.pipe()
        ours = {to_child, from_child}
        try:
            try:
                with self._lock:
                    if self._cancelled:
                        raise ToolFailed("the program was cancelled")
                    self._process = self._start(directory, request, report)
            finally:
                os.close(request)
                os.close(report)
            given = json.dumps({**self._request, "directory": directory}).encode()
            ours.discard(to_child)  # closed when it has been told
            self._watch(self._process, directory, to_child, given, from_child, begun + self._limits.wall_s)
        except OSError as error:
            raise ToolFailed("the sandbox's process could not be started", found=str(error)) from None
        finally:
            usage = self._reap()
            for descriptor in ours:
                os.close(descriptor)
        result = self._result(time.monotonic() - begun, usage)
        if not self._collect:
            return result
        return replace(result, files=collect(directory, self._limits.disk_bytes, self._limits.files))

    def _start(self, directory: str, request: int, report: int) -> subprocess.Popen[bytes]:
        environment = {"HOME": directory, "TMPDIR": directory, "LANG": "C.UTF-8", "TZ": "UTC", "PATH": ""}
        for library in ("OPENBLAS", "OMP", "MKL", "NUMEXPR"):  # they would start threads when they are imported
            environment[f"{library}_NUM_THREADS"] = "1"
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-X", "utf8", str(CHILD), str(request), str(report)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(request, report),
            env=environment,
            start_new_session=True,
        )

    def _watch(
        self,
        process: subprocess.Popen[bytes],
        directory: str,
        to_child: int,
        request: bytes,
        from_child: int,
        until: float,
    ) -> None:
        """Feed it, read it, and kill it where it meets a limit; returns when it has let go of its streams."""
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        stdin = os.dup(process.stdin.fileno())
        process.stdin.close()
        writing = {to_child: memoryview(request), stdin: memoryview(self._stdin)}
        reading = {process.stdout.fileno(): "stdout", process.stderr.fileno(): "stderr", from_child: "report"}
        looked = time.monotonic()
        try:
            with selectors.DefaultSelector() as selector:
                for descriptor in (*writing, *reading):
                    os.set_blocking(descriptor, False)
                    selector.register(
                        descriptor, selectors.EVENT_WRITE if descriptor in writing else selectors.EVENT_READ
                    )
                while reading and not self._cancelled and self._met is None:
                    now = time.monotonic()
                    if now >= until:
                        self._met = "time"
                        break
                    if now - looked >= _WATCH_S:
                        looked = now
                        if not fits(directory, self._limits.disk_bytes, self._limits.files):
                            self._met = "disk"
                            break
                    for key, _ in selector.select(min(until - now, _WATCH_S)):
                        if key.fd in writing:
                            writing[key.fd] = _fed(key.fd, writing[key.fd])
                            if not writing[key.fd]:
                                selector.unregister(key.fd)
                                del writing[key.fd]
                                os.close(key.fd)
                        elif not self._took(reading[key.fd], os.read(key.fd, 1 << 16)):
                            selector.unregister(key.fd)
                            del reading[key.fd]
        finally:
            for descriptor in writing:
                os.close(descriptor)

    def _took(self, name: str, piece: bytes) -> bool:
        """Keep what was read; whether the stream goes on."""
        if name == "report":
            self._reported += piece
            if len(self._reported) > _REPORT_BYTES:
                self._met = "output"
            return bool(piece)
        room = self._limits.output_bytes - sum(map(len, self._output.values()))
        self._output[name] += piece[:room]
        if len(piece) > room:
            self._met = "output"
        return bool(piece)

    def _kill(self) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)

    def _reap(self) -> float:
        """Kill what is left, wait for it, and return the seconds it computed."""
        process = self._process
        if process is None:
            return 0.0
        if self._met is None and not self._cancelled:
            _await_end(process.pid, time.monotonic() + 1.0)  # it has let go of its streams: it is ending
        with self._lock:
            self._kill()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None and not stream.closed:
                stream.close()
        return usage.ru_utime + usage.ru_stime

    def _result(self, wall_s: float, cpu_s: float) -> SandboxResult:
        if self._cancelled:
            raise ToolFailed("the program was cancelled")
        reports = [json.loads(line) for line in self._reported.splitlines()[:1]]
        if not reports and self._met is None:
            said = self._output["stderr"].decode("utf-8", "replace").strip().splitlines()
            raise ToolFailed("the sandbox could not be set up", found=said[-1][:300] if said else "no report")
        self.layers = dict(reports[0]["layers"]) if reports else {}
        missing = reports[0]["missing"] if reports else []
        if missing:
            raise ToolRefused(
                "this machine cannot confine a program as promised",
                where="PythonSandbox",
                found=f"no protection of {', '.join(missing)}",
                fix="use a newer kernel, or name them in allow_missing if you trust the programs",
            )
        assert self._process is not None
        status = self._process.returncode
        stdout, stderr = (self._output[name].decode("utf-8", "replace") for name in ("stdout", "stderr"))
        end = self._met or self._end(status, cpu_s)
        return SandboxResult(end, stdout, stderr, status if status is not None and status >= 0 else None, wall_s, cpu_s)

    def _end(self, status: int | None, cpu_s: float) -> End:
        if status is None or status < 0:
            computed = status is not None and -status in (signal.SIGXCPU, signal.SIGKILL)
            return "cpu" if computed and cpu_s >= self._limits.cpu_s - 0.1 else "killed"
        if b'{"error": "MemoryError"}' in self._reported:
            return "memory"
        return "ok" if status == 0 else "error"


def _fed(descriptor: int, left: memoryview) -> memoryview:
    try:
        return left[os.write(descriptor, left) :] if left else left
    except BlockingIOError:
        return left
    except BrokenPipeError:
        return left[len(left) :]


def _await_end(pid: int, until: float) -> None:
    """Wait for a process without taking its status; where that cannot be done, not at all."""
    while hasattr(os, "waitid") and time.monotonic() < until:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.001)
