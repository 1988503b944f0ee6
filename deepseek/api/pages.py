"""Static pages, handed in by whoever composes the server: read once, sent with a policy that lets in nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from deepseek.api.scopes import Scope, needs
from deepseek.core.errors import ConfigError

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".proto": "text/plain; charset=utf-8",
}
POLICY = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"


def page_endpoint(file: Path) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint that serves one file. Raises ConfigError for a missing file or a kind it does not know."""
    media_type = MEDIA_TYPES.get(file.suffix)
    if media_type is None:
        raise ConfigError("a page of this kind cannot be served", where=file, expected=", ".join(MEDIA_TYPES))
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError("the page cannot be read", where=file, found=error.strerror) from error
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {
        "content-type": media_type,
        "etag": etag,
        "cache-control": "no-cache",
        "content-security-policy": POLICY,
        "referrer-policy": "no-referrer",
    }

    @needs(Scope.PUBLIC)
    async def page(request: Request) -> Response:
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers)

    return page
