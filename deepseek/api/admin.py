"""Keys and tenants over HTTP, for whoever runs the server (scope `operate`): the same as `deepseek keys`, while it serves.

A change is answered once it is on disk and this server goes by it; other servers follow within a second. A key's text is
in the answer that makes it and nowhere else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import sqlalchemy as sa
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

from deepseek.api.body import read_model
from deepseek.api.identity import administration
from deepseek.api.identity.administration import DEFAULT_SCOPES, GRACE_S, MAX_GRACE_S, NewKey
from deepseek.api.identity.ring import KeyRing
from deepseek.api.problems import PROBLEM_MEDIA_TYPE, FieldError, Problem
from deepseek.api.scopes import Scope, needs
from deepseek.api.store import keys as store
from deepseek.api.store.database import Database
from deepseek.api.store.keys import KeyRecord, TenantRecord, UnknownName
from deepseek.api.store.tables import NAME_CHARS
from deepseek.api.store.writer import Writer
from deepseek.api.wire import dump_json
from deepseek.core.errors import ConfigError

MAX_PAGE = 1000
DEFAULT_PAGE = 100

T = TypeVar("T")
ScopeName = Literal["read", "infer", "operate"]
Tenant = Annotated[str, Field(min_length=1, max_length=NAME_CHARS, description="Whose key it is.")]
Seconds = Annotated[float, Field(description="Seconds since 1970, UTC.", allow_inf_nan=False)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class CreateKeyRequest(_Body):
    """A key to make. Its tenant is made with it, if that is new."""

    tenant: Tenant
    tier: Annotated[str, Field(min_length=1, max_length=NAME_CHARS)]
    name: Annotated[str, Field(max_length=200, description="For people.")] = ""
    scopes: Annotated[list[ScopeName], Field(min_length=1, max_length=3)] = [*DEFAULT_SCOPES]  # type: ignore[list-item]
    models: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=200)]] | None,
        Field(min_length=1, max_length=100, description="The only models it may use; null: its tenant's."),
    ] = None
    expires: Seconds | None = None


class RotateKeyRequest(_Body):
    """How long the old text of the key is still good."""

    grace_s: Annotated[float, Field(ge=0, le=MAX_GRACE_S, description="Seconds.")] = GRACE_S


class CreateTenantRequest(_Body):
    """A tenant to make."""

    name: Tenant


class KeyInfo(BaseModel):
    """A key: everything but the key."""

    id: str
    tenant: str
    tier: str
    name: str
    scopes: list[str]
    models: list[str] | None
    created: Seconds
    expires: Seconds | None
    revoked: Seconds | None
    last_used: Annotated[Seconds | None, Field(description="Written with some delay.")]


class IssuedKey(KeyInfo):
    """A key just made or rotated."""

    key: Annotated[str, Field(description="The key itself. It is shown this once.")]


class KeyList(BaseModel):
    """Keys in the order they were made. next: give it as `after` for those that follow; null at the end."""

    data: list[KeyInfo]
    next: str | None


class TenantInfo(BaseModel):
    """suspended: since when its callers are refused."""

    name: str
    created: Seconds
    suspended: Seconds | None


class TenantList(BaseModel):
    """Tenants by name. next: give it as `after` for those that follow; null at the end."""

    data: list[TenantInfo]
    next: str | None


@dataclass(frozen=True, slots=True)
class KeyAdmin:
    """What the admin API works on. tiers: the names a key may have. clock: seconds since 1970."""

    database: Database
    writer: Writer
    ring: KeyRing
    secret: bytes
    tiers: Collection[str]
    clock: Callable[[], float] = time.time

    async def change(self, work: Callable[[sa.Connection], T]) -> T:
        """Commit, then let this server's ring see it."""
        done = await self.writer.run(work)
        await asyncio.to_thread(self.ring.load)
        return done


_CREATE_KEY = TypeAdapter(CreateKeyRequest)
_ROTATE_KEY = TypeAdapter(RotateKeyRequest)
_CREATE_TENANT = TypeAdapter(CreateTenantRequest)


@needs(Scope.OPERATE)
async def create_key(request: Request) -> Response:
    admin = _admin(request)
    body = await read_model(request, _CREATE_KEY, request.app.state.server.settings)
    models = None if body.models is None else tuple(dict.fromkeys(body.models))
    wanted = NewKey(body.tenant, body.tier, body.name, administration.listed(body.scopes), models, expires=body.expires)
    with _own_problems():
        administration.check(wanted, admin.tiers, admin.clock())
    add, key = administration.issue(wanted, admin.secret, now=admin.clock())
    return _answer(_issued(await admin.change(add), key), 201)


@needs(Scope.OPERATE)
async def list_keys(request: Request) -> Response:
    limit, after = _page(request)
    tenant = _text(request, "tenant")
    with _own_problems():
        records = await _admin(request).database.read(
            lambda connection: store.list_keys(connection, tenant=tenant, limit=limit + 1, after=after)
        )
    more = len(records) > limit
    shown = [_info(record) for record in records[:limit]]
    return _answer(KeyList(data=shown, next=shown[-1].id if more else None))


@needs(Scope.OPERATE)
async def rotate_key(request: Request) -> Response:
    admin = _admin(request)
    body = await read_model(request, _ROTATE_KEY, request.app.state.server.settings)
    with _own_problems():
        key_id = request.path_params["key_id"]
        change, key = administration.rotate(key_id, admin.secret, body.grace_s, now=admin.clock())
        return _answer(_issued(await admin.change(change), key))


@needs(Scope.OPERATE)
async def revoke_key(request: Request) -> Response:
    admin = _admin(request)
    with _own_problems():
        record = await admin.change(administration.revoke(request.path_params["key_id"], now=admin.clock()))
    return _answer(_info(record))


@needs(Scope.OPERATE)
async def create_tenant(request: Request) -> Response:
    admin = _admin(request)
    body = await read_model(request, _CREATE_TENANT, request.app.state.server.settings)
    now = admin.clock()

    def add(connection: sa.Connection) -> tuple[bool, TenantRecord]:
        return store.add_tenant(connection, body.name, now), store.get_tenant(connection, body.name)

    with _own_problems():
        administration.name_of(body.name, "name")
        made, record = await admin.change(add)
    return _answer(_tenant(record), 201 if made else 200)


@needs(Scope.OPERATE)
async def list_tenants(request: Request) -> Response:
    limit, after = _page(request)
    records = await _admin(request).database.read(
        lambda connection: store.list_tenants(connection, limit=limit + 1, after=after or "")
    )
    shown = [_tenant(record) for record in records[:limit]]
    return _answer(TenantList(data=shown, next=shown[-1].name if len(records) > limit else None))


@needs(Scope.OPERATE)
async def suspend_tenant(request: Request) -> Response:
    return await _suspend(request, _admin(request).clock())


@needs(Scope.OPERATE)
async def resume_tenant(request: Request) -> Response:
    return await _suspend(request, None)


async def _suspend(request: Request, since: float | None) -> Response:
    name = request.path_params["name"]
    with _own_problems():
        record = await _admin(request).change(lambda connection: store.suspend_tenant(connection, name, since))
    return _answer(_tenant(record))


Endpoint = Callable[[Request], Awaitable[Response]]


BODIES = (CreateKeyRequest, RotateKeyRequest, CreateTenantRequest)
ERRORS = (404, 422, 503)
BODY_ERRORS = (400, 404, 408, 413, 415, 422, 503)
PAGE = ("limit", "after")


def add_routes(app: FastAPI) -> None:
    """All of them, with what their description needs."""
    _add(app, "POST", "/admin/keys", create_key, IssuedKey, body=CreateKeyRequest, status=201)
    _add(app, "GET", "/admin/keys", list_keys, KeyList, query=("tenant", *PAGE))
    _add(app, "POST", "/admin/keys/{key_id}/rotate", rotate_key, IssuedKey, body=RotateKeyRequest)
    _add(app, "POST", "/admin/keys/{key_id}/revoke", revoke_key, KeyInfo)
    _add(app, "POST", "/admin/tenants", create_tenant, TenantInfo, body=CreateTenantRequest, status=201)
    _add(app, "GET", "/admin/tenants", list_tenants, TenantList, query=PAGE)
    _add(app, "POST", "/admin/tenants/{name}/suspend", suspend_tenant, TenantInfo)
    _add(app, "POST", "/admin/tenants/{name}/resume", resume_tenant, TenantInfo)


def _add(
    app: FastAPI,
    method: str,
    path: str,
    endpoint: Endpoint,
    answer: type[BaseModel],
    *,
    body: type[BaseModel] | None = None,
    status: int = 200,
    query: tuple[str, ...] = (),
) -> None:
    problem = {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemModel"}}}
    responses: dict[int | str, dict[str, Any]] = {status: {"model": answer}}
    for code in BODY_ERRORS if body is not None else ERRORS:
        responses[code] = {"description": "A problem document", "content": problem}
    described: dict[str, Any] = {"parameters": _parameters(path, query)}
    if body is not None:
        schema = {"$ref": f"#/components/schemas/{body.__name__}"}
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    app.add_api_route(
        path,
        endpoint,
        methods=[method],
        status_code=status,
        responses=responses,
        response_class=Response,
        response_model=None,
        openapi_extra=described,
    )


def _parameters(path: str, query: tuple[str, ...]) -> list[dict[str, Any]]:
    kinds: dict[str, dict[str, Any]] = {
        "limit": {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": DEFAULT_PAGE},
        "after": {"type": "string"},
        "tenant": {"type": "string"},
    }
    named = [{"name": name, "in": "query", "required": False, "schema": kinds[name]} for name in query]
    in_path = [part.strip("{}") for part in path.split("/") if part.startswith("{")]
    return named + [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in in_path]


class _own_problems:
    """ConfigError, which the command line prints, as a problem document."""

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, UnknownName):
            raise Problem("not-found", str(error)) from None
        if isinstance(error, ConfigError):
            raise Problem(
                "invalid-request", str(error), (FieldError(error.where or "body", error.found, error.expected),)
            ) from None


def _admin(request: Request) -> KeyAdmin:
    admin = request.app.state.server.admin
    if not isinstance(admin, KeyAdmin):
        raise Problem("not-found", "This server has no control database; start it with --database.")
    return admin


def _page(request: Request) -> tuple[int, str | None]:
    text = request.query_params.get("limit", str(DEFAULT_PAGE))
    limit = int(text) if text.isascii() and text.isdigit() and len(text) < 8 else 0
    if not 1 <= limit <= MAX_PAGE:
        expected = f"1 to {MAX_PAGE}"
        raise Problem("invalid-request", f"limit: expected {expected}", (FieldError("limit", text[:80], expected),))
    return limit, _text(request, "after")


def _text(request: Request, name: str) -> str | None:
    """A query parameter. PostgreSQL's texts cannot hold a NUL."""
    text = request.query_params.get(name)
    if text is not None and "\0" in text:
        raise Problem("invalid-request", f"{name}: expected text", (FieldError(name, expected="text without NUL"),))
    return text


def _info(record: KeyRecord) -> KeyInfo:
    return KeyInfo(**_fields(record))


def _issued(record: KeyRecord, key: str) -> IssuedKey:
    return IssuedKey(**_fields(record), key=key)


def _fields(record: KeyRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in KeyInfo.model_fields} | {
        "scopes": list(record.scopes),
        "models": None if record.models is None else list(record.models),
    }


def _tenant(record: TenantRecord) -> TenantInfo:
    return TenantInfo(name=record.name, created=record.created, suspended=record.suspended)


def _answer(model: BaseModel, status: int = 200) -> Response:
    body = dump_json(model.model_dump(mode="json"))
    return Response(body, status, {"cache-control": "no-store"}, "application/json")
