"""What a chat dialect asks for, in no dialect, and what the engine needs to answer it: one way for all of them.

admitted = await admit(state, Conversation(messages, tools=specs), choices=n, asked=Asked(caller, ...))
... admitted.ids, admitted.constraint, admitted.parsers, admitted.show_controls, admitted.plugins
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from deepseek.api.admission import encode
from deepseek.api.plugin_stage import Asked, PluginStage, read_messages
from deepseek.api.problems import problem_of
from deepseek.api.state import ServerState
from deepseek.chat.parsing import PlainParser, StreamParser
from deepseek.core.constraint import Constraint
from deepseek.core.errors import AdmissionError
from deepseek.core.messages import MediaPart, Message, Part, ToolCallPart, ToolChoice, ToolSpec


@dataclass(frozen=True, slots=True)
class Conversation:
    """constraint: what the text of an answer must match; a call is bound by its tool's schema instead.

    choice "none" keeps the tools from the model, so that it has nothing to call.
    """

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    choice: ToolChoice = "auto"
    parallel: bool = True
    thinking: bool = False
    constraint: Constraint | None = None

    @property
    def offered(self) -> tuple[ToolSpec, ...]:
        return () if self.choice == "none" else self.tools


@dataclass(frozen=True, slots=True)
class Admitted:
    """A conversation as the engine takes it. show_controls: the parsers read control tokens, so the text must show them.
    plugins: those that take part in the answer; None where there are none."""

    ids: tuple[int, ...]
    constraint: Constraint | None
    parsers: tuple[StreamParser, ...]
    show_controls: bool
    plugins: PluginStage | None = None


async def admit(
    state: ServerState,
    conversation: Conversation,
    *,
    choices: int = 1,
    field: str = "messages",
    tools: str = "tools",
    asked: Asked | None = None,
) -> Admitted:
    """Prompt, constraint and parsers. field, tools: what the dialect calls them. asked: as plugins know the request; None
    asks none of them.

    Raises Problem: 413 for a conversation that is too long, 422 for one the model's template refuses, 400 for tools or a
    constraint that cannot be enforced, 403 for what a plugin refuses.
    """
    plugins = None
    if asked is not None:
        messages, plugins = await read_messages(state, asked, conversation.messages)
        conversation = replace(conversation, messages=messages)
    offered, thinking = conversation.offered, conversation.thinking
    messages = conversation.messages
    ids = await encode(
        state,
        lambda: state.text.encode_chat(messages, offered, thinking=thinking),
        text_size(messages) + tools_size(offered, state.settings.long_text_chars),
        field,
    )
    constraint = conversation.constraint
    if offered or (thinking and constraint is not None):
        constraint = await _around(state, conversation, tools)
    parsers = tuple(state.text.parser(bool(offered), thinking) for _ in range(choices))
    return Admitted(ids, constraint, parsers, not isinstance(parsers[0], PlainParser), plugins)


async def _around(state: ServerState, conversation: Conversation, field: str) -> Constraint | None:
    """What the whole answer must match, calls and thinking included. Schemas may be large: it is made in a thread."""
    text, offered, thinking = conversation.constraint, conversation.offered, conversation.thinking
    choice, parallel = conversation.choice, conversation.parallel

    def make() -> Constraint | None:
        if text is None:
            return state.text.tool_constraint(offered, choice, parallel, thinking=thinking)
        return state.text.answer_constraint(text, offered, choice, parallel, thinking=thinking)

    try:
        return await asyncio.to_thread(make)
    except AdmissionError as error:
        raise problem_of(error, fields={"constraint": field}) from None


def text_size(messages: Sequence[Message]) -> int:
    """Characters of all that is encoded."""
    return sum(_part_size(part) for message in messages for part in message.parts)


def tools_size(tools: Sequence[ToolSpec], most: int) -> int:
    """Characters of the tools' texts, names and keys; counting stops beyond `most`."""
    size = 0
    waiting: list[object] = [value for tool in tools for value in (tool.name, tool.description, tool.parameters)]
    while waiting and size <= most:
        value = waiting.pop()
        size += 1
        if isinstance(value, str):
            size += len(value)
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value
            waiting += value.values()
    return size


def _part_size(part: Part) -> int:
    if isinstance(part, ToolCallPart):
        return len(part.name) + len(part.arguments)
    if isinstance(part, MediaPart):
        return 0
    return len(part.text)
