"""An agent: a model, tools, and how far it may go with them. It perceives what it is given, decides, and acts.

    registry = ToolRegistry()

    @registry.register("add")
    def add(a: int, b: int) -> int:
        return a + b

    agent = Agent(model, registry, instructions="Use your tools.")
    result = await agent.run("What is 1 + 2?")        # RunResult: answer, output, calls, steps, usage
    plan = agent.generate_plan("Compare two cities.")  # Plan: typed steps

An agent holds nothing of a run: one object serves any number of runs at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from deepseek.agent.decision.final import OutputForm
from deepseek.agent.decision.limits import Limits, Prices, Spent
from deepseek.agent.decision.loop import Loop
from deepseek.agent.decision.plan import MAX_STEPS, MAX_TASK_CHARS, PLAN_PROMPT, Plan
from deepseek.agent.errors import AgentError
from deepseek.agent.events import ApprovalAnswered, RunFailed, RunFinished, RunResumed, RunStarted, RunSuspended
from deepseek.agent.execution.approval import Approval
from deepseek.agent.execution.executor import Executor
from deepseek.agent.execution.registry import ToolRegistry
from deepseek.agent.execution.tool import Tool, Toolset
from deepseek.agent.front import wait_for
from deepseek.agent.memory import Memory
from deepseek.agent.pieces import Pieces
from deepseek.agent.record import EventStore, Recorded, RunRecord
from deepseek.agent.run import CURRENT, Run, RunResult, new_run_id
from deepseek.agent.state import RunState
from deepseek.agent.steps import ModelStep, SummaryStep
from deepseek.agent.team import agent_tool
from deepseek.agent.tenant import as_tenant, tenant_of
from deepseek.core.deltas import Delta
from deepseek.core.errors import ConfigError, DeepSeekError
from deepseek.core.language import LanguageModel
from deepseek.core.messages import Message, TextPart
from deepseek.core.sampling import SamplingParams

log = logging.getLogger("deepseek.agent")

_STREAM_PIECES = 256
_SAME: Any = object()

Prompt = str | Message | Sequence[Message]


@runtime_checkable
class Closable(Protocol):
    """What may hold a connection or a process."""

    async def aclose(self) -> None: ...


@dataclass(frozen=True)
class Agent:
    """model: what decides. tools: a registry, a toolset, several, or an executor made of them.

    name: by which its runs are known. instructions: the system message. output: the type of its final answers, a type
    that pydantic knows or a JSON schema; None: text. sampling: None: the model's own, which for local ones is greedy.
    parallel: whether a turn may make several calls. planning: make a plan first, show it to the model, order calls by it,
    and make a new one where it fails. reflections: how often it looks at its answer again. store: where runs are
    recorded. memory: of conversations. owned: what `aclose` closes with it. services: what its tools are lent, by name.
    Raises ConfigError for what does not go together.
    """

    model: LanguageModel
    tools: ToolRegistry | Toolset | Sequence[Toolset] | Executor = ()
    name: str = "agent"
    instructions: str = ""
    output: Any = None
    limits: Limits = field(default_factory=Limits)
    sampling: SamplingParams | None = None
    thinking: bool = False
    parallel: bool = True
    planning: bool = False
    reflections: int = 0
    prices: Prices | None = None
    store: EventStore | None = None
    memory: Memory | None = None
    services: Mapping[str, Any] = field(default_factory=dict)
    plan_sizes: tuple[int, int] = (MAX_STEPS, MAX_TASK_CHARS)
    owned: tuple[Closable, ...] = field(default=(), repr=False)
    loop: Loop = field(init=False, repr=False)
    form: OutputForm = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.limits.cost is not None and self.prices is None:
            raise ConfigError("a limit of money needs prices", where="limits.cost", fix="give prices")
        executor = self.tools if isinstance(self.tools, Executor) else Executor(self.tools)
        loop = Loop(
            self.model,
            executor,
            self.instructions,
            self.sampling,
            self.thinking,
            self.parallel,
            self.planning,
            self.reflections,
            self.prices,
            self.plan_sizes,
            dict(self.services),
            self.memory,
        )
        object.__setattr__(self, "loop", loop)
        object.__setattr__(self, "form", OutputForm(self.output))

    async def run(
        self,
        prompt: Prompt,
        *,
        history: Sequence[Message] = (),
        output: Any = _SAME,
        limits: Limits | None = None,
        tenant: str | None = None,
        run_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        conversation: str | None = None,
        call_id: str | None = None,
    ) -> RunResult:
        """To an answer, a limit, or where it waits for a person. Everything that happened is on disk when it returns.

        prompt: what the user says: a text, a message, or messages. history: what was said before. output, limits: instead
        of the agent's own. tenant: in whose name; None: the one at hand (`TenantContext`), else "local". conversation:
        what is remembered of it comes first, and this run is remembered with it once it is finished; needs `memory`.
        call_id: of another run's call that asks for this one.
        Raises ModelError where the model fails, AdmissionError for what it cannot be asked, StoreError, and what is a
        defect. Cancelling it stops the model and the tools.
        """
        run = self._begin(prompt, history, output, limits, tenant, run_id, metadata, conversation, call_id)
        return await self._carry_on(run)

    async def run_stream(self, prompt: Prompt, **options: Any) -> AsyncGenerator[Delta | Recorded | RunResult]:
        """The same as it goes: what the model says in pieces, what happens as events, and last the result.

        options: those of `run`. Leaving it early stops the run. A reader that is slow slows the model down.
        """
        run = self._begin(
            prompt,
            options.pop("history", ()),
            options.pop("output", _SAME),
            options.pop("limits", None),
            options.pop("tenant", None),
            options.pop("run_id", None),
            options.pop("metadata", None),
            options.pop("conversation", None),
        )
        if options:
            raise TypeError(f"run_stream: unknown options {', '.join(options)}")
        async with aclosing(self._streamed(run)) as pieces:
            async for piece in pieces:
                yield piece

    async def resume(
        self, state: RunState | str, approvals: Iterable[Approval] = (), *, limits: Limits | None = None
    ) -> RunResult:
        """Go on with a run that was suspended: with its state, or the state's JSON, and what people answered.

        Calls that ended are not run again. What was not answered stays suspended. Raises AgentError for a state of
        another agent, another tenant's, or one that was gone on with already; and for answers to nothing it asked.
        """
        run, answers = self._taken_up(state, approvals, limits)
        return await self._carry_on(run, answers)

    async def resume_stream(
        self, state: RunState | str, approvals: Iterable[Approval] = (), *, limits: Limits | None = None
    ) -> AsyncGenerator[Delta | Recorded | RunResult]:
        """`resume` as `run_stream`."""
        run, answers = self._taken_up(state, approvals, limits)
        async with aclosing(self._streamed(run, answers)) as pieces:
            async for piece in pieces:
                yield piece

    async def agenerate_plan(self, prompt: Prompt, *, tenant: str | None = None) -> Plan:
        """A plan for the prompt: steps, what they depend on, the tools they need. Nothing is done.

        Raises AgentError where the model makes none that can be gone by, and as `run`.
        """
        run = self._begin((), (), None, None, tenant, None, None)
        said = [Message("user", (TextPart(PLAN_PROMPT),)), *_messages(prompt)]
        with as_tenant(run.tenant):
            run.record.add(self._started(run))
            try:
                plan = await self.loop.plan(run, await self.loop.executor.specs(), _joined(said))
            except BaseException as error:
                run.record.add(RunFailed(_error_text(error), isinstance(error, asyncio.CancelledError)))
                raise
            run.record.add(self._finished(run.result("finished", plan.text())))
            await run.record.flush()
        return plan

    def generate_plan(self, prompt: Prompt) -> Plan:
        """`agenerate_plan` for scripts. Raises AgentError on an event loop."""
        return wait_for(lambda: self.agenerate_plan(prompt), "agent.agenerate_plan(...)")

    def run_sync(self, prompt: Prompt, **options: Any) -> RunResult:
        """`run` for scripts. Raises AgentError on an event loop."""
        return wait_for(lambda: self.run(prompt, **options), "agent.run(...)")

    def resume_sync(self, state: RunState | str, approvals: Iterable[Approval] = ()) -> RunResult:
        """`resume` for scripts. Raises AgentError on an event loop."""
        return wait_for(lambda: self.resume(state, approvals), "agent.resume(...)")

    async def aclose(self) -> None:
        """Close its model, its store and what else it owns, for an agent that has them to itself, as those from a
        configuration do."""
        for one in self.owned:
            await one.aclose()
        close = getattr(self.model, "close", None)
        if close is not None:
            await close()
        for store in {id(one): one for one in (self.store, self.memory and self.memory.store) if one}.values():
            await asyncio.to_thread(store.close)

    def as_tool(self, name: str | None = None, description: str = "", **options: Any) -> Tool:
        """This agent as a tool of another, which gives it a task; see `deepseek.agent.team`. options: as of `Tool`."""
        return agent_tool(self, name, description, **options)

    def _begin(
        self,
        prompt: Prompt,
        history: Sequence[Message],
        output: Any,
        limits: Limits | None,
        tenant: str | None,
        run_id: str | None,
        metadata: Mapping[str, str] | None,
        conversation: str | None = None,
        call_id: str | None = None,
    ) -> Run:
        if conversation is not None and self.memory is None:
            raise ConfigError("the agent has no memory", where="conversation", fix="give it one: memory=Memory(store)")
        parent = CURRENT.get()
        run = self._new(tenant_of(tenant), run_id or new_run_id(), limits, parent)
        run.form = self.form if output is _SAME else OutputForm(output)
        run.metadata = dict(metadata or {})
        run.parent = None if parent is None else f"{parent.id}/{call_id or ''}"
        run.conversation = conversation
        run.opening = [(message, "memory") for message in history]
        run.opening += [(message, "user") for message in _messages(prompt)]
        return run

    def _new(self, tenant: str, run_id: str, limits: Limits | None, parent: Run | None) -> Run:
        limits = limits or self.limits
        if limits.cost is not None and self.prices is None:
            raise ConfigError("a limit of money needs prices", where="limits.cost", fix="give prices")
        run = Run(run_id, tenant, limits, RunRecord(self.store, tenant, run_id), self.form)
        if limits.seconds is not None:
            run.deadline = run.begun + limits.seconds
        if parent is not None:
            run.depth = parent.depth + 1
            run.spent = Spent(parent=parent.spent)
            if parent.deadline is not None:
                run.deadline = min(run.deadline or parent.deadline, parent.deadline)
        return run

    def _taken_up(
        self, state: RunState | str, approvals: Iterable[Approval], limits: Limits | None
    ) -> tuple[Run, dict[str, Approval]]:
        state = RunState.from_json(state) if isinstance(state, str) else state
        if state.agent != self.name:
            raise AgentError("a run of another agent", where=state.run_id, found=state.agent, expected=self.name)
        tenant = tenant_of(None, state.tenant)
        if tenant != state.tenant:
            raise AgentError("a run of another tenant", where=state.run_id)
        asked = {request.id for request in state.approvals}
        answers: dict[str, Approval] = {}
        for answer in approvals:
            if answer.id not in asked:
                raise AgentError(
                    "an answer to nothing that was asked",
                    where=state.run_id,
                    found=answer.id,
                    expected=", ".join(sorted(asked)) or "none",
                )
            answers[answer.id] = answer
        run = self._new(tenant, state.run_id, limits, CURRENT.get())
        run.record.seq = state.seq
        for step in state.steps:
            run.add(step)
            if isinstance(step, ModelStep):
                run.call_ids.update(call.id for call in step.calls)
        run.waiting = dict(state.waiting)
        run.approvals = answers
        run.children = dict(state.children)
        run.conversation = state.conversation
        run.plan = None if state.plan is None else Plan.model_validate(state.plan)
        for name, value in state.spent.items():
            setattr(run.spent, name, value)
        for name in ("corrections", "reflections", "replans", "remembered"):
            setattr(run, name, state.extra.get(name, 0))
        run.metadata = state.extra.get("metadata", {})
        if run.deadline is not None:
            run.deadline -= run.spent.seconds
        return run, answers

    async def _carry_on(self, run: Run, answers: Mapping[str, Approval] | None = None) -> RunResult:
        """The run from where it is to where it ends or waits, with all that belongs around it."""
        with as_tenant(run.tenant):
            if answers is None:
                run.record.add(self._started(run))
                await self._open(run)
            else:
                await self._claim(run)
                run.record.add(RunResumed())
                for answer in answers.values():
                    run.record.add(ApprovalAnswered(answer.id, answer.approved, answer.reason, answer.by))
                if self.store is not None:
                    await self.store.flush()  # what a person said is kept before anything is done on it
            try:
                result = await self.loop.go(run)
            except BaseException as error:
                run.record.add(RunFailed(_error_text(error), isinstance(error, asyncio.CancelledError)))
                await _shielded(run.record)
                raise
            if result.status == "suspended":
                result = await self._put_away(run, result)
            else:
                if result.status == "finished":
                    await self._remember(run)
                run.record.add(self._finished(result))
                await run.record.flush()
            return result

    async def _open(self, run: Run) -> None:
        if run.conversation is not None and self.memory is not None:
            for message in await self.memory.recall(run.tenant, run.conversation):
                run.say(message, "memory")
            run.remembered = len(run.steps)
        for message, origin in run.opening:
            run.say(message, origin)

    async def _remember(self, run: Run) -> None:
        if run.conversation is None or self.memory is None:
            return
        anew = any(isinstance(step, SummaryStep) for step in run.steps)
        said = run.shown if anew else run.shown[run.remembered :]
        await self.memory.keep_all(run.tenant, run.conversation, said, anew=anew)

    async def _streamed(
        self, run: Run, answers: Mapping[str, Approval] | None = None
    ) -> AsyncGenerator[Delta | Recorded | RunResult]:
        pieces: Pieces[Delta | Recorded] = Pieces(_STREAM_PIECES)
        run.emit, run.record.listen, run.room = pieces.put, pieces.put_now, pieces.room
        task = asyncio.create_task(self._carry_on(run, answers))
        task.add_done_callback(lambda _: pieces.end())
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            yield await task
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task])

    async def _claim(self, run: Run) -> None:
        """Take up a run that was put away, so that nobody else does. Raises AgentError where somebody did."""
        if self.store is not None and not await self.store.claim(run.tenant, run.id, run.record.seq):
            raise AgentError(
                "this run was gone on with already",
                where=run.id,
                fix="take its newest state",
            )

    async def _put_away(self, run: Run, result: RunResult) -> RunResult:
        asked = tuple(one.approval.id for one in run.waiting.values() if one.approval is not None)
        run.record.add(RunSuspended(asked))
        state = RunState(
            run.id,
            self.name,
            run.tenant,
            run.record.seq,
            tuple(run.steps),
            dict(run.waiting),
            run.spent.as_json(),
            None if run.plan is None else run.plan.model_dump(mode="json"),
            dict(run.children),
            run.conversation,
            {
                "corrections": run.corrections,
                "reflections": run.reflections,
                "replans": run.replans,
                "remembered": run.remembered,
                "metadata": dict(run.metadata),
            },
        )
        if self.store is not None:
            await self.store.keep_state(run.tenant, run.id, state.to_json())
        return replace(result, state=state)

    def _started(self, run: Run) -> RunStarted:
        settings = {
            "instructions": self.instructions,
            "limits": asdict(run.limits),
            "sampling": None if self.sampling is None else asdict(self.sampling),
            "thinking": self.thinking,
            "parallel": self.parallel,
            "planning": self.planning,
            "reflections": self.reflections,
            "output": run.form.schema,
            "metadata": dict(run.metadata),
        }
        return RunStarted(self.name, self.model.name, settings, run.parent, run.conversation)

    @staticmethod
    def _finished(result: RunResult) -> RunFinished:
        usage = result.usage
        return RunFinished(
            result.status,
            result.answer,
            result.turns,
            usage.prompt_tokens,
            usage.completion_tokens,
            result.cost,
            result.limit,
        )


def _messages(prompt: Prompt) -> list[Message]:
    if isinstance(prompt, str):
        return [Message("user", (TextPart(prompt),))]
    return [prompt] if isinstance(prompt, Message) else list(prompt)


def _joined(messages: Sequence[Message]) -> list[Message]:
    """The first two as one, where both are the user's texts: templates want roles to take turns."""
    first, *rest = messages
    if rest and rest[0].role == "user":
        return [Message("user", (*first.parts, TextPart("\n\n"), *rest[0].parts)), *rest[1:]]
    return list(messages)


def _error_text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:2000]


async def _shielded(record: RunRecord) -> None:
    """Put on disk how a run failed, though it is being cancelled; a store that fails too must not hide why."""
    flush = asyncio.ensure_future(record.flush())
    try:
        await asyncio.shield(flush)
    except asyncio.CancelledError:
        flush.add_done_callback(lambda done: done.cancelled() or done.exception())
    except DeepSeekError as error:
        log.error("the end of run %s is not recorded: %s", record.run_id, error)
