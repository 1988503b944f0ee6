"""Python programs of a model, each in a process of its own that can reach next to nothing.

    result = await PythonSandbox().run("print(6 * 7)")

    time, output, disk   watched from outside; the process is killed
    cpu, memory          setrlimit
    processes, signals   a seccomp filter: no fork, no thread, no signal to others
    network              a network namespace where the kernel permits one, and the same filter: no sockets
    files                Landlock and the filter: the program's directory, and to read the standard library and packages
    privileges           capabilities dropped, no_new_privs

What a kernel does not offer is missing; `protections` says what is in force here, and a sandbox that promises more than
there is refuses to run, unless what is missing is named in `allow_missing`. Whether a file exists outside, and how
large it is, can be learnt; what stands in it cannot. It is not a virtual machine: a hole in the kernel is a hole.
"""

from __future__ import annotations

import asyncio
import os
import sys
import sysconfig
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from deepseek.agent.environments.sandbox_run import Limits, SandboxResult, SandboxRun
from deepseek.agent.execution.errors import ToolRetry
from deepseek.core.errors import ToolError

__all__ = ["PROTECTIONS", "Limits", "PythonSandbox", "SandboxResult", "protections"]

PROTECTIONS = ("cpu", "disk", "files", "memory", "network", "output", "privileges", "processes", "signals", "time")
MAX_CODE_BYTES = 1 << 20
MAX_AT_ONCE = 8


class PythonSandbox:
    """Runs programs; each call is a process of its own, at most `MAX_AT_ONCE` at a time in the whole program.

    allow_missing: protections this sandbox may do without where the kernel has none (see `PROTECTIONS`).
    directory: where programs run, kept from one to the next; None: a new one for each, removed afterwards.
    packages: whether the installed packages may be imported, or the standard library only.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        allow_missing: Collection[str] = (),
        directory: str | os.PathLike[str] | None = None,
        packages: bool = True,
    ) -> None:
        unknown = set(allow_missing) - set(PROTECTIONS)
        if unknown:
            raise ToolError("no such protection", found=", ".join(sorted(unknown)), expected=", ".join(PROTECTIONS))
        self.limits = limits or Limits()
        self._required = [name for name in PROTECTIONS if name not in allow_missing]
        self._directory = None if directory is None else os.path.realpath(directory)
        self._packages = packages

    async def run(
        self, code: str, *, files: Mapping[str, bytes] | None = None, stdin: bytes = b"", collect: bool = False
    ) -> SandboxResult:
        """Run a program. files: put into its directory before, by plain names. collect: give back what is there after.

        Cancelling it kills the program. Raises ToolRetry for code that is too long, ToolRefused where a protection is
        missing, ToolFailed where no process can be started.
        """
        run = self._new(code, files, stdin, collect)
        work = _threads().submit(run.run)
        result = asyncio.wrap_future(work)
        try:
            return await asyncio.shield(result)
        except asyncio.CancelledError:
            run.cancel()
            if not work.cancel():  # it runs: it ends at once, and has removed its directory then
                await asyncio.wait((result,))
                result.exception()
            raise

    def run_sync(
        self, code: str, *, files: Mapping[str, bytes] | None = None, stdin: bytes = b"", collect: bool = False
    ) -> SandboxResult:
        """The same, blocking."""
        return self._new(code, files, stdin, collect).run()

    def _new(self, code: str, files: Mapping[str, bytes] | None, stdin: bytes, collect: bool) -> SandboxRun:
        text = code.encode("utf-8", "replace")
        if len(text) > MAX_CODE_BYTES:
            raise ToolRetry("the program is too long", found=f"{len(text)} bytes", expected=f"at most {MAX_CODE_BYTES}")
        request = {
            "code": text.decode(),
            "required": self._required,
            "parent": os.getpid(),
            "package": str(Path(__file__).parents[3]),
            "path": _import_path(self._packages),
            "readable": _readable(self._packages),
            "limits": {
                "RLIMIT_CORE": 0,
                "RLIMIT_CPU": self.limits.cpu_s,
                "RLIMIT_AS": self.limits.memory_bytes,
                "RLIMIT_FSIZE": self.limits.disk_bytes,
                "RLIMIT_NOFILE": 64,
                "RLIMIT_MEMLOCK": 0,
                "RLIMIT_MSGQUEUE": 0,
            },
        }
        return SandboxRun(request, self.limits, self._directory, dict(files or {}), stdin, collect)


@cache
def protections() -> Mapping[str, tuple[str, ...]]:
    """Which protections are in force on this machine, and by what; one that is missing has none. Found out once."""
    run = PythonSandbox(allow_missing=PROTECTIONS)._new("", None, b"", False)
    run.run()
    return {name: tuple(run.layers.get(name, ())) for name in PROTECTIONS}


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(MAX_AT_ONCE, thread_name_prefix="sandbox")


def _import_path(packages: bool) -> list[str]:
    paths = [path for path in (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")) if path]
    paths += [os.path.join(path, "lib-dynload") for path in paths]
    if packages:
        paths += [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    return list(dict.fromkeys(paths))


def _readable(packages: bool) -> list[str]:
    """Libraries, time zones, the standard library and the packages."""
    libraries = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", os.path.join(sys.base_prefix, "lib"))
    others = ("/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo")
    return list(dict.fromkeys((*libraries, *others, *_import_path(packages))))
