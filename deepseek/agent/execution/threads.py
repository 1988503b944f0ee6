"""Threads for functions that block. A thread cannot be stopped, so one that does not come back is given up, not lost.

Giving a job up frees its slot at once: another thread takes its place. How many given-up threads may be about is
bounded too; beyond that nothing new is started until some of them come back. All are daemons: they hold up no exit.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue

from deepseek.agent.execution.errors import ToolBusy

DEFAULT_THREADS = 32
DEFAULT_GIVEN_UP = 32
DEFAULT_WAITING = 1024
_IDLE_S = 10.0


class Job:
    """One piece of work. `work` must not raise; it hands its result on by itself."""

    __slots__ = ("given_up", "started", "work")

    def __init__(self, work: Callable[[], None]) -> None:
        self.work = work
        self.started = False
        self.given_up = False


class Threads:
    """At most `most` threads work at a time; `most_waiting` jobs may wait for one; `most_given_up` may hang."""

    def __init__(
        self, most: int = DEFAULT_THREADS, most_given_up: int = DEFAULT_GIVEN_UP, most_waiting: int = DEFAULT_WAITING
    ) -> None:
        self._most, self._most_given_up, self._most_waiting = most, most_given_up, most_waiting
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._working = 0  # threads that have a job and a slot
        self._waiting: deque[Job] = deque()
        self._given_up = 0

    @property
    def given_up(self) -> int:
        """Threads that were given up and have not come back."""
        return self._given_up

    def start(self, work: Callable[[], None]) -> Job:
        """Run the work as soon as a thread is free. Raises ToolBusy."""
        job = Job(work)
        with self._lock:
            if self._given_up >= self._most_given_up:
                raise ToolBusy(
                    "too many tools hang in threads",
                    found=self._given_up,
                    expected=f"fewer than {self._most_given_up}",
                    fix="give tools that may hang time-outs of their own, or isolate=True",
                )
            if self._working < self._most:
                self._working += 1
                job.started = True
                self._employ(job)
            elif len(self._waiting) < self._most_waiting:
                self._waiting.append(job)
            else:
                raise ToolBusy("too many calls wait for a thread", found=len(self._waiting))
        return job

    def give_up(self, job: Job) -> bool:
        """Wait for the job no longer. Returns whether it runs on all the same."""
        with self._lock:
            if not job.started:
                self._waiting.remove(job)
                return False
            if job.given_up:
                return True
            job.given_up = True
            self._given_up += 1
            if self._waiting and self._given_up < self._most_given_up:
                following = self._waiting.popleft()
                following.started = True
                self._employ(following)
            else:
                self._working -= 1
            return True

    def _employ(self, job: Job) -> None:
        if self._idle:
            self._idle.pop().inbox.put(job)
        else:
            _Worker(self, job)

    def _next(self, worker: _Worker, done: Job) -> Job | None:
        """What the worker is to do after `done`; None: it is to leave, or to wait for its inbox."""
        with self._lock:
            if done.given_up:
                self._given_up -= 1
                worker.leaving = True
                return None
            if self._waiting:
                job = self._waiting.popleft()
                job.started = True
                return job
            self._working -= 1
            self._idle.append(worker)
            return None

    def _retire(self, worker: _Worker) -> bool:
        """Whether an idle worker may leave; not if a job is on its way."""
        with self._lock:
            if worker in self._idle:
                self._idle.remove(worker)
                return True
            return False


class _Worker:
    __slots__ = ("_threads", "inbox", "leaving")

    def __init__(self, threads: Threads, job: Job) -> None:
        self._threads = threads
        self.inbox: SimpleQueue[Job] = SimpleQueue()
        self.leaving = False
        threading.Thread(target=self._run, args=(job,), name="tool", daemon=True).start()

    def _run(self, first: Job) -> None:
        job: Job | None = first
        while True:
            while job is not None:
                job.work()
                job = self._threads._next(self, job)
            if self.leaving:
                return
            try:
                job = self.inbox.get(timeout=_IDLE_S)
            except Empty:
                if self._threads._retire(self):
                    return
