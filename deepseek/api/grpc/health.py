"""grpc.health.v1 over the server's lifecycle: SERVING while the model answers and new requests are taken."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deepseek.api.grpc.calls import SERVICE_NAME, Context
from deepseek.api.lifecycle import Phase
from deepseek.api.state import ServerState

NAMES = ("", SERVICE_NAME)
_Answer = health_pb2.HealthCheckResponse
_HealthListResponse: Any = vars(health_pb2)["HealthListResponse"]  # newer than its type stubs


class Health(health_pb2_grpc.HealthServicer):
    """Check asks the model anew where it is not known to answer, as /readyz does; Watch is told of every change.

    A watch ends when the server does, so that it does not keep the server from ending.
    """

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._news: set[asyncio.Event] = set()
        self._stopped = False

    def start(self) -> None:
        self._state.lifecycle.watch(self._changed)

    def stop(self) -> None:
        self._stopped = True
        self._state.lifecycle.unwatch(self._changed)
        self._changed(self._state.lifecycle.phase)

    async def Check(self, request: Any, context: Context) -> Any:
        if request.service not in NAMES:
            await context.abort(grpc.StatusCode.NOT_FOUND, "There is no such service here.")
        if not self._state.engine.load().sleeping:
            await self._state.lifecycle.check()
        return _Answer(status=self._status(request.service))

    async def List(self, request: Any, context: Context) -> Any:
        return _HealthListResponse(statuses={name: _Answer(status=self._status(name)) for name in NAMES})

    async def Watch(self, request: Any, context: Context) -> None:
        news = asyncio.Event()
        self._news.add(news)
        told = None
        try:
            while not self._stopped or told is None:
                news.clear()
                status = self._status(request.service)
                if status != told:
                    told = status
                    await context.write(_Answer(status=status))
                await news.wait()
        finally:
            self._news.discard(news)

    def _status(self, service: str) -> Any:
        if service not in NAMES:
            return _Answer.SERVICE_UNKNOWN
        return _Answer.SERVING if self._state.lifecycle.phase == "ready" else _Answer.NOT_SERVING

    def _changed(self, phase: Phase) -> None:
        for news in self._news:
            news.set()
