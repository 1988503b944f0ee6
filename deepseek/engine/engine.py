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
from pathlib import Path
from typing import Any

from torch import Tensor

from deepseek.core.engine import Embedding, Event, Finish, FinishReason, Load, PromptScores, Request, SwapMode, Usage
from deepseek.core.errors import INTERRUPTS, AdmissionError, EngineError
from deepseek.engine.administration import Administration
from deepseek.engine.grammar.compiler import GrammarCompiler
from deepseek.engine.jobs import Command, Jobs
from deepseek.engine.loop import EngineLoop
from deepseek.engine.reading import read_embedding, read_scores, to_embed, to_score
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
        self._compiling: dict[str, tuple[Request, Mailbox]] = {}  # whose constraint is not ready yet
        self._compiling_lock = threading.Lock()
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

        One with a constraint is queued once that is compiled; a constraint that cannot be is an AdmissionError of the
        stream's first event.
        """
        if self._closed:
            raise _closed_error()
        mailbox = Mailbox(request.id)
        if request.constraint is not None:
            self._compile(request, mailbox)
        else:
            with self._compiling_lock:
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
            for request_id in list(self._compiling):
                self._cancel(request_id)
            self.loop.end_all("cancelled")
            self._mail.put(None)
            self._jobs.close(_closed_error())
            if self._grammars is not None:
                await asyncio.to_thread(self._grammars.close)
        await asyncio.to_thread(self._thread.join)

    def _compile(self, request: Request, mailbox: Mailbox) -> None:
        """Queue a request once its constraint is compiled. Raises AdmissionError for what can be said before."""
        self.loop.require_servable(request)
        if self._grammars is None:
            raise AdmissionError("this engine has no grammars", where="constraint", fix="leave it out")
        with self._compiling_lock:
            self._require_new(request.id)
            self._compiling[request.id] = request, mailbox
        mailbox.task = asyncio.get_running_loop().create_task(self._admit(request, mailbox, self._grammars))

    async def _admit(self, request: Request, mailbox: Mailbox, grammars: GrammarCompiler) -> None:
        assert request.constraint is not None
        try:
            grammar = await grammars.compile_async(request.constraint)
            with self._compiling_lock:
                if mailbox.complete:  # it was cancelled meanwhile
                    return
                del self._compiling[request.id]
                self.loop.add(request, mailbox.receive, grammar.matcher)
            self._mail.put(None)
        except BaseException as error:  # whatever it is, the reader must not wait for ever
            with self._compiling_lock:
                if not mailbox.complete:
                    self._compiling.pop(request.id, None)
                    mailbox.refuse(error if isinstance(error, Exception) else _not_admitted(error))
            if isinstance(error, (asyncio.CancelledError, *INTERRUPTS)):
                raise

    def _require_new(self, request_id: str) -> None:
        if request_id in self._compiling:
            raise AdmissionError("a live request has this id", reason="duplicate", where="id", found=request_id)

    def _cancel(self, request_id: str) -> None:
        with self._compiling_lock:
            found = self._compiling.pop(request_id, None)
            if found is not None:
                request, mailbox = found
                reason: FinishReason = "cancelled"
                usage = Usage(len(request.prompt_ids), 0)
                try:
                    mailbox.receive([Finish(request_id, (reason,) * request.sampling.n, usage)])
                except EngineError:
                    log.info("request %s had no reader any more", request_id)
        if found is None:
            self.loop.end(request_id, "cancelled")

    # The engine's thread.

    def _run(self) -> None:
        idle = False
        try:
            while not self._closed:
                self._read_mail(wait=idle)
                self._run_commands()
                idle = not self.loop.step() and not self._commands
        finally:
            self._stop()

    def _stop(self) -> None:
        """Nothing is computed any more: whoever waits is told so, also where it was not `close` that ended the thread."""
        error = _closed_error()
        with self._closing:
            self._closed = True
        self.loop.end_all("cancelled")
        self._read_mail(wait=False)
        for command in self._commands:
            command.fail(error)
        self._commands.clear()
        self._jobs.close(error)
        self._administration.abandon(error)

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

    def _run_commands(self) -> None:
        """Run the commands whose time has come, in order of arrival."""
        waiting: deque[Command] = deque()
        while self._commands:
            command = self._commands.popleft()
            if not command.run():
                waiting.append(command)
        self._commands = waiting

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
