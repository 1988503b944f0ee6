"""Vectors of texts from any address that speaks OpenAI's `POST /v1/embeddings`: a server of ours, or somebody else's."""

from __future__ import annotations

import json
from collections.abc import Sequence

import httpx

from deepseek.core.errors import ConfigError, ModelError

MAX_ANSWER_BYTES = 64 << 20
PASSING = frozenset((408, 425, 429, 500, 502, 503, 504))


class RemoteEmbedder:
    """url: up to and with `/v1`. name: the model's, and where it is. It holds no connections. Raises ConfigError."""

    def __init__(self, url: str, model: str, api_key: str | None = None, *, timeout_s: float = 30.0) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(
                "no address of embeddings", where="url", found=repr(url)[:80], expected="http(s)://.../v1"
            )
        self._url = url.rstrip("/") + "/embeddings"
        self._model = model
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout_s = timeout_s
        self.name = f"{model} at {url.rstrip('/')}"

    async def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """One vector for each text. Raises ModelError."""
        if not texts:
            return []
        asked = {"model": self._model, "input": list(texts), "encoding_format": "float"}
        try:
            async with (
                httpx.AsyncClient(timeout=self._timeout_s) as client,
                client.stream("POST", self._url, json=asked, headers=self._headers) as answer,
            ):
                body = bytearray()
                async for chunk in answer.aiter_bytes(1 << 16):
                    body += chunk
                    if len(body) > MAX_ANSWER_BYTES:
                        raise self._error("its answer is too large")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._error("no answer", type(error).__name__, retryable=True) from None
        if answer.status_code != 200:
            status = answer.status_code
            raise self._error("it answered with an error", status, retryable=status in PASSING)
        try:
            rows = sorted(json.loads(body)["data"], key=lambda row: row["index"])
            vectors = [[float(number) for number in row["embedding"]] for row in rows]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self._error("its answer is not one of embeddings") from None
        if len(vectors) != len(texts):
            raise self._error("it gave not one vector a text", len(vectors))
        return vectors

    def _error(self, what: str, found: object = None, *, retryable: bool = False) -> ModelError:
        return ModelError(what, where=f"embeddings of {self.name}", found=found, retryable=retryable)
