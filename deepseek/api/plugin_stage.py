"""Where plugins stand in a request's way: before its prompt is made of text into tokens, and after its answer is text again.

    messages, stage = await read_messages(state, asked, messages)      # pre_process; stage None: nobody takes part
    for tokens, deltas in await stage.of(tokens, deltas): ...          # on_token; post_process holds text back
    released, rest = await stage.end(speech.rest())                    # post_process, and what it held back

Plugins see and change text alone: not thinking, not calls. Stop strings, token counts and leases are the engine's, and done
with before. Log-probabilities of a text that a plugin changed are left out, since they spell what it replaced.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import groupby

from starlette.requests import ClientDisconnect
from starlette.types import Message as AsgiMessage
from starlette.types import Receive

from deepseek.api.client import ClientWatch
from deepseek.api.identity.caller import Caller
from deepseek.api.overhead import OVERHEAD
from deepseek.api.problems import Problem, retry_after
from deepseek.api.spoken import text_of
from deepseek.api.state import ServerState
from deepseek.core.deltas import Delta, TextDelta
from deepseek.core.engine import Tokens
from deepseek.core.messages import Message, TextPart
from deepseek.plugins.errors import PluginFailure, PluginRefusal
from deepseek.plugins.hooks import PluginContext
from deepseek.plugins.manager import Session
from deepseek.plugins.triggers import normalised
from deepseek.tenancy.context import NAME, TenantContext

LONG_PROMPT_CHARS = 65_536
"""A longer prompt is made ready for trigger words in a worker thread."""
MAX_TOGETHER = 16
"""Prompts of one call that plugins read at once."""

Said = tuple[Tokens, Sequence[Delta]]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as plugins know it. receive: its connection, watched while plugins work; None where leaving cancels the
    task."""

    caller: Caller
    request_id: str
    route: str
    model: str
    receive: Receive | None = None

    @property
    def context(self) -> PluginContext:
        return PluginContext(self.caller.tenant, self.request_id, self.route, self.model)


async def read_messages(
    state: ServerState, asked: Asked, messages: tuple[Message, ...]
) -> tuple[tuple[Message, ...], PluginStage | None]:
    """The conversation with what plugins made of the user's last text. Raises Problem where one refuses it."""
    if not state.plugins.reads_prompts(asked.caller.tenant):
        return messages, None
    at = next((at for at in reversed(range(len(messages))) if messages[at].role == "user"), None)
    text = None if at is None else messages[at].text
    found, stage = await read_prompt(state, asked, text or None)
    if at is None or found is None or found == text:
        return messages, stage
    return (*messages[:at], _with_text(messages[at], found), *messages[at + 1 :]), stage


async def read_prompt(state: ServerState, asked: Asked, prompt: str | None) -> tuple[str | None, PluginStage | None]:
    """The prompt that plugins made of this one. Raises Problem where one refuses it. prompt None: there is no text."""
    session = await _begin(state, asked, prompt)
    if session is None:
        return prompt, None
    stage = PluginStage((session,))
    if prompt is not None and session.reads_prompt:
        async with _attended(state, asked):
            prompt = await _pre_processed(session, prompt)
    return prompt, stage if stage.matters else None


async def read_several(
    state: ServerState, asked: Sequence[Asked], prompts: Sequence[str], choices: int
) -> tuple[list[str], PluginStage | None]:
    """The same for several prompts of one call, each a request of its own to the plugins. choices: of each."""
    gate = asyncio.Semaphore(MAX_TOGETHER)

    async def read(one: Asked, prompt: str) -> tuple[str, Session | None]:
        async with gate:
            session = await _begin(state, one, prompt)
            if session is not None and session.reads_prompt:
                prompt = await _pre_processed(session, prompt)
            return prompt, session

    async with _attended(state, asked[0]):
        tasks = [asyncio.ensure_future(read(one, prompt)) for one, prompt in zip(asked, prompts, strict=True)]
        try:
            read_so = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    stage = PluginStage(tuple(session for _, session in read_so), choices)
    return [prompt for prompt, _ in read_so], stage if stage.matters else None


@dataclass(slots=True)
class _Choice:
    """What is known of one choice's text. silent: tokens that said nothing yet, whose scores go with what comes next. held:
    what waits for the end, from the first text on."""

    silent: Tokens | None = None
    held: list[Said] = field(default_factory=list)


class PluginStage:
    """What plugins do to one answer. sessions: one for each prompt; choices: of each, so that choice c belongs to
    session c // choices."""

    def __init__(self, sessions: Sequence[Session | None], choices: int | None = None) -> None:
        self._sessions = sessions
        self._each = choices
        self._choices: dict[int, _Choice] = {}

    @property
    def matters(self) -> bool:
        return any(session is not None and session.stays for session in self._sessions)

    async def of(self, tokens: Tokens, deltas: Sequence[Delta]) -> Sequence[Said]:
        """What to say instead: nothing, as long as it is held back. Raises Problem where a plugin refuses it."""
        session, at = self._session(tokens.choice)
        if session is None or not session.changes_answers:
            return ((tokens, deltas),)
        choice = self._choices.get(tokens.choice)
        if choice is None:
            choice = self._choices[tokens.choice] = _Choice()
        if not deltas:
            if tokens.logprobs is None and not choice.held:
                return ((tokens, deltas),)
            choice.silent = _joined(choice.silent, tokens)
            return ()
        tokens, choice.silent = _joined(choice.silent, tokens), None
        runs = _runs(tokens, deltas)
        if session.reads_pieces:
            runs = await self._pieces(session, at, runs)
        said: list[Said] = []
        for part, run in runs:
            held = choice.held or (session.holds and isinstance(run[0], TextDelta))
            (choice.held if held else said).append((part, run))
        return said

    async def end(self, rest: Mapping[int, Sequence[Delta]]) -> tuple[list[Said], dict[int, Sequence[Delta]]]:
        """Once all is said: what was held back, and what to say instead of the parsers' rest. Raises as `of`."""
        released: list[Said] = []
        after: dict[int, Sequence[Delta]] = {}
        for index in sorted({*self._choices, *rest}):
            session, at = self._session(index)
            deltas: Sequence[Delta] = rest.get(index, ())
            if session is not None and session.changes_answers:
                choice = self._choices.get(index) or _Choice()
                given, deltas = deltas, await self._last_pieces(session, at, deltas)
                if choice.silent is not None and text_of(given) != text_of(deltas):
                    choice.silent = replace(choice.silent, logprobs=None)
                if session.holds:
                    deltas = await self._whole(session, at, choice, deltas)
                    released += choice.held
                if choice.silent is not None:
                    released.append((choice.silent, ()))
            if deltas:
                after[index] = deltas
        self._choices.clear()
        return released, after

    def failed(self, error: Exception) -> None:
        """Tell the plugins that the request failed."""
        for session in self._sessions:
            if session is not None:
                _tell(session, error)

    async def _pieces(self, session: Session, at: int, runs: Sequence[Said]) -> list[Said]:
        """One event's runs with the texts that plugins made; without its scores if one is another."""
        found: list[Said] = []
        changed = False
        for part, run in runs:
            text = text_of(run)
            if text:
                new = await _of_plugins(session, session.on_piece(text, at))
                if new != text:
                    changed, run = True, [TextDelta(new)]
            found.append((part, run))
        return [(replace(part, logprobs=None), run) for part, run in found] if changed else found

    async def _last_pieces(self, session: Session, at: int, deltas: Sequence[Delta]) -> list[Delta]:
        found: list[Delta] = []
        if session.reads_pieces:
            for delta in deltas:
                if isinstance(delta, TextDelta) and delta.text:
                    text = await _of_plugins(session, session.on_piece(delta.text, at))
                    found.append(TextDelta(text))
                else:
                    found.append(delta)
            if session.wants_last:
                text = await _of_plugins(session, session.on_piece("", at, last=True))
                found += [TextDelta(text)] if text else []
            return found
        return list(deltas)

    async def _whole(self, session: Session, at: int, choice: _Choice, deltas: Sequence[Delta]) -> Sequence[Delta]:
        """Let plugins read all that is held and the rest. What they make of it stands where the text began."""
        everything = [delta for _, run in choice.held for delta in run] + list(deltas)
        text = text_of(everything)
        if not text:
            return deltas
        found = await _of_plugins(session, session.post_process(text, at))
        if found == text:
            return deltas
        place = [found]  # taken by the first text there is

        def saying(run: Sequence[Delta]) -> list[Delta]:
            return [TextDelta(place.pop() if place else "") if isinstance(delta, TextDelta) else delta for delta in run]

        choice.held = [
            (replace(part, logprobs=None) if isinstance(run[0], TextDelta) else part, saying(run))
            for part, run in choice.held
        ]
        if choice.silent is not None:
            choice.silent = replace(choice.silent, logprobs=None)
        return saying(deltas)

    def _session(self, index: int) -> tuple[Session | None, int]:
        if self._each is None:
            return self._sessions[0], index
        return self._sessions[index // self._each], index % self._each


async def _begin(state: ServerState, asked: Asked, prompt: str | None) -> Session | None:
    form = None
    if prompt is not None and len(prompt) > LONG_PROMPT_CHARS:
        form = await asyncio.to_thread(normalised, prompt)
    return state.plugins.begin(prompt, asked.context, form)


async def _pre_processed(session: Session, prompt: str) -> str:
    try:
        return await _of_plugins(session, session.pre_process(prompt))
    except Problem as problem:
        _tell(session, problem)
        raise


def _tell(session: Session, error: Exception) -> None:
    with _in_its_name(session):
        session.failed(error)


def _in_its_name(session: Session) -> AbstractContextManager[object]:
    """The tenant as a context variable, for what plugins use. Keys may be of tenants whose names are none there; for those
    nobody is set, which is an error to whoever asks."""
    tenant = session.context.tenant
    return TenantContext(tenant) if NAME.fullmatch(tenant) else nullcontext()


async def _of_plugins(session: Session, work: Awaitable[str]) -> str:
    """What plugins give, in their tenant's name. Their time is not ours. Raises Problem."""
    overhead = OVERHEAD.get()
    if overhead is not None:
        overhead.leave()
    try:
        with _in_its_name(session):
            return await work
    except PluginRefusal as refusal:
        problem = Problem("refused-by-plugin", refusal.what)
    except PluginFailure as failure:
        problem = Problem("plugin-failed", f"{failure.what}; try again shortly.", headers=retry_after(1.0))
    finally:
        if overhead is not None:
            overhead.back()
    raise problem


@asynccontextmanager
async def _attended(state: ServerState, asked: Asked) -> AsyncIterator[None]:
    """Ends the work within when the client leaves."""
    if asked.receive is None:
        yield
        return
    watch = ClientWatch(asked.receive, _nowhere, state.settings.send_timeout_s)
    async with watch:
        yield
    if watch.gone:
        raise ClientDisconnect


async def _nowhere(message: AsgiMessage) -> None:
    raise AssertionError("nothing is sent while plugins read a prompt")


def _with_text(message: Message, text: str) -> Message:
    """Its text parts as one, where the first of them was; what is no text stays."""
    first = next(at for at, part in enumerate(message.parts) if isinstance(part, TextPart))
    parts = [
        TextPart(text) if at == first else part
        for at, part in enumerate(message.parts)
        if at == first or not isinstance(part, TextPart)
    ]
    return replace(message, parts=tuple(parts))


def _joined(before: Tokens | None, tokens: Tokens) -> Tokens:
    if before is None:
        return tokens
    logprobs = tokens.logprobs
    if before.logprobs is not None:
        logprobs = before.logprobs + (logprobs or ())
    return replace(tokens, token_ids=before.token_ids + tokens.token_ids, logprobs=logprobs)


def _runs(tokens: Tokens, deltas: Sequence[Delta]) -> list[Said]:
    """Text and other deltas apart, each run with its share of the tokens, by length of text. Which score is whose cannot be
    told, so the first text has them all: if it is changed, none of its own is left with the others."""
    runs = [list(run) for _, run in groupby(deltas, lambda delta: isinstance(delta, TextDelta))]
    if len(runs) == 1:
        return [(tokens, runs[0])]
    sizes = [sum([len(getattr(delta, "text", "")) for delta in run]) for run in runs]
    total, count, seen, begun = sum(sizes) or 1, len(tokens.token_ids), 0, 0
    scored = next((at for at, run in enumerate(runs) if isinstance(run[0], TextDelta)), 0)
    said: list[Said] = []
    for at, run in enumerate(runs):
        seen += sizes[at]
        ended = count if at == len(runs) - 1 else round(count * seen / total)
        logprobs = tokens.logprobs if at == scored else None
        part = replace(tokens, token_ids=tokens.token_ids[begun:ended], logprobs=logprobs)
        said.append((part, run))
        begun = ended
    return said
