"""What stands before every call, whatever it is: who calls, may they, at which tier, not too fast. A method without a
declared scope has no way in. HTTP's guard, asked with the call's metadata as headers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
from starlette.datastructures import Headers

from deepseek.api.grpc.calls import ENTERED, Context, Entered, Handler, refuse
from deepseek.api.grpc.public import PublicCalls, only_message
from deepseek.api.guard import admitted, identified
from deepseek.api.identity.caller import Caller
from deepseek.api.metrics import NO_TIER
from deepseek.api.middleware import request_id_of
from deepseek.api.overhead import OVERHEAD, Overhead
from deepseek.api.problems import Problem, retry_after
from deepseek.api.scopes import Scope
from deepseek.api.state import ServerState

CANCELLED = "CANCELLED"
MAX_CALLS = 4096
SOON_S = 1.0


class Entrance(grpc.aio.ServerInterceptor):
    """needed: the scope of each method by its full name; of a PUBLIC one nothing is asked. max_calls: with a key, at a
    time. public: what bounds those without.

    A call's message is read once its caller is known, and is waited for no longer than a body is: before that, it takes
    a place from nobody.
    """

    def __init__(
        self,
        state: ServerState,
        needed: Mapping[str, Scope],
        *,
        max_calls: int = MAX_CALLS,
        public: PublicCalls | None = None,
    ) -> None:
        self._state, self._needed = state, needed
        self._free = max_calls
        self._public = public or PublicCalls()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(details)
        needed = self._needed.get(details.method)
        if handler is None:
            return None
        if needed is Scope.PUBLIC:
            return self._public.bounded(handler)
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

        async def behaviour(messages: Any, context: Context) -> Any:
            request_id, status, tier, entered = request_id_of(metadata), CANCELLED, NO_TIER, False
            overhead = Overhead(arrived)
            token = OVERHEAD.set(overhead)
            try:
                if needed is None or inner is None:
                    raise Problem("forbidden", "This method declares no scope, so nobody may call it.")
                caller = await identified(self._state, Headers(raw=metadata), needed)
                tier = caller.tier.name
                require_grpc(caller)
                if self._free <= 0:
                    raise Problem("overloaded", "Too many calls run; try again.", headers=retry_after(SOON_S))
                self._free, entered = self._free - 1, True
                headers = await admitted(self._state, caller, needed)
                ENTERED.set(Entered(caller, arrived, request_id, metadata, headers))
                with overhead.away():
                    message = await self._message(context)
                answer = await inner(message, context)
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
                self._free += entered
                OVERHEAD.reset(token)
                self._state.metrics.answered(method, status, tier)
                if overhead.generated:
                    self._state.metrics.overhead.observe(overhead.seconds())

        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        return make(behaviour, handler.request_deserializer, handler.response_serializer)

    async def _message(self, context: Context) -> bytes:
        seconds = self._state.settings.body_timeout_s
        try:
            async with asyncio.timeout(seconds):
                message: bytes = await only_message(context)
                return message
        except TimeoutError:
            raise Problem("body-timeout", f"The message did not arrive within {seconds:g} s.") from None


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
