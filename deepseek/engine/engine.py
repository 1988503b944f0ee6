"""The engine behind `core.Engine`: the loop on its own thread, streams of events on the callers' event loops.

A second thread, started when first needed, does what takes long besides serving (reading weights, adapters), one job at
a time; what must not meet a step it hands to the engine's thread, which runs it between two of them.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from deepseek.core.engine import (
    Embedding,
    Event,
    Finish,
    FinishReason,
    Lease,
    Load,
    PromptScores,
    Request,
    SwapMode,
    Usage,
)
from deepseek.core.errors import INTERRUPTS, AdmissionError, EngineError
from deepseek.engine.administration import Administration
from deepseek.engine.grammar.compiler import GrammarCompiler
from deepseek.engine.jobs import Command, Jobs
from deepseek.engine.loop import EngineLoop
from deepseek.engine.reading import read_embedding, read_scores, to_embed, to_score
from deepseek.engine.request import samples
from deepseek.engine.stream import Mailbox, Stream
from deepseek.engine.weights import Weights

log = logging.getLogger("deepseek.engine")


class Engine:
    """Serves one model. Made anywhere; `generate` is called from an event loop. `close` ends everything.

    weights, grammars: of the loop's model, as `build_loop` returns them. Without the first, weights cannot be changed;
    without the second, constraints are refused.
    """

    def __init__(
        self, loop: EngineLoop, weights: Weights | None = None, grammars: GrammarCompiler | None = None
    ) -> None:
        self.loop = loop
        self._grammars = grammars
        self._preparing: dict[str, tuple[Request, Mailbox]] = {}  # whose constraint or bad words are not ready yet
        self._preparing_lock = threading.Lock()
        # What wakes the thread: None, a mailbox whose reader is gone, or a command. The garbage collector writes here
        # too, at any point of any thread, and of all queues only this one allows that.
        self._mail: queue.SimpleQueue[Mailbox | Command | None] = queue.SimpleQueue()
        self._commands: deque[Command] = deque()
        self._closed = False
        self._closing = threading.Lock()
        self._administration = Administration(loop, weights, self._between_steps, self._later)
        self._jobs = Jobs()
        self._thread = threading.Thread(target=self._run, name="deepseek-engine", daemon=True)
        self._thread.start()

    def generate(self, request: Request) -> AsyncIterator[Event]:
        """See the protocol. Must be called from a running event loop; the request is queued before this returns.

        One with a constraint is queued once that is compiled, and one with bad words once those are tokenised; where that
        cannot be done, the stream raises an AdmissionError instead of its first event.
        """
        if self._closed:
            raise _closed_error()
        if request.lease is not None and samples(request):
            self._watch(request.lease)
        mailbox = Mailbox(request.id, request.whole)
        if request.constraint is not None or request.sampling.bad_words:
            self._prepare(request, mailbox)
        else:
            with self._preparing_lock:
                self._require_new(request.id)
                self.loop.add(request, mailbox.receive)
            self._mail.put(None)
        return Stream(self, mailbox)

    async def score(self, request: Request) -> PromptScores:
        """See the protocol."""
        return await read_scores(self.generate(to_score(request)))

    async def encode(self, request: Request) -> Embedding:
        """See the protocol."""
        return await read_embedding(self.generate(to_embed(request)))

    async def abort(self, request_id: str) -> None:
        self._cancel(request_id)

    def abandon(self, mailbox: Mailbox) -> None:
        """Abort soon, from wherever a stream is dropped: takes no lock that the dropping thread may hold already."""
        self._mail.put(mailbox)

    async def load_adapter(self, name: str, path: str | Path) -> int:
        """See the protocol."""
        version: int = await self._job(lambda: self._administration.load_adapter(name, path))
        return version

    async def unload_adapter(self, name: str) -> None:
        """See the protocol. A caller that is cancelled has withdrawn the name all the same."""
        with self._closing:
            if self._closed:
                raise _closed_error()
            freed = self._administration.unload_adapter(name)
        await asyncio.wrap_future(freed)

    async def update_weights(self, source: str | Path | Mapping[str, Tensor], mode: SwapMode = "recompute") -> int:
        """See the protocol. The tensors are read on another thread: leave them alone until this returns.

        A path's weights are read beside those in use, so for a while memory holds both. A caller that is cancelled does
        not stop an update that has begun.
        """
        if isinstance(source, Mapping):
            source = dict(source)
        version: int = await self._job(lambda: self._administration.update_weights(source, mode))
        return version

    async def sleep(self, level: int = 1, *, weights: str | Path | None = None) -> None:
        """See the protocol."""
        await self._job(lambda: self._administration.sleep(level, weights))

    async def wake(self) -> None:
        """See the protocol."""
        await self._job(self._administration.wake)

    @property
    def is_sleeping(self) -> bool:
        return self.loop.paused

    def load(self) -> Load:
        load = self.loop.load()
        if self._grammars is None:
            return load
        stats = self._grammars.stats
        return replace(
            load,
            grammars_compiled=stats.compiled,
            grammars_refused=stats.refused,
            grammar_seconds=stats.seconds,
        )

    async def close(self) -> None:
        """See the protocol. An update, sleep or wake under way ends with EngineError."""
        with self._closing:
            first, self._closed = not self._closed, True
        if first:
            self._cancel_unprepared()
            self.loop.end_all("cancelled")
            self._mail.put(None)
            self._jobs.close(_closed_error())
            if self._grammars is not None:
                await asyncio.to_thread(self._grammars.close)
        await asyncio.to_thread(self._thread.join)

    def _watch(self, lease: Lease) -> None:
        """Have it wake the engine's thread, also from within a lock of its own. Raises EngineError."""
        try:
            # Not this engine's method: a lease may outlive the engine, and must not keep a model in memory.
            lease.watch(partial(self._mail.put, None))
        except INTERRUPTS:
            raise
        except BaseException as error:
            raise EngineError("the request's lease failed", found=type(error).__name__) from error

    def _prepare(self, request: Request, mailbox: Mailbox) -> None:
        """Queue a request once what it needs is there. Raises AdmissionError for what can be said before."""
        self.loop.require_servable(request)
        if request.constraint is not None and self._grammars is None:
            raise AdmissionError("this engine has no grammars", where="constraint", fix="leave it out")
        with self._preparing_lock:
            self._require_new(request.id)
            self._preparing[request.id] = request, mailbox
        mailbox.task = asyncio.get_running_loop().create_task(self._admit(request, mailbox))

    async def _admit(self, request: Request, mailbox: Mailbox) -> None:
        try:
            try:
                async with asyncio.timeout(self.loop.seconds_to(request.deadline)):
                    prepared = await asyncio.to_thread(self.loop.with_ids, request)
                    new_matcher = None
                    if request.constraint is not None and self._grammars is not None:
                        new_matcher = (await self._grammars.compile_async(request.constraint)).matcher
            except TimeoutError:
                self._finish_unprepared(request.id, "deadline", mailbox)
                return
            with self._preparing_lock:
                if mailbox.complete:  # it was cancelled meanwhile
                    return
                del self._preparing[request.id]
                self.loop.add(prepared, mailbox.receive, new_matcher)
            self._mail.put(None)
        except BaseException as error:  # whatever it is, the reader must not wait for ever
            with self._preparing_lock:
                if not mailbox.complete:
                    self._preparing.pop(request.id, None)
                    mailbox.refuse(error if isinstance(error, Exception) else _not_admitted(error))
            if isinstance(error, (asyncio.CancelledError, *INTERRUPTS)):
                raise

    def _require_new(self, request_id: str) -> None:
        if self._closed:  # under the lock: after this, whoever closes finds the request and ends it
            raise _closed_error()
        if request_id in self._preparing or self.loop.is_live(request_id):
            raise AdmissionError("a live request has this id", reason="duplicate", where="id", found=request_id)

    def _cancel(self, request_id: str) -> None:
        if not self._finish_unprepared(request_id, "cancelled"):
            self.loop.end(request_id, "cancelled")
            self._mail.put(None)  # a command may have waited for that end, and the thread for something to do

    def _finish_unprepared(self, request_id: str, reason: FinishReason, mailbox: Mailbox | None = None) -> bool:
        """End a request that is not queued yet; if `mailbox` is given, only one that has it. Whether there was one."""
        with self._preparing_lock:
            request, found = self._preparing.get(request_id, (None, None))
            if request is None or found is None or (mailbox is not None and found is not mailbox):
                return False
            del self._preparing[request_id]
            try:
                found.receive([Finish(request_id, (reason,) * request.sampling.n, Usage(len(request.prompt_ids), 0))])
            except EngineError:
                log.info("request %s had no reader any more", request_id)
        return True

    # The engine's thread.

    def _run(self) -> None:
        idle = False
        try:
            while not self._closed:
                self._read_mail(wait=idle)
                self._run_commands()
                # Where nothing can be computed, commands that wait do so for mail or a deadline, like everybody.
                idle = not self.loop.step() and not self._run_commands()
        finally:
            self._stop()

    def _stop(self) -> None:
        """Nothing is computed any more: whoever waits is told so, also where it was not `close` that ended the thread."""
        error = _closed_error()
        with self._closing:
            self._closed = True
        for last in (
            self._cancel_unprepared,
            lambda: self.loop.end_all("cancelled"),
            lambda: self._read_mail(wait=False),
            lambda: self._fail_commands(error),
            lambda: self._jobs.close(error),
            lambda: self._administration.abandon(error),
        ):
            try:
                last()
            except Exception:
                log.exception("closing the engine")  # the others still have somebody waiting for them

    def _cancel_unprepared(self) -> None:
        for request_id in list(self._preparing):
            self._finish_unprepared(request_id, "cancelled")

    def _fail_commands(self, error: EngineError) -> None:
        for command in self._commands:
            command.fail(error)
        self._commands.clear()

    def _read_mail(self, wait: bool) -> None:
        # Asleep, nothing but a deadline happens by itself.
        timeout = self.loop.deadline_in() if wait else None
        try:
            while True:
                mail = self._mail.get(wait, timeout)
                wait = False
                if isinstance(mail, Command):
                    self._commands.append(mail)
                # One that has ended may share its id with a younger request.
                elif mail is not None and not mail.complete:
                    self._cancel(mail.request_id)
        except queue.Empty:
            return

    def _run_commands(self) -> bool:
        """Run the commands whose time has come, in order of arrival. Whether there were any."""
        waiting: deque[Command] = deque()
        ran = False
        while self._commands:
            command = self._commands.popleft()
            if command.run():
                ran = True
            else:
                waiting.append(command)
        self._commands = waiting
        return ran

    # Other threads.

    def _between_steps(self, do: Callable[[], Any], when: Callable[[], bool] = lambda: True) -> Any:
        """Have the engine's thread call `do` between two steps, once `when()` holds; its result, or what it raised."""
        command = Command(do, when)
        with self._closing:  # after `close` nobody reads the mail any more
            if self._closed:
                raise _closed_error()
            self._mail.put(command)
        return command.outcome.result()

    def _later(self, do: Callable[[], None]) -> None:
        self._mail.put(Command(do))

    async def _job(self, do: Callable[[], Any]) -> Any:
        if self._closed:
            raise _closed_error()
        return await asyncio.wrap_future(self._jobs.add(do))


def _not_admitted(error: BaseException) -> EngineError:
    return EngineError("the request could not be admitted", found=type(error).__name__)


def _closed_error() -> EngineError:
    return EngineError("the engine is closed")
