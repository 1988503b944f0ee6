"""Fetching from the public web what somebody else named: a model, a page, a redirect. Bounded, and kept out of one's own network.

A URL's host is resolved here, every address it has is checked (`core.addresses`), and the connection goes to the checked
address itself, with the host's name in `Host` and in TLS, where the certificate is checked against it. So a name that
resolves to something else the next time (DNS rebinding) gains nothing. Each redirect is checked the same way. Bytes, also
those that are unpacked, time, redirects and types of content are bounded. Proxies of the environment are not used, since
they would resolve names themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import ipaddress
import re
import socket
import ssl
import threading
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import httpx

from deepseek.core.addresses import Address, AllowList, why_not_public
from deepseek.core.errors import ToolError

REDIRECTS = frozenset((301, 302, 303, 307, 308))
PASSING = frozenset((408, 425, 429, 500, 502, 503, 504))
"""Statuses after which asking again may help (RFC 9110, 15)."""
MAX_URL_CHARS = 8192
MAX_ADDRESSES = 3
"""Addresses of a host that are tried in turn."""
TEXT_TYPES = ("text/*", "application/json", "application/*+json", "application/xml", "application/*+xml")
USER_AGENT = "deepseek-stack"

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""(host, port) -> its addresses; raises OSError where there are none."""


class WebRefused(ToolError):
    """This URL may not be fetched, or its answer is not of a kind or size that may be taken. Asking again does not help."""


class WebError(ToolError):
    """The other side did not answer, or with an error. status: 0 where there was no answer. retry_after_s: if it said."""

    def __init__(
        self,
        what: str,
        *,
        status: int = 0,
        retryable: bool = False,
        retry_after_s: float | None = None,
        where: object = None,
        found: object = None,
        expected: object = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(what, where=where, found=found, expected=expected, fix=fix)
        self.status = status
        self.retryable = retryable
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class WebLimits:
    """bytes: of a body, as sent and as unpacked. seconds: for everything, redirects too. types: media types, `text/*` too;
    `*/*` takes what has none. ports: those that need no entry in the allow-list."""

    bytes: int = 2 << 20
    seconds: float = 10.0
    redirects: int = 5
    types: tuple[str, ...] = TEXT_TYPES
    ports: frozenset[int] = frozenset((80, 443, 8080, 8443))


@dataclass(frozen=True, slots=True)
class Page:
    """What came. url: after redirects. type: the media type alone, in small letters."""

    url: str
    status: int
    type: str
    body: bytes = field(repr=False)
    charset: str | None = None

    @property
    def text(self) -> str:
        """The body as text: by its byte order mark, its header, what HTML says of itself, or else UTF-8."""
        if self.body.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
            named = "utf-8-sig" if self.body[0] == 0xEF else "utf-16"
        else:
            named = _codec(self.charset) or _codec(_declared(self.body)) or "utf-8"
        return self.body.decode(named, "replace")


class WebClient:
    """Fetches. It holds no connections, so it serves any task, thread and event loop, and needs no closing.

    allow: what may be reached besides the public web (`AllowList`). tls: instead of the usual certificates. resolve:
    instead of the system's resolver. Raises ConfigError.
    """

    def __init__(
        self,
        *,
        allow: Sequence[str] = (),
        limits: WebLimits | None = None,
        tls: ssl.SSLContext | None = None,
        resolve: Resolve | None = None,
        user_agent: str = USER_AGENT,
    ) -> None:
        self.limits = limits or WebLimits()
        self._allow = AllowList(allow)
        self._tls = tls
        self._resolve = resolve or _resolved
        self._agent = user_agent
        self._lock = threading.Lock()

    async def get(
        self,
        url: str,
        *,
        params: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
        limits: WebLimits | None = None,
        any_status: bool = False,
    ) -> Page:
        """What is at a URL. headers: sent to its own host only, not where a redirect leads elsewhere. any_status: return what
        is no success too, instead of raising.

        Raises WebRefused, WebError.
        """
        limits = limits or self.limits
        began = time.monotonic()
        try:
            async with asyncio.timeout(limits.seconds):
                target = _parsed(url, params)
                return await self._follow(target, dict(headers or {}), limits, any_status)
        except TimeoutError:
            seconds = time.monotonic() - began
            raise WebError("no answer in time", retryable=True, where=_shown(url), found=f"{seconds:.1f} s") from None

    def get_now(
        self,
        url: str,
        *,
        params: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
        limits: WebLimits | None = None,
    ) -> Page:
        """`get`, for code that is not on an event loop: it blocks."""
        return asyncio.run(self.get(url, params=params, headers=headers, limits=limits))

    async def _follow(self, url: httpx.URL, headers: dict[str, str], limits: WebLimits, any_status: bool) -> Page:
        for _ in range(limits.redirects + 1):
            addresses = await self._checked(url, limits)
            async with self._answer(url, addresses, headers, limits) as answer:
                if answer.status_code not in REDIRECTS or "location" not in answer.headers:
                    return await _taken(url, answer, limits, any_status)
                following = _parsed(_joined(url, answer.headers["location"]))
            if url.scheme == "https" and following.scheme != "https":
                raise WebRefused("a redirect away from TLS", where=_shown(str(url)), found=_shown(str(following)))
            if (url.scheme, url.host, url.port) != (following.scheme, following.host, following.port):
                headers = {}
            url = following
        raise WebRefused("too many redirects", where=_shown(str(url)), expected=f"at most {limits.redirects}")

    async def _checked(self, url: httpx.URL, limits: WebLimits) -> list[Address]:
        """The addresses of a URL's host, all of which may be reached. Raises WebRefused, WebError."""
        host, port = url.raw_host.decode("ascii").rstrip("."), url.port or (443 if url.scheme == "https" else 80)
        where = _shown(str(url))
        try:
            found = [ipaddress.ip_address(text) for text in await self._resolve(host, port)]
        except (OSError, UnicodeError, ValueError) as error:
            raise WebError("the host is not known", where=where, found=host, retryable=_passes(error)) from None
        if not found:
            raise WebError("the host has no address", where=where, found=host)
        for address in found:
            why = why_not_public(address)
            if why is not None and not self._allow.has(host, address, port):
                # Not which address: that would map the network for whoever asks.
                raise WebRefused("not on the public web", where=where, found=f"an address that is {why}")
        if port not in limits.ports and not self._allow.has_port(host, found, port):
            expected = ", ".join(map(str, sorted(limits.ports)))
            raise WebRefused("a port that may not be asked", where=where, found=port, expected=expected)
        return found[:MAX_ADDRESSES]

    @contextlib.asynccontextmanager
    async def _answer(
        self, url: httpx.URL, addresses: Sequence[Address], headers: Mapping[str, str], limits: WebLimits
    ) -> AsyncIterator[httpx.Response]:
        """The beginning of an answer, from the first address that takes a connection. Raises WebError."""
        host = url.netloc.decode("ascii")
        sent = {"Accept": ", ".join(limits.types), "Accept-Encoding": "gzip, identity", "User-Agent": self._agent}
        sent |= {**headers, "Host": host}
        # No connection is kept: one to this address was made in another host's name.
        client = httpx.AsyncClient(
            verify=await asyncio.to_thread(self._certificates) if url.scheme == "https" else False,
            trust_env=False,
            timeout=limits.seconds,
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=0),
        )
        async with client:
            for at, address in enumerate(addresses):
                request = client.build_request("GET", url.copy_with(host=str(address)), headers=sent)
                request.extensions["sni_hostname"] = url.raw_host.decode("ascii").rstrip(".")
                try:
                    answer = await client.send(request, stream=True)
                except httpx.ConnectError as error:
                    if at + 1 == len(addresses):
                        raise _no_answer(url, error) from None
                    continue
                except (httpx.HTTPError, httpx.InvalidURL) as error:
                    raise _no_answer(url, error) from None
                try:
                    yield answer
                finally:
                    await answer.aclose()
                return

    def _certificates(self) -> ssl.SSLContext:
        with self._lock:
            if self._tls is None:
                self._tls = httpx.create_ssl_context(trust_env=False)
            return self._tls


async def _resolved(host: str, port: int) -> Sequence[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _passes(error: Exception) -> bool:
    return isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN


def _parsed(url: str, params: Mapping[str, str | int] | None = None) -> httpx.URL:
    """Raises WebRefused for what is no plain URL of the web."""
    expected = "http:// or https://, a host, no name and password"
    if len(url) > MAX_URL_CHARS or any(ord(char) < 33 or ord(char) == 127 for char in url):
        raise WebRefused("not a URL", found=_shown(url), expected=expected)
    try:
        parsed = httpx.URL(url)
        parsed = parsed.copy_merge_params(params) if params else parsed
        host = parsed.raw_host.decode("ascii")
    except (httpx.InvalidURL, UnicodeError, ValueError, TypeError):
        raise WebRefused("not a URL", found=_shown(url), expected=expected) from None
    if parsed.scheme not in ("http", "https") or not host.strip(".") or parsed.userinfo:
        raise WebRefused("not a URL of the web", found=_shown(url), expected=expected)
    return parsed.copy_with(fragment=None)


def _joined(url: httpx.URL, location: str) -> str:
    try:
        return str(url.join(location))
    except (httpx.InvalidURL, ValueError):
        raise WebRefused("a redirect to what is no URL", where=_shown(str(url)), found=location[:80]) from None


async def _taken(url: httpx.URL, answer: httpx.Response, limits: WebLimits, any_status: bool) -> Page:
    where, status = _shown(str(url)), answer.status_code
    if not 200 <= status < 300 and not any_status:
        raise WebError(
            "the server answered with an error",
            status=status,
            retryable=status in PASSING,
            retry_after_s=_retry_after(answer.headers.get("retry-after")),
            where=where,
            found=status,
        )
    kind, charset = _content_type(answer.headers.get("content-type", ""))
    if not any(_matches(kind, pattern) for pattern in limits.types):
        raise WebRefused(
            "of a type that is not taken", where=where, found=kind or "none", expected=", ".join(limits.types)
        )
    body = await _body(url, answer, limits)
    return Page(str(url), status, kind, body, charset)


async def _body(url: httpx.URL, answer: httpx.Response, limits: WebLimits) -> bytes:
    where = _shown(str(url))
    too_large = WebRefused("too large", where=where, expected=f"at most {limits.bytes} bytes")
    length = answer.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > limits.bytes:
        raise too_large
    coding = answer.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("identity", "gzip", "x-gzip", "deflate", ""):
        raise WebRefused("packed in a way that is not taken", where=where, found=coding[:40], expected="gzip")
    # Unpacked here, since a library would unpack a thousand times what was sent before anybody could look.
    unpack = zlib.decompressobj(wbits=47) if coding not in ("identity", "") else None
    body, sent = bytearray(), 0
    try:
        async for chunk in answer.aiter_raw(1 << 16):
            sent += len(chunk)
            if sent > limits.bytes:
                raise too_large
            body += unpack.decompress(chunk, limits.bytes - len(body) + 1) if unpack else chunk
            if len(body) > limits.bytes:
                raise too_large
    except httpx.HTTPError as error:
        raise _no_answer(url, error) from None
    except zlib.error:
        raise WebError("damaged", where=where, found=f"what is no {coding}") from None
    if unpack is not None and not unpack.eof and sent:
        raise WebError("damaged", where=where, found=f"a part of {coding}", retryable=True)
    return bytes(body)


def _no_answer(url: httpx.URL, error: Exception) -> WebError:
    return WebError("no answer", retryable=True, where=_shown(str(url)), found=f"{type(error).__name__}: {error}"[:200])


def _content_type(written: str) -> tuple[str, str | None]:
    kind, *rest = written.split(";")
    for part in rest:
        name, _, value = part.partition("=")
        if name.strip().lower() == "charset":
            return kind.strip().lower(), value.strip().strip("\"'")
    return kind.strip().lower(), None


def _matches(kind: str, pattern: str) -> bool:
    if pattern == "*/*":
        return True
    before, star, after = pattern.partition("*")
    if not star:
        return kind == pattern
    return len(kind) > len(before) + len(after) and kind.startswith(before) and kind.endswith(after)


def _retry_after(written: str | None) -> float | None:
    """RFC 9110, 10.2.3: seconds, or a date."""
    if written is None:
        return None
    if written.isascii() and written.isdigit():
        return float(written[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(written).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


# Encodings of the web (https://encoding.spec.whatwg.org); of Python's others some take very long on the right bytes.
_CODECS = {
    "utf-8": "utf-8", "utf8": "utf-8", "us-ascii": "cp1252", "ascii": "cp1252", "iso-8859-1": "cp1252", "latin1": "cp1252",
    "gb2312": "gb18030", "gbk": "gb18030", "gb18030": "gb18030", "big5": "big5hkscs", "shift_jis": "cp932", "euc-jp": "euc_jp",
    "iso-2022-jp": "iso2022_jp", "euc-kr": "cp949", "koi8-r": "koi8_r", "koi8-u": "koi8_u", "utf-16": "utf-16",
    "utf-16le": "utf-16-le", "utf-16be": "utf-16-be",
}  # fmt: skip
_NUMBERED = re.compile(r"(?:iso-8859-(?:[2-9]|1[013-6])|windows-(?:125[0-8]|874))")
_DECLARED = re.compile(
    rb"""<(?:meta[^>]{0,200}?charset|\?xml[^>]{0,80}?encoding)\s*=\s*["']?\s*([A-Za-z0-9_-]{2,20})""", re.I
)


def _codec(label: str | None) -> str | None:
    label = (label or "").strip().lower()
    return _CODECS.get(label) or (label.replace("windows-", "cp") if _NUMBERED.fullmatch(label) else None)


def _declared(body: bytes) -> str | None:
    found = _DECLARED.search(body[:2048])
    # What can be read as ASCII is not UTF-16, whatever it says.
    return found[1].decode("ascii") if found and not found[1].lower().startswith(b"utf-16") else None


def _shown(url: str) -> str:
    """A URL for people: without its query, which may hold a secret, and its end where it is long."""
    plain = re.sub(r"//[^/@]*@", "//", url.partition("#")[0].partition("?")[0])
    return plain if len(plain) <= 120 else plain[:119] + "…"
