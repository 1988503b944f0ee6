"""The issuer's public keys (a JSON Web Key Set, RFC 7517), from a file or a URL, without being led astray by either.

Read in a worker thread, bounded in size and time. Read again when they grow old and, at most every `refresh_s`, when a
token names a key that is not there. What is too old, and cannot be read again, is not used any more.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

log = logging.getLogger("deepseek.api.identity")

MAX_BYTES = 256 * 1024
MAX_KEYS = 64
LEAST_RSA_BITS = 2048


class NoKeys(Exception):
    """The issuer's keys cannot be had now."""


class KeySet:
    """Public keys by key id. Used from one event loop.

    source: a file, or a URL (https, or http on loopback). cache_s: how old keys may be; they are read again at half
    that age. clock: seconds, monotonic.
    """

    def __init__(
        self,
        source: str,
        *,
        refresh_s: float,
        cache_s: float,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._refresh_s, self._cache_s, self._timeout_s = refresh_s, cache_s, timeout_s
        self._clock = clock
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._read_at = self._tried_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    async def find(self, kid: str | None) -> jwt.PyJWK | None:
        """The key of this id, or the only key for a token that names none. Raises NoKeys."""
        age = self._clock() - self._read_at
        if age > self._cache_s:
            if self._may_try() or self._reading is not None:
                await self._read_once()
            if self._clock() - self._read_at > self._cache_s:
                raise NoKeys
        elif age > self._cache_s / 2 and self._may_try():
            self._begin_reading()
        key = self._of(kid)
        if key is None and (self._may_try() or self._reading is not None):
            await self._read_once()
            key = self._of(kid)
        return key

    async def close(self) -> None:
        """Stop a reading in flight."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def _of(self, kid: str | None) -> jwt.PyJWK | None:
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid)

    def _may_try(self) -> bool:
        return self._clock() - self._tried_at >= self._refresh_s

    async def _read_once(self) -> None:
        """Read, or wait for the reading that somebody else began."""
        self._begin_reading()
        assert self._reading is not None
        await asyncio.shield(self._reading)

    def _begin_reading(self) -> None:
        if self._reading is None:
            self._tried_at = self._clock()
            self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            document = await asyncio.to_thread(_fetch, self._source, self._timeout_s)
            self._keys = read_keys(document)
            self._read_at = self._clock()
        except (OSError, ValueError, httpx.HTTPError) as error:
            log.error("%s: the issuer's keys cannot be read: %s", self._source, error or type(error).__name__)
        finally:
            self._reading = None


def read_keys(document: bytes) -> dict[str | None, jwt.PyJWK]:
    """The usable keys of a key set: for signatures, public, strong, of a kind we allow. Raises ValueError."""
    try:
        parsed = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    entries = parsed.get("keys") if isinstance(parsed, dict) else None
    if not isinstance(entries, list) or len(entries) > MAX_KEYS:
        raise ValueError(f"not a key set: expected an object with `keys`, a list of at most {MAX_KEYS}")
    keys: dict[str | None, jwt.PyJWK] = {}
    for entry in entries:
        key = _usable(entry)
        if key is not None:
            keys[key.key_id] = key
    return keys


def algorithm_of(key: Any) -> str | None:
    """The one algorithm we verify with a public key of this kind; None for kinds and strengths we do not take."""
    if isinstance(key, RSAPublicKey):
        return "RS256" if key.key_size >= LEAST_RSA_BITS else None
    if isinstance(key, EllipticCurvePublicKey):
        return "ES256" if isinstance(key.curve, SECP256R1) else None
    return "EdDSA" if isinstance(key, Ed25519PublicKey | Ed448PublicKey) else None


def _usable(entry: object) -> jwt.PyJWK | None:
    # Secret (`oct`) keys are never taken from a key set: a published one would let anybody sign.
    if not isinstance(entry, dict) or entry.get("kty") not in ("RSA", "EC", "OKP") or entry.get("use", "sig") != "sig":
        return None
    try:
        key = jwt.PyJWK({name: value for name, value in entry.items() if name not in ("d", "alg")})
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    algorithm = algorithm_of(key.key)
    return key if algorithm is not None and entry.get("alg", algorithm) == algorithm else None


def _fetch(source: str, timeout_s: float) -> bytes:
    """Blocks; runs in a worker thread. Raises OSError, ValueError or httpx.HTTPError."""
    if not source.startswith(("https://", "http://")):
        with Path(source).open("rb") as file:
            return _bounded([file.read(MAX_BYTES + 1)], None)
    ends = time.monotonic() + timeout_s
    # No redirects: where keys come from is the operator's to say. No proxies from the environment, for the same reason.
    with (
        httpx.Client(timeout=timeout_s, follow_redirects=False, trust_env=False) as client,
        client.stream("GET", source, headers={"accept": "application/json"}) as response,
    ):
        if response.status_code != 200:
            raise ValueError(f"status {response.status_code}")
        return _bounded(response.iter_bytes(), ends)


def _bounded(chunks: Any, ends: float | None) -> bytes:
    document = b""
    for chunk in chunks:
        document += chunk
        if len(document) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        if ends is not None and time.monotonic() > ends:
            raise ValueError("not read in time")
    return document
