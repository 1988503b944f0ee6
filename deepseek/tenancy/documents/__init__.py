"""A tenant's documents: put in by `deepseek index PATH`, found by words (BM25) and, with an embedding model, by meaning."""

from __future__ import annotations

from deepseek.core.documents import DocumentSearch, offer_documents
from deepseek.core.language import Embedder
from deepseek.tenancy.documents.index import DocumentIndex, Indexed

__all__ = ["DocumentIndex", "Indexed", "offer"]


def offer() -> None:
    """Let plugins and tools find these documents through `deepseek.core.documents`."""
    offer_documents(_open)


def _open(embedder: Embedder | None) -> DocumentSearch:
    return DocumentIndex(embedder=embedder)
