"""Puts passages of the tenant's own documents before a prompt that they fit:

plugins:
  - name: retrieval
    params:
      limit: 4
      min_coverage: 0.34                # of the question's words, at least so many must be in a passage
      embeddings: {url: "http://127.0.0.1:8000/v1", model: builtin}     # to find by meaning too

`deepseek index PATH` puts documents in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deepseek.core.documents import Passage, documents
from deepseek.core.embeddings import RemoteEmbedder
from deepseek.core.errors import ConfigError
from deepseek.plugins.hooks import PluginContext
from deepseek.plugins.quoting import Quotation, plain, quoted
from deepseek.plugins.registry import register_plugin

MAX_NAME_CHARS = 120


class _Embeddings(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    url: str
    model: str
    api_key: str | None = Field(default=None, repr=False)


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    limit: Annotated[int, Field(ge=1, le=20)] = 4
    min_coverage: Annotated[float, Field(ge=0, le=1)] = 0.34
    max_chars: Annotated[int, Field(ge=100, le=100_000)] = 6000
    embeddings: _Embeddings | None = None


@register_plugin("retrieval")
class RetrievalPlugin:
    """limit: passages. max_chars: of all of them. With embeddings a passage may fit by meaning alone; then min_coverage is of
    no account for the best one. The names of what was put in are left in the request's metadata as `retrieval.names`."""

    def __init__(
        self,
        limit: int = 4,
        min_coverage: float = 0.34,
        max_chars: int = 6000,
        embeddings: dict[str, str] | None = None,
    ) -> None:
        given = {"limit": limit, "min_coverage": min_coverage, "max_chars": max_chars, "embeddings": embeddings}
        try:
            self._settings = _Settings.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ConfigError("has a wrong value", where=place, expected=first["msg"]) from None
        told = self._settings.embeddings
        self._documents = documents(RemoteEmbedder(told.url, told.model, told.api_key) if told else None)

    async def pre_process(self, prompt: str, context: PluginContext) -> str | None:
        found = await self._documents.search(prompt, tenant=context.tenant, limit=self._settings.limit)
        by_meaning = self._settings.embeddings is not None
        fitting = [
            passage
            for at, passage in enumerate(found)
            if passage.coverage >= self._settings.min_coverage or (by_meaning and at == 0)
        ]
        if not fitting:
            return None
        context.metadata["retrieval.names"] = [passage.name for passage in fitting]
        return f"{cited(fitting, prompt, self._settings.max_chars)}\n{prompt}"


def cited(passages: Sequence[Passage], question: str, max_chars: int) -> str:
    """Passages as a text to put before a question, at most so many characters of theirs."""
    quotations, left = [], max_chars
    for passage in passages:
        if left <= 0:
            break
        name, title = plain(passage.name, MAX_NAME_CHARS), plain(passage.title, MAX_NAME_CHARS)
        heading = f"{name}: {title}" if title and title != name else name
        quotations.append(Quotation(heading, passage.text[:left]))
        left -= len(passage.text)
    return quoted("passages", quotations, question)
