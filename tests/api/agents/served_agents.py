"""A server with agents over a scripted engine: what it says is chosen by how many turns a conversation has."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from api_support import CONTEXT, MODELS, ByteCodec
from tools_support import MARKUP

from deepseek.agent.config import AgentConfig
from deepseek.agent.record import EventStore
from deepseek.api import ServerState, serving
from deepseek.api.agents.configured import AgentsConfig, ConfiguredAgent
from deepseek.chat.parsing import StreamParser
from deepseek.chat.tool_tokens import CALL_BEGIN, CALL_END, CALLS_BEGIN, CALLS_END, SEPARATOR
from deepseek.core.constraint import Constraint
from deepseek.core.engine import Request
from deepseek.core.messages import Message, ToolChoice, ToolSpec
from deepseek.engine.fake import FakeEngine

TOOLS = '''
"""Tools of the tests."""

import asyncio

from deepseek.agent import ToolContext, ToolRegistry
from deepseek.agent.execution.errors import ToolFailed

registry = ToolRegistry()
stopped = []


@registry.register("add")
def add(a: int, b: int) -> int:
    return a + b


@registry.register("whose")
async def whose(context: ToolContext) -> str:
    return str(context.tenant)


@registry.register("send", needs_approval=True)
def send(text: str) -> str:
    return "sent " + text


@registry.register("hang")
async def hang() -> str:
    try:
        await asyncio.Event().wait()
    finally:
        stopped.append("hang")
    return ""


@registry.register("crash")
def crash() -> str:
    raise ToolFailed("it cannot be done")
'''


class AgentCodec(ByteCodec):
    """Shows a conversation as text, calls and results included, and reads DeepSeek's markup."""

    def encode_chat(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], *, thinking: bool = False
    ) -> list[int]:
        written = []
        for message in messages:
            parts = [getattr(part, "text", "") for part in message.parts]
            written.append(f"<{message.role}>{''.join(parts)}")
        return list("".join(written).encode()) + list(b"<assistant>")

    def parser(self, tools: bool, thinking: bool) -> StreamParser:
        return MARKUP.parser(tools=tools, thinking=thinking)

    def tool_constraint(
        self,
        tools: Sequence[ToolSpec],
        choice: ToolChoice,
        parallel: bool,
        *,
        thinking: bool = False,
        bind: bool = False,
    ) -> Constraint | None:
        return None


def called(name: str, **arguments: Any) -> str:
    """A turn that calls, in DeepSeek's markup."""
    return f"{CALLS_BEGIN}{CALL_BEGIN}{name}{SEPARATOR}{json.dumps(arguments)}{CALL_END}{CALLS_END}"


Reply = Callable[[str], str]


def answering(conversation: str) -> str:
    """Calls what the user says ("call add {...}"), then says what came of it."""
    last = conversation.removesuffix("<assistant>").rpartition("<")[2]
    role, _, text = last.partition(">")
    if role == "user" and text.startswith("call "):
        _, name, arguments = text.split(" ", 2)
        return called(name, **json.loads(arguments))
    return f"answer: {text}" if role == "user" else f"result: {text}"


class AgentEngine(FakeEngine):
    """Says what `reply` makes of the conversation; keeps its requests."""

    def __init__(self, reply: Reply = answering, **options: Any) -> None:
        self.requests: list[Request] = []

        def say(request: Request, choice: int, seed: int) -> Any:
            if request.id.startswith("probe-"):
                return b"x"
            self.requests.append(request)
            text = reply(bytes(request.prompt_ids).decode("utf-8", "replace"))
            return list(text.encode())

        options = {"ttft_s": 0.0, "inter_token_s": 0.0, "max_model_len": 4 * CONTEXT, **options}
        super().__init__(reply=say, **options)


def agents_in(directory: Path, *more: dict[str, Any], **fields: Any) -> AgentsConfig:
    """One agent `helper` with the tests' tools, and more."""
    directory.mkdir(exist_ok=True)
    (directory / "served_agent_tools.py").write_text(TOOLS)
    helper = {"name": "helper", "tools": [{"python": "served_agent_tools:registry"}], **fields}
    configs = [AgentConfig.from_mapping(written) for written in (helper, *more)]
    store = EventStore(lambda tenant: directory / "tenants" / tenant, linger_s=0.0)
    return AgentsConfig({config.name: ConfiguredAgent(config, directory) for config in configs}, store)


def agent_state(
    directory: Path, engine: Any = None, *, agents: AgentsConfig | None = None, **fields: Any
) -> ServerState:
    return ServerState(
        engine or AgentEngine(),
        AgentCodec(),
        MODELS,
        4 * CONTEXT,
        agents=agents or agents_in(directory),
        **fields,
    )


@contextmanager
def client_of(state: ServerState, **headers: str) -> Iterator[httpx.Client]:
    with (
        serving(state, grace_s=1.0) as server,
        httpx.Client(base_url=server.url, headers=headers, timeout=30.0) as client,
    ):
        yield client


def events_of(text: str) -> list[tuple[str | None, str, Any]]:
    """Of server-sent events: id, event, data."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if fields:
            found.append((fields.get("id"), fields.get("event", "message"), json.loads(fields["data"])))
    return found


def until(done: Callable[[], bool], seconds: float = 20.0) -> None:
    """Poll until it is so; a test that waits longer fails."""

    async def poll() -> None:
        async with asyncio.timeout(seconds):
            while not done():
                await asyncio.sleep(0.01)

    asyncio.run(poll())
