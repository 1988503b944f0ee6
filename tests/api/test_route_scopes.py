"""Every route says what a caller must be allowed to do; one that does not is refused."""

from pathlib import Path

import pytest
from api_support import quick, state_of
from starlette.requests import Request
from starlette.responses import Response

from deepseek.api import create_app
from deepseek.api.scopes import Scope, scope_of
from deepseek.core.errors import ConfigError

# The routes anyone may use, one by one: adding a line here is a decision.
OPEN = {"/healthz", "/readyz", "/openapi.json", "/", "/deepseek.proto"}
# Those that may spend tokens, or change what a tenant keeps.
SPENDING = {
    "POST /v1/generate",
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "POST /v1/embeddings",
    "POST /v1/messages",
    "POST /v1/messages/count_tokens",
    "POST /v1/responses",
    "POST /v1/responses/{response_id}/cancel",
    "DELETE /v1/responses/{response_id}",
    "POST /v1/files",
    "DELETE /v1/files/{file_id}",
    "POST /v1/agents/{agent}/runs",
    "POST /v1/agents/{agent}/runs/{run_id}/cancel",
    "POST /v1/agents/{agent}/runs/{run_id}/resume",
    "POST /v1/batches",
    "POST /v1/batches/{batch_id}/cancel",
    "WEBSOCKET /v1/stream",
}


def test_every_route_declares_a_scope_and_only_the_listed_ones_are_public(tmp_path: Path) -> None:
    page = tmp_path / "index.html"
    page.write_text("<!doctype html>")
    routes = create_app(state_of(quick()), {"/": page}).routes
    assert all(scope_of(route) is not None for route in routes)
    assert {route.path for route in routes if scope_of(route) is Scope.PUBLIC} == OPEN
    spending = {
        f"{method} {route.path}"
        for route in routes
        if scope_of(route) is Scope.INFER
        for method in getattr(route, "methods", None) or {"WEBSOCKET"}
    }
    assert spending == SPENDING


def test_an_undeclared_route_is_refused_when_the_application_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def undeclared(request: Request) -> Response:
        return Response()

    monkeypatch.setattr("deepseek.api.app.probes.healthz", undeclared)
    with pytest.raises(ConfigError, match="/healthz"):
        create_app(state_of(quick()))


def test_a_page_that_cannot_be_read_is_refused_when_the_application_is_made(tmp_path: Path) -> None:
    for file in (tmp_path / "missing.html", tmp_path / "program.exe"):
        with pytest.raises(ConfigError, match=file.name):
            create_app(state_of(quick()), {"/": file})
