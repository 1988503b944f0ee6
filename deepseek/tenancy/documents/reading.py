"""Files to text: which of a folder's files hold some, and what it is.

`read_text` reads what is text as it stands (Markdown, source code, JSON, CSV), in UTF-8, UTF-16 with its mark, or GB 18030.
Whoever passes another `Reader` reads other kinds of documents too. Left out are what is hidden, what has no text, what is too
large, and links that lead out of the folder.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from deepseek.core.errors import ConfigError

MAX_FILE_BYTES = 8 << 20
MAX_FILES = 100_000
SKIPPED_FOLDERS = frozenset(("node_modules", "__pycache__", "venv", "site-packages"))

Reader = Callable[[Path], Awaitable[str | None]]
"""The text of a file; None where it has none. Raises OSError, DeepSeekError."""


def files_of(path: Path) -> Iterator[Path]:
    """The file itself, or a folder's files in order, without what is hidden. Raises ConfigError."""
    if path.is_file():
        yield path
        return
    if not path.is_dir():
        raise ConfigError("no such file or folder", where=path)
    inside, count = path.resolve(), 0
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in SKIPPED_FOLDERS)
        for name in sorted(names):
            found = Path(folder) / name
            if name.startswith(".") or not found.is_file() or not found.resolve().is_relative_to(inside):
                continue
            count += 1
            if count > MAX_FILES:
                raise ConfigError(
                    "too many files", where=path, expected=f"at most {MAX_FILES}", fix="index its folders"
                )
            yield found


async def read_text(path: Path) -> str | None:
    """The text of a file that is text; None for what is not, or is too large. Raises OSError."""
    return await asyncio.to_thread(_read, path)


def _read(path: Path) -> str | None:
    return None if path.stat().st_size > MAX_FILE_BYTES else decoded(path.read_bytes())


def decoded(body: bytes) -> str | None:
    """None for what is no text."""
    if body.startswith((b"\xff\xfe", b"\xfe\xff")):
        return body.decode("utf-16", "replace")
    if b"\0" in body:
        return None
    for codec in ("utf-8-sig", "gb18030"):
        try:
            text = body.decode(codec)
        except UnicodeDecodeError:
            continue
        return text if codec == "utf-8-sig" or _is_chinese(text) else None
    return None


def _is_chinese(text: str) -> bool:
    """Nearly any bytes are GB 18030; those of a text give mostly its common characters."""
    foreign = [char for char in text[:10_000] if ord(char) > 127]
    common = sum("\u4e00" <= char <= "\u9fa5" or "\u3000" <= char <= "\u303f" or char > "\uff00" for char in foreign)
    return common >= 0.9 * len(foreign)


def title_of(text: str, name: str) -> str:
    """Its first heading or line, if that is short; else its name."""
    line = next((line.strip().lstrip("#").strip() for line in text[:2000].split("\n") if line.strip()), "")
    return line if 0 < len(line) <= 120 else name
