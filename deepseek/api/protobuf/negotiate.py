"""Which form an answer takes: JSON, unless the Accept header (RFC 9110 section 12.5.1) prefers Protobuf."""

from __future__ import annotations

from typing import Literal

from deepseek.api.problems import Problem, shown

PROTOBUF = "application/x-protobuf"
PROTOBUF_TYPES = (PROTOBUF, "application/protobuf", "application/vnd.google.protobuf")
JSON_TYPES = ("application/json", "text/event-stream")
MAX_RANGES = 64

Form = Literal["json", "protobuf"]


def negotiated(accept: str | None) -> Form:
    """The form that the header prefers; where it does not care, JSON. Raises Problem "not-acceptable"."""
    if accept is None or not accept.strip():
        return "json"
    ranges = [_range(part) for part in accept.split(",")[:MAX_RANGES]]
    json, protobuf = (max(_quality(ranges, name) for name in names) for names in (JSON_TYPES, PROTOBUF_TYPES))
    if not json[0] and not protobuf[0]:
        raise Problem(
            "not-acceptable",
            f"Accept: expected application/json or text/event-stream, or {PROTOBUF}; found {shown(accept)}",
        )
    return "protobuf" if protobuf > json else "json"


def is_protobuf(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() in PROTOBUF_TYPES


def _range(text: str) -> tuple[str, float]:
    name, *parameters = (part.strip().lower() for part in text.split(";"))
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            return name, _weight(value.strip())
    return name, 1.0


def _weight(text: str) -> float:
    """A qvalue; what is none, as if it were not there."""
    whole, _, digits = text.partition(".")
    if whole in ("0", "1") and len(digits) <= 3 and (not digits or (digits.isascii() and digits.isdigit())):
        return min(1.0, float(text))
    return 1.0


def _quality(ranges: list[tuple[str, float]], name: str) -> tuple[float, int]:
    """How much a media type is wanted: the weight of the most specific range that names it, and how specific that is."""
    for specific, pattern in ((2, name), (1, name.partition("/")[0] + "/*"), (0, "*/*")):
        found = [weight for given, weight in ranges if given == pattern]
        if found:
            return max(found), specific
    return 0.0, 0
