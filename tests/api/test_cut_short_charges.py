"""What a request that was cut short is charged: what the engine computed for it, whether or not anybody read that, and the
part of its prompt that was found in the prefix cache at the cache's price."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from metering_support import Books, ask, budget, caller, opened, running

from deepseek.api.metering.budget_meter import BudgetMeter
from deepseek.api.metering.budgets import BudgetConfig
from deepseek.api.metering.prices import PriceConfig
from deepseek.api.passage import passage
from deepseek.core.engine import Event, Finish, Ready, Request, Tokens
from deepseek.engine.fake import FakeEngine, babble

PRICES = {"deepseek-7b": PriceConfig.model_validate({"input": 10, "cached_input": 1, "output": 100})}
UNBOUNDED: list[BudgetConfig] = []
BOUNDED = [budget(tokens=10**6)]


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    with opened(tmp_path / "control.db") as found:
        yield found


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 30))


def cached(**options: Any) -> FakeEngine:
    settings = {"reply": babble, "ttft_s": 0.0, "inter_token_s": 0.0, "max_model_len": 10**6, "cached_tokens": 6}
    return FakeEngine(**settings | options)


def way(books: Books, engine: Any, meter: BudgetMeter, request: Request, **fields: Any) -> Any:
    return passage(books.state(engine, meter), caller(), request, model="deepseek-7b", route="/v1/generate", **fields)


async def read_until(events: Any, enough: Callable[[Event], bool]) -> Event:
    async for event in events:
        if enough(event):
            found: Event = event
            return found
    raise AssertionError("the stream ended before")


def cost(prompt: int, cached: int, completion: int) -> int:
    return ((prompt - cached) * 10 + cached + completion * 100) * 1000


@pytest.mark.parametrize("budgets", [UNBOUNDED, BOUNDED], ids=["unbounded", "bounded"])
def test_a_client_that_leaves_pays_the_caches_price_for_what_the_cache_had(
    books: Books, budgets: list[BudgetConfig]
) -> None:
    async def work() -> None:
        async with (
            running(books.meter(budgets, PRICES)) as meter,
            aclosing(way(books, cached(), meter, ask("r1"))) as events,
        ):
            await read_until(events, lambda event: isinstance(event, Tokens))

    run(work())
    (row,) = books.ledger
    assert (row.reasons, row.prompt_tokens, row.cached_tokens) == ("cancelled", 10, 6)
    assert row.cost == cost(10, 6, row.completion_tokens)


@pytest.mark.parametrize(
    ("budgets", "reason"), [(BOUNDED, "deadline"), (UNBOUNDED, "deadline"), ([budget(tokens=50)], "budget")]
)
def test_a_deadline_and_a_budget_charge_what_the_cache_had_as_such(
    books: Books, budgets: list[BudgetConfig], reason: str
) -> None:
    now = [0.0]

    async def sleep(seconds: float) -> None:
        now[0] += seconds
        await asyncio.sleep(0)

    async def work() -> None:
        deadline = 30.0 if reason == "deadline" else None
        engine = cached(clock=lambda: now[0], sleep=sleep, inter_token_s=1.0)
        async with running(books.meter(budgets, PRICES)) as meter:
            state = books.state(engine, meter)
            account = await meter.open(caller(), ask("r1"), "deepseek-7b", "/v1/generate")
            request = ask("r1", deadline=deadline, lease=account.lease)
            async for event in state.engine.generate(request):
                account.note(event)
                if isinstance(event, Finish):
                    assert event.reasons == (reason,)
                    await account.settle(event.usage, event.reasons)
            await account.close()

    run(work())
    (row,) = books.ledger
    assert (row.reasons, row.cached_tokens, row.completion_tokens > 0) == (reason, 6, True)
    assert row.cost == cost(10, 6, row.completion_tokens)


@pytest.mark.parametrize("budgets", [UNBOUNDED, BOUNDED], ids=["unbounded", "bounded"])
@pytest.mark.parametrize("made", [40, 100])
def test_tokens_that_a_slow_reader_never_read_are_charged(books: Books, budgets: list[BudgetConfig], made: int) -> None:
    """made: how many of 100 tokens there are when it leaves."""

    async def work() -> None:
        enough = asyncio.Event()

        def reply(request: Request, choice: int, seed: int) -> Iterator[int]:
            for count in range(100):
                if count == made - 1:
                    enough.set()
                yield 0x61

        async with running(books.meter(budgets)) as meter:
            events = way(books, cached(reply=reply), meter, ask("r1", max_tokens=100))
            await read_until(events, lambda event: isinstance(event, Ready))
            await enough.wait()
            await events.aclose()

    run(work())
    (row,) = books.ledger
    assert row.completion_tokens >= made and row.reasons == "cancelled"
    assert made < 100 or row.completion_tokens == 100


def test_who_waited_for_room_in_the_queue_is_charged_alike(books: Books) -> None:
    """The prompts of one call after the first come to the engine by a way of their own."""

    async def work() -> None:
        enough, begun = asyncio.Event(), asyncio.Event()
        begun.set()

        def reply(request: Request, choice: int, seed: int) -> Iterator[int]:
            for _ in range(30):
                yield 0x61
            enough.set()
            yield 0x61

        async with running(books.meter()) as meter:
            engine = cached(reply=reply)
            async with aclosing(way(books, engine, meter, ask("r1", max_tokens=31), begun=begun)) as events:
                await read_until(events, lambda event: isinstance(event, Ready))
                await enough.wait()

    run(work())
    (row,) = books.ledger
    assert (row.completion_tokens, row.cached_tokens) == (31, 6)


def test_who_leaves_before_anything_was_computed_pays_nothing(books: Books) -> None:
    async def work() -> None:
        async with running(books.meter()) as meter:
            engine = cached(max_running=1, ttft_s=60.0)
            events = way(books, engine, meter, ask("r1"))
            reading = asyncio.create_task(anext(events))
            while not engine.load().running:
                await asyncio.sleep(0)
            reading.cancel()
            await asyncio.wait([reading])
            await events.aclose()

    run(work())
    assert books.ledger == []
