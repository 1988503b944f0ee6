"""Errors as problem documents (RFC 9457): one table of kinds, one way from an exception to a document.

    {"type": "urn:deepseek:problem:invalid-request", "title": ..., "status": 422, "detail": ...,
     "instance": "<request id>", "errors": [{"field": "top_p", "found": "7", "expected": "a number in (0, 1]"}]}

On the OpenAI-compatible routes the document also has OpenAI's `error` member (an extension member,
RFC 9457 section 3.2), so that clients of that dialect show the message.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic_core import ErrorDetails
from starlette.responses import Response

from deepseek.api.wire import dump_json
from deepseek.core.errors import AdmissionError, DeepSeekError, EngineError

PROBLEM_MEDIA_TYPE = "application/problem+json"
MAX_EXAMINED_ERRORS = 256  # a body can hold a mistake every few bytes
MAX_SHOWN_ERRORS = 20
MAX_SHOWN_CHARS = 80

KINDS: dict[str, tuple[int, str]] = {
    "malformed-json": (400, "The body is not valid JSON"),
    "malformed-request": (400, "The request cannot be read"),
    "unusable-constraint": (400, "The text cannot be held to this constraint"),
    "not-found": (404, "There is no such page"),
    "unknown-model": (404, "The model is not served here"),
    "method-not-allowed": (405, "The method is not allowed here"),
    "body-timeout": (408, "The body did not arrive in time"),
    "duplicate-request": (409, "A request with this id is running"),
    "body-too-large": (413, "The body is too large"),
    "prompt-too-long": (413, "The prompt does not fit the model's context"),
    "unsupported-media-type": (415, "The body must be JSON"),
    "invalid-request": (422, "The request has invalid fields"),
    "queue-full": (429, "Too many requests are waiting"),
    "internal": (500, "The server failed"),
    "draining": (503, "The server is shutting down"),
    "not-ready": (503, "The model does not answer yet"),
    "asleep": (503, "The engine sleeps"),
}
ADMISSION_KINDS = {
    "invalid": "invalid-request",
    "unknown_model": "unknown-model",
    "too_long": "prompt-too-long",
    "queue_full": "queue-full",
    "duplicate": "duplicate-request",
}


# How the engine begins to say where a constraint is wrong: "schema #/properties/a/not", "constraint regex".
CONSTRAINT_PLACES = frozenset({"constraint", "schema", "grammar"})


class FieldErrorModel(BaseModel):
    """One field that is wrong."""

    field: str
    found: str | None = None
    expected: str | None = None


class ProblemModel(BaseModel):
    """A problem document as the OpenAPI description shows it."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str | None = None
    errors: list[FieldErrorModel] | None = None


@dataclass(frozen=True, slots=True)
class FieldError:
    field: str
    found: str | None = None
    expected: str | None = None

    def as_dict(self) -> dict[str, str]:
        pairs = {"field": self.field, "found": self.found, "expected": self.expected}
        return {key: value for key, value in pairs.items() if value is not None}


class Problem(Exception):
    """An answer that is not the one asked for. `kind` is a key of `KINDS`; `detail` is safe to show to the client."""

    def __init__(
        self,
        kind: str,
        detail: str,
        errors: tuple[FieldError, ...] = (),
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.status, self.title = KINDS[kind]
        self.detail = detail
        self.errors = errors
        self.headers = headers or {}

    def document(self, *, instance: str | None, openai: bool) -> dict[str, Any]:
        body: dict[str, Any] = {
            "type": f"urn:deepseek:problem:{self.kind}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if instance:
            body["instance"] = instance
        if self.errors:
            body["errors"] = [error.as_dict() for error in self.errors]
        if openai:
            body["error"] = {
                "message": self.detail,
                "type": _openai_type(self.status),
                "param": self.errors[0].field if self.errors else None,
                "code": self.kind.replace("-", "_"),
            }
        return body

    def response(self, *, instance: str | None, openai: bool) -> Response:
        return Response(
            dump_json(self.document(instance=instance, openai=openai)),
            status_code=self.status,
            headers=self.headers,
            media_type=PROBLEM_MEDIA_TYPE,
        )


def problem_of(
    error: Exception, *, retry_after_s: float = 1.0, fields: Mapping[str, str] = MappingProxyType({})
) -> Problem:
    """The problem an exception is shown as. Anything that is not the client's to mend shows nothing of its inside.

    fields: what the client calls a field of the engine's, where the two differ.
    """
    if isinstance(error, Problem):
        return error
    if isinstance(error, AdmissionError):
        return _refusal(error, retry_after_s, fields)
    if isinstance(error, DeepSeekError) and not isinstance(error, EngineError):
        return Problem("invalid-request", str(error))
    return Problem("internal", "The request failed inside the server; the log has it under this request's id.")


def _refusal(error: AdmissionError, retry_after_s: float, fields: Mapping[str, str]) -> Problem:
    if error.reason == "queue_full":
        return Problem("queue-full", str(error), headers=retry_after(retry_after_s))
    where = error.where or ""
    if error.reason == "invalid" and where.partition(" ")[0] in CONSTRAINT_PLACES:
        field = fields.get("constraint", "constraint")
        shown_error = FieldError(field, error.found, error.expected)
        return Problem("unusable-constraint", f"{field}: {error}", (shown_error,))
    field = fields.get(where, where)
    detail = field + str(error).removeprefix(where)
    errors = (FieldError(field, error.found, error.expected),) if field else ()
    return Problem(ADMISSION_KINDS[error.reason], detail, errors)


def retry_after(seconds: float) -> dict[str, str]:
    """A Retry-After header (RFC 9110 section 10.2.3): whole seconds, between one and a minute."""
    return {"Retry-After": str(min(60, max(1, math.ceil(seconds))))}


def invalid_fields(details: list[ErrorDetails]) -> Problem:
    """422 for what pydantic found, each field with what was there and what belongs there."""
    errors = list(dict.fromkeys(map(_field_error, details[:MAX_EXAMINED_ERRORS])))
    first = errors[0]
    sentence = f"{first.field}: expected {first.expected}" + (f"; found {first.found}" if first.found else "")
    more = len(errors) - 1 + max(0, len(details) - MAX_EXAMINED_ERRORS)
    if more:
        sentence += f" (and {more} more)"
    return Problem("invalid-request", sentence, tuple(errors[:MAX_SHOWN_ERRORS]))


def shown(value: object) -> str:
    """A value as an error may repeat it: as the client wrote it, near enough, and short."""
    if isinstance(value, str):
        text = dump_json(value).decode()
    elif value is None or isinstance(value, bool):
        text = "null" if value is None else str(value).lower()
    elif isinstance(value, int | float):
        text = str(value)
    else:
        text = "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else type(value).__name__
    return text if len(text) <= MAX_SHOWN_CHARS else text[: MAX_SHOWN_CHARS - 1] + "…"


def _field_error(detail: ErrorDetails) -> FieldError:
    # Union branches put their name into the location (never first); the rest is the client's own.
    first, *rest = [str(part) for part in detail["loc"]] or ["body"]
    unknown = detail["type"] == "extra_forbidden"
    kept = [
        part
        for part in rest[: -1 if unknown else None]
        if part.isdigit() or (part.isidentifier() and part not in _BRANCHES)
    ]
    field = ".".join([first, *kept, *(rest[-1:] if unknown else ())])[: 2 * MAX_SHOWN_CHARS]
    if detail["type"] == "missing":
        return FieldError(field, expected="a value; the field is required")
    if detail["type"] == "extra_forbidden":
        return FieldError(field, expected="no such field")
    message = detail["msg"]
    for prefix in ("Input should be ", "Value error, "):
        message = message.removeprefix(prefix)
    return FieldError(field, found=shown(detail["input"]), expected=message[:1].lower() + message[1:])


_BRANCHES = {"str", "int", "float", "bool", "list", "dict"}


def _openai_type(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"
