"""A sandbox's directory, as whoever owns the machine sees it: filled, measured, read and removed without trusting it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

from deepseek.core.errors import ToolError


def put(directory: str, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        if not name or name in (".", "..") or "/" in name or "\0" in name:
            raise ToolError("a file for the sandbox needs a plain name", found=repr(name[:100]))
        descriptor = os.open(
            os.path.join(directory, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        with open(descriptor, "wb") as stream:
            stream.write(content)


def entries_of(directory: str) -> Iterator[os.DirEntry[str]]:
    """Everything beneath, links not followed, without recursion. Raises OSError, for a path that is too long as well."""
    waiting = [directory]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)


def fits(directory: str, most_bytes: int, most_files: int) -> bool:
    count = used = 0
    try:
        for entry in entries_of(directory):
            count += 1
            with contextlib.suppress(FileNotFoundError):
                used += entry.stat(follow_symlinks=False).st_blocks * 512
            if count > most_files or used > most_bytes:
                return False
    except FileNotFoundError:  # removed while it was looked at
        return True
    except OSError:
        return False
    return True


def collect(directory: str, most_bytes: int, most_files: int) -> dict[str, bytes]:
    """The regular files beneath, by their relative paths; nothing if they are more than that."""
    found: dict[str, bytes] = {}
    if not fits(directory, most_bytes, most_files):
        return found
    for entry in entries_of(directory):
        if entry.is_file(follow_symlinks=False):
            descriptor = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(descriptor, "rb") as stream:
                content = stream.read(most_bytes + 1)
            most_bytes -= len(content)
            if most_bytes < 0:  # sparse files are longer than what they take
                break
            found[os.path.relpath(entry.path, directory)] = content
    return dict(sorted(found.items()))


def remove_tree(directory: str) -> None:
    """Remove a directory whatever a program made of it: nested deeper than paths can say, or closed to its owner."""
    number = 0
    while True:
        with os.scandir(directory) as scanned:
            entries = list(scanned)
        if not entries:
            break
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            os.chmod(entry.path, 0o700)
            with os.scandir(entry.path) as scanned:
                for inner in scanned:
                    if inner.is_dir(follow_symlinks=False):
                        number += 1
                        os.rename(inner.path, os.path.join(directory, f"{number}.{os.urandom(8).hex()}"))
                    else:
                        os.unlink(inner.path)
            os.rmdir(entry.path)
    os.rmdir(directory)
