"""A model that plays a script: agents can be tested and measured with it, without weights and without a network.

    model = ScriptedModel(calls(("add", {"a": 1, "b": 2})), "It is 3.")

What it says is chosen by how many turns of the assistant the conversation has already, so one model serves any number of
conversations at a time, and a conversation that goes on in another process too.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deepseek.chat.turns import TurnBuilder
from deepseek.core.deltas import Delta, TextDelta, ThinkingDelta, ToolCallArguments, ToolCallEnd, ToolCallStart
from deepseek.core.engine import Usage
from deepseek.core.errors import ModelError
from deepseek.core.language import Turn, TurnEnd
from deepseek.core.messages import MediaKind, Message, ToolChoice, ToolSpec
from deepseek.core.sampling import SamplingParams


@dataclass(frozen=True, slots=True)
class Say:
    """One turn. calls: names and arguments (a mapping, or JSON text as it is). cut: its last call has no end."""

    text: str = ""
    calls: tuple[tuple[str, Mapping[str, Any] | str], ...] = ()
    thinking: str = ""
    end: TurnEnd = "stop"
    cut: bool = False
    usage: Usage = Usage(10, 5)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a scripted model was asked."""

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...]
    choice: ToolChoice
    schema: Mapping[str, object] | None
    sampling: SamplingParams | None
    deadline: float | None


Line = str | Say | Exception | Callable[[Asked], "Line | Awaitable[Line]"]
"""What is said in one turn: a text, a turn, an error to raise, or a function of what was asked that gives one of these."""


def calls(*each: tuple[str, Mapping[str, Any] | str], text: str = "") -> Say:
    """A turn that makes these calls."""
    return Say(text, tuple(each))


class ScriptedModel:
    """Implements `LanguageModel`. Beyond its script it raises ModelError. `asked` keeps what it was asked, at most
    `most_kept`."""

    def __init__(
        self,
        *script: Line,
        name: str = "scripted",
        takes: frozenset[MediaKind] = frozenset(),
        most_kept: int = 1000,
    ) -> None:
        self._script, self._name, self._takes, self._most_kept = script, name, takes, most_kept
        self.asked: list[Asked] = []

    @property
    def name(self) -> str:
        return self._name

    @property
    def takes(self) -> frozenset[MediaKind]:
        return self._takes

    async def chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec] = (),
        *,
        choice: ToolChoice = "auto",
        parallel: bool = True,
        schema: Mapping[str, object] | None = None,
        thinking: bool = False,
        sampling: SamplingParams | None = None,
        deadline: float | None = None,
    ) -> AsyncIterator[Delta | Turn]:
        """See the protocol."""
        asked = Asked(tuple(messages), tuple(tools), choice, schema, sampling, deadline)
        if len(self.asked) < self._most_kept:
            self.asked.append(asked)
        turn = sum(message.role == "assistant" for message in messages)
        if turn >= len(self._script):
            raise ModelError("the script is over", where=self._name, found=f"turn {turn + 1}")
        line: Any = self._script[turn]
        while callable(line):
            line = line(asked)
            if inspect.isawaitable(line):
                line = await line
        if isinstance(line, Exception):
            raise line
        say = Say(line) if isinstance(line, str) else line
        built, deltas = TurnBuilder(), _deltas(say, turn)
        built.add(deltas)
        for delta in deltas:
            yield delta
        yield Turn(built.message(), "calls" if built.calls else say.end, say.usage, built.cut, seed=0)


def _deltas(say: Say, turn: int) -> list[Delta]:
    deltas: list[Delta] = []
    if say.thinking:
        deltas.append(ThinkingDelta(say.thinking))
    if say.text:
        deltas.append(TextDelta(say.text))
    for index, (name, arguments) in enumerate(say.calls):
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        deltas += [ToolCallStart(index, f"call_{turn}_{index}", name), ToolCallArguments(index, text)]
        if not (say.cut and index == len(say.calls) - 1):
            deltas.append(ToolCallEnd(index))
    return deltas
