"""What the tests of plugins in the request path share: servers with plugins of classes made on the spot, and one way to
ask every dialect."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import websockets.sync.client as ws
from api_support import CONTEXT, MODELS, ByteCodec
from grpc_support import client_of

import deepseek.plugins.registry as registry
from deepseek.api import ServerState
from deepseek.api.server import DrainingServer
from deepseek.core.engine import Request
from deepseek.engine.fake import FakeEngine, say
from deepseek.plugins.config import PluginConfig
from deepseek.plugins.manager import PluginManager

MODEL = MODELS[0]
ANSWER = "Hello, 世界!"


class Recording(FakeEngine):
    """Says one thing, and keeps the requests it got, the start probe not counted."""

    def __init__(self, text: str = ANSWER, **options: Any) -> None:
        settings = {"ttft_s": 0.0, "inter_token_s": 0.0, "max_model_len": CONTEXT} | options
        super().__init__(reply=say(text), **settings)
        self.requests: list[Request] = []

    def generate(self, request: Request) -> Any:
        if not request.id.startswith("probe-"):
            self.requests.append(request)
        return super().generate(request)

    @property
    def prompts(self) -> list[str]:
        return [bytes(request.prompt_ids).decode() for request in self.requests]


def managed(plugins: Sequence[type | tuple[type, Mapping[str, Any]]]) -> PluginManager:
    """Each class with its configuration, if it needs one; named after the class."""
    configs = []
    for entry in plugins:
        kind, fields = entry if isinstance(entry, tuple) else (entry, {})
        name = kind.__name__.lower()
        registry._REGISTERED[name] = kind
        configs.append(PluginConfig.model_validate({"name": name, **fields}))
    return PluginManager(configs)


def state_with(engine: Any, *plugins: type | tuple[type, Mapping[str, Any]], codec: Any = None) -> ServerState:
    return ServerState(engine, codec or ByteCodec(), MODELS, engine.max_model_len, plugins=managed(plugins))


@dataclass(frozen=True)
class Said:
    """What a dialect answered: its text, joined; or a status and the kind of its problem."""

    text: str = ""
    status: int = 200
    problem: str = ""
    detail: str = ""


Ask = Callable[[DrainingServer, str], Said]


def _frames(body: str) -> list[Any]:
    return [json.loads(line[6:]) for line in body.split("\n") if line.startswith("data: {")]


def _http(
    path: str, body: Callable[[str], dict[str, Any]], whole: Callable[[Any], str], piece: Callable[[Any], str]
) -> Any:
    def ask(server: DrainingServer, prompt: str, *, stream: bool, **more: Any) -> Said:
        answer = httpx.post(
            server.url + path, json={"model": MODEL, "stream": stream} | body(prompt) | more, timeout=20
        )
        if answer.status_code != 200:
            return _problem(answer.status_code, answer.json())
        if not stream:
            return Said(whole(answer.json()))
        frames = _frames(answer.text)
        failed = [frame for frame in frames if "title" in frame or frame.get("type") == "error"]
        if failed:
            return _problem(0, failed[0])
        return Said("".join(map(piece, frames)))

    return ask


def _problem(status: int, document: Any) -> Said:
    error = document.get("error") or document
    kind = document.get("type", "").rpartition(":")[2] or str(error.get("code", ""))
    return Said("", status or document.get("status", 0), kind, document.get("detail") or error.get("message", ""))


def _chat(prompt: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}], "max_tokens": 100}


HTTP: dict[str, Any] = {
    "generate": _http(
        "/v1/generate", lambda prompt: {"prompt": prompt}, lambda found: found["text"], lambda frame: frame["text"]
    ),
    "completions": _http(
        "/v1/completions",
        lambda prompt: {"prompt": prompt, "max_tokens": 100},
        lambda found: found["choices"][0]["text"],
        lambda frame: frame["choices"][0]["text"],
    ),
    "chat": _http(
        "/v1/chat/completions",
        _chat,
        lambda found: found["choices"][0]["message"]["content"],
        lambda frame: frame["choices"][0]["delta"].get("content", ""),
    ),
    "messages": _http(
        "/v1/messages",
        _chat,
        lambda found: "".join(part.get("text", "") for part in found["content"]),
        lambda frame: frame.get("delta", {}).get("text", ""),
    ),
    "responses": _http(
        "/v1/responses",
        lambda prompt: {"input": prompt},
        lambda found: "".join(part["text"] for item in found["output"] for part in item["content"]),
        lambda frame: frame["delta"] if frame["type"] == "response.output_text.delta" else "",
    ),
}


def _websocket(kind: str, fields: Callable[[str], dict[str, Any]]) -> Any:
    def ask(server: DrainingServer, prompt: str) -> Said:
        address = server.url.replace("http://", "ws://") + "/v1/stream"
        with ws.connect(address, open_timeout=10, close_timeout=2, proxy=None) as socket:
            socket.send(json.dumps({"type": kind, "id": "a", "model": MODEL} | fields(prompt)))
            text = ""
            while True:
                message = json.loads(socket.recv(timeout=10))
                if message["type"] == "error":
                    return _problem(0, message["error"])
                if message["type"] == "final":
                    return Said(text)
                text += message.get("text", "")

    return ask


def _grpc(method: str, fields: Callable[[str], dict[str, Any]], read: Callable[[Any], str]) -> Any:
    import grpc

    def ask(server: DrainingServer, prompt: str) -> Said:
        with client_of(server) as client:
            try:
                found = client.call(method, {"model": MODEL} | fields(prompt))
                answers = list(found) if method.endswith("Stream") else [found]
            except grpc.RpcError as error:
                code = error.code()
                return Said("", {grpc.StatusCode.PERMISSION_DENIED: 403}.get(code, 503), str(code), error.details())
            return Said("".join(map(read, answers)))

    return ask


def _grpc_chat(prompt: str) -> dict[str, Any]:
    return {"messages": [{"user": {"content": {"text": prompt}}}], "max_tokens": 100}


def _first(found: Any, name: str) -> str:
    return "".join(getattr(choice, name).content for choice in found.choices)


ASKS: dict[str, Ask] = {
    **{
        f"{name}, {'streamed' if stream else 'whole'}": (
            lambda server, prompt, ask=ask, stream=stream: ask(server, prompt, stream=stream)  # type: ignore[misc]
        )
        for name, ask in HTTP.items()
        for stream in (False, True)
    },
    "a WebSocket's generate": _websocket("generate", lambda prompt: {"prompt": prompt}),
    "a WebSocket's chat": _websocket("chat", _chat),
    "gRPC Generate": _grpc("Generate", lambda prompt: {"prompt": prompt}, lambda found: found.text),
    "gRPC GenerateStream": _grpc("GenerateStream", lambda prompt: {"prompt": prompt}, lambda found: found.text),
    "gRPC Chat": _grpc("Chat", _grpc_chat, lambda found: _first(found, "message")),
    "gRPC ChatStream": _grpc("ChatStream", _grpc_chat, lambda found: _first(found, "delta")),
}
"""Every way to ask for text."""


@contextmanager
def registered_here() -> Iterator[None]:
    """What is registered within is gone after it."""
    before = dict(registry._REGISTERED)
    try:
        yield
    finally:
        registry._REGISTERED.clear()
        registry._REGISTERED.update(before)
