"""How much memory there is to take, and giving back what was freed."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path


def available_bytes() -> int:
    """Memory that can be taken without swapping, as the system estimates it, within the control group's limit."""
    limits = [_free_in_group("memory.max", "memory.current", "inactive_file")]  # version 2, then 1
    limits.append(_free_in_group("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"))
    return min([_free_in_system(), *(limit for limit in limits if limit is not None)])


def return_free_memory() -> None:
    """Give pages that the process has freed back to the system, where the C library keeps them."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl does not
        if trim is not None:
            trim(0)


def _free_in_system() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _free_in_group(limit: str, usage: str, reclaimable: str, root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a container may still take: its limit less what it uses, file pages that can be dropped not counted."""
    try:
        allowed, used = int((root / limit).read_text()), int((root / usage).read_text())
        statistics = (root / limit).with_name("memory.stat").read_text()
    except (OSError, ValueError):
        return None  # no such control group, or the limit is "max"
    dropped = sum(int(line.split()[1]) for line in statistics.splitlines() if line.startswith(reclaimable + " "))
    return max(0, allowed - used + dropped)
