"""A web server for tests: on loopback, in a thread, each path a function that writes what it likes."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Route = Callable[[BaseHTTPRequestHandler], None]


class WebServer:
    """port: where it listens. asked: (path with query, headers) of every request, in order."""

    def __init__(self, routes: dict[str, Route], tls: ssl.SSLContext | None = None) -> None:
        self.routes = routes
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.ending = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.asked.append((self.path, dict(self.headers.items())))
                route = server.routes.get(self.path.partition("?")[0])
                with contextlib.suppress(ConnectionError):
                    if route is None:
                        self.send_error(404)
                    else:
                        route(self)
                self.close_connection = True

            do_POST = do_GET

            def log_message(self, *given: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def allow(self) -> list[str]:
        return [f"127.0.0.1:{self.port}"]

    def __enter__(self) -> WebServer:
        self._thread.start()
        return self

    def __exit__(self, *given: object) -> None:
        self.ending.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def answer(body: bytes | str = b"", status: int = 200, type: str | None = "text/plain", **headers: str) -> Route:
    """A route that answers so. Headers are written with _ for -."""
    sent = body.encode() if isinstance(body, str) else body

    def route(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        if type is not None:
            handler.send_header("Content-Type", type)
        handler.send_header("Content-Length", str(len(sent)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(sent)

    return route


@contextlib.contextmanager
def serving(routes: dict[str, Route], tls: ssl.SSLContext | None = None) -> Iterator[WebServer]:
    with WebServer(routes, tls) as server:
        yield server
