"""GET /v1/usage, a tenant's own usage, and GET /admin/usage, everybody's: sums of the ledger, as JSON or as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from deepseek.api.guard import caller_of
from deepseek.api.metering.report import (
    DEFAULT_PAGE,
    GROUPS,
    MAX_PAGE,
    UsagePage,
    UsageQuery,
    groups_of,
    moment_of,
)
from deepseek.api.problems import PROBLEM_MEDIA_TYPE, FieldError, Problem, shown
from deepseek.api.scopes import Scope, needs
from deepseek.api.state import ServerState
from deepseek.api.wire import dump_json
from deepseek.core.errors import ConfigError

CSV_TYPE = "text/csv"
OWN_FIELDS = ("since", "until", "by", "key", "model", "limit", "after")
ALL_FIELDS = (*OWN_FIELDS, "tenant")


class UsageSumModel(BaseModel):
    """The sum of one group; it has the groups that were asked for."""

    tenant: str | None = None
    key: Annotated[str | None, Field(description="The key's public id, or a token's subject.")] = None
    model: str | None = None
    day: Annotated[str | None, Field(description="In UTC.", examples=["2026-11-24"])] = None
    requests: int
    prompt_tokens: int
    cached_tokens: Annotated[int, Field(description="Of the prompts', those found in the prefix cache.")]
    completion_tokens: int
    total_tokens: int
    cost: Annotated[str, Field(description="A decimal number in the operator's currency.")]


class UsageReport(BaseModel):
    """Sums in the order of their groups. next: give it as `after` for those that follow; null at the end."""

    object: str = "list"
    data: list[UsageSumModel]
    next: str | None


@needs(Scope.READ)
async def own_usage(request: Request) -> Response:
    """What the caller's tenant has used."""
    query = _query(request, OWN_FIELDS, caller_of(request.scope).tenant)
    return await _report(request, query)


@needs(Scope.OPERATE)
async def all_usage(request: Request) -> Response:
    """What everybody has used."""
    return await _report(request, _query(request, ALL_FIELDS, request.query_params.get("tenant")))


def add_routes(app: FastAPI) -> None:
    """Both, with what their description needs."""
    problem = {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemModel"}}}
    errors: dict[int | str, dict[str, Any]] = {
        status: {"description": "A problem document", "content": problem}
        for status in (401, 403, 404, 414, 422, 429, 503)
    }
    answer: dict[int | str, dict[str, Any]] = {200: {"model": UsageReport, "content": {CSV_TYPE: {}}}, **errors}
    for path, endpoint, fields in (("/v1/usage", own_usage, OWN_FIELDS), ("/admin/usage", all_usage, ALL_FIELDS)):
        app.add_api_route(
            path,
            endpoint,
            methods=["GET"],
            responses=answer,
            response_class=Response,
            response_model=None,
            openapi_extra={"parameters": [_parameter(name) for name in fields]},
        )


def _parameter(name: str) -> dict[str, Any]:
    time = {"type": "string", "examples": ["2026-11-24", "2026-11-24T12:00:00Z"]}
    text = {"type": "string"}
    groups = "|".join(GROUPS)
    schemas: Mapping[str, dict[str, Any]] = {
        "since": time | {"description": "Of requests admitted from then on."},
        "until": time | {"description": "The end, not included."},
        "by": {"type": "string", "pattern": f"^(({groups})(,({groups}))*)?$", "default": "day"},
        "limit": {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": DEFAULT_PAGE},
    }
    return {"name": name, "in": "query", "required": False, "schema": schemas.get(name, text)}


async def _report(request: Request, query: UsageQuery) -> Response:
    state: ServerState = request.app.state.server
    if state.usage is None:
        raise Problem("not-found", "This server keeps no ledger: it has no control database.")
    return _answer(await state.usage.page(query), request.headers.get("accept", ""))


def _answer(page: UsagePage, accept: str) -> Response:
    headers = {"cache-control": "no-store", "vary": "accept"}
    if CSV_TYPE not in accept.lower():
        return Response(dump_json(page.as_json()), headers=headers, media_type="application/json")
    if page.next is not None:
        headers["x-next"] = page.next
    return Response(page.as_csv(), headers=headers, media_type=f"{CSV_TYPE}; charset=utf-8; header=present")


def _query(request: Request, allowed: tuple[str, ...], tenant: str | None) -> UsageQuery:
    given = request.query_params
    unknown = next((name for name in given if name not in allowed), None)
    if unknown is not None:
        expected = f"one of {', '.join(allowed)}"
        raise Problem(
            "invalid-request", f"{shown(unknown)}: no such parameter", (FieldError(unknown[:80], expected=expected),)
        )
    with _as_problem():
        since, until = given.get("since"), given.get("until")
        return UsageQuery(
            since=None if since is None else moment_of(since, "since"),
            until=None if until is None else moment_of(until, "until"),
            by=groups_of(given.get("by", "day")),
            tenant=tenant,
            key=given.get("key"),
            model=given.get("model"),
            limit=_whole(given.get("limit", str(DEFAULT_PAGE))),
            after=given.get("after"),
        )


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 9):
        raise ConfigError("not a number", where="limit", found=text[:80], expected=f"1 to {MAX_PAGE}")
    return int(text)


@contextmanager
def _as_problem() -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise Problem(
            "invalid-request", str(error), (FieldError(error.where or "query", error.found, error.expected),)
        ) from None
