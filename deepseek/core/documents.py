"""What others see of a tenant's indexed documents: a question goes in, passages come out, best first.

`deepseek.tenancy.documents` keeps them and is offered here by whoever starts a server or an agent, so that plugins, which
stand beside it, need not know it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from deepseek.core.errors import ConfigError
from deepseek.core.language import Embedder


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document. name: of the document, for people. start, end: in characters of the document's text.
    coverage: the share of the question's words that are in it, 0 to 1. score: higher is better; of one search only."""

    name: str
    title: str
    text: str
    start: int
    end: int
    coverage: float
    score: float


class DocumentSearch(Protocol):
    async def search(self, query: str, *, tenant: str | None = None, limit: int = 5) -> Sequence[Passage]:
        """The passages that fit best, of this tenant's documents alone; by default the current tenant's.

        Raises TenancyError where there is no tenant.
        """
        ...


Opener = Callable[[Embedder | None], DocumentSearch]

_OPENERS: list[Opener] = []  # one, or none


def offer_documents(opener: Opener) -> None:
    """Let `documents` open these from now on. Called once, at the start of a program."""
    _OPENERS[:] = [opener]


def documents(embedder: Embedder | None = None) -> DocumentSearch:
    """What was offered. embedder: to search by meaning too. Raises ConfigError where nothing was."""
    if not _OPENERS:
        raise ConfigError("there is no index of documents", fix="call deepseek.tenancy.documents.offer() first")
    return _OPENERS[-1](embedder)
