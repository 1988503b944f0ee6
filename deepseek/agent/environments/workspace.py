"""A directory of files for an agent, whose paths lead nowhere else.

Every path is walked one component at a time from a descriptor of the root, each opened relative to the one before and
never through a symbolic link (openat with O_NOFOLLOW), so that nobody can turn a checked path into another between the
check and the use. What is not a regular file is not opened, and files, their number and their sizes are bounded. Writing
replaces a name at once or not at all; a file that has another name elsewhere keeps its content there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deepseek.agent.execution.errors import ToolFailed, ToolRefused, ToolRetry
from deepseek.core.errors import ToolError

MAX_PATH_CHARS = 1000
MAX_DEPTH = 16

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TEMPORARY = ".writing-"


@dataclass(frozen=True, slots=True)
class FileEntry:
    """path: below the root, with slashes; a directory's ends with one. bytes: of a file."""

    path: str
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Match:
    path: str
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class WorkspaceLimits:
    """file_bytes: of one file, read or written. total_bytes, files: of all of them. searched_bytes: in one search."""

    file_bytes: int = 1 << 20
    total_bytes: int = 64 << 20
    files: int = 2000
    searched_bytes: int = 32 << 20
    line_chars: int = 300


class Workspace:
    """One directory, made if it is not there. Methods block, and may be called from any thread.

    Raises ToolError for a root that cannot be used.
    """

    def __init__(
        self, root: str | os.PathLike[str], *, limits: WorkspaceLimits | None = None, read_only: bool = False
    ) -> None:
        self.limits, self.read_only = limits or WorkspaceLimits(), read_only
        self.root = Path(os.path.realpath(root))
        self._lock = threading.Lock()
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._root = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ToolError("the workspace cannot be used", where=self.root, found=error.strerror) from None

    def close(self) -> None:
        with self._lock:
            if self._root >= 0:
                os.close(self._root)
                self._root = -1

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_root", -1) >= 0:
            self.close()

    def read(self, path: str) -> str:
        """A text file. Raises ToolRetry where there is none, ToolFailed for one too large or not of text."""
        with _said(path), self._parent(path) as (parent, name):
            data = self._bytes_of(parent, name, path)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise ToolFailed("not a text file", where=path, found=f"{len(data)} bytes that are not UTF-8") from None

    def write(self, path: str, text: str) -> int:
        """Make or replace a file, and the directories it stands in; returns its size in bytes. What is there stays
        until the new content is there whole. Raises ToolRefused where nothing may be written, ToolRetry, ToolFailed."""
        if self.read_only:
            raise ToolRefused("this workspace is read-only", where=path)
        data = text.encode("utf-8", "replace")
        if len(data) > self.limits.file_bytes:
            raise ToolFailed("too large", where=path, found=f"{len(data)} bytes", expected=self._at_most_a_file())
        with self._lock, _said(path), self._parent(path, make=True) as (parent, name):
            before = self._to_be_replaced(parent, name, path)
            self._check_room(len(data), before, path)
            temporary = f"{_TEMPORARY}{os.urandom(8).hex()}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(temporary, flags, 0o600, dir_fd=parent)
            try:
                with open(descriptor, "wb") as stream:
                    stream.write(data)
                os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=parent)
                raise
        return len(data)

    def entries(self) -> list[FileEntry]:
        """Every file and directory, by path; links and devices are left out, and so is what lies too deep."""
        with _said("."):
            return sorted(self._walk(), key=lambda entry: entry.path)

    def search(self, text: str, most: int = 50) -> list[Match]:
        """Lines that contain the text, whatever their case; files that are not text or too large are passed over."""
        wanted, found, left = text.casefold(), list[Match](), self.limits.searched_bytes
        if not wanted:
            raise ToolRetry("nothing to search for")
        for entry in self.entries():
            if entry.path.endswith("/") or entry.bytes > min(left, self.limits.file_bytes):
                continue
            left -= entry.bytes
            with contextlib.suppress(ToolError):  # removed meanwhile, or not text
                for number, line in enumerate(self.read(entry.path).splitlines(), 1):
                    if wanted in line.casefold():
                        found.append(Match(entry.path, number, line.strip()[: self.limits.line_chars]))
                        if len(found) >= most:
                            return found
        return found

    def _at_most_a_file(self) -> str:
        return f"at most {self.limits.file_bytes} bytes"

    @contextlib.contextmanager
    def _parent(self, path: str, make: bool = False) -> Iterator[tuple[int, str]]:
        """A descriptor of the directory a path's last component stands in, and that component."""
        *directories, name = parts_of(path)
        if self._root < 0:
            raise ToolFailed("the workspace is closed")
        here = os.dup(self._root)
        try:
            for directory in directories:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(directory, 0o700, dir_fd=here)
                below = os.open(directory, _DIRECTORY, dir_fd=here)
                os.close(here)
                here = below
            yield here, name
        finally:
            os.close(here)

    def _bytes_of(self, parent: int, name: str, path: str) -> bytes:
        # Without O_NONBLOCK, opening a named pipe would wait for somebody to write.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(name, flags, dir_fd=parent), "rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ToolRetry("not a file", where=path)
            data = stream.read(self.limits.file_bytes + 1)
        if len(data) > self.limits.file_bytes:
            raise ToolFailed("too large", where=path, found=f"{status.st_size} bytes", expected=self._at_most_a_file())
        return data

    @staticmethod
    def _to_be_replaced(parent: int, name: str, path: str) -> int | None:
        """The size of what a file of this name replaces; None: nothing."""
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(status.st_mode):
            raise ToolRetry("not a file", where=path)
        return status.st_size

    def _check_room(self, size: int, before: int | None, path: str) -> None:
        entries = list(self._walk())
        if len(entries) + (before is None) > self.limits.files:
            raise ToolFailed("too many files in the workspace", where=path, expected=f"at most {self.limits.files}")
        if sum(entry.bytes for entry in entries) + size - (before or 0) > self.limits.total_bytes:
            raise ToolFailed("the workspace is full", where=path, expected=f"at most {self.limits.total_bytes} bytes")

    def _walk(self) -> Iterator[FileEntry]:
        if self._root < 0:
            raise ToolFailed("the workspace is closed")
        yield from self._beneath(self._root, "", MAX_DEPTH, [self.limits.files + 1])

    def _beneath(self, directory: int, prefix: str, depth: int, room: list[int]) -> Iterator[FileEntry]:
        """room: how many entries are looked at in all, in a list so that all levels share it."""
        with os.scandir(directory) as entries:
            for entry in entries:
                room[0] -= 1
                if room[0] < 0:
                    return
                if entry.name.startswith(_TEMPORARY):
                    continue
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    status = os.stat(entry.name, dir_fd=directory, follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode):
                        yield FileEntry(prefix + entry.name, status.st_size)
                    elif stat.S_ISDIR(status.st_mode) and depth > 1:
                        below = os.open(entry.name, _DIRECTORY, dir_fd=directory)
                        try:
                            yield FileEntry(f"{prefix}{entry.name}/")
                            yield from self._beneath(below, f"{prefix}{entry.name}/", depth - 1, room)
                        finally:
                            os.close(below)


def parts_of(path: str) -> list[str]:
    """The components of a path below the root. Raises ToolRetry for one that is not below it, or could not be."""
    if len(path) > MAX_PATH_CHARS or not path.isprintable():
        raise ToolRetry("not a path", found=repr(path[:100]), expected="printable characters, not too many")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith(("/", "~")) or ".." in parts or "\\" in path:
        raise ToolRetry("a path outside the workspace", found=repr(path), expected="a path like notes/a.txt")
    if not parts:
        raise ToolRetry("not the path of a file", found=repr(path), expected="a path like notes/a.txt")
    if len(parts) > MAX_DEPTH or parts[-1].startswith(_TEMPORARY):
        raise ToolRetry("not a path", found=repr(path[:100]), expected=f"at most {MAX_DEPTH} components")
    return parts


_SENTENCES = {
    errno.ENOENT: "there is no such file",
    errno.ENOTDIR: "there is no such file",
    errno.EISDIR: "this is a directory",
    errno.ELOOP: "links are not followed",
    errno.ENXIO: "not a file",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EACCES: "this file may not be touched",
    errno.EPERM: "this file may not be touched",
    errno.ENOSPC: "the disk is full",
}


@contextlib.contextmanager
def _said(path: str) -> Iterator[None]:
    """What the system says, in a sentence for the model, without the workspace's own place."""
    try:
        yield
    except OSError as error:
        sentence = _SENTENCES.get(error.errno or 0, "this file cannot be used")
        raise ToolRetry(sentence, where=path) from None
