"""A seccomp filter: the system calls a Python program needs to compute and to use its own directory, and no others.

It is a list of what is allowed, since kernels grow calls faster than lists of what is forbidden. No sockets, no new
processes or threads, no signals to others, no changes of modes, owners or times (Landlock does not hold those), no
limits raised. A refused call fails with EPERM; one that is newer than this list with ENOSYS, as in an older kernel, so
that the C library does without. Linux on x86-64 and 64-bit ARM.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable

from deepseek.agent.environments.kernel import PR_SET_SECCOMP, prctl

_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

# Numbers on x86-64 (asm/unistd_64.h) and ARM (asm-generic/unistd.h); None: there is none.
ALLOWED: dict[str, tuple[int, int | None]] = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "lseek": (8, 62), "mmap": (9, 222),
    "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139), "pread64": (17, 67), "pwrite64": (18, 68), "readv": (19, 65), "writev": (20, 66),
    "sched_yield": (24, 124), "mremap": (25, 216), "msync": (26, 227), "mincore": (27, 232), "madvise": (28, 233),
    "dup": (32, 23), "nanosleep": (35, 101), "getitimer": (36, 102), "setitimer": (38, 103), "getpid": (39, 172),
    "sendfile": (40, 71), "sendto": (44, 206), "recvfrom": (45, 207), "sendmsg": (46, 211), "recvmsg": (47, 212),
    "shutdown": (48, 210), "getsockname": (51, 204), "getpeername": (52, 205), "setsockopt": (54, 208),
    "getsockopt": (55, 209), "exit": (60, 93), "uname": (63, 160), "flock": (73, 32), "fsync": (74, 82),
    "fdatasync": (75, 83), "ftruncate": (77, 46), "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50),
    "umask": (95, 166), "gettimeofday": (96, 169), "getrlimit": (97, 163), "getrusage": (98, 165), "sysinfo": (99, 179),
    "times": (100, 153), "getuid": (102, 174), "getgid": (104, 176), "geteuid": (107, 175), "getegid": (108, 177),
    "getppid": (110, 173), "getgroups": (115, 158), "getresuid": (118, 148), "getresgid": (120, 150),
    "getpgid": (121, 155), "getsid": (124, 156), "rt_sigpending": (127, 136), "rt_sigtimedwait": (128, 137),
    "rt_sigsuspend": (130, 133), "sigaltstack": (131, 132), "statfs": (137, 43), "fstatfs": (138, 44), "gettid": (186, 178),
    "futex": (202, 98), "sched_getaffinity": (204, 123), "getdents64": (217, 61), "set_tid_address": (218, 96),
    "restart_syscall": (219, 128), "fadvise64": (221, 223), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115), "exit_group": (231, 94), "epoll_ctl": (233, 21), "mkdirat": (258, 34),
    "newfstatat": (262, 79), "unlinkat": (263, 35), "renameat": (264, 38), "linkat": (265, 37), "symlinkat": (266, 36),
    "readlinkat": (267, 78), "faccessat": (269, 48), "pselect6": (270, 72), "ppoll": (271, 73),
    "set_robust_list": (273, 99), "get_robust_list": (274, 100), "epoll_pwait": (281, 22), "timerfd_create": (283, 85),
    "fallocate": (285, 47), "timerfd_settime": (286, 86), "timerfd_gettime": (287, 87), "eventfd2": (290, 19),
    "epoll_create1": (291, 20), "dup3": (292, 24), "pipe2": (293, 59), "preadv": (295, 69), "pwritev": (296, 70),
    "getcpu": (309, 168), "renameat2": (316, 276), "getrandom": (318, 278), "membarrier": (324, 283),
    "copy_file_range": (326, 285), "preadv2": (327, 286), "pwritev2": (328, 287), "statx": (332, 291), "rseq": (334, 293),
    "close_range": (436, 436), "faccessat2": (439, 439), "epoll_pwait2": (441, 441),
    "stat": (4, None), "lstat": (6, None), "poll": (7, None), "access": (21, None), "pipe": (22, None),
    "select": (23, None), "dup2": (33, None), "pause": (34, None), "alarm": (37, None), "getdents": (78, None),
    "rename": (82, None), "mkdir": (83, None), "rmdir": (84, None), "creat": (85, None), "link": (86, None),
    "unlink": (87, None), "symlink": (88, None), "readlink": (89, None), "getpgrp": (111, None), "arch_prctl": (158, None),
    "time": (201, None), "epoll_create": (213, None), "epoll_wait": (232, None), "eventfd": (284, None),
}  # fmt: skip

# Allowed for some arguments only: see `_conditions`.
CONDITIONAL: dict[str, tuple[int, int | None]] = {
    "open": (2, None), "openat": (257, 56), "ioctl": (16, 29), "socketpair": (53, 199), "kill": (62, 129),
    "fcntl": (72, 25), "prctl": (157, 167), "tgkill": (234, 131), "prlimit64": (302, 261),
}  # fmt: skip

_TERMINAL_AND_PIPE_QUESTIONS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS TIOCGWINSZ FIONREAD FIONBIO …
_FCNTL_WITHOUT_SIGNALS = (
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    36,
    37,
    38,
    1030,
    1032,
)  # F_SETOWN would have the kernel signal others
_PRCTL_NAMES = (15, 16, 0x53564D41)
_AF_UNIX = 1
_ACCESS_MODE, _TRUNCATE = 0o3, 0o1000
_NEWEST_KNOWN = 450
_X32 = 0x40000000

_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if not, operand


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def supported() -> bool:
    return platform.system() == "Linux" and platform.machine() in _ARCHITECTURES


def install() -> None:
    """Put the filter on this process, for good. Needs PR_SET_NO_NEW_PRIVS. Raises OSError."""
    if not supported():
        raise OSError(f"no filter for {platform.system()} on {platform.machine()}")
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in _program(platform.machine(), os.getpid()))
    program = _Program(len(code) // 8, code)
    prctl(PR_SET_SECCOMP, 2, ctypes.byref(program))


def _program(machine: str, pid: int) -> list[Instruction]:
    architecture, column = _ARCHITECTURES[machine]
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
    ]
    for name, numbers in CONDITIONAL.items():
        number = numbers[column]
        if number is not None:
            body = _conditions(name, pid)
            program += [(_EQUAL, 0, len(body), number), *body]
    for numbers in ALLOWED.values():
        number = numbers[column]
        if number is not None:
            program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    program += [(_AT_LEAST, 0, 1, _NEWEST_KNOWN), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    # openat2 takes its flags where no filter can look.
    program += [(_EQUAL, 0, 1, 437), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    return [*program, (_RETURN, 0, 0, _ERRNO | errno.EPERM)]


def _conditions(name: str, pid: int) -> list[Instruction]:
    if name in ("open", "openat"):
        # Before its version 3 Landlock let a file that may only be read be emptied while it is opened.
        flags = _ARGUMENTS + 8 * (1 if name == "open" else 2)
        return [
            (_LOAD, 0, 0, flags),
            (_AND, 0, 0, _ACCESS_MODE | _TRUNCATE),
            (_EQUAL, 0, 1, _TRUNCATE),
            (_RETURN, 0, 0, _ERRNO | errno.EPERM),
            (_RETURN, 0, 0, _ALLOW),
        ]
    if name == "prlimit64":  # to read one's own
        return [*_argument_is(2, (0,)), *_upper_half_is_zero(2), *_argument_is(0, (0, pid)), (_RETURN, 0, 0, _ALLOW)]
    index, values = {
        "ioctl": (1, _TERMINAL_AND_PIPE_QUESTIONS),
        "socketpair": (0, (_AF_UNIX,)),
        "kill": (0, (pid,)),
        "tgkill": (0, (pid,)),
        "fcntl": (1, _FCNTL_WITHOUT_SIGNALS),
        "prctl": (0, _PRCTL_NAMES),
    }[name]
    return [*_argument_is(index, values), (_RETURN, 0, 0, _ALLOW)]


def _argument_is(index: int, values: Iterable[int]) -> list[Instruction]:
    """Go on if the lower half of the argument is one of these, else refuse."""
    wanted = list(values)
    tests = [(_EQUAL, len(wanted) - place, 0, value) for place, value in enumerate(wanted)]
    return [(_LOAD, 0, 0, _ARGUMENTS + 8 * index), *tests, (_RETURN, 0, 0, _ERRNO | errno.EPERM)]


def _upper_half_is_zero(index: int) -> list[Instruction]:
    return [
        (_LOAD, 0, 0, _ARGUMENTS + 8 * index + 4),
        (_EQUAL, 1, 0, 0),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
    ]
