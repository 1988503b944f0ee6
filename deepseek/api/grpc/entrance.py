"""What stands before every call, whatever it is: who calls, may they, at which tier, not too fast. A method without a
declared scope has no way in. HTTP's guard, asked with the call's metadata as headers."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
from starlette.datastructures import Headers

from deepseek.api.grpc.calls import ENTERED, Context, Entered, Handler, refuse
from deepseek.api.guard import admitted, identified
from deepseek.api.identity.caller import Caller
from deepseek.api.metrics import NO_TIER
from deepseek.api.middleware import request_id_of
from deepseek.api.problems import Problem
from deepseek.api.scopes import Scope
from deepseek.api.state import ServerState

CANCELLED = "CANCELLED"


class Entrance(grpc.aio.ServerInterceptor):
    """needed: the scope of each method by its full name; of a PUBLIC one nothing is asked."""

    def __init__(self, state: ServerState, needed: Mapping[str, Scope]) -> None:
        self._state, self._needed = state, needed

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(details)
        needed = self._needed.get(details.method)
        if handler is None or needed is Scope.PUBLIC:
            return handler
        arrived = time.perf_counter()
        metadata = _headers(details.invocation_metadata)
        return self._guarded(handler, details.method, needed, arrived, metadata)

    def _guarded(
        self,
        handler: Handler,
        method: str,
        needed: Scope | None,
        arrived: float,
        metadata: list[tuple[bytes, bytes]],
    ) -> Handler:
        inner: Any = handler.unary_stream if handler.response_streaming else handler.unary_unary

        async def behaviour(data: bytes, context: Context) -> Any:
            request_id, status, tier = request_id_of(metadata), CANCELLED, NO_TIER
            try:
                if needed is None or inner is None:
                    raise Problem("forbidden", "This method declares no scope, so nobody may call it.")
                caller = await identified(self._state, Headers(raw=metadata), needed)
                tier = caller.tier.name
                require_grpc(caller)
                headers = await admitted(self._state, caller, needed)
                ENTERED.set(Entered(caller, arrived, request_id, metadata, headers))
                answer = await inner(data, context)
                status = "OK"
                return answer
            except grpc.aio.AbortError:
                status = context.code().name
                raise
            except Exception as error:
                try:
                    await refuse(context, error, request_id)
                finally:
                    status = context.code().name
            finally:
                self._state.metrics.answered(method, status, tier)

        make = (
            grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
        )
        return make(behaviour, handler.request_deserializer, handler.response_serializer)


def require_grpc(caller: Caller) -> None:
    """PERMISSION_DENIED naming the tier, where it has no gRPC."""
    if not caller.tier.grpc:
        raise Problem("forbidden", f"This key's tier, {caller.tier.name}, has no gRPC; use the HTTP API.")


def _headers(metadata: Any) -> list[tuple[bytes, bytes]]:
    """As ASGI has them: names in lower case, which gRPC's are, and bytes."""
    return [
        (name.encode("latin-1"), value if isinstance(value, bytes) else value.encode("latin-1", "replace"))
        for name, value in metadata or ()
    ]
