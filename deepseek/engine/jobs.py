"""Work besides generation, in its two kinds: commands, which meet no step, and jobs, which take long."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any

from deepseek.core.errors import EngineError


class Command:
    """Something to do between two steps, and what came of it. It waits until `when()` holds."""

    def __init__(self, do: Callable[[], Any], when: Callable[[], bool] = lambda: True) -> None:
        self._do, self._when = do, when
        self.outcome: Future[Any] = Future()

    def run(self) -> bool:
        """Do it if its time has come. Whatever it raises is its sender's, not the engine's."""
        try:
            if not self._when():
                return False
            self.outcome.set_result(self._do())
        except Exception as error:
            self.outcome.set_exception(error)
        return True

    def fail(self, error: EngineError) -> None:
        self.outcome.set_exception(error)


class Jobs:
    """Runs jobs one after the other on a thread of its own, which starts with the first.

    The thread is a daemon: reading weights can take minutes, and must not keep a process that wants to exit.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._open: set[Future[Any]] = set()
        self._thread: threading.Thread | None = None
        self._closed: EngineError | None = None

    def add(self, do: Callable[[], Any]) -> Future[Any]:
        """A job that is cancelled before its turn is left out; one that has begun goes on."""
        future: Future[Any] = Future()
        with self._lock:
            if self._closed is not None:
                raise self._closed
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="deepseek-jobs", daemon=True)
                self._thread.start()
            self._open.add(future)
            self._queue.put((future, do))
        return future

    def close(self, error: EngineError) -> None:
        """Every job not done yet ends with `error` now; one that runs goes on to its end, but nobody hears of it."""
        with self._lock:
            self._closed = error
            for future in self._open:
                _settle(future, error=error)
            self._open.clear()
            self._queue.put(None)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            _run(*job)
            with self._lock:
                self._open.discard(job[0])
            del job  # while this waits, a finished job must not keep a model alive


def _run(future: Future[Any], do: Callable[[], Any]) -> None:
    if future.done() or not future.set_running_or_notify_cancel():
        return
    try:
        result = do()
    except BaseException as error:
        _settle(future, error=error)
    else:
        _settle(future, result)


def _settle(future: Future[Any], result: Any = None, error: BaseException | None = None) -> None:
    try:
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
    except InvalidStateError:
        return  # the engine was closed, or the caller went away, a moment before
