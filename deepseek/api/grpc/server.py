"""The gRPC server: its bounds, its credentials, its start and its end. It lives in the HTTP server's event loop.

    front = GrpcFront(app, state, config)
    address = await front.start(host)   # before the server says it is ready
    await front.stop(5.0)               # once it is drained; what still runs gets so many seconds

While the server drains, endpoints refuse (UNAVAILABLE) and health says NOT_SERVING, but the port stays open, so that
clients are told.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from deepseek.api.grpc.calls import CALLS, SERVICE_NAME, handlers
from deepseek.api.grpc.config import GrpcConfig
from deepseek.api.grpc.entrance import Entrance
from deepseek.api.grpc.health import Health
from deepseek.api.grpc.public import MAX_CALLS as PUBLIC_CALLS
from deepseek.api.grpc.public import MAX_STREAMS
from deepseek.api.platform import checked_host
from deepseek.api.scopes import Scope
from deepseek.api.state import ServerState
from deepseek.core.errors import ConfigError

HEALTH_NAME = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
MAX_METADATA_BYTES = 16 * 1024
# Beside the calls with a key: those without, and those of which it is not known yet.
MAX_OTHERS = MAX_STREAMS + PUBLIC_CALLS + 1024
MAX_ANSWER_BYTES = 64 * 1024 * 1024
# A client may ask whether the connection lives every 20 s; the server asks when nothing came for a minute.
LEAST_PING_MS, PING_MS, PONG_MS, MAX_IDLE_MS = 20_000, 60_000, 20_000, 600_000

# What may be called without a key: what says whether the server is well, and what the calls look like.
PUBLIC = {
    f"/{HEALTH_NAME}/Check": Scope.PUBLIC,
    f"/{HEALTH_NAME}/Watch": Scope.PUBLIC,
    f"/{HEALTH_NAME}/List": Scope.PUBLIC,
    f"/{reflection.SERVICE_NAME}/ServerReflectionInfo": Scope.PUBLIC,
}


class GrpcFront:
    """One listening gRPC server. app: the HTTP application, whose endpoints answer."""

    def __init__(self, app: Any, state: ServerState, config: GrpcConfig) -> None:
        self._app, self._state, self._config = app, state, config
        self._health = Health(state)
        self._server: grpc.aio.Server | None = None
        self.address = ""

    async def start(self, http_host: str) -> str:
        """Listen. Returns host:port. Raises ConfigError where that cannot be done, or must not without TLS.

        http_host: where to listen if the configuration names no host.
        """
        host = checked_host(self._config, http_host)
        needed = {f"/{SERVICE_NAME}/{name}": call.needed for name, call in CALLS.items()}
        server = grpc.aio.server(
            interceptors=[Entrance(self._state, needed | PUBLIC, max_calls=self._config.max_concurrent_calls)],
            options=self._options(),
            maximum_concurrent_rpcs=self._config.max_concurrent_calls + MAX_OTHERS,
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE_NAME, handlers(self._app)),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((SERVICE_NAME, HEALTH_NAME, reflection.SERVICE_NAME), server)
        port = self._listen(server, host)
        self._health.start()
        await server.start()
        self._server = server
        self.address = f"{_bracketed(host)}:{port}"
        return self.address

    async def stop(self, grace_s: float) -> None:
        """Close the port, let what runs end within `grace_s` seconds, cancel the rest. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            self._health.stop()
            await server.stop(grace_s)

    def _listen(self, server: grpc.aio.Server, host: str) -> int:
        where = f"{_bracketed(host)}:{self._config.port}"
        certificate, key = self._config.certificate, self._config.key
        try:
            if certificate is None or key is None:
                port = server.add_insecure_port(where)
            else:
                pair = (_read(key, "grpc.key"), _read(certificate, "grpc.certificate"))
                port = server.add_secure_port(where, grpc.ssl_server_credentials([pair]))
        except RuntimeError:
            port = 0
        if not port:
            raise ConfigError(
                "gRPC cannot listen here", where=where, fix="choose another port or host, or check certificate and key"
            )
        return int(port)

    def _options(self) -> list[tuple[str, int]]:
        return [
            # A port that another process listens on is refused, not shared.
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", self._state.settings.max_body_bytes),
            ("grpc.max_send_message_length", MAX_ANSWER_BYTES),
            ("grpc.max_metadata_size", MAX_METADATA_BYTES),
            ("grpc.max_concurrent_streams", self._config.max_concurrent_streams),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", LEAST_PING_MS),
            ("grpc.http2.max_ping_strikes", 2),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.keepalive_time_ms", PING_MS),
            ("grpc.keepalive_timeout_ms", PONG_MS),
            ("grpc.max_connection_idle_ms", MAX_IDLE_MS),
        ]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _read(file: Path, where: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError("cannot be read", where=where, found=f"{file}: {error.strerror}") from None
