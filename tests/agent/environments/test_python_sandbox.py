"""The sandbox against programs that want more than they may: each limit, each protection, and what is left behind."""

from __future__ import annotations

import asyncio
import os
import platform
import re
import sys
import time
from pathlib import Path

import pytest

from deepseek.agent.environments import landlock, sandbox_run, seccomp
from deepseek.agent.environments.python_sandbox import PROTECTIONS, Limits, PythonSandbox, SandboxResult, protections
from deepseek.agent.environments.scratch import remove_tree
from deepseek.agent.execution.errors import ToolFailed, ToolRefused, ToolRetry
from deepseek.core.errors import ToolError

# Patient with a machine that is busy: what is measured is never this.
PATIENT = Limits(wall_s=60.0)


def needs(*names: str) -> pytest.MarkDecorator:
    missing = [name for name in names if not protections()[name]]
    return pytest.mark.skipif(bool(missing), reason=f"this kernel offers no protection of {', '.join(missing)}")


every = needs(*PROTECTIONS)


def run(code: str, limits: Limits = PATIENT, **options: object) -> SandboxResult:
    return PythonSandbox(limits).run_sync(code, **options)  # type: ignore[arg-type]


@every
def test_output_and_the_value_of_the_last_expression_come_back() -> None:
    result = run("x = 6\nprint('half:', x / 2)\nx * 7")

    assert (result.end, result.status, result.stdout, result.stderr) == ("ok", 0, "half: 3.0\n42\n", "")
    assert result.text(PATIENT) == "half: 3.0\n42"


@every
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def f():\n    return 1 / 0\nf()", "ZeroDivisionError: division by zero"),
        ("def f(:", "SyntaxError"),
        ("x = '\\ud800'\nprint(x)", "UnicodeEncodeError"),
        ("import no_such_module", "ModuleNotFoundError"),
        ("\0", "SyntaxError"),
        ("(" * 5000 + ")" * 5000, "Error"),
    ],
)
def test_an_exception_is_a_traceback_of_the_program_alone(code: str, said: str) -> None:
    result = run(code)

    assert (result.end, result.status) == ("error", 1)
    assert said in result.stderr
    assert "sandbox_child" not in result.stderr


@every
def test_a_traceback_shows_the_line() -> None:
    assert "return 1 / 0" in run("def f():\n    return 1 / 0\nf()").stderr


@every
@pytest.mark.parametrize(
    ("code", "end", "status"), [("raise SystemExit(3)", "error", 3), ("import sys; sys.exit()", "ok", 0)]
)
def test_an_exit_status_is_the_programs(code: str, end: str, status: int) -> None:
    result = run(code)

    assert (result.end, result.status) == (end, status)


@every
def test_a_program_may_end_with_a_sentence() -> None:
    result = run("raise SystemExit('no data')")

    assert (result.end, result.status, result.stderr) == ("error", 1, "no data\n")


@every
def test_a_program_that_closes_its_streams_and_goes_on_is_ended() -> None:
    code = "import os\nos.closerange(0, 64)\nwhile True: pass"

    assert run(code).end in ("killed", "cpu")


@every
def test_no_descriptor_is_left_behind() -> None:
    before = os.listdir("/proc/self/fd")
    run("1")
    run("while True: print('x' * 1000)", Limits(wall_s=60, output_bytes=1000))
    with pytest.raises(ToolFailed):
        PythonSandbox(PATIENT, directory="/nowhere/at/all").run_sync("1")

    assert os.listdir("/proc/self/fd") == before


@every
def test_the_standard_library_works() -> None:
    result = run(
        "import asyncio, csv, datetime, decimal, fractions, hashlib, json, math, random, re, sqlite3, statistics, zoneinfo\n"
        "async def f(): return 5\n"
        "print(asyncio.run(f()), sqlite3.connect('a.db').execute('select 1').fetchone())\n"
        "print(datetime.datetime(2026, 7, 1, tzinfo=zoneinfo.ZoneInfo('Europe/Berlin')).utcoffset())\n"
    )

    assert (result.stdout, result.end) == ("5 (1,)\n2:00:00\n", "ok"), result.stderr


@every
def test_installed_packages_can_be_imported_unless_they_are_left_out() -> None:
    code = "import numpy\nint(numpy.arange(10).sum())"

    assert run(code).stdout == "45\n"
    assert "ModuleNotFoundError" in PythonSandbox(PATIENT, packages=False).run_sync(code).stderr


@every
def test_files_go_in_and_come_out() -> None:
    result = run(
        "import os\nopen('b.txt', 'w').write(open('a.txt').read() * 2)\nos.mkdir('d')\nopen('d/c', 'w').close()\n"
        "os.symlink('/etc/passwd', 'link')\n",
        files={"a.txt": b"xy"},
        collect=True,
    )

    assert result.files == {"a.txt": b"xy", "b.txt": b"xyxy", "d/c": b""}


@every
def test_standard_input_is_read_however_much_it_is() -> None:
    assert run("import sys\nlen(sys.stdin.read())", stdin=b"x" * 300_000).stdout == "300000\n"
    assert run("1", stdin=b"x" * 300_000).end == "ok"


@every
def test_one_program_finds_nothing_of_the_one_before() -> None:
    run("open('secret', 'w').write('x')")

    assert run("import os\nos.listdir('.')").stdout == "[]\n"


@every
def test_a_kept_directory_is_there_again(tmp_path: Path) -> None:
    sandbox = PythonSandbox(PATIENT, directory=tmp_path)
    sandbox.run_sync("open('a', 'w').write('kept')")

    assert sandbox.run_sync("open('a').read()").stdout == "'kept'\n"
    assert (tmp_path / "a").read_text() == "kept"


# What is limited.


@every
def test_a_program_that_computes_for_ever_is_killed() -> None:
    result = run("while True: pass", Limits(wall_s=60, cpu_s=1))

    assert (result.end, result.status) == ("cpu", None)
    assert result.cpu_s < 3


@every
def test_a_program_that_computes_on_after_its_signal_is_killed_all_the_same() -> None:
    code = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"

    assert run(code, Limits(wall_s=60, cpu_s=1)).end == "cpu"


@every
def test_one_long_operation_in_c_is_killed_too() -> None:
    assert run("9**9**9", Limits(wall_s=60, cpu_s=1)).end in ("cpu", "memory")


@every
def test_a_program_that_sleeps_for_ever_is_killed() -> None:
    code = "import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))\nprint('on', flush=True)\ntime.sleep(10**6)"
    begun = time.monotonic()
    result = run(code, Limits(wall_s=3))

    assert (result.end, result.status, result.stdout) == ("time", None, "on\n")
    assert time.monotonic() - begun < 30


@every
@pytest.mark.parametrize(
    "code",
    [
        "x = bytearray(10**10)",
        "x = [0]\nwhile True: x += x",
        "x = 'a' * 10**9 + 'b'",
        "import mmap\nx = []\nwhile True: x.append(mmap.mmap(-1, 10**8))",
    ],
)
def test_memory_is_bounded(code: str) -> None:
    result = run(code)

    assert result.end in ("memory", "error")
    assert "MemoryError" in result.stderr or "Cannot allocate memory" in result.stderr


@every
@pytest.mark.parametrize(
    "code",
    [
        "while True: print('x' * 1000)",
        "import sys\nwhile True: sys.stderr.write('x' * 1000)",
        "print('x' * 10**8)",
        "import os\nwhile True: os.write(1, b'\\xff' * 1000)",
    ],
)
def test_output_is_bounded(code: str) -> None:
    limits = Limits(wall_s=60, output_bytes=10_000)
    result = run(code, limits)

    assert result.end == "output"
    assert len(result.stdout) + len(result.stderr) == 10_000
    assert result.text(limits).endswith("stopped: it wrote more than 10000 bytes of output")


@every
def test_a_report_channel_full_of_rubbish_is_bounded() -> None:
    code = "import os\nfor fd in range(3, 64):\n    try:\n        while True: os.write(fd, b'x' * 10**6)\n    except OSError: pass"

    assert run(code).end in ("output", "ok")


@every
@pytest.mark.parametrize(
    "code",
    [
        "n = 0\nwhile True:\n    open(f'{n}', 'wb').write(bytes(2**20)); n += 1",
        "n = 0\nwhile True:\n    open(f'{n}', 'wb').close(); n += 1",
        "import os\nwhile True:\n    os.mkdir('d'); os.chdir('d')",
    ],
)
def test_files_are_bounded_in_bytes_and_number(code: str) -> None:
    limits = Limits(wall_s=60, disk_bytes=8 << 20, files=200)

    assert run(code, limits).end == "disk"


@every
def test_one_file_is_bounded_by_the_kernel() -> None:
    result = run("f = open('a', 'wb', 0)\nwhile True: f.write(bytes(2**20))", Limits(wall_s=60, disk_bytes=4 << 20))

    assert result.end in ("disk", "error")


# What is forbidden.

FORBIDDEN = {
    "fork": "import os\nos.fork()",
    "fork bomb": "import os\nwhile True: os.fork()",
    "subprocess": "import subprocess\nsubprocess.run(['true'])",
    "posix_spawn": "import os\nos.posix_spawn('/bin/true', ['true'], {})",
    "exec": "import os, sys\nos.execv('/bin/true', ['true'])",
    "system": "import os\nassert os.system('true') == 0",
    "threads": "import threading\nwhile True: threading.Thread(target=input).start()",
    "kill the parent": "import os\nos.kill(os.getppid(), 9)",
    "kill everybody": "import os\nos.kill(-1, 9)",
    "kill the group of the parent": "import os\nos.killpg(os.getpgid(os.getppid()), 9)",
    "pidfd": "import os, signal\nsignal.pidfd_send_signal(os.pidfd_open(os.getppid()), 9)",
    "signals by way of a descriptor": "import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())",
    "limits of the parent": "import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))",
    "higher limits": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "a socket": "import socket\nsocket.socket()",
    "a datagram socket": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "a unix socket": "import socket\nsocket.socket(socket.AF_UNIX)",
    "a raw socket": "import socket\nsocket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "a connection": "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:1/', timeout=5)",
    "read a file": "open('/etc/passwd').read()",
    "read its environment's parent": "import os\nopen(f'/proc/{os.getppid()}/environ', 'rb').read()",
    "read memory": "import os\nopen(f'/proc/{os.getppid()}/mem', 'rb').read(1)",
    "list a directory": "import os\nos.listdir('/')",
    "list the temporary files": "import os\nos.listdir('/tmp')",
    "by way of the parent directory": "open('../../etc/passwd').read()",
    "by way of a symbolic link": "import os\nos.symlink('/etc/passwd', 'l')\nopen('l').read()",
    "by way of a hard link": "import os\nos.link('/etc/passwd', 'l')\nopen('l').read()",
    "by way of proc": "open('/proc/self/root/etc/passwd').read()",
    "write elsewhere": "open('/tmp/deepseek-sandbox-was-here', 'w')",
    "write into the library": "import os\nopen(os.__file__, 'a')",
    "empty a file that may be read": "import os\nos.open(os.__file__, os.O_RDONLY | os.O_TRUNC)",
    "truncate": "import os\nos.truncate(os.__file__, 0)",
    "remove": "import os\nos.unlink(os.__file__)",
    "rename": "import os\nos.rename(os.__file__, 'os.py')",
    "change a mode": "import os\nos.chmod(os.__file__, 0o777)",
    "change an owner": "import os\nos.chown('.', 1, 1)",
    "change times": "import os\nos.utime(os.__file__, (0, 0))",
    "set an attribute": "import os\nos.setxattr('.', 'user.a', b'b')",
    "make a device": "import os\nos.mknod('d', 0o600 | 0o20000, os.makedev(1, 1))",
    "make a named pipe": "import os\nos.mkfifo('p')",
    "become somebody": "import os\nos.setuid(12345)",
    "another root": "import os\nos.chroot('.')",
    "a niceness": "import os\nos.nice(-5)",
    "trace": "import ctypes\nassert ctypes.CDLL(None).ptrace(16, __import__('os').getppid(), 0, 0) == 0",
    "memory of others": "import ctypes\nassert ctypes.CDLL(None).syscall(310, __import__('os').getppid(), 0, 0, 0, 0, 0) == 0",
    "io_uring": "import ctypes\nassert ctypes.CDLL(None).syscall(425, 1, ctypes.create_string_buffer(256)) >= 0",
    "a user namespace": "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0",
    "memory files": "import os\nos.memfd_create('m')",
    "a call by its other number": "import ctypes\nassert ctypes.CDLL(None).syscall(0x40000000 + 41, 2, 1, 0) >= 0",
    "fork by its number": "import ctypes\nassert ctypes.CDLL(None).syscall(57) >= 0",
}


@every
@pytest.mark.parametrize("code", FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_forbidden_is(code: str) -> None:
    result = run(code)

    assert result.end == "error", result
    assert re.search(
        r"PermissionError|OSError|AssertionError|can't start new thread|not allowed to raise|URLError", result.stderr
    ), result.stderr
    assert not Path("/tmp/deepseek-sandbox-was-here").exists()


@every
def test_it_can_signal_itself() -> None:
    assert run("import os\nos.abort()").end == "killed"
    assert run("import ctypes\nctypes.string_at(1)").end == "killed"


@every
def test_the_environment_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    monkeypatch.setenv("PYTHONSTARTUP", "/nowhere")
    result = run(
        "import os, sys\nprint(dict(os.environ), sys.argv, [m for m in sys.modules if m.startswith('deepseek')])"
    )

    assert "hunter2" not in result.stdout
    assert "PYTHONSTARTUP" not in result.stdout
    assert result.stdout.endswith("['<program>'] []\n")


@every
def test_no_descriptor_of_this_process_is_open_in_it(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    with secret.open() as stream:
        os.set_inheritable(stream.fileno(), True)
        code = "import os\nfor fd in range(3, 64):\n    try: print(fd, os.read(fd, 100))\n    except OSError: pass\n"
        assert "hunter2" not in run(code).stdout


@every
def test_the_process_dies_with_the_one_that_started_it() -> None:
    code = (
        "import os, sys, threading, time\n"
        "from deepseek.agent.environments.python_sandbox import Limits, PythonSandbox\n"
        "from deepseek.agent.environments import sandbox_run\n"
        "start = sandbox_run.SandboxRun._start\n"
        "def told(*a):\n    p = start(*a)\n    print(p.pid, flush=True)\n    return p\n"
        "sandbox_run.SandboxRun._start = told\n"
        "took = sandbox_run.SandboxRun._took\n"
        "def heard(self, name, piece):\n    if name == 'stdout': os._exit(1)\n    return took(self, name, piece)\n"
        "sandbox_run.SandboxRun._took = heard\n"
        "PythonSandbox(Limits(wall_s=600)).run_sync('import time; print(1, flush=True); time.sleep(600)')\n"
    )
    done = sandbox_run.subprocess.run([sys.executable, "-c", code], stdout=-1, timeout=60, check=False)
    pid = int(done.stdout.split()[0])

    until = time.monotonic() + 30
    while time.monotonic() < until and _runs(pid):
        os.sched_yield()
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


# What is promised.


def test_the_report_names_every_protection() -> None:
    report = protections()

    assert set(report) == set(PROTECTIONS)
    assert all(report[name] for name in ("time", "output", "disk", "cpu"))


def test_a_missing_protection_is_refused_unless_it_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = PythonSandbox(PATIENT)
    monkeypatch.setattr(sandbox, "_required", [*sandbox._required, "ghosts"])

    with pytest.raises(ToolRefused, match="no protection of ghosts"):
        sandbox.run_sync("open('ran', 'w')")


def test_a_sandbox_that_may_do_without_runs_everywhere() -> None:
    assert PythonSandbox(PATIENT, allow_missing=PROTECTIONS).run_sync("1 + 1").stdout == "2\n"


def test_an_unknown_protection_cannot_be_allowed_to_be_missing() -> None:
    with pytest.raises(ToolError, match="no such protection"):
        PythonSandbox(allow_missing=("netwrok",))


def test_a_limit_must_be_positive() -> None:
    with pytest.raises(ToolError, match="positive"):
        Limits(wall_s=0)


def test_too_long_a_program_is_not_started() -> None:
    with pytest.raises(ToolRetry, match="too long"):
        run("#" * (1 << 20) + "#")


@pytest.mark.parametrize("name", ["../a", "/a", "", "..", "a\0b"])
def test_a_file_for_it_has_a_plain_name(name: str) -> None:
    with pytest.raises(ToolError, match="plain name"):
        run("1", files={name: b""})


# Asynchronously.


@every
def test_cancelling_kills_the_program_and_removes_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_run.tempfile, "tempdir", str(tmp_path))

    async def scenario() -> None:
        task = asyncio.create_task(PythonSandbox(PATIENT).run("open('ready', 'w').close()\nwhile True: pass"))
        while not list(tmp_path.glob("*/ready")):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert list(tmp_path.iterdir()) == []


@every
def test_several_run_at_a_time() -> None:
    async def scenario() -> list[str]:
        sandbox = PythonSandbox(PATIENT)
        return [result.stdout for result in await asyncio.gather(*(sandbox.run(f"{n} * {n}") for n in range(12)))]

    assert asyncio.run(scenario()) == [f"{n * n}\n" for n in range(12)]


def test_a_cancelled_run_never_starts() -> None:
    started = PythonSandbox(PATIENT)._new("1", None, b"", False)
    started.cancel()

    with pytest.raises(ToolFailed, match="cancelled"):
        started.run()


# What it is built of.


def test_a_directory_deeper_than_paths_can_say_is_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    here = os.getcwd()
    try:
        os.chdir(top)
        for _ in range(400):
            os.mkdir("d" * 20)
            os.chdir("d" * 20)
        Path("leaf").write_text("x")
        os.mkdir("closed", 0)
    finally:
        os.chdir(here)
    (tmp_path / "kept").write_text("kept")
    (top / "link").symlink_to(tmp_path / "kept")

    remove_tree(str(top))

    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


HEADERS = {0: Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), 1: Path("/usr/include/asm-generic/unistd.h")}


@pytest.mark.parametrize("column", HEADERS, ids=["x86-64", "arm"])
def test_the_numbers_of_system_calls_are_those_of_the_kernels_headers(column: int) -> None:
    if not HEADERS[column].exists():
        pytest.skip("the kernel's headers are not installed")
    defined = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", HEADERS[column].read_text()))
    other_names = {"newfstatat": "fstatat"} if column == 1 else {}
    for name, numbers in {**seccomp.ALLOWED, **seccomp.CONDITIONAL}.items():
        number = numbers[column]
        if number is not None:
            assert int(defined.get(name, defined.get(other_names.get(name, name), "-1"))) == number, name


def test_the_filter_is_short_enough_for_the_kernel_and_its_jumps_stay_inside() -> None:
    for machine in ("x86_64", "aarch64"):
        program = seccomp._program(machine, 1234)
        assert len(program) <= 4096
        for place, (code, if_true, if_not, _) in enumerate(program):
            if code & 0x07 == 0x05:
                assert place + 1 + max(if_true, if_not) < len(program)
                assert max(if_true, if_not) < 256
        assert program[-1][0] == 0x06


def test_landlocks_rights_are_those_of_its_header() -> None:
    header = Path("/usr/include/linux/landlock.h")
    if not header.exists():
        pytest.skip("the kernel's headers are not installed")
    defined = {
        name: 1 << int(bit)
        for name, bit in re.findall(r"LANDLOCK_ACCESS_FS_(\w+)\s+\(1ULL << (\d+)\)", header.read_text())
    }
    for name in (
        "EXECUTE",
        "WRITE_FILE",
        "READ_FILE",
        "READ_DIR",
        "MAKE_DIR",
        "MAKE_REG",
        "MAKE_SYM",
        "REFER",
        "TRUNCATE",
    ):
        if name in defined:
            assert getattr(landlock, name) == defined[name], name


# A kernel that offers less: the same one, behind a filter that refuses what an older or stricter one would.

_LESSER_KERNEL = """
import errno, sys
from deepseek.agent.environments import kernel, seccomp
from deepseek.agent.environments.python_sandbox import Limits, PythonSandbox, protections
from deepseek.core.errors import ToolError

LOAD, EQUAL, RETURN, ALLOW, ERRNO = 0x20, 0x15, 0x06, 0x7FFF0000, 0x00050000
refused, option, allow = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split()
test = [(LOAD, 0, 0, 16), (EQUAL, 1, 0, option), (RETURN, 0, 0, ALLOW)] if option else []
program = [(LOAD, 0, 0, 0), (EQUAL, 1, 0, refused), (RETURN, 0, 0, ALLOW), *test, (RETURN, 0, 0, ERRNO | errno.EPERM)]
seccomp._program = lambda machine, pid: program
kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
seccomp.install()
try:
    print(PythonSandbox(Limits(wall_s=60), allow_missing=allow).run_sync("'ran'").stdout, end="")
except ToolError as error:
    print(error)
print({name: by for name, by in protections().items() if name in ("files", "network", "processes")})
"""
LANDLOCK, UNSHARE, PRCTL, SET_SECCOMP = 444, {"x86_64": 272, "aarch64": 97}, {"x86_64": 157, "aarch64": 167}, 22


def _on_a_lesser_kernel(refused: int, option: int = 0, allow: str = "") -> str:
    command = [sys.executable, "-c", _LESSER_KERNEL, str(refused), str(option), allow]
    return sandbox_run.subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout


@every
def test_without_landlock_it_refuses_unless_files_may_be_open() -> None:
    assert "no protection of files." in _on_a_lesser_kernel(LANDLOCK)
    assert _on_a_lesser_kernel(LANDLOCK, allow="files").startswith("'ran'\n")


@every
def test_without_a_filter_it_refuses() -> None:
    assert "no protection of files, processes" in _on_a_lesser_kernel(PRCTL[platform.machine()], SET_SECCOMP)


@every
def test_without_namespaces_the_filter_keeps_it_off_the_network() -> None:
    said = _on_a_lesser_kernel(UNSHARE[platform.machine()])

    assert said.startswith("'ran'\n")
    assert "'network': ('seccomp',)" in said
