"""Landlock: a process gives up the rest of the file system for good, but for the paths it names (landlock(7)).

What Landlock does not hold: changing modes, owners and times, and looking whether a path exists. The first is left to
the seccomp filter; the second stays possible.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
from collections.abc import Iterable

from deepseek.agent.environments.kernel import (
    LANDLOCK_ADD_RULE,
    LANDLOCK_CREATE_RULESET,
    LANDLOCK_RESTRICT_SELF,
    system_call,
)

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_DIR, MAKE_REG, MAKE_SYM, REFER, TRUNCATE = (1 << bit for bit in (7, 8, 12, 13, 14))

_ALL_BY_VERSION = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_ALL = (1 << 16) - 1  # version 5 and later: ioctl on devices
_FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | (1 << 15)
_NO_TCP = 0b11  # bind, connect
_NO_SIGNALS_NOR_ABSTRACT_SOCKETS = 0b11  # to processes outside

READ = EXECUTE | READ_FILE | READ_DIR  # "execute" is of no use without execve, which the filter refuses
WRITE = (
    READ | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SYM | REFER | TRUNCATE
)  # no devices, sockets, pipes
DEVICE = READ_FILE | WRITE_FILE


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def version() -> int:
    """The kernel's version of Landlock; 0: it has none."""
    try:
        return system_call(LANDLOCK_CREATE_RULESET, 0, 0, 1)
    except OSError:
        return 0


def restrict(rules: Iterable[tuple[str, int]]) -> int:
    """Keep only these rights beneath these paths (those that are not there are left out); returns the version in force.

    Needs PR_SET_NO_NEW_PRIVS. Raises OSError.
    """
    have = version()
    if have < 1:
        raise OSError("this kernel has no Landlock")
    everything = _ALL_BY_VERSION.get(have, _ALL)
    ruleset = _Ruleset(everything, _NO_TCP, _NO_SIGNALS_NOR_ABSTRACT_SOCKETS)
    size = 8 if have < 4 else 16 if have < 6 else 24
    descriptor = system_call(LANDLOCK_CREATE_RULESET, ctypes.byref(ruleset), size, 0)
    try:
        for path, rights in rules:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                _add(descriptor, path, rights & everything)
        system_call(LANDLOCK_RESTRICT_SELF, descriptor, 0)
    finally:
        os.close(descriptor)
    return have


def _add(ruleset: int, path: str, rights: int) -> None:
    beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(beneath).st_mode):
            rights &= _FILE_RIGHTS
        rule = _PathBeneath(rights, beneath)
        system_call(LANDLOCK_ADD_RULE, ruleset, 1, ctypes.byref(rule), 0)
    finally:
        os.close(beneath)
