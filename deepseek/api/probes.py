"""What operators ask: is the process alive, does the model answer, what are the numbers."""

from __future__ import annotations

from typing import Literal

from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from deepseek.api.problems import Problem, retry_after
from deepseek.api.scopes import Scope, needs
from deepseek.api.state import ServerState
from deepseek.api.wire import dump_json


class Health(BaseModel):
    """What /healthz and /readyz answer when all is well."""

    status: Literal["alive", "ready"]


@needs(Scope.PUBLIC)
async def healthz(request: Request) -> Response:
    """The process is alive and its event loop turns. Says nothing about the model."""
    return Response(dump_json({"status": "alive"}), media_type="application/json")


@needs(Scope.PUBLIC)
async def readyz(request: Request) -> Response:
    """The model has answered a request, and new ones are taken. 503 otherwise, also while the engine sleeps."""
    state: ServerState = request.app.state.server
    if state.engine.load().sleeping and not state.lifecycle.draining:
        # Asking the model would wait until somebody wakes it.
        raise Problem("asleep", "The engine sleeps; requests wait until it is woken.", headers=retry_after(5.0))
    phase = await state.lifecycle.check()
    if phase == "draining":
        raise Problem("draining", "The server is shutting down.", headers=retry_after(5.0))
    if phase != "ready":
        raise Problem("not-ready", "The model did not answer a one-token request.", headers=retry_after(1.0))
    return Response(dump_json({"status": "ready"}), media_type="application/json")


@needs(Scope.OPERATE)
async def metrics(request: Request) -> Response:
    """Metrics in Prometheus's text format."""
    state: ServerState = request.app.state.server
    return Response(state.metrics.render(), headers={"content-type": CONTENT_TYPE_LATEST})
