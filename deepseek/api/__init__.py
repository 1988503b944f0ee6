"""The HTTP front: one request path, thin dialects, probes and metrics.

`create_app(state)` builds the ASGI application over any `core.engine.Engine`; `serve(state)` runs it
until SIGTERM and drains. Everything a dialect knows about text is the `TextCodec` protocol, so the
whole front runs on a fake engine and a byte codec in tests.
"""

from deepseek.api.app import create_app
from deepseek.api.server import serve, serving
from deepseek.api.state import ApiSettings, ServerState, TextCodec

__all__ = ["ApiSettings", "ServerState", "TextCodec", "create_app", "serve", "serving"]
