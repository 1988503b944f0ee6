"""The identifier of a server with a database or a token issuer: API keys first, tokens (JWT) where they are configured.

A server on loopback that never had a key, and trusts no issuer, asks nobody: everybody is the local tenant. From the first
key on, a key is needed there too. While nobody is asked, a page of another site must not be able to ask in its
visitor's browser. It may point a name of its own at this machine (DNS rebinding), so a request must come under an
address or the name localhost; and it may send forms without reading the answer, so a request must not be another page's
(Origin, Sec-Fetch-Site).
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from deepseek.api.identity.caller import LOCAL_CALLER, Caller, WrittenCaller
from deepseek.api.identity.credentials import credential_of, unauthenticated
from deepseek.api.identity.keys import PREFIX
from deepseek.api.identity.ring import KeyRing
from deepseek.api.identity.watch import KeyWatch
from deepseek.api.problems import Problem

if TYPE_CHECKING:
    from deepseek.api.identity.tokens import TokenVerifier


class KeyIdentifier:
    """Who a request's key or token stands for.

    open_until_keyed: a keyless server on loopback; see above. tokens: verifies what is not a key of ours.
    """

    def __init__(self, ring: KeyRing, tokens: TokenVerifier | None = None, *, open_until_keyed: bool = False) -> None:
        self._ring, self._tokens = ring, tokens
        self._open_until_keyed = open_until_keyed and tokens is None

    @property
    def open(self) -> bool:
        """Whether nobody is asked, now."""
        return self._open_until_keyed and not self._ring.in_use

    async def identify(self, headers: Headers) -> Caller:
        if self.open:
            _require_no_stranger(headers)
            return LOCAL_CALLER
        credential = credential_of(headers)
        if credential is None:
            raise unauthenticated("Send a key: Authorization: Bearer dsk_…, or x-api-key: dsk_….", invalid=False)
        if credential.startswith(PREFIX) or self._tokens is None:
            caller = self._of_key(credential)
        else:
            caller = await self._tokens.verify(credential)
        if caller.tenant in self._ring.suspended:
            raise Problem("forbidden", "This tenant is suspended.")
        return caller

    def recall(self, written: WrittenCaller) -> Caller | None:
        """A caller of before, as it is now: None for a key that is not good any more, or a suspended tenant. A token
        cannot be asked for again; whoever it stood for keeps what it said until the work is over."""
        if written.tenant in self._ring.suspended:
            return None
        if written.key_id is not None:
            return self._ring.caller_of(written.key_id)
        if self._tokens is not None:
            return self._tokens.recall(written)
        return LOCAL_CALLER if self.open and written.tenant == LOCAL_CALLER.tenant else None

    def _of_key(self, key: str) -> Caller:
        held = self._ring.find(key)
        if held is None:
            raise unauthenticated("This key is not valid: it is mistyped, unknown, expired or revoked.")
        if held.caller is None:
            raise Problem("forbidden", f"The tier of this key, {held.tier!r}, is not configured on this server.")
        return held.caller


class LoopbackIdentifier:
    """Everybody is the local tenant: a server that cannot have keys, on loopback.

    watch: of the database that another server holds; once there are keys in it, nobody is answered.
    """

    def __init__(self, watch: KeyWatch | None = None) -> None:
        self._watch = watch

    async def identify(self, headers: Headers) -> Caller:
        _require_no_stranger(headers)
        if self._watch is not None:
            await self._watch.require_none()
        return LOCAL_CALLER

    def recall(self, written: WrittenCaller) -> Caller | None:
        """The local tenant again, as long as no key is known of; nobody else, for nobody else was ever here."""
        if written.tenant != LOCAL_CALLER.tenant or written.key_id is not None:
            return None
        return None if self._watch is not None and self._watch.keyed else LOCAL_CALLER


def _require_no_stranger(headers: Headers) -> None:
    """Raise Problem 403 for what a page of another site can have a browser send. Other clients send none of it."""
    host = headers.get("host")
    _require_local_name(host)
    # The page that an Origin names is ours where it came from this very address; "null" is nobody's.
    own = (host or "").lower()
    foreign = any(origin.partition("://")[2].lower() != own for origin in headers.getlist("origin"))
    if foreign or "cross-site" in headers.getlist("sec-fetch-site"):
        raise Problem(
            "forbidden",
            "Pages of other sites cannot use a server without keys: make a key first (deepseek keys create).",
        )


def _require_local_name(host: str | None) -> None:
    """host: the Host header, which gRPC and the oldest clients do not send."""
    if host is None:
        return
    name = host.rsplit(":", 1)[0] if host.rsplit(":", 1)[-1].isdigit() else host
    name = name.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return
    try:
        ipaddress.ip_address(name)
    except ValueError:
        raise Problem(
            "forbidden",
            "A server without keys is used as localhost or by its address, not under another name: make a key first "
            "(deepseek keys create).",
        ) from None
