"""The application: which routes there are, what wraps them, how errors look, and the OpenAPI description of it all.

FastAPI routes and describes; bodies are read and answers are written by our own code, because a
stream must stop within one step and a frame must cost microseconds.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute

from deepseek.api import admin, probes
from deepseek.api.agents import routes as agents
from deepseek.api.agents.runs import AgentRuns
from deepseek.api.dialects import anthropic, generate, openai, openai_routes
from deepseek.api.dialects.anthropic_dialect import EVENTS, MessageResponse, TokenCount
from deepseek.api.dialects.anthropic_request import CountRequest, MessagesRequest
from deepseek.api.dialects.chat_dialect import ChatResponse
from deepseek.api.dialects.chat_request import ChatRequest
from deepseek.api.front import Front, plain
from deepseek.api.guard import Guard
from deepseek.api.idempotency import HEADER_PARAMETER, Idempotent
from deepseek.api.identity.description import add_security
from deepseek.api.kept.runner import BatchRunner
from deepseek.api.metering import routes as usage
from deepseek.api.middleware import Envelope
from deepseek.api.pages import page_endpoint
from deepseek.api.problems import PROBLEM_MEDIA_TYPE, AnthropicError, ProblemModel, envelope_of
from deepseek.api.problems import Envelope as ErrorForm
from deepseek.api.protobuf.contract import PROTO_FILE
from deepseek.api.protobuf.transcode import speaking_protobuf
from deepseek.api.scopes import Scope, needs, scope_of
from deepseek.api.state import ServerState
from deepseek.api.wire import dump_json
from deepseek.core.errors import ConfigError

log = logging.getLogger("deepseek.api")

Endpoint = Callable[[Request], Awaitable[Response]]

BODY_ERRORS = (400, 404, 406, 408, 409, 413, 415, 422, 429, 500, 503)
DESCRIPTION = """Errors are problem documents (RFC 9457). On the OpenAI-compatible routes they also carry `error`.

A stream ends with a frame that names the finish reason and the usage; if something fails after the first
frame, with an `event: error` frame that holds a problem document. Leaving early stops the work."""


def create_app(state: ServerState, pages: Mapping[str, Path] | None = None) -> FastAPI:
    """The ASGI application over one engine.

    pages: URL path -> static file, served as they are (the console's pages, from a floor above).
    The engine is closed when the application's lifespan ends. Raises ConfigError for an unreadable page.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await state.meter.start()
        await state.lifecycle.check()
        state.batches.start(app)
        if state.plugin_watch is not None:
            state.plugin_watch.start()
        yield
        if state.plugin_watch is not None:
            await state.plugin_watch.stop()
        await state.batches.close()
        await state.runs.close()
        await state.lifecycle.close()
        await state.plugins.close()
        await state.meter.stop()
        await state.limiter.close()
        await state.shelf.close()

    app = Front(
        title="DeepSeek Stack",
        version="0.1.0",
        description=DESCRIPTION,
        lifespan=lifespan,
        # FastAPI's own pages load scripts from a CDN; the description is served by a route of ours.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.server = state
    state.batches = BatchRunner(state, openai_routes.BATCHED)
    state.runs = AgentRuns(state)
    app.add_middleware(Envelope, state=state)

    _post(app, "/v1/generate", generate.generate, "GenerateRequest", generate.GenerateResponse)
    _post(app, "/v1/chat/completions", openai.chat_completions, "ChatRequest", ChatResponse)
    _post(app, "/v1/messages", anthropic.messages, "MessagesRequest", MessageResponse)
    _post(app, "/v1/messages/count_tokens", anthropic.count_tokens, "CountRequest", TokenCount)
    _get(app, "/v1/models", openai.list_models, {200: {"model": openai.ModelList | openai.AnthropicModelList}})
    one_model = {200: {"model": openai.ModelCard | openai.AnthropicModelCard}, **_problems(404)}
    _get(app, "/v1/models/{model:path}", openai.show_model, one_model, parameters=[openai.MODEL_PARAMETER])
    openai_routes.add_routes(app)
    agents.add_routes(app)
    usage.add_routes(app)
    admin.add_routes(app)
    _get(app, "/healthz", probes.healthz, {200: {"model": probes.Health}})
    _get(app, "/readyz", probes.readyz, {200: {"model": probes.Health}, **_problems(503)})
    _get(app, "/metrics", probes.metrics, {200: {"content": {"text/plain": {}}, "description": "Prometheus text"}})
    document = dump_json(_describe(app))

    @needs(Scope.PUBLIC)
    async def openapi_document(request: Request) -> Response:
        return Response(document, media_type="application/json")

    app.add_route("/openapi.json", openapi_document, methods=["GET"], include_in_schema=False)
    for path, file in {"/deepseek.proto": PROTO_FILE, **(pages or {})}.items():
        app.add_route(path, page_endpoint(file), methods=["GET"], include_in_schema=False)
    for route in app.routes:
        needed = scope_of(route)
        if needed is None or not isinstance(route, Route | WebSocketRoute):
            raise ConfigError(
                "a route declares no scope", where=getattr(route, "path", route), fix="mark it with needs(Scope...)"
            )
        inner = plain(route.endpoint) if isinstance(route, Route) else route.app
        route.app = speaking_protobuf(route.path, inner, state)
        if needed is Scope.INFER and isinstance(route, Route) and "POST" in (route.methods or ()):
            route.app = Idempotent(route.app, state)
        route.app = Guard(route.app, needed, state)
    return app


def _get(
    app: FastAPI, path: str, endpoint: Endpoint, responses: dict[int | str, dict[str, Any]], **described: Any
) -> None:
    """described: further members of the operation in the OpenAPI description."""
    app.add_api_route(
        path,
        endpoint,
        methods=["GET"],
        responses=responses,
        response_class=Response,
        response_model=None,
        openapi_extra=described,
    )


def _post(app: FastAPI, path: str, endpoint: Endpoint, body: str, answer: type) -> None:
    # Each server-sent event, in OpenAPI 3.2's words (`itemSchema`), which tools read in 3.1 documents too.
    frame = {
        "type": "object",
        "required": ["data"],
        "properties": {
            "event": {"enum": EVENTS if envelope_of(path) == "anthropic" else ("message", "error")},
            "data": {"type": "string", "contentMediaType": "application/json"},
        },
    }
    ok = {"model": answer, "content": {"text/event-stream": {"itemSchema": frame}}}
    app.add_api_route(
        path,
        endpoint,
        methods=["POST"],
        responses={200: ok, **_problems(*BODY_ERRORS, envelope=envelope_of(path))},
        response_class=Response,
        response_model=None,
        openapi_extra={
            "parameters": [HEADER_PARAMETER],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{body}"}}},
            },
        },
    )


def _problems(*statuses: int, envelope: ErrorForm = "own") -> dict[int | str, dict[str, Any]]:
    if envelope == "anthropic":
        media_type, model, description = "application/json", "AnthropicError", "An error in Anthropic's form"
    else:
        media_type, model, description = PROBLEM_MEDIA_TYPE, "ProblemModel", "A problem document"
    content = {media_type: {"schema": {"$ref": f"#/components/schemas/{model}"}}}
    return {status: {"description": description, "content": content} for status in statuses}


def _describe(app: FastAPI) -> dict[str, Any]:
    """OpenAPI 3.1, with the models of bodies and problems that FastAPI does not see."""
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    bodies = (
        generate.GenerateRequest,
        ChatRequest,
        CountRequest,
        MessagesRequest,
        AnthropicError,
        ProblemModel,
        *admin.BODIES,
        *openai_routes.BODIES,
        *agents.BODIES,
    )
    _, models = models_json_schema(
        [(model, "validation") for model in bodies],
        ref_template="#/components/schemas/{model}",
    )
    document.setdefault("components", {}).setdefault("schemas", {}).update(models["$defs"])
    add_security(document, app.routes)
    return document
