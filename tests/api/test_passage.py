"""The way of a request through limit, lease and engine, without a connection around it."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from api_support import CONTEXT, RecordingEngine, quick, state_of
from metering_support import budget, opened, running

from deepseek.api.identity.caller import LOCAL_CALLER
from deepseek.api.limits.config import Contract, DynamicConfig
from deepseek.api.limits.gradient import Gradient2
from deepseek.api.limits.overload import Overload
from deepseek.api.metering.meter import Account, FreeMeter
from deepseek.api.passage import CHARGE, Charge, passage
from deepseek.api.problems import Problem
from deepseek.api.several import several
from deepseek.api.state import ServerState
from deepseek.core.engine import Event, Finish, Request
from deepseek.core.errors import AdmissionError
from deepseek.core.sampling import SamplingParams
from deepseek.engine.fake import FakeEngine, say

WAY: dict[str, Any] = {"model": "deepseek-7b", "route": "/"}


class Noting(Gradient2):
    """Notes what it is told, as one that has long known how fast the engine is."""

    def __init__(self) -> None:
        super().__init__(DynamicConfig())
        self.usual = 1e-9
        self.queued: list[float] = []
        self.served: list[float] = []

    def observe(self, now: float, queued_s: float, service_s: float, prompt_tokens: int, in_flight: int) -> None:
        self.queued.append(queued_s)
        self.served.append(service_s)


def ask(request_id: str = "r", **fields: Any) -> Request:
    return Request(request_id, (1, 2, 3), fields.pop("sampling", SamplingParams(max_tokens=3)), **fields)


async def all_of(state: ServerState, request: Request, **more: Any) -> list[Event]:
    async with aclosing(passage(state, LOCAL_CALLER, request, **WAY, **more)) as events:
        return [event async for event in events]


@pytest.mark.parametrize(
    "request_",
    [
        ask(sampling=SamplingParams(max_tokens=0, prompt_logprobs=0), task="embed"),
        ask(sampling=SamplingParams(max_tokens=0, prompt_logprobs=0)),
        ask(),
    ],
    ids=["an embedding", "scores", "text"],
)
def test_a_request_that_was_served_tells_of_no_queue(request_: Request) -> None:
    state, law = state_of(quick()), Noting()
    state.overload.law = law
    asyncio.run(all_of(state, request_))
    assert len(law.queued) == 1 and law.queued[0] < law.served[0]


async def finish_of(state: ServerState, requests: Sequence[Request]) -> Finish:
    async with aclosing(several(state, LOCAL_CALLER, requests, group="g", **WAY)) as events:
        found = [event async for event in events]
    assert isinstance(found[-1], Finish)
    return found[-1]


def four(**fields: Any) -> list[Request]:
    return [ask(f"r{index}", **fields) for index in range(4)]


def room_for(choices: int, engine: Any = None) -> ServerState:
    state = state_of(engine or quick())
    contract = Contract(ceiling=choices)
    state.overload = Overload(DynamicConfig(contracts={LOCAL_CALLER.tenant: contract}))
    return state


def test_the_prompts_of_one_call_wait_for_room_once_the_first_has_begun() -> None:
    state = room_for(1)
    assert asyncio.run(finish_of(state, four())).reasons == ("length",) * 4
    assert sum(partition.shed for partition in state.overload.partitions.values()) == 0


def test_the_prompts_of_one_call_wait_for_a_place_in_the_engines_queue() -> None:
    engine = FakeEngine(reply=say("Hello"), ttft_s=0.001, inter_token_s=0.001, max_running=1, max_waiting=1)
    assert asyncio.run(finish_of(state_of(engine), four())).reasons == ("length",) * 4


def test_the_prompts_of_one_call_wait_for_a_budget_that_is_set_aside(tmp_path: Path) -> None:
    engine = FakeEngine(reply=say("Hello"), ttft_s=0.001, inter_token_s=0.001, max_model_len=CONTEXT)

    async def main() -> Finish:
        async with running(books.meter([budget(tokens=60)])) as meter:
            state = state_of(engine)
            state.meter = meter
            return await finish_of(state, four(sampling=SamplingParams(max_tokens=20)))

    with opened(tmp_path / "control.db") as books:
        assert asyncio.run(main()).reasons == ("stop",) * 4


def test_the_first_prompt_of_a_call_is_refused_at_once_and_nothing_is_charged() -> None:
    engine = RecordingEngine()
    state, charge = room_for(1, engine), Charge()
    taken = state.overload.enter(LOCAL_CALLER, ask())

    async def main() -> None:
        CHARGE.set(charge)
        await finish_of(state, four())

    with pytest.raises(Problem, match="room for 1 answers"):
        asyncio.run(main())
    taken.leave()
    assert not engine.requests and not charge.begun


def test_the_wait_for_room_ends_at_the_deadline() -> None:
    state = room_for(1, FakeEngine(reply=say("Hello" * 50), ttft_s=0.001, inter_token_s=0.01, max_model_len=CONTEXT))
    sampling = SamplingParams(max_tokens=20)
    first, *others = four(sampling=sampling)
    late = [replace(request, deadline=time.monotonic() + 0.05) for request in others]
    assert asyncio.run(finish_of(state, [first, *late])).reasons == ("length", "deadline", "deadline", "deadline")


def test_the_wait_for_room_is_bounded_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepseek.api.passage.PATIENCE_S", 0.05)
    engine = FakeEngine(ttft_s=0.0, inter_token_s=0.01, max_running=1, max_waiting=0, max_model_len=CONTEXT)
    with pytest.raises(AdmissionError) as caught:
        asyncio.run(finish_of(state_of(engine), four(sampling=SamplingParams(max_tokens=100))))
    assert caught.value.reason == "queue_full"


class SlowToOpen(FreeMeter):
    """Opens accounts when it is told to."""

    def __init__(self) -> None:
        self.asked, self.may = asyncio.Event(), asyncio.Event()

    async def open(self, caller: Any, request: Request, model: str, route: str) -> Account:
        self.asked.set()
        await self.may.wait()
        return await super().open(caller, request, model, route)


@pytest.mark.parametrize("by_drain", [True, False])
def test_a_request_that_is_cancelled_while_its_lease_is_opened_never_reaches_the_engine(by_drain: bool) -> None:
    engine = RecordingEngine()
    state, meter = state_of(engine), SlowToOpen()
    state.meter = meter

    async def main() -> list[Event]:
        state.lifecycle.running.add("r")
        task = asyncio.create_task(all_of(state, ask()))
        await meter.asked.wait()
        await (state.lifecycle.cancel_running() if by_drain else state.lifecycle.cancel("r"))
        meter.may.set()
        return await task

    (finish,) = asyncio.run(main())
    assert isinstance(finish, Finish) and finish.reasons == ("cancelled",)
    assert not engine.requests and not state.lifecycle.cancelled
