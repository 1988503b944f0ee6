"""`deepseek index`: put documents into a tenant's index, keep them up to date, take them out, and ask it."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from deepseek.core.documents import Passage
from deepseek.core.embeddings import RemoteEmbedder
from deepseek.core.errors import ConfigError
from deepseek.tenancy import TenantContext
from deepseek.tenancy.documents import DocumentIndex, Indexed
from deepseek.tenancy.documents.reading import MAX_FILE_BYTES

KEY_VARIABLE = "DEEPSEEK_EMBEDDINGS_KEY"
MAX_DOCUMENT_CHARS = 8 << 20
SHOWN_SKIPPED = 10


def run(
    path: Path | None,
    *,
    tenant: str,
    data: Path | None,
    search: str | None,
    remove: bool,
    limit: int,
    embeddings: str | None,
    embedding_model: str,
    json_output: bool,
) -> None:
    """One command. Raises DeepSeekError."""
    if path is None and search is None:
        raise ConfigError("nothing to do", where="deepseek index", expected="a PATH, or --search TEXT")
    if path is None and remove:
        raise ConfigError("there is nothing to remove", where="--remove", expected="a PATH")
    embedder = RemoteEmbedder(embeddings, embedding_model, os.environ.get(KEY_VARIABLE)) if embeddings else None
    index = DocumentIndex(root=data, embedder=embedder)
    console = Console(stderr=True)
    try:
        with TenantContext(tenant):
            if path is not None:
                _update(index, path, remove, console, json_output)
            if search is not None:
                _search(index, search, limit, json_output)
    finally:
        index.close()


async def read(path: Path) -> str | None:
    """The text of any kind of document that can be read here."""
    from deepseek.agent.perception.documents import document_text
    from deepseek.agent.perception.recognise import PerceptionError, recognise

    status = await asyncio.to_thread(path.stat)
    if status.st_size > MAX_FILE_BYTES:
        raise PerceptionError("too large", found=f"{status.st_size} bytes", expected=f"at most {MAX_FILE_BYTES}")
    body = await asyncio.to_thread(path.read_bytes)
    found = recognise(body, path.name)
    if found.kind != "document":
        return None
    return (await document_text(body, found, MAX_DOCUMENT_CHARS, path.name)).text


def _update(index: DocumentIndex, path: Path, remove: bool, console: Console, json_output: bool) -> None:
    if remove:
        removed = asyncio.run(index.remove(str(path.expanduser().absolute())))
        _tell(Indexed(removed=removed), json_output)
        return
    with console.status("indexing") as status:
        done = asyncio.run(index.update(path, reader=read, tell=lambda name: status.update(escape(name[-80:]))))
    _tell(done, json_output)
    if not json_output:
        for name, why in done.skipped[:SHOWN_SKIPPED]:
            console.print(f"left out: {escape(name)}: {escape(why)}", highlight=False)
        if len(done.skipped) > SHOWN_SKIPPED:
            console.print(f"left out: {len(done.skipped) - SHOWN_SKIPPED} more", highlight=False)


def _tell(done: Indexed, json_output: bool) -> None:
    if json_output:
        print(json.dumps(asdict(done), ensure_ascii=False))
        return
    counts = {"added": done.added, "changed": done.changed, "unchanged": done.unchanged, "removed": done.removed}
    print(", ".join(f"{count} {name}" for name, count in counts.items()) + f", {len(done.skipped)} left out")


def _search(index: DocumentIndex, query: str, limit: int, json_output: bool) -> None:
    passages = asyncio.run(index.search(query, limit=limit))
    if json_output:
        print(json.dumps([asdict(passage) for passage in passages], ensure_ascii=False))
        return
    for number, passage in enumerate(passages, 1):
        print(_shown(number, passage))
    if not passages:
        print("nothing found")


def _shown(number: int, passage: Passage) -> str:
    """Without control characters, which a terminal would obey."""
    lines = (f"    {line}" for line in passage.text.splitlines() if line.strip())
    text = "\n".join([f"[{number}] {passage.name} ({passage.start}-{passage.end})", *lines])
    return "".join(char if char.isprintable() or char == "\n" else " " for char in text)
