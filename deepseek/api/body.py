"""Read a JSON body without trusting it: its type, its size while it arrives, its time, its JSON, its fields."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect, Request

from deepseek.api.overhead import OVERHEAD, Overhead
from deepseek.api.problems import FieldError, Problem, invalid_fields
from deepseek.api.state import ApiSettings

T = TypeVar("T")

# A body up to this size is looked at without counting first.
LARGE_BYTES = 32 * 1024
MAX_FIELDS = 20_000
MAX_STRINGS = 100_000
MAX_VALUES = 300_000  # a prompt may be a list of token ids
# More are not listed, not even the first of them: to list any, pydantic makes an object of each.
MAX_MISTAKES = 1000


async def read_model(request: Request, model: TypeAdapter[T], settings: ApiSettings) -> T:
    """The body as a model. Raises Problem: 415, 413 (before reading further), 408, 400 or 422."""
    _require_json(request)
    body = await read_body(request, settings)
    require_few_values(body)
    return validated(body, model)


def validated(body: bytes, model: TypeAdapter[T]) -> T:
    """JSON that `require_few_values` let through, as a model. Raises Problem: 400 or 422."""
    try:
        return model.validate_json(body)
    except ValidationError as error:
        if error.error_count() > MAX_MISTAKES:
            raise _mostly_wrong(error.error_count()) from None
        details = error.errors(include_url=False, include_context=False)
        if details[0]["type"] != "json_invalid":
            raise invalid_fields(details) from None
        raise _malformed(body, details[0]["msg"]) from None


def _require_json(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        raise Problem(
            "unsupported-media-type",
            f"Send the body as application/json; found {media_type[:80] or 'no Content-Type'}.",
            headers={"Accept-Post": "application/json"},
        )


async def read_body(request: Request, settings: ApiSettings) -> bytes:
    """The whole body. Raises Problem 413 or 408, and ClientDisconnect."""
    limit = settings.max_body_bytes
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and (len(declared) > 18 or int(declared) > limit):
        raise _too_large(limit)
    chunks: list[bytes] = []
    size = 0
    overhead = OVERHEAD.get() or Overhead(0.0)
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            while True:
                overhead.leave()
                try:
                    message = await request.receive()
                finally:
                    overhead.back()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > limit:
                    raise _too_large(limit)
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return b"".join(chunks)
    except TimeoutError:
        detail = f"The body did not arrive within {settings.body_timeout_s:g} s."
        raise Problem("body-timeout", detail, headers={"Connection": "close"}) from None


def _too_large(limit: int) -> Problem:
    # The rest of the body is not read, so nothing can come after it.
    return Problem("body-too-large", f"The body may have at most {limit} bytes.", headers={"Connection": "close"})


def require_few_values(body: bytes) -> None:
    """422 for a large body with more fields or values than any request has: each costs more to look at than to send.

    Counted without parsing: what stands between strings has one colon a field, and a comma before all values but one.
    """
    if len(body) <= LARGE_BYTES:
        return
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    strings = plain.count(b'"') // 2
    fields, values = plain.count(b":"), plain.count(b",")
    if strings <= MAX_STRINGS and (fields > MAX_FIELDS or values > MAX_VALUES):
        between = b"".join(plain.split(b'"')[::2])
        if between.count(b"{") != between.count(b"}"):
            raise Problem("malformed-json", "Braces are opened and not closed.")
        fields, values = between.count(b":"), between.count(b",")
    for what, found, most in (
        ("strings", strings, MAX_STRINGS),
        ("fields", fields, MAX_FIELDS),
        ("values", values, MAX_VALUES),
    ):
        if found > most:
            expected = f"at most {most} {what}"
            error = FieldError("body", f"{found} {what}", expected)
            raise Problem("invalid-request", f"body: expected {expected}; found {found}", (error,))


def _mostly_wrong(mistakes: int) -> Problem:
    expected = "fields as /openapi.json describes them"
    error = FieldError("body", f"{mistakes} mistakes", expected)
    return Problem("invalid-request", f"body: expected {expected}; found {mistakes} mistakes", (error,))


def _malformed(body: bytes, reason: str) -> Problem:
    """400 for broken JSON; 422 where the JSON is fine but a string holds half a surrogate pair, which is no text."""
    try:
        path = next(_surrogates(json.loads(body), ""), None)
    except (ValueError, RecursionError):
        path = None
    if path is None:
        return Problem("malformed-json", reason.removeprefix("Invalid JSON: ").capitalize() + ".")
    expected = "Unicode text; half of a surrogate pair is not a character"
    return Problem("invalid-request", f"{path}: expected {expected}", (FieldError(path, expected=expected),))


def _surrogates(value: object, path: str) -> Iterator[str]:
    stack: list[tuple[str, object]] = [(path, value)]
    while stack:
        where, item = stack.pop()
        if isinstance(item, str):
            if not item.isascii() and any("\ud800" <= char <= "\udfff" for char in item):
                yield where or "body"
        elif isinstance(item, list):
            stack.extend((f"{where}.{index}".lstrip("."), entry) for index, entry in enumerate(item))
        elif isinstance(item, dict):
            for key, entry in item.items():
                shown_key = key.encode("ascii", "replace").decode()[:80]
                stack.append((f"{where}.{shown_key}".lstrip("."), entry))
                stack.append((where, key))
