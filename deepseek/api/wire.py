"""Bytes on the wire: compact JSON, server-sent events, and reading a body without trusting it."""

from __future__ import annotations

import json
from typing import Any

DONE_FRAME = b"data: [DONE]\n\n"

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def dump_json(value: Any) -> bytes:
    """Compact JSON in UTF-8. A lone surrogate, which UTF-8 cannot carry, becomes a question mark."""
    return _encode(value).encode("utf-8", "replace")


def sse_frame(data: bytes, event: str | None = None) -> bytes:
    """One server-sent event. `data` is JSON, so it has no line breaks of its own."""
    head = f"event: {event}\n".encode() if event else b""
    return b"%sdata: %s\n\n" % (head, data)
