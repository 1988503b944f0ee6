"""The sandbox's own process: it confines itself, says what is in force, and runs the program. A file run by path:

    python -I -S sandbox_child.py REQUEST_FD REPORT_FD

The request is JSON (see `python_sandbox`). The report is two lines of JSON: `layers` and `refused` before the program
runs, `error` (its exception's type, if there was one) when it ends without being killed. Output goes to the standard
streams. What confines the program is the kernel; that it shares an interpreter with this file changes nothing about that.
"""

from __future__ import annotations

import ast
import code
import json
import linecache
import os
import resource
import signal
import sys
from typing import Any

FILENAME = "<program>"


def main() -> None:
    request_fd, report_fd = int(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(report_fd, False)
    with open(request_fd, "rb") as stream:
        request = json.loads(stream.read())
    sys.path.insert(0, request["package"])
    layers = _confine(request)
    sys.path[:] = ["", *request["path"]]
    for name in [name for name in sys.modules if name == "deepseek" or name.startswith("deepseek.")]:
        del sys.modules[name]
    missing = [name for name in request["required"] if name not in layers]
    _report(report_fd, {"layers": layers, "missing": missing})
    if missing:
        os._exit(0)
    sys.argv = [FILENAME]
    status, error = _run(request["code"])
    _flush()
    _report(report_fd, {"error": error})
    os._exit(status)


def _report(descriptor: int, fields: dict[str, Any]) -> None:
    os.write(descriptor, json.dumps(fields).encode() + b"\n")


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue


def _confine(request: dict[str, Any]) -> dict[str, list[str]]:
    """Give up what can be given up; which protection rests on what, and only what did not fail."""
    import encodings.idna  # what the interpreter may want later, and could not ask for then
    import traceback

    del encodings, traceback
    os.chdir(request["directory"])
    os.umask(0o077)
    layers: dict[str, list[str]] = {"time": ["killed from outside"], "output": ["read from outside"]}
    layers["disk"] = ["setrlimit", "watched from outside"]
    held = [name for name, value in request["limits"].items() if _limited(name, value)]
    if "RLIMIT_CPU" in held:
        layers["cpu"] = ["setrlimit"]
    if sys.platform != "linux":
        return layers
    if "RLIMIT_AS" in held:  # other systems take it and do not hold it
        layers["memory"] = ["setrlimit"]
    from deepseek.agent.environments import kernel, landlock, seccomp

    def attempt(protections: str, by: str, step: Any) -> bool:
        try:
            step()
        except OSError:
            return False
        for name in protections.split():
            layers.setdefault(name, []).append(by)
        return True

    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != request["parent"]:
        os._exit(0)  # it died before
    if not attempt("network", "namespace", _own_user_and_network):
        attempt("network", "namespace", _own_network)
    attempt("privileges", "capabilities dropped", kernel.drop_capabilities)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    layers.setdefault("privileges", []).append("no_new_privs")
    rules = [(path, landlock.READ) for path in request["readable"]]
    rules += [(path, landlock.DEVICE) for path in ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")]
    rules.append((request["directory"], landlock.WRITE))
    confined: list[int] = []
    attempt("landlock", "landlock", lambda: confined.append(landlock.restrict(rules)))
    layers.pop("landlock", None)
    filtered = attempt("network processes signals", "seccomp", seccomp.install)
    if confined and filtered:  # each leaves open what the other holds
        layers["files"] = ["landlock", "seccomp"]
    if confined and confined[0] >= 6:
        layers.setdefault("signals", []).append("landlock")
    return layers


def _limited(name: str, value: int) -> bool:
    number = getattr(resource, name, None)
    if number is None:
        return False
    _, most = resource.getrlimit(number)
    value = value if most == resource.RLIM_INFINITY else min(value, most)
    try:
        resource.setrlimit(number, (value, value))
    except (ValueError, OSError):
        return False
    return True


def _own_user_and_network() -> None:
    from deepseek.agent.environments import kernel

    user, group = os.geteuid(), os.getegid()
    kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC)
    try:
        for path, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{path}", "w") as stream:
                stream.write(text)
    except OSError:  # then it is nobody in there, which does as well
        return


def _own_network() -> None:
    from deepseek.agent.environments import kernel

    kernel.unshare(kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC)


class _Interpreter(code.InteractiveInterpreter):
    """Runs code objects and prints tracebacks as the interactive prompt does."""

    error = ""

    def showtraceback(self) -> None:
        self.error = getattr(sys.exc_info()[0], "__name__", "")
        super().showtraceback()

    def showsyntaxerror(self, filename: str | None = None, **kwargs: Any) -> None:
        self.error = getattr(sys.exc_info()[0], "__name__", "")
        super().showsyntaxerror(filename, **kwargs)


def _run(program: str) -> tuple[int, str]:
    """Exit status and exception. The value of a last expression is printed, as the interactive prompt would."""
    linecache.cache[FILENAME] = (len(program), None, program.splitlines(keepends=True), FILENAME)
    names = {"__name__": "__main__", "__doc__": None}
    interpreter = _Interpreter(names)
    try:
        tree = ast.parse(program, FILENAME)
        last: list[ast.stmt] = []
        if tree.body and isinstance(tree.body[-1], ast.Expr):
            last = [tree.body.pop()]
        parts: list[Any] = [compile(tree, FILENAME, "exec")]
        if last:
            parts.append(compile(ast.Interactive(last), FILENAME, "single"))
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        interpreter.showsyntaxerror(FILENAME)
        return 1, interpreter.error
    for part in parts:
        try:
            interpreter.runcode(part)
        except SystemExit as end:
            if end.code is None or isinstance(end.code, int):
                return end.code or 0, "SystemExit"
            print(end.code, file=sys.stderr)
            return 1, "SystemExit"
        if interpreter.error:
            return 1, interpreter.error
    return 0, ""


if __name__ == "__main__":
    main()
