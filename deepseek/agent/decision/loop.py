"""Reason, act, observe: a turn of the model, its calls, their results, until there is an answer or a limit.

Faults are of two kinds. The model's own (a call that does not fit, an answer of the wrong form, a turn cut off) are told to
the model, which may mend them, for so many turns in a row. Ours (a model that does not answer, a store that cannot be
written, a defect) are raised. A tool that fails is neither: its error is its result.

All there is of a run is in `Run`, so one loop serves any number of runs at a time.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from deepseek.agent.decision.final import OutputFault
from deepseek.agent.decision.limits import Limit, Prices
from deepseek.agent.decision.plan import PLAN_PROMPT, Plan, plan_schema, read_plan
from deepseek.agent.decision.reflection import REFLECT_SCHEMA, problem_message, read_verdict, reflect_message
from deepseek.agent.errors import AgentError
from deepseek.agent.events import (
    ApprovalAsked,
    Content,
    LimitReached,
    ModelAnswered,
    ModelAsked,
    ModelFailed,
    PlanMade,
    Reflected,
    Summarised,
)
from deepseek.agent.execution.context import ToolContext
from deepseek.agent.execution.executor import Executor
from deepseek.agent.memory import SUMMARY_PROMPT, Memory, length, shortened
from deepseek.agent.run import CURRENT, Emit, Run, RunResult
from deepseek.agent.steps import ModelStep, SummaryStep, ToolStep, open_calls
from deepseek.chat.calls import new_call_id
from deepseek.core.errors import AdmissionError, ModelError
from deepseek.core.language import LanguageModel, Turn
from deepseek.core.messages import Message, TextPart, ToolCallPart, ToolSpec
from deepseek.core.sampling import SamplingParams

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 20.0
_GRACE_S = 5.0
"""How much longer than its deadline a model may take to end a turn by itself."""
_MAX_SHORTENINGS = 8


class _LateTurn(ModelError):
    """A model does not heed its deadline."""


@dataclass(frozen=True)
class Loop:
    """An agent's way of going on: see `Agent` for the fields."""

    model: LanguageModel
    executor: Executor
    instructions: str = ""
    sampling: SamplingParams | None = None
    thinking: bool = False
    parallel: bool = True
    planning: bool = False
    reflections: int = 0
    prices: Prices | None = None
    plan_sizes: tuple[int, int] = (12, 300)
    services: dict[str, Any] = field(default_factory=dict)
    memory: Memory | None = None
    draw: Callable[[], float] = random.random
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def go(self, run: Run) -> RunResult:
        """To the run's end, or to where it waits for a person. Raises ModelError, AdmissionError, AgentError."""
        token = CURRENT.set(run)
        try:
            specs = await self.executor.specs()
            if not open_calls(run.steps):
                await self._summarise(run)
            if self.planning and run.plan is None and not open_calls(run.steps):
                await self._plan(run, specs)
            while True:
                calls = open_calls(run.steps)
                if calls:
                    if not await self._act(run, calls):
                        return run.result("suspended", _answer_of(run))
                    await self._replan(run, specs)
                    continue
                limit = self._limit(run)
                if limit is not None:
                    return self._stopped(run, limit)
                turn = await self.ask(run, specs, schema=run.form.schema)
                ended = await self._decide(run, turn)
                if ended is not None:
                    return ended
        except _LateTurn:
            return self._stopped(run, "time")
        finally:
            CURRENT.reset(token)

    async def ask(
        self,
        run: Run,
        tools: Sequence[ToolSpec],
        *,
        schema: dict[str, Any] | None = None,
        extra: Sequence[Message] = (),
        said: Sequence[Message] | None = None,
        purpose: Literal["act", "plan", "reflect", "summarise"] = "act",
    ) -> Turn:
        """A turn of the model, after all that was said (or `said` instead) and `extra`.

        One to act is a step of the run, others only count.

        A model that does not answer is asked again, where that may help. A conversation that has become too long is
        shortened. Raises ModelError and AdmissionError.
        """
        attempt = shortenings = 0
        while True:
            shown = [*self._opening(), *(run.shown if said is None else said), *extra]
            run.record.add(ModelAsked(run.spent.steps + 1, len(shown), _listed(run, tools), schema, purpose))
            begun = time.perf_counter()
            try:
                turn = await self._turn(run, shown, tools, schema, run.emit if purpose == "act" else None)
                break
            except AdmissionError as error:
                shorter = shortened(run.shown) if error.reason == "too_long" and said is None else None
                if shorter is None or shortenings >= _MAX_SHORTENINGS:
                    self._failed(run, error, attempt, None)
                    raise
                shortenings += 1
                run.add(SummaryStep("", tuple(shorter)))
                run.record.add(Summarised(len(shorter), ""))
            except ModelError as error:
                attempt += 1
                pause_s = max(
                    self.draw() * min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** (attempt - 1)),
                    error.retry_after_s or 0.0,
                )
                late = run.deadline is not None and time.monotonic() + pause_s >= run.deadline
                again = error.retryable and attempt <= run.limits.model_retries and not late
                self._failed(run, error, attempt, pause_s if again else None)
                if not again:
                    raise
                await self.sleep(pause_s)
        self._count(run, turn, (time.perf_counter() - begun) * 1000)
        turn = _with_own_ids(run, turn)
        if purpose == "act":
            run.add(ModelStep(turn.message, turn.end, turn.usage, turn.cut))
        return turn

    async def plan(self, run: Run, specs: Sequence[ToolSpec], said: Sequence[Message]) -> Plan:
        """A plan for what was said. Raises AgentError where the model makes none that can be gone by."""
        extra = list(said)
        most, chars = self.plan_sizes
        for _ in range(run.limits.corrections + 1):
            turn = await self.ask(run, (), schema=plan_schema(specs, most, chars), extra=extra, purpose="plan")
            if turn.end == "length":
                # Cut off, so the next one has to be shorter; the model cannot know by how much.
                most, chars = max(1, most // 2), max(20, chars // 2)
                fault = "The plan was too long."
            else:
                try:
                    return read_plan(turn.message.text, specs)
                except OutputFault as wrong:
                    fault = str(wrong)
                    extra += [turn.message, Message("user", (TextPart(fault),))]
        raise AgentError("the model makes no plan that can be gone by", where=self.model.name, found=fault)

    async def _turn(
        self,
        run: Run,
        shown: Sequence[Message],
        tools: Sequence[ToolSpec],
        schema: dict[str, Any] | None,
        emit: Emit | None,
    ) -> Turn:
        turn: Turn | None = None
        left_s = None if run.deadline is None else run.deadline - time.monotonic() + _GRACE_S
        pieces = self.model.chat(
            shown,
            tools,
            parallel=self.parallel,
            schema=schema,
            thinking=self.thinking,
            sampling=self._sampling(run),
            deadline=run.deadline,
        )
        try:
            async with asyncio.timeout(left_s), aclosing(pieces):  # type: ignore[type-var]
                async for piece in pieces:
                    if isinstance(piece, Turn):
                        turn = piece
                    elif emit is not None:
                        await emit(piece)
        except TimeoutError:
            raise _LateTurn("the model does not end its turn in time", where=self.model.name) from None
        if turn is None:
            raise ModelError("the model ended without a turn", where=self.model.name)
        if turn.end == "cancelled":
            raise ModelError("the model was stopped", where=self.model.name)
        return turn

    def _opening(self) -> list[Message]:
        return [Message("system", (TextPart(self.instructions),))] if self.instructions else []

    def _sampling(self, run: Run) -> SamplingParams | None:
        left = run.spent.output_tokens_left(run.limits, self.prices)
        if left is None:
            return self.sampling
        given = self.sampling or SamplingParams(temperature=0.0, max_tokens=left)
        return replace(given, max_tokens=min(given.max_tokens, left), min_tokens=min(given.min_tokens, left))

    def _count(self, run: Run, turn: Turn, duration_ms: float) -> None:
        cost = 0.0 if self.prices is None else self.prices.of(turn.usage)
        run.spent.steps += 1
        run.spent.add(turn.usage, cost)
        usage = turn.usage
        run.record.add(
            ModelAnswered(
                run.spent.steps,
                turn.message,
                turn.end,
                turn.cut,
                usage.prompt_tokens,
                usage.completion_tokens,
                usage.cached_tokens,
                duration_ms,
                cost,
                turn.seed,
                turn.prompt_ids,
                turn.token_ids,
                None if turn.logprobs is None else tuple(entry.logprob for entry in turn.logprobs),
                turn.weights_version,
            )
        )

    @staticmethod
    def _failed(run: Run, error: Exception, attempt: int, pause_s: float | None) -> None:
        run.record.add(ModelFailed(run.spent.steps + 1, str(error)[:2000], attempt, pause_s))

    def _limit(self, run: Run) -> Limit | None:
        found = run.spent.reached(run.limits, run.seconds)
        if found is None and run.corrections > run.limits.corrections:
            found = "corrections"
        return found

    def _stopped(self, run: Run, limit: Limit) -> RunResult:
        run.record.add(LimitReached(limit))
        return run.result("limited", _answer_of(run), limit=limit)

    async def _act(self, run: Run, calls: list[ToolCallPart]) -> bool:
        """Run the calls of the last turn. False: some wait for a person."""
        await self._room(run)
        context = ToolContext(
            tenant=run.tenant,
            run_id=run.id,
            deadline=run.deadline,
            services=self.services,
            metadata=run.metadata,
        )
        order: dict[str, list[str]] = {}
        if run.plan is not None:
            done = [result.name for step in run.steps if isinstance(step, ToolStep) for result in step.results]
            order = run.plan.order_of(calls, done)
        results = await self.executor.run(
            calls,
            depends=order,
            approvals=run.approvals,
            finished=run.waiting,
            context=context,
            record=run.record.tool,
        )
        if any(not result.final for result in results):
            asked = {result.approval.id for result in run.waiting.values() if result.approval is not None}
            run.waiting = {result.call_id: result for result in results}
            for result in results:
                if (request := result.approval) is not None and request.id not in asked:
                    run.record.add(
                        ApprovalAsked(request.id, request.call_id, request.tool, request.arguments, request.reason)
                    )
            return False
        run.spent.calls += len(results)
        run.waiting, run.approvals = {}, {}
        last = run.steps[-1]
        run.add(ToolStep(tuple(results)))
        if isinstance(last, ModelStep) and last.cut:
            run.correct("A further call was cut off and was not run. Make it again, shorter.")
        elif all(result.retryable for result in results):
            run.corrections += 1
        else:
            run.corrections = 0
        return True

    async def _room(self, run: Run) -> None:
        if run.record.store is not None:
            await run.record.store.room()
        if run.room is not None:
            await run.room()

    async def _decide(self, run: Run, turn: Turn) -> RunResult | None:
        """What follows a turn: None: the loop goes on."""
        calls = open_calls(run.steps)
        if calls:
            most = run.limits.calls
            if most is not None and run.spent.calls + len(calls) > most:
                return self._stopped(run, "calls")
            return None
        text = turn.message.text
        if turn.end == "deadline":
            return self._stopped(run, "time")
        if turn.end == "budget":
            return self._stopped(run, "budget")
        if turn.cut:
            run.correct("Your call was cut off and was not run. Make it again, shorter.")
            return None
        if turn.end == "length":
            limit = self._limit(run)
            return self._stopped(run, limit if limit in ("tokens", "money") else "length")
        if not text.strip():
            run.correct("You said nothing. Answer, or call a tool.")
            return None
        try:
            output = run.form.read(text)
        except OutputFault as fault:
            run.correct(str(fault))
            return None
        run.corrections = 0
        if run.reflections < self.reflections and self._limit(run) is None and not await self._reflect(run):
            return None
        return run.result("finished", text, output)

    async def _reflect(self, run: Run) -> bool:
        """Whether the answer stands; if not, the model was told why."""
        run.reflections += 1
        turn = await self.ask(run, (), schema=REFLECT_SCHEMA, extra=[reflect_message()], purpose="reflect")
        verdict = read_verdict(turn.message.text)
        run.record.add(Reflected(verdict.ok, verdict.problem))
        if not verdict.ok:
            run.say(problem_message(verdict), "reflection")
        return verdict.ok

    async def _summarise(self, run: Run) -> None:
        """Say in short what has become too long to be shown."""
        shown = list(run.shown)
        old = 0 if self.memory is None else self.memory.too_long(shown)
        if not old or self._limit(run) is not None:
            return
        prompt = Message("user", (TextPart(SUMMARY_PROMPT),))
        turn = await self.ask(run, (), said=shown[:old], extra=[prompt], purpose="summarise")
        text = turn.message.text
        if not text.strip() or len(text) > sum(map(length, shown[:old])):
            text = ""  # then what is old is left out altogether
        run.add(SummaryStep(text, tuple(shown[old:])))
        run.record.add(Summarised(old, text))

    async def _plan(self, run: Run, specs: Sequence[ToolSpec]) -> None:
        limit = self._limit(run)
        if limit is None:
            self._adopt(run, await self.plan(run, specs, [Message("user", (TextPart(PLAN_PROMPT),))]), again=False)

    async def _replan(self, run: Run, specs: Sequence[ToolSpec]) -> None:
        """A new plan where a call of the last step failed for good, as often as may be."""
        last = run.steps[-1]
        if not self.planning or not isinstance(last, ToolStep) or run.replans >= run.limits.replans:
            return
        failed = [result for result in last.results if result.status in ("error", "refused") and not result.retryable]
        if not failed or self._limit(run) is not None:
            return
        run.replans += 1
        names = ", ".join(sorted({result.name for result in failed}))
        said = Message("user", (TextPart(f"The plan failed at {names}. {PLAN_PROMPT} Leave out what is done."),))
        self._adopt(run, await self.plan(run, specs, [said]), again=True)

    @staticmethod
    def _adopt(run: Run, plan: Plan, *, again: bool) -> None:
        run.plan = plan
        run.record.add(PlanMade(plan.model_dump(mode="json"), again))
        run.say(Message("user", (TextPart(f"Go by this plan:\n{plan.text()}"),)), "plan")


def _answer_of(run: Run) -> str:
    """The last text of the model."""
    for step in reversed(run.steps):
        if isinstance(step, ModelStep) and step.message.text:
            return step.message.text
    return ""


def _listed(run: Run, tools: Sequence[ToolSpec]) -> Content:
    if run.listed is None or run.listed[0] is not tools:
        written = [
            {"name": tool.name, "description": tool.description, "parameters": tool.parameters} for tool in tools
        ]
        run.listed = tools, Content(written)
    return run.listed[1]


def _with_own_ids(run: Run, turn: Turn) -> Turn:
    """The turn, each call with an id that no other call of the run has: results and consent go by them."""
    parts: list[Any] = []
    changed = False
    for part in turn.message.parts:
        if isinstance(part, ToolCallPart):
            if part.id in run.call_ids or not part.id:
                part, changed = replace(part, id=new_call_id()), True
            run.call_ids.add(part.id)
        parts.append(part)
    return replace(turn, message=replace(turn.message, parts=tuple(parts))) if changed else turn
