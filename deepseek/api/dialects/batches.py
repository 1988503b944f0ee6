"""/v1/batches in OpenAI's form: a file of requests, answered in the background and written into a file of answers."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

from deepseek.api.admission import refuse_while_draining
from deepseek.api.body import read_model
from deepseek.api.dialects.fields import Only, StrictModel
from deepseek.api.dialects.files import FileId, listed, read_query, unknown
from deepseek.api.guard import caller_of
from deepseek.api.kept import batches as kept
from deepseek.api.kept import files
from deepseek.api.kept.batches import MAX_UNFINISHED, Batch, new_batch_id
from deepseek.api.kept.callers import write_caller
from deepseek.api.kept.files import new_file_id
from deepseek.api.problems import FieldError, Problem, retry_after
from deepseek.api.scopes import Scope, needs
from deepseek.api.state import ServerState
from deepseek.api.wire import dump_json

WINDOW_S = 86_400.0

Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]


class BatchRequest(StrictModel):
    """What /v1/batches takes."""

    input_file_id: Annotated[FileId, Field(description="A file uploaded for purpose batch, one request a line.")]
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: Annotated[object, Only()] = None


class BatchModel(BaseModel):
    """A batch. Times in seconds since 1970."""

    id: str
    object: Literal["batch"]
    endpoint: str
    errors: dict[str, Any] | None
    input_file_id: str
    completion_window: str
    status: kept.BatchStatus
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    expires_at: int
    in_progress_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: dict[str, int]
    usage: dict[str, Any]
    metadata: dict[str, str] | None


class BatchList(BaseModel):
    """Batches, the newest first."""

    object: Literal["list"]
    data: list[BatchModel]
    first_id: str | None
    last_id: str | None
    has_more: bool


class BatchesQuery(StrictModel):
    """What a list of batches may be asked for."""

    after: FileId | None = None
    limit: Annotated[int, Field(ge=1, le=100, strict=False)] = 20


BODY = TypeAdapter(BatchRequest)
QUERY = TypeAdapter(BatchesQuery)


@needs(Scope.INFER)
async def create_batch(request: Request) -> Response:
    """Have a file's requests answered within 24 hours, whenever there is room."""
    state: ServerState = request.app.state.server
    caller = caller_of(request.scope)
    refuse_while_draining(state)
    body = await read_model(request, BODY, state.settings)
    tenant = caller.tenant
    file = await state.shelf.read(lambda connection: files.get(connection, tenant, body.input_file_id))
    if file is None or file.purpose != "batch":
        expected = "the id of a file uploaded for purpose batch"
        error = FieldError("input_file_id", body.input_file_id[:80], expected)
        raise Problem("invalid-request", f"input_file_id: expected {expected}", (error,))
    now = time.time()
    batch = Batch(
        tenant=tenant,
        id=new_batch_id(),
        created=now,
        status="validating",
        endpoint=body.endpoint,
        input_file=file.id,
        caller=write_caller(caller),
        output=new_file_id(),
        errors_file=new_file_id(),
        expires=now + WINDOW_S,
        metadata=body.metadata or {},
    )
    if not await state.shelf.write(lambda connection: kept.add(connection, batch)):
        raise Problem(
            "queue-full", f"At most {MAX_UNFINISHED} batches of a tenant may be unfinished.", headers=retry_after(60.0)
        )
    state.batches.wake()
    return _answer(batch)


@needs(Scope.READ)
async def list_batches(request: Request) -> Response:
    """The tenant's batches."""
    state: ServerState = request.app.state.server
    tenant, query = caller_of(request.scope).tenant, read_query(request, QUERY)
    found = await state.shelf.read(lambda connection: kept.page(connection, tenant, query.after, query.limit))
    if found is None:
        raise unknown("batch", query.after or "")
    batches, more = found
    return Response(dump_json(listed([batch.document() for batch in batches], more)), media_type="application/json")


@needs(Scope.READ)
async def get_batch(request: Request) -> Response:
    """How far a batch has come."""
    state: ServerState = request.app.state.server
    tenant, batch_id = caller_of(request.scope).tenant, str(request.path_params["batch_id"])
    batch = await state.shelf.read(lambda connection: kept.get(connection, tenant, batch_id))
    if batch is None:
        raise unknown("batch", batch_id)
    return _answer(batch)


@needs(Scope.INFER)
async def cancel_batch(request: Request) -> Response:
    """Stop a batch: nothing more of it begins, what runs is ended, and what was answered stays."""
    state: ServerState = request.app.state.server
    tenant, batch_id = caller_of(request.scope).tenant, str(request.path_params["batch_id"])

    def cancel(connection: Any) -> Batch | None:
        batch = kept.get(connection, tenant, batch_id)
        if batch is not None and batch.status in ("validating", "in_progress"):
            batch = batch.at("cancelling", time.time())
            kept.save(connection, batch)
        return batch

    batch = await state.shelf.write(cancel)
    if batch is None:
        raise unknown("batch", batch_id)
    if batch.status != "cancelling":
        raise Problem("not-cancellable", f"The batch cannot be cancelled any more: it is {batch.status}.")
    state.batches.cancel(tenant, batch_id)
    return _answer(batch)


def _answer(batch: Batch) -> Response:
    return Response(dump_json(batch.document()), media_type="application/json")
