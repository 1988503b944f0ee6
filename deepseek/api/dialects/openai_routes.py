"""OpenAI's routes beside chat completions, and the WebSocket: which there are, and what their description says of each."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import WebSocketRoute

from deepseek.api.dialects import batches, completions, embeddings, files, openai, realtime, responses
from deepseek.api.dialects.responses_request import ResponseRequest
from deepseek.api.idempotency import HEADER_PARAMETER
from deepseek.api.inner import Endpoint as InnerEndpoint
from deepseek.api.problems import PROBLEM_MEDIA_TYPE

Endpoint = Callable[[Request], Awaitable[Response]]

BODIES = (
    batches.BatchRequest,
    completions.CompletionRequest,
    embeddings.EmbeddingRequest,
    ResponseRequest,
)
"""Models of bodies, for the description."""

BATCHED: dict[str, InnerEndpoint] = {
    openai.ROUTE: openai.chat_completions,
    completions.ROUTE: completions.completions,
    embeddings.ROUTE: embeddings.embeddings,
    responses.ROUTE: responses.create_response,
}
"""What a batch's lines may ask."""

BODY_ERRORS = (400, 404, 408, 409, 413, 415, 422, 429, 500, 503)
POST_ERRORS = (400, 404, 409, 422, 429, 500, 503)
ERRORS = (400, 404, 409, 429, 500, 503)
"""422 is for an Idempotency-Key that was used for another request; a wrong field is 400 in OpenAI's dialect."""


def add_routes(app: FastAPI) -> None:
    """All of them."""
    _add(app, "POST", "/v1/completions", completions.completions, completions.CompletionResponse, streams=True)
    _add(app, "POST", "/v1/embeddings", embeddings.embeddings, embeddings.EmbeddingResponse)
    _add(app, "POST", "/v1/responses", responses.create_response, responses.ResponseModel, streams=True)
    _add(app, "GET", "/v1/responses/{response_id}", responses.get_response, responses.ResponseModel)
    _add(app, "DELETE", "/v1/responses/{response_id}", responses.delete_response, responses.DeletedResponse)
    _add(app, "POST", "/v1/responses/{response_id}/cancel", responses.cancel_response, responses.ResponseModel)
    _add(
        app,
        "GET",
        "/v1/responses/{response_id}/input_items",
        responses.input_items,
        responses.ItemList,
        query=responses.ItemsQuery,
    )
    _add(app, "POST", "/v1/files", files.upload_file, files.FileModel)
    _add(app, "GET", "/v1/files", files.list_files, files.FileList, query=files.FilesQuery)
    _add(app, "GET", "/v1/files/{file_id}", files.get_file, files.FileModel)
    _add(app, "DELETE", "/v1/files/{file_id}", files.delete_file, files.DeletedFile)
    _add(app, "GET", "/v1/files/{file_id}/content", files.file_content, None)
    _add(app, "POST", "/v1/batches", batches.create_batch, batches.BatchModel)
    _add(app, "GET", "/v1/batches", batches.list_batches, batches.BatchList, query=batches.BatchesQuery)
    _add(app, "GET", "/v1/batches/{batch_id}", batches.get_batch, batches.BatchModel)
    _add(app, "POST", "/v1/batches/{batch_id}/cancel", batches.cancel_batch, batches.BatchModel)
    app.router.routes.append(WebSocketRoute(realtime.ROUTE, realtime.stream))


_BODY_OF: dict[Endpoint, type[BaseModel]] = {
    batches.create_batch: batches.BatchRequest,
    completions.completions: completions.CompletionRequest,
    embeddings.embeddings: embeddings.EmbeddingRequest,
    responses.create_response: ResponseRequest,
}
_FILE_FORM = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "contentMediaType": "application/octet-stream"},
        "purpose": {"const": "batch"},
        "expires_after[anchor]": {"const": "created_at"},
        "expires_after[seconds]": {"type": "integer", "minimum": files.MIN_LIFE_S, "maximum": files.MAX_LIFE_S},
    },
    "additionalProperties": False,
}
# Each server-sent event, in OpenAPI 3.2's words (`itemSchema`), which tools read in 3.1 documents too.
_FRAME = {
    "type": "object",
    "required": ["data"],
    "properties": {"event": {"type": "string"}, "data": {"type": "string", "contentMediaType": "application/json"}},
}


def _add(
    app: FastAPI,
    method: str,
    path: str,
    endpoint: Endpoint,
    answer: type[BaseModel] | None,
    *,
    query: type[BaseModel] | None = None,
    streams: bool = False,
) -> None:
    body = _BODY_OF.get(endpoint)
    is_form = endpoint is files.upload_file
    problem = {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemModel"}}}
    errors: dict[int | str, dict[str, Any]] = {
        status: {"description": "A problem document", "content": problem}
        for status in (BODY_ERRORS if body is not None or is_form else POST_ERRORS if method == "POST" else ERRORS)
    }
    described: dict[str, Any] = {"parameters": [*_of_path(path), *_of_query(query)]}
    if body is not None:
        described["parameters"].append(HEADER_PARAMETER)
        schema = {"$ref": f"#/components/schemas/{body.__name__}"}
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    elif is_form:
        described["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": _FILE_FORM}}}
    good: dict[str, Any]
    if answer is None:
        good = {"description": "The file", "content": {"application/octet-stream": {}}}
    else:
        good = {"model": answer} | ({"content": {"text/event-stream": {"itemSchema": _FRAME}}} if streams else {})
    app.add_api_route(
        path,
        endpoint,
        methods=[method],
        responses={200: good, **errors},
        response_class=Response,
        response_model=None,
        openapi_extra=described,
    )


def _of_path(path: str) -> list[dict[str, Any]]:
    schema = {"type": "string", "minLength": 1, "maxLength": 64}
    return [{"name": name, "in": "path", "required": True, "schema": schema} for name in re.findall(r"\{(\w+)\}", path)]


def _of_query(query: type[BaseModel] | None) -> list[dict[str, Any]]:
    if query is None:
        return []
    parameters = []
    for name, schema in query.model_json_schema()["properties"].items():
        # Null is how a model says that a parameter may be left out; a query has no null.
        options = [option for option in schema.pop("anyOf", []) if option.get("type") != "null"]
        found = {**schema, **(options[0] if options else {})}
        found.pop("title", None)
        if found.get("default", "") is None:
            del found["default"]
        parameters.append({"name": name, "in": "query", "required": False, "schema": found})
    return parameters
