"""Run the application until a signal, then drain: refuse new requests, let running ones finish, cancel what is left.

    SIGTERM or Ctrl-C -> readiness and new requests answer 503 -> running ones end, at most `grace_s`
    -> the rest is cancelled and gets its last frame -> the sockets close -> the engine closes.
A second signal ends the grace period, a third does not wait for anything.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import uvicorn

from deepseek.api.app import create_app
from deepseek.api.state import ServerState
from deepseek.core.errors import ConfigError, EngineError

log = logging.getLogger("deepseek.api")

LAST_FRAMES_S = 5
BACKLOG = 2048


def serve(
    state: ServerState,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    pages: Mapping[str, Path] | None = None,
    grace_s: float = 30.0,
    access_log: bool = False,
    on_ready: Callable[[str], None] = print,
) -> None:
    """Serve until SIGTERM or Ctrl-C. Blocks.

    port: 0 takes a free one. on_ready: called once with the URL when the model has answered.
    grace_s: seconds running requests may take after the first signal.
    Raises ConfigError when the address cannot be used, EngineError when the model does not answer at the start.
    """
    with bind(host, port) as listener:
        server = DrainingServer(state, pages=pages, grace_s=grace_s, access_log=access_log, on_ready=on_ready)
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            # uvicorn raises the signal again once it is done; the drain was the answer to it.
            log.info("stopped by Ctrl-C")
    if server.refused:
        raise EngineError("the model did not answer a one-token request at the start", fix="see the log above")


@contextmanager
def serving(
    state: ServerState,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    pages: Mapping[str, Path] | None = None,
    grace_s: float = 30.0,
) -> Iterator[DrainingServer]:
    """Serve from a thread while the block runs, then drain: for notebooks, measurements and tests.

    Yields the server once the model has answered; `server.url` says where. Raises as `serve` does.
    """
    with bind(host, port) as listener:
        ready = threading.Event()
        server = DrainingServer(state, pages=pages, grace_s=grace_s, on_ready=lambda url: ready.set())
        server.url = f"http://{host}:{listener.getsockname()[1]}"

        def run() -> None:
            try:
                server.run(sockets=[listener])
            finally:
                ready.set()

        thread = threading.Thread(target=run, name="deepseek-api", daemon=True)
        thread.start()
        ready.wait()
        try:
            if server.refused or not server.started:
                raise EngineError("the model did not answer a one-token request at the start", fix="see the log above")
            yield server
        finally:
            server.begin_drain()
            thread.join()


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ConfigError with one clear line: port in use, not permitted, no such address."""
    where = f"{host}:{port}"
    if not 0 <= port <= 65535:
        raise ConfigError("no such port", where="port", found=port, expected="0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            "no such address", where=where, found=str(error), fix="give an address of this machine as the host"
        ) from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Listening now, not later: only this fails when another process listens already.
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(
            "cannot listen here", where=where, found=error.strerror, fix="choose another port or host"
        ) from None
    return listener


def url_of(listener: socket.socket) -> str:
    """Where a browser on this machine finds the server."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::", "127.0.0.1", "::1"):
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class DrainingServer(uvicorn.Server):
    """uvicorn, with a drain between the first signal and the closing of the sockets.

    uvicorn alone stops listening at the signal, so no load balancer ever sees "not ready".
    `url` says where it answers, once it does; `refused` is set when the model did not answer at the start.
    """

    def __init__(
        self,
        state: ServerState,
        *,
        pages: Mapping[str, Path] | None = None,
        grace_s: float = 30.0,
        access_log: bool = False,
        on_ready: Callable[[str], None] = print,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(state, pages),
                lifespan="on",
                log_level="info" if access_log else "warning",
                access_log=access_log,
                server_header=False,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=LAST_FRAMES_S,
                ws="none",
                backlog=BACKLOG,
            )
        )
        self.refused = False
        self.url = ""
        self._state = state
        self._grace_s = grace_s
        self._on_ready = on_ready
        self._drain_ends: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.should_exit:
            return
        if self._state.lifecycle.phase != "ready":
            # Left to the first tick, so that the engine is closed on the way out.
            self.refused = True
        elif sockets:
            self.url = self.url or url_of(sockets[0])
            self._on_ready(self.url)

    def begin_drain(self) -> None:
        """Stop taking requests; the server ends when the running ones have, or after the grace period. Idempotent."""
        if self._drain_ends is None:
            self._drain_ends = time.monotonic() + self._grace_s
            self._state.lifecycle.begin_drain()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.started or self.should_exit:
            super().handle_exit(sig, frame)
            return
        self._captured_signals.append(sig)
        if self._drain_ends is None:
            self.begin_drain()
        else:
            self._drain_ends = time.monotonic()

    async def on_tick(self, counter: int) -> bool:
        if self.refused:
            self.should_exit = True
        elif self._drain_ends is not None and not self.should_exit:
            lifecycle = self._state.lifecycle
            if lifecycle.running and time.monotonic() >= self._drain_ends:
                await lifecycle.cancel_running()
                self.should_exit = True
            elif not lifecycle.running:
                self.should_exit = True
        return await super().on_tick(counter)
