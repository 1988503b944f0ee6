"""/v1/files in OpenAI's form: upload, list, look at, read and delete the files that batches read and write."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.types import Scope as Connection

from deepseek.api.admission import refuse_while_draining
from deepseek.api.client import ClientWatch, SlowReader
from deepseek.api.dialects.fields import StrictModel
from deepseek.api.guard import caller_of
from deepseek.api.kept import batches as kept_batches
from deepseek.api.kept import files as kept
from deepseek.api.kept.files import MAX_FILE_BYTES, KeptFile, new_file_id
from deepseek.api.problems import FieldError, Problem, invalid_fields, retry_after
from deepseek.api.scopes import Scope, needs
from deepseek.api.state import ServerState
from deepseek.api.upload import receive_upload
from deepseek.api.wire import dump_json

log = logging.getLogger("deepseek.api")

MAX_UPLOADS = 16
MIN_LIFE_S, MAX_LIFE_S = 3600, 30 * 86_400
READ_BYTES = 1 << 18

Q = TypeVar("Q")
FileId = Annotated[str, Field(min_length=1, max_length=64)]


class FileModel(BaseModel):
    """A file."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"]
    expires_at: int | None = None


class FileList(BaseModel):
    """Files in order of their making."""

    object: Literal["list"]
    data: list[FileModel]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(BaseModel):
    id: str
    object: Literal["file"]
    deleted: bool


class UploadFields(StrictModel):
    """The parts beside the file."""

    purpose: Literal["batch"]
    anchor: Annotated[Literal["created_at"] | None, Field(alias="expires_after[anchor]")] = None
    seconds: Annotated[str | None, Field(alias="expires_after[seconds]", pattern="^[0-9]{1,9}$")] = None


class FilesQuery(StrictModel):
    """What a list of files may be asked for."""

    after: FileId | None = None
    limit: Annotated[int, Field(ge=1, le=10_000, strict=False)] = 10_000
    order: Literal["asc", "desc"] = "desc"
    purpose: Annotated[str, Field(max_length=64)] | None = None


UPLOAD_FIELDS = TypeAdapter(UploadFields)
QUERY = TypeAdapter(FilesQuery)


@needs(Scope.INFER)
async def upload_file(request: Request) -> Response:
    """Keep a file: multipart/form-data with `file` and `purpose: batch`."""
    state: ServerState = request.app.state.server
    tenant = caller_of(request.scope).tenant
    refuse_while_draining(state)
    if state.shelf.uploads >= MAX_UPLOADS:
        raise Problem("queue-full", "Too many files are being uploaded.", headers=retry_after(5.0))
    state.shelf.uploads += 1
    try:
        return Response(dump_json((await _keep(request, state, tenant)).document()), media_type="application/json")
    finally:
        state.shelf.uploads -= 1


async def _keep(request: Request, state: ServerState, tenant: str) -> KeptFile:
    for over in await state.shelf.read(lambda connection: kept.expired(connection, tenant)):
        await remove(state, tenant, over)
    count, held = await state.shelf.read(lambda connection: kept.held(connection, tenant))
    room = min(MAX_FILE_BYTES, kept.MAX_TENANT_BYTES - held)
    if count >= kept.MAX_TENANT_FILES or room <= 0:
        raise _storage_full()
    file_id = new_file_id()
    path = await path_of(state, tenant, file_id)
    found = await receive_upload(request, path, max_bytes=room, pause_s=state.settings.body_timeout_s)
    try:
        fields = _upload_fields(found.fields)
        now = time.time()
        expires = None if fields.seconds is None else now + _life(int(fields.seconds))
        file = KeptFile(file_id, found.name, fields.purpose, found.size, now, expires)
        if not await state.shelf.write(lambda connection: kept.put(connection, tenant, file)):
            raise _storage_full()
        return file
    except BaseException:
        await asyncio.to_thread(path.unlink, missing_ok=True)
        raise


@needs(Scope.READ)
async def list_files(request: Request) -> Response:
    """The tenant's files."""
    state: ServerState = request.app.state.server
    tenant, query = caller_of(request.scope).tenant, read_query(request, QUERY)
    found = await state.shelf.read(
        lambda connection: kept.page(
            connection,
            tenant,
            after=query.after,
            limit=query.limit,
            purpose=query.purpose,
            newest_first=query.order == "desc",
        )
    )
    if found is None:
        raise unknown("file", query.after or "")
    files, more = found
    return Response(dump_json(listed([file.document() for file in files], more)), media_type="application/json")


@needs(Scope.READ)
async def get_file(request: Request) -> Response:
    """What is known of a file."""
    file = await _of(request)
    return Response(dump_json(file.document()), media_type="application/json")


@needs(Scope.READ)
async def file_content(request: Request) -> Response:
    """The file itself."""
    file = await _of(request)
    state: ServerState = request.app.state.server
    path = await path_of(state, caller_of(request.scope).tenant, file.id)
    if not await asyncio.to_thread(path.is_file):
        raise unknown("file", file.id)
    return FileAnswer(path, file.size, state.settings.send_timeout_s)


class FileAnswer(Response):
    """A file's bytes, read no faster than they are taken."""

    def __init__(self, path: Path, size: int, send_timeout_s: float) -> None:
        self.background = None
        self.status_code = 200
        self.raw_headers = []
        self._path, self._size, self._send_timeout_s = path, size, send_timeout_s

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        client = ClientWatch(receive, send, self._send_timeout_s)
        headers = [
            (b"content-type", b"application/octet-stream"),
            (b"content-length", str(self._size).encode()),
            # What clients upload is never shown as a page of ours.
            (b"content-disposition", b"attachment"),
            (b"cache-control", b"no-store"),
        ]
        file = await asyncio.to_thread(self._path.open, "rb")
        try:
            async with client:
                await client.send({"type": "http.response.start", "status": 200, "headers": headers})
                left = self._size
                while left > 0 and (piece := await asyncio.to_thread(file.read, min(READ_BYTES, left))):
                    left -= len(piece)
                    await client.send({"type": "http.response.body", "body": piece, "more_body": True})
                await client.send({"type": "http.response.body", "body": b""})
        except SlowReader:
            log.warning("the client takes no data; its file is not sent on")
        finally:
            await asyncio.to_thread(file.close)


@needs(Scope.INFER)
async def delete_file(request: Request) -> Response:
    """Delete a file. One that an unfinished batch reads is kept until it has ended."""
    file = await _of(request)
    state: ServerState = request.app.state.server
    tenant = caller_of(request.scope).tenant
    if await state.shelf.read(lambda connection: kept_batches.uses(connection, tenant, file.id)):
        raise Problem("in-use", f"The file {file.id} is read by a batch that has not ended; cancel the batch first.")
    await remove(state, tenant, file.id)
    return Response(dump_json({"id": file.id, "object": "file", "deleted": True}), media_type="application/json")


async def path_of(state: ServerState, tenant: str, file_id: str) -> Path:
    """Where a file's contents are. `file_id` is one of ours, out of the database."""
    return await state.shelf.directory_of(tenant) / file_id


async def remove(state: ServerState, tenant: str, file_id: str) -> None:
    await state.shelf.write(lambda connection: kept.delete(connection, tenant, file_id))
    path = await path_of(state, tenant, file_id)
    await asyncio.to_thread(path.unlink, missing_ok=True)


def unknown(kind: str, name: str) -> Problem:
    return Problem("unknown-object", f"There is no {kind} with the id {name[:80]!r}.")


def listed(data: list[dict[str, Any]], more: bool) -> dict[str, Any]:
    """OpenAI's list of objects."""
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more}


def read_query(request: Request, model: TypeAdapter[Q]) -> Q:
    """The query's parameters as a model. Raises Problem invalid-request for an unknown one, or one given twice."""
    pairs = request.query_params.multi_items()
    given = dict(pairs)
    if len(given) != len(pairs):
        raise Problem("invalid-request", "A parameter of the query stands there twice.")
    try:
        return model.validate_python(given)
    except ValidationError as error:
        raise invalid_fields(error.errors(include_url=False, include_context=False)) from None


async def _of(request: Request) -> KeptFile:
    state: ServerState = request.app.state.server
    tenant, file_id = caller_of(request.scope).tenant, str(request.path_params["file_id"])
    found = await state.shelf.read(lambda connection: kept.get(connection, tenant, file_id))
    if found is None:
        raise unknown("file", file_id)
    return found


def _upload_fields(fields: dict[str, str]) -> UploadFields:
    try:
        return UPLOAD_FIELDS.validate_python(fields)
    except ValidationError as error:
        raise invalid_fields(error.errors(include_url=False, include_context=False)) from None


def _life(seconds: int) -> int:
    if not MIN_LIFE_S <= seconds <= MAX_LIFE_S:
        expected = f"{MIN_LIFE_S} to {MAX_LIFE_S}"
        error = FieldError("expires_after.seconds", str(seconds), expected)
        raise Problem("invalid-request", f"expires_after.seconds: expected {expected}; found {seconds}", (error,))
    return seconds


def _storage_full() -> Problem:
    most = f"{kept.MAX_TENANT_FILES} files and {kept.MAX_TENANT_BYTES} bytes"
    return Problem("storage-full", f"The tenant's files may be at most {most}; delete some first.")
