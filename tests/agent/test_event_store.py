"""The store of events: in order, whole, on disk when it says so, whatever else goes on or goes wrong."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_support import go, store_in

from deepseek.agent.events import KINDS, Content, ModelAsked, RunStarted, Said, ToolFinished, event_json
from deepseek.agent.record import EventStore, Recorded, RunRecord
from deepseek.core.errors import StoreError
from deepseek.core.messages import Message, TextPart


def said(text: str) -> Said:
    return Said("user", Message("user", (TextPart(text),)))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EventStore]:
    kept = store_in(tmp_path)
    yield kept
    kept.close()


def test_events_come_back_in_order_and_as_they_were(store: EventStore) -> None:
    record = RunRecord(store, "local", "r")
    events = [RunStarted("a", "m", {"x": [1]}), said("short"), said("long " * 500), said("long " * 500)]

    async def main() -> None:
        for event in events:
            record.add(event)
        await store.flush()
        found = await store.events("local", "r")
        assert [(event.seq, event.kind) for event in found] == [
            (1, "run_started"),
            (2, "said"),
            (3, "said"),
            (4, "said"),
        ]
        assert [{"kind": event.kind, **event.data} for event in found] == [event_json(event) for event in events]
        assert [event.seq for event in await store.events("local", "r", after=2, limit=1)] == [3]

    go(main())


def test_what_comes_again_is_stored_once(store: EventStore) -> None:
    """A record grows with what is new in a run, not with the square of its steps."""

    async def main() -> None:
        record = RunRecord(store, "local", "r")
        for _ in range(100):
            record.add(ModelAsked(1, 1, Content([{"name": "f", "description": "x" * 10_000}])))
        await store.flush()
        counted = await store.read(
            "local", lambda c: c.execute("SELECT count(*), sum(length(text)) FROM contents").fetchone()
        )
        assert counted[0] == 1 and counted[1] < 11_000

    go(main())


def test_tenants_have_files_of_their_own(store: EventStore, tmp_path: Path) -> None:
    async def main() -> None:
        for tenant in ("a", "b"):
            RunRecord(store, tenant, "same").add(said(tenant))
        await store.flush()
        assert [event.data["message"]["parts"] for event in await store.events("a", "same")] == [[{"text": "a"}]]
        assert (tmp_path / "a" / "runs.db").exists() and (tmp_path / "b" / "runs.db").exists()
        assert await store.events("nobody", "same") == [] and not (tmp_path / "nobody").exists()

    go(main())


def test_many_writers_lose_nothing(store: EventStore) -> None:
    """Threads and event loops write at once; every run's events are whole and in order."""

    def write(index: int) -> None:
        async def main() -> None:
            records = [RunRecord(store, f"t{index % 2}", f"r{index}-{run}") for run in range(25)]
            for step in range(20):
                for record in records:
                    record.add(said(f"{step}"))
                await asyncio.sleep(0)
            await store.flush()

        asyncio.run(main())

    threads = [threading.Thread(target=write, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def check() -> None:
        for index in range(4):
            for run in range(25):
                events = await store.events(f"t{index % 2}", f"r{index}-{run}")
                assert [event.data["message"]["parts"][0]["text"] for event in events] == [str(i) for i in range(20)]

    go(check())


def test_commits_are_shared(tmp_path: Path) -> None:
    store = EventStore(lambda tenant: tmp_path, linger_s=30.0)
    commits = 0
    real = EventStore._commit_of

    async def main() -> None:
        nonlocal commits

        def counted(self: EventStore, tenant: str, items: object) -> None:
            nonlocal commits
            commits += 1
            real(self, tenant, items)  # type: ignore[arg-type]

        store._commit_of = counted.__get__(store)  # type: ignore[method-assign]
        for index in range(500):
            RunRecord(store, "local", f"r{index}").add(said("x"))
        await store.flush()

    go(main())
    store.close()
    assert commits <= 3


def test_what_cannot_be_written_is_kept_and_written_later(tmp_path: Path) -> None:
    store = EventStore(lambda tenant: tmp_path / "place", linger_s=0.0)
    (tmp_path / "place").write_text("a file where a directory should be")

    async def main() -> None:
        record = RunRecord(store, "local", "r")
        record.add(said("one"))
        with pytest.raises(StoreError, match="cannot be written"):
            await store.flush()
        record.add(said("two"))
        (tmp_path / "place").unlink()
        await store.flush()
        texts = [event.data["message"]["parts"][0]["text"] for event in await store.events("local", "r")]
        assert texts == ["one", "two"]

    go(main())
    store.close()


def test_a_locked_database_is_waited_for(store: EventStore, tmp_path: Path) -> None:
    async def main() -> None:
        record = RunRecord(store, "local", "r")
        record.add(said("one"))
        await store.flush()
        other = sqlite3.connect(tmp_path / "local" / "runs.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        record.add(said("two"))
        flushed = asyncio.ensure_future(store.flush())
        done, _ = await asyncio.wait([flushed], timeout=0.1)
        assert not done
        other.execute("ROLLBACK")
        other.close()
        await flushed
        assert len(await store.events("local", "r")) == 2

    go(main())


def test_an_event_whose_number_is_taken_does_not_hold_up_others(store: EventStore) -> None:
    async def main() -> None:
        RunRecord(store, "local", "r").add(said("one"))
        await store.flush()
        RunRecord(store, "local", "r").add(said("a second one"))
        RunRecord(store, "local", "other").add(said("fine"))
        with pytest.raises(StoreError):
            await store.flush()
        await store.flush()
        assert len(await store.events("local", "r")) == 1 and len(await store.events("local", "other")) == 1

    go(main())


def test_text_that_is_no_unicode_is_written_all_the_same(store: EventStore) -> None:
    async def main() -> None:
        RunRecord(store, "local", "r").add(said("\ud800" + "x" * 400))
        RunRecord(store, "local", "r2").add(said("\ud800\x00"))
        await store.flush()
        assert len(await store.events("local", "r")) == 1 and len(await store.events("local", "r2")) == 1

    go(main())


def test_room_waits_where_too_much_is_pending(tmp_path: Path) -> None:
    store = EventStore(lambda tenant: tmp_path, linger_s=30.0, max_pending=10)

    async def main() -> None:
        record = RunRecord(store, "local", "r")
        for _ in range(50):
            record.add(said("x"))
            await store.room()
            assert len(store._pending) <= 11
        await store.flush()
        assert len(await store.events("local", "r")) == 50

    go(main())
    store.close()


def test_a_closed_store_takes_nothing_and_has_written_all(tmp_path: Path) -> None:
    store = EventStore(lambda tenant: tmp_path, linger_s=30.0)
    record = RunRecord(store, "local", "r")
    record.add(said("x"))
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        record.add(said("y"))
    again = EventStore(lambda tenant: tmp_path)
    assert len(go(again.events("local", "r"))) == 1
    again.close()


_DIES = """
import asyncio, os, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from run_support import Deeds, store_in
from deepseek.agent import Agent
from deepseek.agent.testing import ScriptedModel, calls

async def main():
    store = store_in(Path(sys.argv[2]))
    agent = Agent(ScriptedModel(calls(("add", {"a": 1, "b": 2})), "Done."), Deeds().registry, store=store)
    async def one(index):
        result = await agent.run("x", run_id=f"r{index}")
        print(result.run_id, flush=True)
        if index == 150:
            os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.gather(*(one(index) for index in range(200)))

asyncio.run(main())
"""


def test_a_crash_loses_nothing_that_was_promised(tmp_path: Path) -> None:
    """The process kills itself among two hundred runs: every run that returned has all its events on disk."""
    ran = subprocess.run(
        [sys.executable, "-c", _DIES, str(Path(__file__).parent), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    promised = ran.stdout.split()
    assert "r150" in promised
    store = store_in(tmp_path)

    async def check() -> None:
        for run_id in promised:
            events = await store.events("local", run_id)
            assert [event.seq for event in events] == list(range(1, 10)) and events[-1].kind == "run_finished"

    go(check())
    store.close()


def test_what_lingers_is_written_at_the_interpreters_end(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; import sys\n"
        "from deepseek.agent.record import EventStore, RunRecord\n"
        "from deepseek.agent.events import LimitReached\n"
        "store = EventStore(lambda tenant: Path(sys.argv[1]), linger_s=30.0)\n"
        "RunRecord(store, 'local', 'r').add(LimitReached('steps'))\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=60, env=env)
    store = EventStore(lambda tenant: tmp_path)
    assert [event.kind for event in go(store.events("local", "r"))] == ["limit_reached"]
    store.close()


def test_every_kind_of_event_has_a_name_and_knows_its_fields() -> None:
    assert len(KINDS) == 19 and all(kind == event.kind for kind, event in KINDS.items())
    finished = ToolFinished("c", "f", "ok", "3", None, 1, False, False, 0.5)
    assert event_json(finished)["kind"] == "tool_finished" and event_json(finished)["text"] == "3"
    assert Recorded("r", 1, 0.0, finished).event is finished


def test_runs_are_listed_newest_first(store: EventStore) -> None:
    async def main() -> None:
        for index in range(3):
            RunRecord(store, "local", f"r{index}").add(RunStarted(f"agent{index % 2}", "m", {}))
        await store.flush()
        assert [row.id for row in await store.runs("local")] == ["r2", "r1", "r0"]
        assert [row.id for row in await store.runs("local", agent="agent0", limit=1)] == ["r2"]
        assert await store.runs("local", status="finished") == []

    go(main())
