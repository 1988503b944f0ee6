"""What the tests of tools and thinking share: a byte codec of a model that thinks and calls as DeepSeek-V3.1 does, and
answers in its markup. The control tokens are spelt out, since a fake engine's tokens are bytes."""

import json
from collections.abc import Sequence
from itertools import count
from typing import Any

from api_support import MODELS, ByteCodec

from deepseek.api import ApiSettings, ServerState
from deepseek.chat.bound import bound
from deepseek.chat.markup import Markup
from deepseek.chat.parsing import StreamParser
from deepseek.chat.tool_tokens import (
    CALL_BEGIN,
    CALL_END,
    CALLS_BEGIN,
    CALLS_END,
    SEPARATOR,
    ToolTokenMarkers,
)
from deepseek.core.constraint import Constraint
from deepseek.core.messages import Message, ToolChoice, ToolSpec
from deepseek.engine.fake import FakeEngine, say

MARKUP = Markup(calls=ToolTokenMarkers)
LONG = 8192


class ToolCodec(ByteCodec):
    """Keeps what it was asked for."""

    thinks = True

    def __init__(self) -> None:
        self.messages: list[tuple[Message, ...]] = []
        self.tools: list[tuple[ToolSpec, ...]] = []
        self.thinking: list[bool] = []
        self.choices: list[tuple[ToolChoice, bool]] = []
        self._numbers = count(1)

    def encode_chat(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], *, thinking: bool = False
    ) -> list[int]:
        self.messages.append(tuple(messages))
        self.tools.append(tuple(tools))
        self.thinking.append(thinking)
        return super().encode_chat(messages, tools, thinking=thinking)

    def parser(self, tools: bool, thinking: bool) -> StreamParser:
        return MARKUP.parser(tools=tools, thinking=thinking, new_id=lambda: f"call_{next(self._numbers)}")

    def tool_constraint(
        self, tools: Sequence[ToolSpec], choice: ToolChoice, parallel: bool, *, thinking: bool = False
    ) -> Constraint | None:
        self.choices.append((choice, parallel))
        return None if choice == "auto" else Constraint.markup(["text", "called"])

    def answer_constraint(
        self, text: Constraint, tools: Sequence[ToolSpec], choice: ToolChoice, parallel: bool, *, thinking: bool = False
    ) -> Constraint | None:
        self.choices.append((choice, parallel))
        calls = Constraint.markup(["text", "called"]) if tools else None
        return calls if choice not in ("auto", "none") else bound(text, calls, ["token", 1] if thinking else None)


def call(name: str, **arguments: Any) -> str:
    """One call, as the model writes it."""
    return f"{CALL_BEGIN}{name}{SEPARATOR}{json.dumps(arguments, ensure_ascii=False)}{CALL_END}"


def calls(*each: str) -> str:
    return CALLS_BEGIN + "".join(each) + CALLS_END


def saying(text: str, codec: ToolCodec | None = None, **options: Any) -> ServerState:
    """A server that always says this."""
    settings = {"ttft_s": 0.0, "inter_token_s": 0.0, "max_model_len": LONG} | options
    engine = FakeEngine(reply=say(text), **settings)
    return ServerState(engine, codec or ToolCodec(), MODELS, LONG, ApiSettings(default_max_tokens=LONG // 2))


WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "weather", "description": "What it is like.", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "clock"}},
]
ASK: list[Any] = [{"role": "user", "content": "How is it in 北京?"}]
