"""From an engine's events to what was said: text, thinking and calls of each choice, as it comes or all together.

    speech = Speech(parsers)                # one parser for each choice; none: the text as it is
    for tokens in ...: speech.of(tokens)    # what these tokens said
    speech.rest()                           # what the parsers still held back, once all is said

`gather` reads a whole answer at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deepseek.chat.parsing import StreamParser
from deepseek.core.deltas import Delta, TextDelta, ThinkingDelta, ToolCallArguments, ToolCallStart
from deepseek.core.engine import Event, Finish, FinishReason, PromptScores, Ready, TokenLogprob, Tokens
from deepseek.core.errors import EngineError
from deepseek.core.messages import Part, TextPart, ThinkingPart, ToolCallPart

if TYPE_CHECKING:
    from deepseek.api.plugin_stage import PluginStage


class Speech:
    """The parsers of one answer. Without any, text is text."""

    __slots__ = ("_parsers",)

    def __init__(self, parsers: Sequence[StreamParser] = ()) -> None:
        self._parsers = parsers

    def of(self, tokens: Tokens) -> Sequence[Delta]:
        if self._parsers:
            return self._parsers[tokens.choice].feed(tokens.text, tokens.controls)
        return (TextDelta(tokens.text),) if tokens.text else ()

    def rest(self) -> dict[int, Sequence[Delta]]:
        """By choice; a choice that held nothing back is not there."""
        held = ((index, parser.close()) for index, parser in enumerate(self._parsers))
        return {index: deltas for index, deltas in held if deltas}


def text_of(deltas: Sequence[Delta]) -> str:
    """Their text; thinking and calls are none."""
    return "".join([delta.text for delta in deltas if isinstance(delta, TextDelta)])


class ThinkingCount:
    """How many tokens were thinking, counted as they come. Those that say nothing yet, such as the tags, count with what
    comes next; where one event brought thinking and more, its tokens are shared out by length of text."""

    def __init__(self) -> None:
        self.tokens = 0
        self._silent: dict[int, int] = {}

    def add(self, tokens: Tokens, deltas: Sequence[Delta]) -> None:
        count = len(tokens.token_ids)
        if not deltas:
            if count:
                self._silent[tokens.choice] = self._silent.get(tokens.choice, 0) + count
            return
        thought = 0
        for delta in deltas:
            if isinstance(delta, ThinkingDelta):
                thought += len(delta.text)
        if not thought:
            self._silent.pop(tokens.choice, None)
            return
        count += self._silent.pop(tokens.choice, 0)
        size = sum([len(getattr(delta, "text", "")) for delta in deltas])
        self.tokens += count if thought == size else round(count * thought / size)


@dataclass(slots=True)
class Spoken:
    """All that one choice said, in order, the events it came by, and why it ended. thinking_tokens: see ThinkingCount."""

    index: int
    deltas: list[Delta] = field(default_factory=list)
    tokens: list[Tokens] = field(default_factory=list)
    reason: FinishReason = "stop"
    thinking_tokens: int = 0

    @property
    def text(self) -> str:
        return text_of(self.deltas)

    @property
    def thinking(self) -> str:
        return "".join([delta.text for delta in self.deltas if isinstance(delta, ThinkingDelta)])

    @property
    def calls(self) -> list[ToolCallPart]:
        """The complete calls. One that was cut off is left out: it must not be executed."""
        return [part for part in self.parts() if isinstance(part, ToolCallPart)]

    def logprobs(self) -> Iterator[TokenLogprob]:
        return (entry for tokens in self.tokens for entry in tokens.logprobs or ())

    def parts(self) -> list[Part]:
        """What was said as the parts of a message, neighbours of one kind joined; a call that was cut off is left out."""
        found: list[_Piece] = []
        calls: dict[int, _Piece] = {}
        ended: set[int] = set()
        for delta in self.deltas:
            if isinstance(delta, TextDelta | ThinkingDelta):
                if not delta.text:
                    continue
                if not found or found[-1].kind is not type(delta):
                    found.append(_Piece(type(delta)))
                found[-1].texts.append(delta.text)
            elif isinstance(delta, ToolCallStart):
                calls[delta.index] = _Piece(ToolCallStart, delta)
                found.append(calls[delta.index])
            elif isinstance(delta, ToolCallArguments):
                calls[delta.index].texts.append(delta.text)
            else:
                ended.add(delta.index)
        return [piece.part() for piece in found if piece.call is None or piece.call.index in ended]


@dataclass(slots=True)
class _Piece:
    kind: type[TextDelta] | type[ThinkingDelta] | type[ToolCallStart]
    call: ToolCallStart | None = None
    texts: list[str] = field(default_factory=list)

    def part(self) -> Part:
        text = "".join(self.texts)
        if self.call is not None:
            return ToolCallPart(self.call.id, self.call.name, text)
        return TextPart(text) if self.kind is TextDelta else ThinkingPart(text)


@dataclass(slots=True)
class Whole:
    """A request's answer from beginning to end."""

    choices: list[Spoken]
    scores: list[PromptScores]
    finish: Finish
    seed: int


async def gather(
    events: AsyncIterator[Event],
    parsers: Sequence[StreamParser] = (),
    notice: Callable[[Tokens], None] = lambda tokens: None,
    plugins: PluginStage | None = None,
) -> Whole:
    """Read an answer to its end. notice: called with tokens as they come. plugins: those that take part.

    Raises EngineError if there is no end, and Problem where a plugin refuses what is said.
    """
    speech, seed = Speech(parsers), 0
    choices: dict[int, Spoken] = {}
    counts: dict[int, ThinkingCount] = defaultdict(ThinkingCount)
    scores: list[PromptScores] = []

    def add(tokens: Tokens, deltas: Sequence[Delta]) -> None:
        spoken = choices.get(tokens.choice)
        if spoken is None:
            spoken = choices[tokens.choice] = Spoken(tokens.choice)
        spoken.tokens.append(tokens)
        spoken.deltas += deltas
        counts[tokens.choice].add(tokens, deltas)

    async for event in events:
        if isinstance(event, Tokens):
            notice(event)
            deltas = speech.of(event)
            if plugins is None:
                add(event, deltas)
            else:
                for said in await plugins.of(event, deltas):
                    add(*said)
        elif isinstance(event, Ready):
            seed = event.seed
        elif isinstance(event, PromptScores):
            scores.append(event)
        elif isinstance(event, Finish):
            rest = speech.rest()
            if plugins is not None and "error" not in event.reasons:
                released, rest = await plugins.end(rest)
                for said in released:
                    add(*said)
            for index, count in counts.items():
                choices[index].thinking_tokens = count.tokens
            return Whole(_ended(choices, rest, event), scores, event, seed)
    raise EngineError("a request ended without a finish")


def _ended(choices: dict[int, Spoken], rest: Mapping[int, Sequence[Delta]], finish: Finish) -> list[Spoken]:
    ended = []
    for index, reason in enumerate(finish.reasons):
        spoken = choices.get(index) or Spoken(index)
        spoken.deltas += rest.get(index, ())
        spoken.reason = reason
        ended.append(spoken)
    return ended
