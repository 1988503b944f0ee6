"""The server's model as an agent sees it. A turn is a request like any other: it waits, is leased, metered and counted, in the
name of whoever asked for the run, whose key is looked at again before each turn.

Plugins read what the user asks once, when a run begins (`runs`), and the text of each turn here. Where one does, a turn's text
is handed on when it is whole.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import cast

from deepseek.api.admission import adapter_of
from deepseek.api.identity.caller import Caller
from deepseek.api.kept.callers import Recaller, recall, write_caller
from deepseek.api.metrics import RequestMeter
from deepseek.api.passage import only_set_aside, passage
from deepseek.api.plugin_stage import Asked, PluginStage, read_prompt
from deepseek.api.problems import Problem
from deepseek.api.spoken import text_of
from deepseek.api.state import ServerState
from deepseek.chat.codec import TextCodec
from deepseek.chat.local import LocalModel
from deepseek.core.deltas import Delta, TextDelta
from deepseek.core.engine import Event, Finish, Request, Tokens
from deepseek.core.errors import ModelError
from deepseek.core.language import Turn
from deepseek.core.messages import Message, Part, TextPart, ToolChoice, ToolSpec
from deepseek.core.sampling import SamplingParams

log = logging.getLogger("deepseek.api")

_MAY_PASS = frozenset({"overloaded", "queue-full"})


@dataclass(frozen=True, slots=True)
class Asking:
    """Who asked for the run that is going on, and by which route."""

    caller: Caller
    run_id: str
    route: str

    def asked(self, model: str) -> Asked:
        """As plugins know it."""
        return Asked(self.caller, self.run_id, self.route, model)


ASKING: ContextVar[Asking] = ContextVar("agent_run_asking")
"""Of the run at hand; set by whoever runs it."""


class ServedModel(LocalModel):
    """One for all runs. name: a model or an adapter that is served."""

    def __init__(self, state: ServerState, name: str) -> None:
        super().__init__(self._metered, cast(TextCodec, state.text), name=name, context_tokens=state.max_model_len)
        self._state = state

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
        """See the protocol. Raises Problem too: a budget that is used up, a plugin that refuses."""
        spoken = super().chat(
            messages,
            tools,
            choice=choice,
            parallel=parallel,
            schema=schema,
            thinking=thinking,
            sampling=sampling,
            deadline=deadline,
        )
        _, stage = await read_prompt(self._state, ASKING.get().asked(self.name), None)
        async with aclosing(cast(AsyncGenerator[Delta | Turn], spoken)) as pieces:
            if stage is None:
                async for piece in pieces:
                    yield piece
                return
            held: list[Delta] = []
            async for piece in pieces:
                if not isinstance(piece, Turn):
                    held.append(piece)
                    continue
                text = piece.message.text
                found = await _read(stage, text) if text else text
                for delta in _saying(held, found):
                    yield delta
                yield piece if found == text else replace(piece, message=_with_text(piece.message, found))

    async def _metered(self, request: Request) -> AsyncGenerator[Event]:
        state, asking = self._state, ASKING.get()
        caller = asking.caller
        if isinstance(state.identifier, Recaller):
            known = recall(state.identifier, write_caller(caller))
            if known is None:
                raise Problem("unauthenticated", "The key that this run was begun with is not good any more.")
            caller = known
        request = replace(request, adapter=adapter_of(state, caller, self.name))
        meter = RequestMeter(state.metrics, time.perf_counter())
        state.lifecycle.running.add(request.id)
        try:
            events = passage(state, caller, request, model=self.name, route=asking.route)
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, Tokens):
                        meter.tokens(event)
                    elif isinstance(event, Finish):
                        meter.finish(event)
                        if event.error is not None:
                            log.error("%s: the engine ended the request: %s", request.id, event.error)
                            event = replace(event, error="the log has it under the request's id")
                    yield event
        except Problem as problem:
            if problem.kind in _MAY_PASS or only_set_aside(problem):
                wait = problem.headers.get("Retry-After")
                raise ModelError(
                    problem.detail, retryable=True, retry_after_s=float(wait) if wait else None, where=self.name
                ) from problem
            raise
        finally:
            state.lifecycle.running.discard(request.id)


async def _read(stage: PluginStage, text: str) -> str:
    """What plugins make of a turn's text. Raises Problem."""
    said = list(await stage.of(Tokens("", 0, text, ()), [TextDelta(text)]))
    released, rest = await stage.end({})
    runs = [run for _, run in (*said, *released)]
    return "".join(text_of(run) for run in (*runs, *rest.values()))


def _saying(deltas: Sequence[Delta], text: str) -> list[Delta]:
    """The deltas with this text where the first text was."""
    place = [text]
    found: list[Delta] = []
    for delta in deltas:
        if not isinstance(delta, TextDelta):
            found.append(delta)
        elif place:
            found.append(TextDelta(place.pop()))
    return found


def _with_text(message: Message, text: str) -> Message:
    place = [text]
    parts: list[Part] = []
    for part in message.parts:
        if not isinstance(part, TextPart):
            parts.append(part)
        elif place:
            parts.append(TextPart(place.pop()))
    return replace(message, parts=tuple(parts))
