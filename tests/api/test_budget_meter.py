"""The meter: leases before the engine begins, slices as it generates, settlement before the end is told."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import pytest
from api_support import HeldEngine
from metering_support import NOON, Books, ask, budget, caller, opened, running
from sqlalchemy.exc import OperationalError

from deepseek.api.metering.account import BilledAccount
from deepseek.api.metering.budget_meter import BudgetMeter
from deepseek.api.metering.counters import Grant
from deepseek.api.metering.lease import TokenLease
from deepseek.api.metering.ledger import record_once
from deepseek.api.metering.prices import PriceConfig
from deepseek.api.passage import passage
from deepseek.api.problems import Problem
from deepseek.core.engine import Event, Finish, Ready, Tokens, Usage
from deepseek.core.errors import AdmissionError, ConfigError, StoreError
from deepseek.engine.fake import FakeEngine, babble

ROUTE = "/v1/generate"


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    with opened(tmp_path / "control.db") as found:
        yield found


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 30))


def endless(**options: Any) -> FakeEngine:
    return FakeEngine(reply=babble, ttft_s=0.0, inter_token_s=0.0, max_model_len=10**6, **options)


async def open_one(meter: BudgetMeter, request_id: str = "r1", **fields: Any) -> BilledAccount:
    return await meter.open(caller(), ask(request_id, **fields), "deepseek-7b", ROUTE)


async def committed(books: Books) -> None:
    """Whatever was given to the writer before is done."""
    await books.writer.run(lambda connection: None)


def test_whom_no_budget_bounds_has_no_lease_and_is_written_down_all_the_same(books: Books) -> None:
    async def work() -> None:
        async with running(books.meter([budget(name="other", tokens=5)])) as meter:
            account = await open_one(meter)
            assert account.lease is None
            account.note(Ready("r1", 1))
            await account.settle(Usage(10, 3, 4), ("stop", "length"))
            await account.close()

    run(work())
    (row,) = books.ledger
    assert (row.request_id, row.tenant, row.subject, row.key_id) == ("r1", "acme", "k1", "k1")
    assert (row.model, row.route, row.reasons) == ("deepseek-7b", ROUTE, "stop,length")
    assert (row.prompt_tokens, row.cached_tokens, row.completion_tokens, row.cost) == (10, 4, 3, 0)


def test_a_lease_begins_with_the_prompt_and_a_slice_for_each_choice(books: Books) -> None:
    async def work() -> None:
        async with running(books.meter([budget(tokens=5000)])) as meter:
            account = await open_one(meter, n=3)
            assert account.lease is not None
            assert (account.lease.granted, account.lease.final) == (3 * 256, False)
            assert list(books.balance().values()) == [(0, 10 + 3 * 256)]
            await account.close()

    run(work())
    assert list(books.balance().values()) == [(0, 0)]


def test_no_more_is_set_aside_than_the_request_may_generate(books: Books) -> None:
    async def work() -> None:
        async with running(books.meter([budget(tokens=5000)])) as meter:
            account = await open_one(meter, max_tokens=7, n=2)
            assert account.lease is not None
            assert (account.lease.granted, account.lease.final) == (14, True)
            await account.close()

    run(work())


def test_the_next_slice_is_asked_for_when_less_than_half_of_one_is_left(books: Books) -> None:
    async def work() -> None:
        async with running(books.meter([budget(tokens=5000)])) as meter:
            account = await open_one(meter)
            assert account.lease is not None
            granted: list[int] = []
            account.lease.watch(lambda: granted.append(account.lease.granted))  # type: ignore[union-attr]
            account.lease.use(127)
            await committed(books)
            assert granted == []
            account.lease.use(128)
            account.lease.use(129)
            await committed(books)
            assert granted == [512]
            assert list(books.balance().values()) == [(0, 10 + 512)]
            await account.close()

    run(work())


def test_a_slice_is_granted_only_once_it_is_on_disk(books: Books) -> None:
    gate = threading.Event()

    async def work() -> None:
        async with running(books.meter([budget(tokens=5000)])) as meter:
            account = await open_one(meter)
            lease = account.lease
            assert lease is not None
            told = asyncio.Event()
            loop = asyncio.get_running_loop()
            lease.watch(lambda: loop.call_soon_threadsafe(told.set))
            books.writer.submit(lambda connection: gate.wait(10))
            lease.use(200)
            assert (lease.granted, told.is_set()) == (256, False)
            gate.set()
            await told.wait()
            assert lease.granted == 512
            assert list(books.balance().values()) == [(0, 522)]
            await account.close()

    run(work())


def test_the_rest_of_a_budget_is_granted_and_is_final(books: Books) -> None:
    async def work() -> None:
        async with running(books.meter([budget(tokens=300), budget("tenant", tokens=10**6)])) as meter:
            account = await open_one(meter)
            lease = account.lease
            assert lease is not None
            lease.use(200)
            await committed(books)
            assert (lease.granted, lease.final) == (290, True)
            lease.use(290)
            account.note(Ready("r1", 1))
            await account.settle(Usage(10, 290), ("budget",))

    run(work())
    assert list(books.balance().values()) == [(300, 0), (300, 0)]


def test_a_slice_that_does_not_fit_whole_is_granted_in_part_from_the_start(books: Books) -> None:
    async def work() -> None:
        async with running(books.meter([budget(tokens=11)])) as meter:
            account = await open_one(meter)
            assert account.lease is not None
            assert (account.lease.granted, account.lease.final) == (1, True)
            await account.close()

    run(work())


@pytest.mark.parametrize(("period", "wait"), [("day", "43200"), ("month", str(5 * 86400 + 43200)), ("total", None)])
def test_a_budget_that_is_used_up_refuses_and_says_until_when(books: Books, period: str, wait: str | None) -> None:
    async def work() -> Problem:
        async with running(books.meter([budget(period=period, tokens=20)], clock=lambda: NOON)) as meter:
            account = await open_one(meter, max_tokens=10)
            account.note(Ready("r1", 1))
            await account.settle(Usage(10, 10), ("length",))
            with pytest.raises(Problem) as refused:
                await open_one(meter, "r2")
            return refused.value

    problem = run(work())
    assert (problem.status, problem.kind) == (429, "budget-exhausted")
    assert problem.headers.get("Retry-After") == wait
    assert problem.headers["x-should-retry"] == "false"
    assert "key k1" in problem.detail and "20 of 20 tokens are spent" in problem.detail


def test_a_budget_that_is_only_set_aside_for_others_says_to_come_back_soon(books: Books) -> None:
    async def work() -> None:
        async with running(books.meter([budget(tokens=20)], clock=lambda: NOON)) as meter:
            first = await open_one(meter)
            with pytest.raises(Problem) as refused:
                await open_one(meter, "r2")
            assert refused.value.headers == {"Retry-After": "1"}
            await first.close()
            second = await open_one(meter, "r2")
            await second.close()

    run(work())


def test_a_budget_in_money_stops_at_the_last_token_it_pays_for(books: Books) -> None:
    prices = {"deepseek-7b": PriceConfig.model_validate({"input": 1, "output": 10})}

    async def work() -> None:
        # A prompt of 10 tokens is 0.00001; a token more is 0.00001.
        async with running(books.meter([budget(money="0.000125")], prices)) as meter:
            account = await open_one(meter)
            assert account.lease is not None
            assert (account.lease.granted, account.lease.final) == (11, True)
            account.note(Ready("r1", 1))
            await account.settle(Usage(10, 11), ("budget",))
            with pytest.raises(Problem, match=r"0\.00012 of 0\.000125 are spent"):
                await open_one(meter, "r2")

    run(work())
    assert [row.cost for row in books.ledger] == [120_000]


def test_budgets_in_money_without_any_price_are_refused_at_the_start(books: Books) -> None:
    with pytest.raises(ConfigError, match="prices"):
        books.meter([budget(money=1)])


def test_a_model_without_a_price_is_refused_where_money_bounds_the_caller(books: Books) -> None:
    prices = {"other": PriceConfig.model_validate({"input": 1, "output": 10})}

    async def work() -> None:
        async with running(books.meter([budget(money=1)], prices)) as meter:
            with pytest.raises(Problem) as refused:
                await open_one(meter)
            assert (refused.value.status, refused.value.kind) == (403, "unpriced-model")

    run(work())


def test_an_embedding_is_charged_for_its_prompt_and_its_engine_gets_no_lease(books: Books) -> None:
    async def work() -> None:
        async with running(books.meter([budget(tokens=15)])) as meter:
            account = await open_one(meter, task="embed")
            assert account.lease is None
            account.note(Ready("r1", 1))
            await account.settle(Usage(10, 0), ("stop",))
            with pytest.raises(Problem):
                await open_one(meter, "r2", task="embed")

    run(work())
    assert list(books.balance().values()) == [(10, 0)]


def test_a_request_that_is_cut_short_is_charged_for_what_was_generated(books: Books) -> None:
    async def work() -> None:
        async with running(books.meter([budget(tokens=500)])) as meter:
            bounded = await open_one(meter, "r1")
            bounded.note(Ready("r1", 1))
            bounded.note(Tokens("r1", 0, "ab", (1, 2)))
            assert bounded.lease is not None
            bounded.lease.use(5)  # the engine was further than the reader
            await bounded.close()
            free = await meter.open(caller("other", "free"), ask("r2"), "deepseek-7b", ROUTE)
            free.note(Ready("r2", 1))
            free.note(Tokens("r2", 0, "ab", (1, 2)))
            await free.close()

    run(work())
    assert [(row.completion_tokens, row.reasons) for row in books.ledger] == [(5, "cancelled"), (2, "cancelled")]
    assert books.open_leases == 0


def test_a_request_that_never_began_is_not_charged(books: Books) -> None:
    async def work() -> None:
        async with running(books.meter([budget(tokens=500)])) as meter:
            left = await open_one(meter, "r1")
            await left.close()
            late = await open_one(meter, "r2")
            await late.settle(Usage(10, 0), ("deadline",))
            await committed(books)

    run(work())
    assert [(row.request_id, row.prompt_tokens) for row in books.ledger] == [("r2", 0)]
    assert (books.open_leases, list(books.balance().values())) == (0, [(0, 0)])


def test_a_request_that_the_engine_refuses_leaves_nothing_set_aside(books: Books) -> None:
    async def work() -> None:
        engine = endless()
        async with running(books.meter([budget(tokens=500)])) as meter:
            state = books.state(engine, meter)
            for count in range(3):
                async with aclosing(_passage(state, ask(f"r{count}", prompt=2 * 10**6 // 2))) as events:
                    with suppress(AdmissionError, Problem):
                        await anext(events)
            await committed(books)

    run(work())
    assert (books.open_leases, books.ledger) == (0, [])


def test_leaving_while_the_lease_is_opened_leaves_nothing_set_aside(books: Books) -> None:
    gate = threading.Event()

    async def work() -> None:
        async with running(books.meter([budget(tokens=500)])) as meter:
            books.writer.submit(lambda connection: gate.wait(10))
            opening = asyncio.create_task(open_one(meter))
            await asyncio.sleep(0)  # it has given its work to the writer
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            gate.set()
            await committed(books)

    run(work())
    assert (books.open_leases, list(books.balance().values())) == (0, [(0, 0)])


def test_only_the_first_settlement_counts_even_if_nobody_waits_for_it(books: Books) -> None:
    gate = threading.Event()

    async def work() -> None:
        async with running(books.meter([budget(tokens=500)])) as meter:
            account = await open_one(meter)
            account.note(Ready("r1", 1))
            books.writer.submit(lambda connection: gate.wait(10))
            first = asyncio.create_task(account.settle(Usage(10, 3), ("stop",)))
            await asyncio.sleep(0)
            first.cancel()
            gate.set()
            await account.settle(Usage(10, 99), ("length",))
            await account.close()

    run(work())
    assert [(row.completion_tokens, row.reasons) for row in books.ledger] == [(3, "stop")]


def test_the_end_is_told_only_once_the_usage_is_on_disk(books: Books) -> None:
    gate = threading.Event()

    async def work() -> None:
        async with running(books.meter([budget(tokens=5000)])) as meter:
            engine = HeldEngine(["a"])
            events = _passage(books.state(engine, meter), ask("r1"))
            assert isinstance(await anext(events), Ready)
            assert isinstance(await anext(events), Tokens)
            books.writer.submit(lambda connection: gate.wait(10))
            engine.release()
            end = asyncio.create_task(anext(events))
            await asyncio.wait((end,), timeout=0.05)
            assert not end.done()
            gate.set()
            assert isinstance(await end, Finish)
            assert len(books.ledger) == 1
            await events.aclose()

    run(work())


def test_a_settlement_that_the_disk_refuses_is_tried_again(books: Books) -> None:
    def broken(connection: Any) -> None:
        raise OperationalError("COMMIT", {}, Exception("disk full"))

    async def work() -> None:
        meter = books.meter([budget(tokens=5000)])
        async with running(meter):
            account = await open_one(meter)
            account.note(Ready("r1", 1))
            run_now = books.writer.run
            books.writer.run = lambda work, **options: run_now(broken)  # type: ignore[assignment,method-assign]
            with pytest.raises(StoreError):
                await account.settle(Usage(10, 3), ("stop",))
            await account.close()
            books.writer.run = run_now  # type: ignore[method-assign]
            assert books.open_leases == 1

    run(work())
    assert (books.open_leases, [row.completion_tokens for row in books.ledger]) == (0, [3])
    assert list(books.balance().values()) == [(13, 0)]


def test_a_row_of_the_ledger_that_the_disk_refuses_is_tried_again(books: Books) -> None:
    def broken(connection: Any) -> None:
        raise OperationalError("COMMIT", {}, Exception("disk full"))

    async def work() -> None:
        async with running(books.meter()) as meter:
            submit = books.writer.submit
            books.writer.submit = lambda work: submit(broken)  # type: ignore[assignment,method-assign]
            accounts = [await open_one(meter, f"r{number}") for number in range(3)]
            for account in accounts:
                account.note(Ready("r", 1))
            settled = await asyncio.gather(
                *(account.settle(Usage(10, 3), ("stop",)) for account in accounts), return_exceptions=True
            )
            assert all(isinstance(error, OperationalError | StoreError) for error in settled)
            books.writer.submit = submit  # type: ignore[method-assign]
            assert books.ledger == []

    run(work())
    assert [row.request_id for row in books.ledger] == ["r0", "r1", "r2"]


def test_a_row_whose_commit_nobody_heard_the_end_of_is_written_once(books: Books) -> None:
    async def work() -> None:
        async with running(books.meter()) as meter:
            account = await open_one(meter)
            account.note(Ready("r1", 1))
            await account.settle(Usage(10, 3), ("stop",))

    run(work())
    (row,) = books.ledger
    again = {name: value for name, value in row._mapping.items() if name != "id"}
    books.database.write_now(lambda connection: record_once(connection, again))
    books.database.write_now(lambda connection: record_once(connection, again | {"request_id": "r2"}))
    assert [row.request_id for row in books.ledger] == ["r1", "r2"]


def test_a_writer_that_takes_nothing_ends_a_lease_instead_of_starving_it() -> None:
    asked: list[int] = []
    lease = TokenLease(Grant(256, False), 256, lambda: asked.append(1))
    lease.use(200)
    lease.use(256)
    assert asked == [1]
    lease.end()
    assert (lease.granted, lease.final) == (256, True)
    lease.answer(Grant(512, False))
    assert (lease.granted, lease.final) == (256, True)


def test_the_lease_of_a_server_that_died_is_charged_at_its_last_slice(books: Books) -> None:
    async def dying() -> None:
        meter = books.meter([budget(tokens=5000)])
        await meter.start()
        account = await open_one(meter)
        assert account.lease is not None
        account.lease.use(200)
        await committed(books)
        # Nothing is closed: the process is gone.

    async def following() -> None:
        async with running(books.meter([budget(tokens=5000)])):
            pass

    run(dying())
    assert list(books.balance().values()) == [(0, 522)]
    run(following())
    assert list(books.balance().values()) == [(522, 0)]
    (row,) = books.ledger
    assert (row.prompt_tokens, row.completion_tokens, row.reasons, row.seconds) == (10, 512, "crashed", None)


def test_a_request_counts_whole_on_the_day_it_began(books: Books) -> None:
    now = [NOON]

    async def work() -> None:
        async with running(books.meter([budget(tokens=1000)], clock=lambda: now[0])) as meter:
            account = await open_one(meter)
            now[0] += 86400
            lease = account.lease
            assert lease is not None
            lease.use(200)
            await committed(books)
            account.note(Ready("r1", 1))
            await account.settle(Usage(10, 300), ("stop",))
            second = await open_one(meter, "r2")
            await second.close()

    run(work())
    assert sorted(books.balance().values()) == [(0, 0), (310, 0)]
    assert [row.day for row in books.ledger] == [NOON // 86400]


@pytest.mark.parametrize("cap", [700, 4321])
def test_many_streams_on_one_budget_use_it_up_exactly(books: Books, cap: int) -> None:
    """Opened at once, the check-then-charge race that lets others' budgets be overrun."""

    async def one(meter: BudgetMeter, engine: FakeEngine, number: int) -> int:
        try:
            async with aclosing(_passage(books.state(engine, meter), ask(f"r{number}", max_tokens=10**5))) as events:
                async for event in events:
                    if isinstance(event, Finish):
                        assert event.reasons == ("budget",)
                        return event.usage.total_tokens
        except Problem as problem:
            assert problem.kind == "budget-exhausted"
        return 0

    async def work() -> int:
        engine = endless(max_running=64)
        async with running(books.meter([budget("tenant", tokens=cap), budget("key", tokens=10**6)])) as meter:
            return sum(await asyncio.gather(*(one(meter, engine, number) for number in range(64))))

    assert run(work()) == cap == books.tokens
    assert sorted(books.balance().values()) == [(cap, 0), (cap, 0)]
    assert books.open_leases == 0


def _passage(state: Any, request: Any) -> Any:
    return passage(state, caller(), request, model="deepseek-7b", route=ROUTE)


def test_events_pass_unchanged_where_nothing_bounds_them(books: Books) -> None:
    async def work() -> list[Event]:
        async with running(books.meter()) as meter:
            state = books.state(endless(), meter)
            return [event async for event in _passage(state, ask("r1", max_tokens=3))]

    events = run(work())
    assert isinstance(events[0], Ready) and isinstance(events[-1], Finish)
    assert books.tokens == 13
