"""Errors as problem documents (RFC 9457): one table of kinds, one way from an exception to a document.

    {"type": "urn:deepseek:problem:invalid-request", "title": ..., "status": 422, "detail": ...,
     "instance": "<request id>", "errors": [{"field": "top_p", "found": "7", "expected": "a number in (0, 1]"}]}

On the OpenAI-compatible routes the document also has OpenAI's `error` member (an extension member,
RFC 9457 section 3.2), so that clients of that dialect show the message. Anthropic's form has a `type` of its own, so on
its routes an error is in that form alone:

    {"type": "error", "error": {"type": "invalid_request_error", "message": ...}, "request_id": ...}

Clients of both act on statuses and messages, so on their routes these are as they expect them: a wrong field and a
prompt that does not fit are 400.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from pydantic_core import ErrorDetails
from starlette.responses import Response

from deepseek.api.wire import dump_json
from deepseek.core.errors import AdmissionError, CheckpointError, DeepSeekError, EngineError, StoreError, TokenizerError

Envelope = Literal["own", "openai", "anthropic"]
"""Whose form an error takes."""

PROBLEM_MEDIA_TYPE = "application/problem+json"
OPENAI_PATHS = (
    "/v1/batches",
    "/v1/chat/",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/files",
    "/v1/models",
    "/v1/responses",
)
ANTHROPIC_PATH = "/v1/messages"
MAX_EXAMINED_ERRORS = 256  # a body can hold a mistake every few bytes
MAX_SHOWN_ERRORS = 20
MAX_SHOWN_CHARS = 80

KINDS: dict[str, tuple[int, str]] = {
    "malformed-json": (400, "The body is not valid JSON"),
    "malformed-request": (400, "The request cannot be read"),
    "invalid-idempotency-key": (400, "The Idempotency-Key cannot be used"),
    "unusable-constraint": (400, "The text cannot be held to this constraint"),
    "unauthenticated": (401, "The request does not say whose it is"),
    "forbidden": (403, "This key may not do this"),
    "refused-by-plugin": (403, "A plugin refused the request"),
    "unpriced-model": (403, "The model has no price"),
    "not-found": (404, "There is no such page"),
    "unknown-object": (404, "There is no such object"),
    "unknown-model": (404, "The model is not served here"),
    "method-not-allowed": (405, "The method is not allowed here"),
    "not-acceptable": (406, "There is no answer of an acceptable type"),
    "body-timeout": (408, "The body did not arrive in time"),
    "head-timeout": (408, "The head did not arrive in time"),
    "cancelled": (409, "The request was cancelled"),
    "in-use": (409, "It is in use"),
    "not-resumable": (409, "It does not wait for that"),
    "not-cancellable": (409, "It has ended already"),
    "duplicate-request": (409, "A request with this id is running"),
    "idempotency-key-in-use": (409, "The request with this key still runs"),
    "outcome-unknown": (409, "The answer to this key is not kept"),
    "storage-full": (413, "The tenant keeps too much already"),
    "body-too-large": (413, "The body is too large"),
    "prompt-too-long": (413, "The prompt does not fit the model's context"),
    "target-too-long": (414, "The target of the request is too long"),
    "unsupported-media-type": (415, "The body must be JSON"),
    "invalid-request": (422, "The request has invalid fields"),
    "idempotency-key-reused": (422, "The key was used for another request"),
    "overloaded": (429, "The server is busy"),
    "queue-full": (429, "Too many requests are waiting"),
    "rate-limited": (429, "Too many requests"),
    "budget-exhausted": (429, "The budget is used up"),
    "head-too-large": (431, "The head of the request is too large"),
    "internal": (500, "The server failed"),
    "draining": (503, "The server is shutting down"),
    "not-ready": (503, "The model does not answer yet"),
    "asleep": (503, "The engine sleeps"),
    "plugin-failed": (503, "A plugin that the request needs failed"),
    "identity-unavailable": (503, "Callers cannot be told apart now"),
    "too-many-connections": (503, "There are too many connections"),
    "store-unavailable": (503, "The control database does not answer"),
}
OPENAI_CODES = {"budget-exhausted": "insufficient_quota", "prompt-too-long": "context_length_exceeded"}
"""Where OpenAI has a name of its own."""
DIALECT_STATUSES = {"invalid-request": 400, "prompt-too-long": 400}
"""Where OpenAI and Anthropic both answer with another status than we do."""
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


class AnthropicErrorBody(BaseModel):
    type: str
    message: str


class AnthropicError(BaseModel):
    """An error as Anthropic's clients know it."""

    type: Literal["error"]
    error: AnthropicErrorBody
    request_id: str | None


@dataclass(frozen=True, slots=True)
class FieldError:
    field: str
    found: str | None = None
    expected: str | None = None

    def as_dict(self) -> dict[str, str]:
        pairs = {"field": self.field, "found": self.found, "expected": self.expected}
        return {key: value for key, value in pairs.items() if value is not None}


class Problem(Exception):
    """An answer that is not the one asked for. `kind` is a key of `KINDS`; `detail` is safe to show to the client.

    said: the message in a dialect's own words, where its clients look for them.
    """

    def __init__(
        self,
        kind: str,
        detail: str,
        errors: tuple[FieldError, ...] = (),
        headers: dict[str, str] | None = None,
        *,
        said: Mapping[Envelope, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.status, self.title = KINDS[kind]
        self.detail = detail
        self.errors = errors
        self.headers = headers or {}
        self.said = said

    def status_in(self, envelope: Envelope) -> int:
        """The status of an answer in this form."""
        return self.status if envelope == "own" else DIALECT_STATUSES.get(self.kind, self.status)

    def document(self, *, instance: str | None, envelope: Envelope = "own") -> dict[str, Any]:
        status, message = self.status_in(envelope), self.said.get(envelope, self.detail)
        if envelope == "anthropic":
            error = {"type": _anthropic_type(self.kind, status), "message": message}
            return {"type": "error", "error": error, "request_id": instance}
        body: dict[str, Any] = {
            "type": f"urn:deepseek:problem:{self.kind}",
            "title": self.title,
            "status": status,
            "detail": self.detail,
        }
        if instance:
            body["instance"] = instance
        if self.errors:
            body["errors"] = [error.as_dict() for error in self.errors]
        if envelope == "openai":
            body["error"] = {
                "message": message,
                "type": _openai_type(status),
                "param": self.errors[0].field if self.errors else None,
                "code": OPENAI_CODES.get(self.kind, self.kind.replace("-", "_")),
            }
        return body

    def response(self, *, instance: str | None, envelope: Envelope = "own") -> Response:
        return Response(
            dump_json(self.document(instance=instance, envelope=envelope)),
            status_code=self.status_in(envelope),
            headers=self.headers,
            media_type="application/json" if envelope == "anthropic" else PROBLEM_MEDIA_TYPE,
        )


def envelope_of(path: str) -> Envelope:
    """The form of errors at this path."""
    if path.startswith(OPENAI_PATHS):
        return "openai"
    return "anthropic" if path.startswith(ANTHROPIC_PATH) else "own"


def prompt_too_long(field: str, tokens: int, most: int, *, chars: int | None = None) -> Problem:
    """A prompt of more tokens than the model takes. `most` leaves room for one token of an answer.

    chars: the length of a text that was refused unread; `tokens` is then what it has at least.
    """
    found = f"{tokens} tokens" if chars is None else f"{chars} characters"
    unread = "" if chars is None else f" (counted from {chars} characters, so it may be more)"
    return Problem(
        "prompt-too-long",
        f"{field}: expected at most {most} tokens; found {found}",
        (FieldError(field, found, f"at most {most} tokens"),),
        said={
            "openai": f"This model's maximum context length is {most + 1} tokens. However, your {field} resulted in "
            f"{tokens} tokens{unread}, which leaves no room for an answer. Please reduce the length of the {field}.",
            "anthropic": f"prompt is too long: {tokens} tokens > {most} maximum{unread}",
        },
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
    if isinstance(error, StoreError):
        return Problem("store-unavailable", "Try again shortly; the log has the reason.", headers=retry_after(1.0))
    if isinstance(error, TokenizerError | CheckpointError) and error.where is not None:
        # Where that is on this machine is nobody's business.
        return Problem("invalid-request", str(error).removeprefix(f"{error.where}: "))
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
    if error.reason == "too_long":
        counts = [re.search(r"\d+", str(side)) for side in (error.found, error.expected)]
        if field and counts[0] and counts[1]:
            return prompt_too_long(field, int(counts[0][0]), int(counts[1][0]))
    detail = field + str(error).removeprefix(where)
    errors = (FieldError(field, error.found, error.expected),) if field else ()
    return Problem(ADMISSION_KINDS[error.reason], detail, errors)


def retry_after(seconds: float) -> dict[str, str]:
    """A Retry-After header (RFC 9110 section 10.2.3): whole seconds, between one and a minute."""
    return {"Retry-After": str(min(60, max(1, math.ceil(seconds))))}


def invalid_fields(details: list[ErrorDetails]) -> Problem:
    """invalid-request for what pydantic found, each field with what was there and what belongs there."""
    errors = list(dict.fromkeys(map(_field_error, details[:MAX_EXAMINED_ERRORS])))
    # Of a union (text, or a list of parts) the branch that was meant is the one whose mistake lies deeper.
    above = {error.field[:at] for error in errors for at, char in enumerate(error.field) if char == "."}
    errors = [error for error in errors if error.field not in above]
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


_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def _anthropic_type(kind: str, status: int) -> str:
    if kind == "budget-exhausted":
        return "billing_error"
    return _ANTHROPIC_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
