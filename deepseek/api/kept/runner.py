"""Runs batches: each line through the endpoint it names, in its caller's name, behind everything else that waits.

One task looks for batches that have not ended, at the start and whenever one is made; each runs as a task of its own, and
all together keep a bounded number of lines in the engine. A batch is run by whoever holds its lock file, so a second
server on the same directory leaves it alone and looks again later, as it does after an error. Draining, no line begins;
those that did not end are asked again after the restart, and those that did are not.
"""

from __future__ import annotations

import asyncio
import contextvars
import fcntl
import logging
import math
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from deepseek.api.identity.caller import Caller
from deepseek.api.inner import Endpoint, InnerAnswer, ask_inside
from deepseek.api.kept import batches as rows
from deepseek.api.kept import files
from deepseek.api.kept.batches import Batch, BatchError, BatchStatus
from deepseek.api.kept.callers import recall
from deepseek.api.kept.files import KeptFile
from deepseek.api.kept.lines import Line, Results, check, read_lines, result_line, unanswered_line
from deepseek.api.metering.once import Piece, current_piece
from deepseek.api.passage import CHARGE, Charge, only_set_aside
from deepseek.core.errors import StoreError

if TYPE_CHECKING:
    from deepseek.api.state import ServerState

log = logging.getLogger("deepseek.api")

T = TypeVar("T")

MAX_BATCHES = 16
"""Run at once; the others wait their turn."""
MAX_OF_TENANT = 4
"""Of those, so that one tenant's batches leave room for another's."""
LINES_AT_ONCE = 8
"""Of all batches together."""
LINES_OF_ONE = 4
LOOK_S = 30.0
"""Between looks for batches that another server left."""
AGAIN_S = 1.0
"""Until a batch that did not end here (another server runs it, or the database failed) is tried again: twice as long each
time, up to LOOK_S."""
SAVE_S = 1.0
"""Between writes of how far a batch has come, and looks at whether it was cancelled elsewhere."""
RETRY_S = 0.5, 30.0
Hindrance = Literal["none", "engine", "charged", "set aside", "busy"]
Unanswered = tuple[str, str]
"""A code and a message."""
TRIES: dict[Hindrance, float] = {"none": 1, "engine": 5, "charged": 8, "set aside": 20, "busy": math.inf}
"""How often a line is asked before its error is the answer. engine: it could not serve the line, and that may be the
line's fault. charged: of several prompts some were served each time, and are paid for once. set aside: the budget is only kept for
what runs. busy: nothing was charged, and the batch's window bounds the wait."""
LAST = 2**20
"""Added to the priority of every line: behind whoever waits for an answer."""
READ_LINES = 32


@dataclass(slots=True, eq=False)
class _Run:
    """One batch while it runs here."""

    batch: Batch
    cancelled: asyncio.Event
    saved: float = 0.0
    over: bool = False


class BatchRunner:
    """The batches of one server. Used from one event loop. endpoints: by the path that a batch may name."""

    def __init__(self, state: ServerState, endpoints: dict[str, Endpoint]) -> None:
        self.endpoints = endpoints
        self._state = state
        self._app: Any = None
        self._runs: dict[tuple[str, str], _Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._gate = asyncio.Semaphore(LINES_AT_ONCE)
        self._news = asyncio.Event()
        self._later: dict[tuple[str, str], tuple[float, float]] = {}  # when to try again, in monotonic time; the wait
        self._looking: asyncio.Task[None] | None = None

    def start(self, app: Any) -> None:
        """Run what has not ended, from now on. app: what endpoints find at `request.app`."""
        self._app = app
        self._looking = asyncio.get_running_loop().create_task(self._look(), context=contextvars.Context())

    def wake(self) -> None:
        """There is a new batch."""
        self._news.set()

    def cancel(self, tenant: str, batch_id: str) -> None:
        """The batch's row says "cancelling": end what runs of it."""
        run = self._runs.get((tenant, batch_id))
        if run is not None:
            run.cancelled.set()
        else:
            self._later.pop((tenant, batch_id), None)
        self._news.set()

    async def close(self) -> None:
        """Stop at once; batches that have not ended stay as they are."""
        tasks = [*self._tasks, *([self._looking] if self._looking is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self) -> None:
        while not self._state.lifecycle.draining:
            self._news.clear()
            try:
                if self._state.shelf.in_use:
                    found = await self._state.shelf.read(rows.unfinished)
                    known = {(batch.tenant, batch.id) for batch in found}
                    self._later = {key: later for key, later in self._later.items() if key in known}
                    for batch in found:
                        self._begin(batch)
            except StoreError as error:
                log.error("batches cannot be read: %s", error)
            try:
                now = time.monotonic()
                due = min((at - now for at, _ in self._later.values() if at > now), default=LOOK_S)
                async with asyncio.timeout(min(due, LOOK_S)):
                    await self._news.wait()
            except TimeoutError:
                continue

    def _begin(self, batch: Batch) -> None:
        key = batch.tenant, batch.id
        of_tenant = sum(tenant == batch.tenant for tenant, _ in self._runs)
        if key in self._runs or len(self._runs) >= MAX_BATCHES or of_tenant >= MAX_OF_TENANT:
            return
        again, waited = self._later.get(key, (0.0, 0.0))
        if time.monotonic() < again:
            return
        run = self._runs[key] = _Run(batch, asyncio.Event())
        task = asyncio.get_running_loop().create_task(self._run(run))
        self._tasks.add(task)

        def ended(done: asyncio.Task[None]) -> None:
            self._tasks.discard(done)
            del self._runs[key]
            if run.over:
                self._later.pop(key, None)
            else:
                wait = min(2 * waited or AGAIN_S, LOOK_S)
                self._later[key] = time.monotonic() + wait, wait
            if not done.cancelled():
                self._news.set()  # others may be waiting for its place

        task.add_done_callback(ended)

    async def _run(self, run: _Run) -> None:
        batch = run.batch
        directory = await self._state.shelf.directory_of(batch.tenant)
        lock = await asyncio.to_thread(_take, directory / f"{batch.id}.lock")
        if lock is None:
            return
        try:
            # It may have ended between the look and the lock.
            now = await self._state.shelf.read(lambda connection: rows.get(connection, batch.tenant, batch.id))
            run.over = now is None or now.status not in rows.UNFINISHED
            if now is not None and not run.over:
                run.batch = now
                await self._carry_out(run, directory)
                run.over = run.batch.status not in rows.UNFINISHED
                await asyncio.to_thread((directory / f"{batch.id}.lock").unlink, missing_ok=True)
        except StoreError as error:
            log.error("batch %s: stopped for now: %s", batch.id, error)
        except Exception:
            log.exception("batch %s failed", batch.id)
            failure = BatchError("internal_error", "The server failed on this batch; the log has it under its id.")
            failed = run.batch.at("failed", time.time(), failures=(failure,))
            await self._state.shelf.write(lambda connection: rows.save(connection, failed))
            run.over = True
        finally:
            await asyncio.to_thread(os.close, lock)

    async def _carry_out(self, run: _Run, directory: Path) -> None:
        batch = run.batch
        if batch.status == "validating":
            path = directory / batch.input_file
            total, failures = await asyncio.to_thread(check, path, batch.endpoint)
            status: BatchStatus = "failed" if failures else "in_progress"
            await self._save(run, batch.at(status, time.time(), total=total, failures=failures))
            if failures and run.batch.status == "failed":
                return
        results = await asyncio.to_thread(Results, directory / batch.output, directory / batch.errors_file)
        try:
            if run.batch.status == "in_progress" and not await self._answer_all(run, directory, results):
                return  # the server is on its way out; the rest is for the next one
            await self._finalize(run, directory, results)
        finally:
            await asyncio.to_thread(results.close)

    async def _answer_all(self, run: _Run, directory: Path, results: Results) -> bool:
        """Ask what has not been asked. False if the server drains before all is."""
        lines = _Source(directory / run.batch.input_file, run.batch.endpoint, results.done.ids)
        writing = asyncio.Lock()
        workers = [asyncio.create_task(self._work(run, lines, results, writing)) for _ in range(LINES_OF_ONE)]
        cancelled = asyncio.create_task(run.cancelled.wait())
        try:
            working = asyncio.gather(*workers)
            both: set[asyncio.Future[Any]] = {working, cancelled}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if run.cancelled.is_set():
                return True
            return all(await working)
        finally:
            for task in (*workers, cancelled):
                task.cancel()
            await asyncio.gather(*workers, cancelled, return_exceptions=True)
            await asyncio.to_thread(lines.close)

    async def _work(self, run: _Run, lines: _Source, results: Results, writing: asyncio.Lock) -> bool:
        while (line := await lines.next()) is not None:
            if self._state.lifecycle.draining:
                return False
            answer = await self._ask(run.batch, line)
            if answer is None:
                return False
            line_id = f"batch_req_{secrets.token_hex(12)}"
            good = None
            if isinstance(answer, InnerAnswer):
                written = result_line(line_id, line.custom_id, answer.status, answer.request_id, answer.body)
                good = answer.body if answer.status < 300 else None
            else:
                written = unanswered_line(line_id, line.custom_id, *answer)
            async with writing:
                # What was answered, and paid for, is written even if the batch is cancelled meanwhile.
                await _to_the_end(results.add, line.custom_id, written, good)
                if time.monotonic() - run.saved >= SAVE_S:
                    await self._save(run, _counted(run.batch, results))
        return True

    async def _ask(self, batch: Batch, line: Line) -> InnerAnswer | Unanswered | None:
        """One line's answer, waiting where the server says to. None if the server drains before there is one."""
        endpoint, wait, tries = self.endpoints[batch.endpoint], RETRY_S[0], Counter[Hindrance]()
        lifecycle = self._state.lifecycle
        while not lifecycle.draining:
            answer, charge = None, Charge()
            async with self._gate:
                if time.time() >= batch.expires:
                    return "batch_expired", "The batch's completion window was over before this request was answered."
                caller = self._caller_of(batch)
                if caller is None:
                    return "caller_gone", "The key that the batch was made with is not valid any more."
                verdict = await self._state.limiter.take(caller)
                if verdict.allowed:
                    CHARGE.set(charge)
                    # Until its answer is in the results, a line may be asked again, after a crash of the server too.
                    current_piece.set(Piece(f"{batch.tenant} {batch.id} {line.custom_id}"))
                    answer = await ask_inside(self._app, caller, endpoint, batch.endpoint, line.body)
            # What waits takes no place of those that can be asked.
            if answer is None:
                await _sleep(batch, max(verdict.retry_s, 0.001))
                continue
            hindrance = self._hindrance(answer, charge)
            tries[hindrance] += 1
            if tries[hindrance] >= TRIES[hindrance]:
                return answer
            if answer.problem is not None and answer.problem.kind != "draining":
                await _sleep(batch, wait)
                wait = min(2 * wait, RETRY_S[1])
            if hindrance == "engine":
                await lifecycle.check()
        return None

    def _hindrance(self, answer: InnerAnswer, charge: Charge) -> Hindrance:
        """Why a line is asked again."""
        problem = answer.problem
        if problem is None:
            return "none"
        if problem.status == 500 and self._state.lifecycle.phase == "failed":
            return "engine"
        if problem.kind == "draining":
            return "busy"
        if problem.status not in (429, 503) or (problem.kind == "budget-exhausted" and not only_set_aside(problem)):
            return "none"
        if charge.begun:
            return "charged"
        return "set aside" if problem.kind == "budget-exhausted" else "busy"

    def _caller_of(self, batch: Batch) -> Caller | None:
        caller = recall(self._state.identifier, batch.caller)
        if caller is None:
            return None
        return replace(caller, tier=replace(caller.tier, priority=caller.tier.priority + LAST, may_prioritise=False))

    async def _finalize(self, run: _Run, directory: Path, results: Results) -> None:
        """Make the results files of the tenant, and say how it ended."""
        batch = _counted(run.batch, results)
        if batch.status == "in_progress":
            await self._save(run, batch.at("finalizing", time.time()))
            batch = _counted(run.batch, results)
        now = time.time()
        for file_id, count, name in (
            (batch.output, batch.completed, "output"),
            (batch.errors_file, batch.failed, "errors"),
        ):
            path = directory / file_id
            if not count:
                await asyncio.to_thread(path.unlink, missing_ok=True)
                continue
            size = (await asyncio.to_thread(path.stat)).st_size
            file = KeptFile(file_id, f"{batch.id}_{name}.jsonl", "batch_output", size, now)
            await self._state.shelf.write(
                lambda connection, file=file: files.put_anyway(connection, batch.tenant, file)  # type: ignore[misc]
            )
        if batch.status == "cancelling":
            end: BatchStatus = "cancelled"
        else:
            end = "expired" if now >= batch.expires and batch.failed else "completed"
        ended = batch.at(end, now)
        await self._state.shelf.write(lambda connection: rows.save(connection, ended))
        run.batch = ended

    async def _save(self, run: _Run, batch: Batch) -> None:
        """Write how far it has come; if it was cancelled meanwhile, that holds."""
        run.saved = time.monotonic()

        def save(connection: Any) -> Batch | None:
            if rows.save(connection, batch, unless=("cancelling",)):
                return batch
            return rows.get(connection, batch.tenant, batch.id)

        found = await self._state.shelf.write(save)
        if found is not None and found.status == "cancelling":
            # Its times come from whoever cancelled it, its counts from here.
            run.batch = replace(found, total=batch.total)
            run.cancelled.set()
        else:
            run.batch = batch


class _Source:
    """The lines of an input that are not done, read ahead a few at a time in a worker thread."""

    def __init__(self, path: Path, endpoint: str, done: set[str]) -> None:
        self._lines: Iterator[Line] = (line for line in read_lines(path, endpoint) if line.custom_id not in done)
        self._ahead: list[Line] = []
        self._reading = asyncio.Lock()

    async def next(self) -> Line | None:
        async with self._reading:
            if not self._ahead:
                self._ahead = await asyncio.to_thread(_some, self._lines)
            return self._ahead.pop(0) if self._ahead else None

    def close(self) -> None:
        close: Callable[[], None] = getattr(self._lines, "close", lambda: None)
        close()


async def _sleep(batch: Batch, seconds: float) -> None:
    """So long, and not past the batch's window."""
    await asyncio.sleep(max(0.0, min(seconds, batch.expires - time.time())))


async def _to_the_end(work: Callable[..., None], *arguments: object) -> None:
    """Run it in a worker thread; a cancellation waits until it is done."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _some(lines: Iterator[Line]) -> list[Line]:
    return list(islice(lines, READ_LINES))


def _counted(batch: Batch, results: Results) -> Batch:
    done = results.done
    return replace(
        batch,
        completed=done.completed,
        failed=done.failed,
        prompt_tokens=done.prompt_tokens,
        completion_tokens=done.completion_tokens,
    )


def _take(path: Path) -> int | None:
    """Hold a lock file; None if somebody else does."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
