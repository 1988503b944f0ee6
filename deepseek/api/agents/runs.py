"""The runs of a server's agents: begun, followed, gone on with, cancelled, found again.

A run belongs to the tenant that asked for it, and is looked for among that tenant's alone. It goes on in a task of its own;
whoever waits for it may leave without ending it, unless the route says otherwise.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from deepseek.agent.agent import Agent
from deepseek.agent.config import build_agent
from deepseek.agent.errors import AgentError
from deepseek.agent.events import RunFailed
from deepseek.agent.execution.approval import Approval
from deepseek.agent.perception.perceive import Attachment, Perception
from deepseek.agent.record import EventStore
from deepseek.agent.rows import Recorded, RunRow, StoredEvent
from deepseek.agent.run import RunResult, new_run_id
from deepseek.agent.state import RunState
from deepseek.api.agents.configured import ConfiguredAgent
from deepseek.api.agents.documents import run_document
from deepseek.api.agents.live import LiveRun
from deepseek.api.agents.turns import ASKING, Asking, ServedModel
from deepseek.api.identity.caller import Caller
from deepseek.api.plugin_stage import read_messages
from deepseek.api.problems import FieldError, Problem, problem_of, retry_after
from deepseek.api.state import ServerState
from deepseek.core.deltas import Delta
from deepseek.core.errors import ConfigError, DeepSeekError, TenancyError
from deepseek.core.messages import Message
from deepseek.tenancy.context import check_tenant

log = logging.getLogger("deepseek.api")

MAX_RUNS = 256
MAX_RUNS_OF_TENANT = 64
CANCEL_S = 10.0
_PAGE = 1000

Pieces = AsyncGenerator[Delta | Recorded | RunResult]


class AgentRuns:
    """Made with the application, for it needs the model. Raises ConfigError for an agent whose model is not served."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._live: dict[tuple[str, str], LiveRun] = {}
        self._store: EventStore | None = state.agents.store
        self._agents = {name: self._built(name, one) for name, one in state.agents.agents.items()}
        self._perception = Perception()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._agents)

    @property
    def store(self) -> EventStore:
        """Where runs are; opened when first needed."""
        if self._store is None:
            self._store = EventStore()
        return self._store

    def _built(self, name: str, configured: ConfiguredAgent) -> Agent:
        config, state = configured.config, self._state
        model = state.models[0] if config.model == "builtin" else config.model
        if model not in (*state.models, *state.adapters):
            raise ConfigError(
                "no such model is served",
                where=f"agent {name}: model",
                found=model,
                expected=", ".join(("builtin", *state.models, *state.adapters)),
            )
        return build_agent(
            config, configured.directory, model=ServedModel(state, model), store=self.store, hooks=state.plugins
        )

    def visible(self, caller: Caller) -> list[Agent]:
        """The agents whose model this caller may use."""
        return [agent for agent in self._agents.values() if self._state.may_use(caller, agent.model.name)]

    def agent(self, caller: Caller, name: str) -> Agent:
        """Raises Problem 404 for one that there is not, or not for this caller."""
        agent = self._agents.get(name)
        if agent is None or not self._state.may_use(caller, agent.model.name):
            raise Problem("unknown-object", f"There is no agent {name[:80]!r}.")
        return agent

    async def message(self, agent: Agent, text: str, attachments: Iterable[Attachment]) -> Message:
        """What the user says and hands over. Raises Problem for what cannot be taken."""
        try:
            perceived = await self._perception.message(text, tuple(attachments), agent.model.takes)
        except DeepSeekError as error:
            raise Problem(
                "invalid-request", str(error), (FieldError("attachments", error.found, error.expected),)
            ) from None
        return perceived.message

    async def begin(
        self,
        caller: Caller,
        agent: Agent,
        message: Message,
        *,
        conversation: str | None,
        limits: Mapping[str, float],
        metadata: Mapping[str, str],
        followed: bool,
    ) -> LiveRun:
        """A run that has begun: it is on disk. followed: from its beginning.

        Raises Problem where a plugin refuses what is asked, or too many run."""
        self._require_room(caller)
        run_id = new_run_id()
        asking = Asking(caller, run_id, f"/v1/agents/{agent.name}/runs")
        (message,), _ = await read_messages(self._state, asking.asked(agent.model.name), (message,))
        if conversation is not None and agent.memory is None:
            raise Problem("invalid-request", "conversation: this agent has no memory", (FieldError("conversation"),))
        pieces = agent.run_stream(
            message,
            tenant=caller.tenant,
            run_id=run_id,
            limits=_lowered(agent, limits),
            metadata=dict(metadata),
            conversation=conversation,
        )
        return await self._started(LiveRun(run_id, followed=followed), pieces, asking)

    async def resume(
        self, caller: Caller, agent: Agent, run_id: str, approvals: Iterable[Approval], *, followed: bool
    ) -> LiveRun:
        """The run gone on with. Raises Problem: there is no such run, it does not wait, or not for that."""
        self._require_room(caller)
        await self._row(caller, agent, run_id)
        written = await self.store.state(caller.tenant, run_id)
        if written is None or (caller.tenant, run_id) in self._live:
            raise Problem("not-resumable", "The run does not wait for a person.")
        state = RunState.from_json(written)
        waiting = {request.id for request in state.approvals}
        answers = list(approvals)
        for at, answer in enumerate(answers):
            if answer.id not in waiting:
                error = FieldError(f"approvals.{at}.id", answer.id[:80], "the id of an approval that the run waits for")
                raise Problem("invalid-request", f"{error.field}: expected {error.expected}", (error,))
        asking = Asking(caller, run_id, f"/v1/agents/{agent.name}/runs")
        return await self._started(LiveRun(run_id, followed=followed), agent.resume_stream(state, answers), asking)

    async def cancel(self, caller: Caller, agent: Agent, run_id: str) -> None:
        """End a run that goes on or waits. Raises Problem: there is no such run, or it has ended."""
        row = await self._row(caller, agent, run_id)
        live = self._live.get((caller.tenant, run_id))
        if live is not None and live.task is not None:
            live.task.cancel()
            await asyncio.wait([live.task], timeout=CANCEL_S)
            return
        if row.status != "suspended" or not await self._end_suspended(caller.tenant, run_id):
            raise Problem("not-cancellable", f"The run cannot be cancelled any more: it is {row.status}.")

    async def document(self, caller: Caller, agent: Agent, run_id: str) -> dict[str, Any]:
        """A run as it is shown. Raises Problem 404."""
        row = await self._row(caller, agent, run_id)
        events = [event async for event in self.events(caller.tenant, run_id, 0)]
        alive = (caller.tenant, run_id) in self._live
        if row.status == "running" and not alive:
            row = await self._row(caller, agent, run_id)  # it may have ended meanwhile
        return run_document(row, events, alive=alive)

    async def require(self, caller: Caller, agent: Agent, run_id: str) -> LiveRun | None:
        """The run, if it goes on here; None: it does not. Raises Problem 404 where there is none."""
        await self._row(caller, agent, run_id)
        return self._live.get((caller.tenant, run_id))

    async def events(self, tenant: str, run_id: str, after: int) -> AsyncGenerator[StoredEvent]:
        """What is on disk of a run, behind the given number."""
        while True:
            page = await self.store.events(tenant, run_id, after=after, limit=_PAGE)
            for event in page:
                yield event
            if len(page) < _PAGE:
                return
            after = page[-1].seq

    async def flush(self) -> None:
        """Have on disk what was told so far."""
        await self.store.flush()

    async def close(self) -> None:
        """End what runs, and write what is pending."""
        tasks = [live.task for live in self._live.values() if live.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CANCEL_S)
        for agent in self._agents.values():
            for one in agent.owned:
                await one.aclose()
        if self._store is not None:
            await asyncio.to_thread(self._store.close)

    def _require_room(self, caller: Caller) -> None:
        try:
            check_tenant(caller.tenant)
        except TenancyError as error:
            # Its files would have no place to be.
            raise Problem("forbidden", f"Agents cannot run for this tenant: {error.what}.") from None
        mine = sum(tenant == caller.tenant for tenant, _ in self._live)
        if len(self._live) >= MAX_RUNS or mine >= MAX_RUNS_OF_TENANT:
            raise Problem("queue-full", "Too many runs of agents go on at once.", headers=retry_after(5.0))

    async def _row(self, caller: Caller, agent: Agent, run_id: str) -> RunRow:
        row = None
        if _is_tenant(caller.tenant):
            row = await self.store.run(caller.tenant, run_id)
        if row is None or row.agent != agent.name:
            raise Problem("unknown-object", f"There is no run with the id {run_id[:80]!r}.")
        return row

    async def _started(self, live: LiveRun, pieces: Pieces, asking: Asking) -> LiveRun:
        key = (asking.caller.tenant, live.run_id)
        self._live[key] = live
        live.task = asyncio.create_task(self._drive(live, pieces, asking), name=live.run_id)
        await live.begun.wait()
        if live.error is None:
            await self.store.flush()
        return live

    async def _drive(self, live: LiveRun, pieces: Pieces, asking: Asking) -> None:
        ASKING.set(asking)
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    if isinstance(piece, RunResult):
                        live.result = piece
                    else:
                        live.tell(piece)
        except asyncio.CancelledError:
            pass  # the run has recorded it
        except AgentError as error:
            # Of a run that somebody else has gone on with meanwhile, or answers that are no longer asked for.
            live.error = Problem("not-resumable", error.what.capitalize() + ".")
        except Exception as error:
            live.error = problem_of(error)
            if not isinstance(error, Problem | DeepSeekError):
                log.exception("%s: the run failed", live.run_id)
        finally:
            self._live.pop((asking.caller.tenant, live.run_id), None)
            live.end()

    async def _end_suspended(self, tenant: str, run_id: str) -> bool:
        written = await self.store.state(tenant, run_id)
        if written is None:
            return False
        state = RunState.from_json(written)
        if not await self.store.claim(tenant, run_id, state.seq):
            return False
        ended = Recorded(run_id, state.seq + 1, time.time(), RunFailed("cancelled", cancelled=True))
        self.store.put(tenant, ended)
        await self.store.flush()
        return True


def _lowered(agent: Agent, asked: Mapping[str, float]) -> Any:
    """The agent's limits, where less is asked for that."""
    limits = agent.limits
    for name, value in asked.items():
        own = getattr(limits, name)
        lowered: dict[str, Any] = {name: value if own is None else min(own, value)}
        limits = replace(limits, **lowered)
    return limits


def _is_tenant(name: str) -> bool:
    try:
        check_tenant(name)
    except TenancyError:
        return False
    return True
