"""Work whose charge is on disk and whose answer is lost: it is not charged again, however it is asked for again."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from api_support import quick
from kept_support import CHAT, asking, batch_of, ended, line, results
from metering_support import Books, ask, budget, caller, opened, running
from starlette.datastructures import Headers

from deepseek.api import serving
from deepseek.api.idempotency_store import IdempotencyStore
from deepseek.api.identity.caller import Caller, WrittenCaller
from deepseek.api.kept import batches
from deepseek.api.kept.shelf import Shelf
from deepseek.api.metering.budgets import BudgetConfig
from deepseek.api.metering.claim import Claim, current_claim
from deepseek.api.metering.once import Piece, current_piece
from deepseek.api.metering.tables import idempotency, leases
from deepseek.core.engine import Ready, Usage
from deepseek.core.errors import StoreError

BUDGETS = [budget(tokens=10**6)]
COMPLETIONS = "/v1/completions"


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    with opened(tmp_path / "control.db") as found:
        yield found


class Known:
    """Everybody is the same caller, and found again."""

    async def identify(self, headers: Headers) -> Caller:
        return caller()

    def recall(self, written: WrittenCaller) -> Caller:
        return caller()


@contextmanager
def served(books: Books, directory: Path, budgets: list[BudgetConfig]) -> Iterator[str]:
    state = books.state(quick(), books.meter(budgets))
    state.identifier = Known()
    state.shelf = Shelf(books.database, books.writer, directory)
    with serving(state, grace_s=0.2) as server:
        yield server.url


def forget(books: Books, directory: Path, batch_id: str, custom_id: str) -> None:
    """As if the server had died with that line charged, and before its answer was in the results."""
    batch = books.database.read_now(lambda connection: batches.get(connection, "acme", batch_id))
    assert batch is not None
    (path,) = directory.glob(f"*/{batch.output}")
    kept = [raw for raw in path.read_bytes().splitlines(keepends=True) if f'"{custom_id}"'.encode() not in raw]
    path.write_bytes(b"".join(kept))
    undone = batch.at("in_progress", 0.0)
    books.database.write_now(lambda connection: batches.save(connection, undone))


@pytest.mark.parametrize("budgets", [[], BUDGETS], ids=["unbounded", "bounded"])
@pytest.mark.parametrize(
    ("endpoint", "body"),
    [(CHAT, {}), (COMPLETIONS, {"prompt": ["a", "b", "a"], "max_tokens": 3})],
    ids=["one prompt", "several"],
)
def test_a_batchs_line_that_is_asked_again_after_a_crash_is_not_charged_again(
    books: Books, tmp_path: Path, budgets: list[BudgetConfig], endpoint: str, body: dict[str, Any]
) -> None:
    asked = [line(f"r{index}", endpoint, **body) for index in range(3)]
    with served(books, tmp_path / "files", budgets) as url, asking(url) as client:
        made = batch_of(client, asked, endpoint)
        first = results(client, ended(client, made.id).output_file_id)
    charged, balance = books.ledger, books.balance()
    forget(books, tmp_path / "files", made.id, "r1")
    with served(books, tmp_path / "files", budgets) as url, asking(url) as client:
        batch = ended(client, made.id)
        assert (batch.status, batch.request_counts.completed) == ("completed", 3)
        assert set(results(client, batch.output_file_id)) == set(first)
    assert len(charged) == 3 * (3 if body else 1)
    assert (books.ledger, books.balance(), books.open_leases) == (charged, balance, 0)


def test_a_line_that_was_charged_needs_no_budget_to_be_answered(books: Books, tmp_path: Path) -> None:
    asked = [line("r0", messages=[{"role": "user", "content": "a"}], max_tokens=3)]
    with served(books, tmp_path / "files", []) as url, asking(url) as client:
        made = batch_of(client, asked)
        ended(client, made.id)
    forget(books, tmp_path / "files", made.id, "r0")
    used_up = [budget(tokens=books.tokens)]
    with served(books, tmp_path / "files", used_up) as url, asking(url) as client:
        found = results(client, ended(client, made.id).output_file_id)
    assert found["r0"]["response"]["body"]["choices"][0]["finish_reason"] == "length"
    assert len(books.ledger) == 1


def test_what_a_dead_server_had_set_aside_for_a_line_is_given_back(books: Books) -> None:
    """The line is asked again, and charged then."""

    async def dying() -> None:
        meter = books.meter(BUDGETS)
        await meter.start()
        current_piece.set(Piece("acme batch-1 r0"))
        await meter.open(caller(), ask("r1"), "m", "/")

    async def following() -> None:
        async with running(books.meter(BUDGETS)):
            pass

    asyncio.run(dying())
    assert books.open_leases == 1
    asyncio.run(following())
    assert (books.ledger, list(books.balance().values()), books.open_leases) == ([], [(0, 0)], 0)


def test_a_line_that_was_cut_short_is_charged_again_when_it_is_asked_again(books: Books) -> None:
    async def work() -> None:
        async with running(books.meter(BUDGETS)) as meter:
            for number, reason in enumerate(("cancelled", "stop", "stop")):
                current_piece.set(Piece("acme batch-1 r0"))
                account = await meter.open(caller(), ask(f"r{number}"), "m", "/")
                account.note(Ready("r", 1))
                await account.settle(Usage(10, 3), (reason,))  # type: ignore[arg-type]

    asyncio.run(work())
    assert [row.reasons for row in books.ledger] == ["cancelled", "stop"]
    assert list(books.balance().values()) == [(26, 0)]


def test_two_that_settle_one_line_at_once_charge_it_once(books: Books) -> None:
    """Both began before either was charged."""

    async def work(budgets: list[BudgetConfig]) -> None:
        async with running(books.meter(budgets)) as meter:
            accounts = []
            for number in range(2):
                current_piece.set(Piece(f"acme {budgets} r0"))
                accounts.append(await meter.open(caller(), ask(f"r{number}"), "m", "/"))
            for account in accounts:
                account.note(Ready("r", 1))
            await asyncio.gather(*(account.settle(Usage(10, 3), ("stop",)) for account in accounts))

    for budgets in ([], BUDGETS):
        asyncio.run(work(budgets))
    assert len(books.ledger) == 2
    assert list(books.balance().values()) == [(26, 0)] and books.rows(leases) == []


def failing(books: Books) -> Callable[[], None]:
    """The writer commits nothing, until what is returned is called."""
    submit = books.writer._put

    def broken(job: Any) -> None:
        raise StoreError("the disk is full")

    books.writer._put = broken  # type: ignore[method-assign]

    def mend() -> None:
        books.writer._put = submit  # type: ignore[method-assign]

    return mend


@pytest.mark.parametrize("budgets", [[], BUDGETS], ids=["unbounded", "bounded"])
def test_a_key_whose_usage_is_written_late_is_held_until_then_and_is_lost_after(
    books: Books, budgets: list[BudgetConfig]
) -> None:
    async def work() -> list[Any]:
        async with running(books.meter(budgets)) as meter:
            store = IdempotencyStore(books.writer, meter.presence)
            claim = await store.take("0" * 64, "acme", "f")
            assert isinstance(claim, Claim)
            current_claim.set(claim)
            account = await meter.open(caller(), ask("r1"), "m", "/")
            account.note(Ready("r1", 1))
            mend = failing(books)
            with pytest.raises(StoreError):
                await account.settle(Usage(10, 3), ("stop",))
            mend()
            assert claim.failed
            store.release(claim)
            during = await store.take("0" * 64, "acme", "f")
        return [during, await store.take("0" * 64, "acme", "f")]

    assert asyncio.run(work()) == ["running", "lost"]
    assert [row.completion_tokens for row in books.ledger] == [3]
    assert [(row.state, row.settled) for row in books.rows(idempotency)] == [("lost", True)]


def test_a_key_of_which_nothing_was_used_is_free_though_the_ledger_fails(books: Books) -> None:
    async def work() -> Any:
        async with running(books.meter()) as meter:
            store = IdempotencyStore(books.writer, meter.presence)
            claim = await store.take("0" * 64, "acme", "f")
            assert isinstance(claim, Claim)
            current_claim.set(claim)
            account = await meter.open(caller(), ask("r1"), "m", "/")
            mend = failing(books)
            with pytest.raises(StoreError):
                await account.settle(Usage(0, 0), ("deadline",))
            mend()
            store.release(claim)
            return await store.take("0" * 64, "acme", "f")

    assert isinstance(asyncio.run(work()), Claim)
