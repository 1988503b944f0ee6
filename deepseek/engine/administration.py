"""What is done to a serving engine besides requests: other weights, sleep and wake, adapters.

Each method does its slow part at once, on the caller's thread, and hands what must not meet a step to `between_steps`,
which runs it before the next one and returns its result. So whatever fails in the slow part has changed nothing. One
call at a time, except `unload_adapter`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol, get_args

from deepseek.core.engine import SwapMode
from deepseek.core.errors import ConfigError, EngineError
from deepseek.core.memory import return_free_memory
from deepseek.engine.loop import EngineLoop
from deepseek.engine.weights import Source, Weights
from deepseek.models.adapter_files import read_adapter


class BetweenSteps(Protocol):
    """Runs `do` when no step is under way and `when()` holds, looked at before each step."""

    def __call__(self, do: Callable[[], Any], when: Callable[[], bool] = ...) -> Any: ...


class Administration:
    """weights: None for a worker that computes without a model; then there is nothing to administer.

    later: runs what it is given before some step to come, without waiting.
    """

    def __init__(
        self,
        loop: EngineLoop,
        weights: Weights | None,
        between_steps: BetweenSteps,
        later: Callable[[Callable[[], None]], None],
    ) -> None:
        self._loop, self._known_weights, self._between_steps = loop, weights, between_steps
        self._unloading: defaultdict[int, list[Future[None]]] = defaultdict(list)
        self._later = later
        loop.adapters.on_unused = lambda handle: later(lambda: self._free_adapter(handle))

    def update_weights(self, source: Source, mode: SwapMode) -> int:
        """See `core.Engine`."""
        if mode not in get_args(SwapMode):
            raise ConfigError("unknown", where="mode", found=repr(mode), expected=" or ".join(get_args(SwapMode)))
        weights, loop = self._weights, self._loop
        if mode == "drain" and loop.paused:
            raise ConfigError("nothing drains while the engine sleeps", where="mode", found=mode, expected="recompute")
        new = weights.read(source)
        version: int
        if mode == "recompute":
            version = self._between_steps(lambda: loop.change_weights(lambda: weights.use(new)))
            return version
        loop.drain(True)
        try:
            version = self._between_steps(
                lambda: loop.change_weights(lambda: weights.use(new)), when=lambda: loop.drained
            )
            return version
        finally:
            loop.drain(False)
            self._later(lambda: None)  # whoever steps may be waiting for something to do

    def sleep(self, level: int, path: str | Path | None) -> None:
        """See `core.Engine`."""
        if level not in (1, 2):
            raise ConfigError("out of range", where="level", found=level, expected="1 (the cache) or 2 (weights too)")
        weights, loop = self._weights, self._loop
        drops_weights = level == 2 and weights.present
        kept = weights.path if path is None else weights.locate(path)
        if drops_weights and kept is None:
            raise ConfigError(
                "the weights in use came from tensors and could not be read again",
                where="level",
                found=level,
                expected="1, or weights=path",
                fix="save them as a checkpoint and give its path",
            )

        def fall_asleep() -> None:
            loop.pause()
            weights.worker.drop_cache()
            if drops_weights and kept is not None:
                weights.drop(kept)

        self._between_steps(fall_asleep)
        return_free_memory()

    def wake(self) -> None:
        """See `core.Engine`."""
        weights, loop = self._weights, self._loop
        if not loop.paused:
            return
        new = None
        if not weights.present:
            assert weights.path is not None
            new = weights.read(weights.path)
        cache = weights.worker.new_cache()

        def wake_up() -> None:
            if new is not None and weights.were_dropped(new):
                weights.use(new)
            elif new is not None:  # other weights, so another version
                loop.change_weights(lambda: weights.use(new))
            weights.worker.cache = cache
            loop.resume()

        self._between_steps(wake_up)

    def load_adapter(self, name: str, path: str | Path) -> int:
        """See `core.Engine`."""
        worker, loop = self._weights.worker, self._loop
        adapter = read_adapter(path, worker.model)

        def install() -> int:
            handle = loop.new_adapter_handle()
            worker.adapters.install(handle, adapter)
            loop.publish_adapter(name, handle)
            return handle

        handle: int = self._between_steps(install)
        return handle

    def unload_adapter(self, name: str) -> Future[None]:
        """See `core.Engine`. Returns at once; the future is done when the adapter has been freed."""
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()  # it cannot be cancelled
        self._loop.withdraw_adapter(name, lambda handle: self._unloading[handle].append(done))
        return done

    def abandon(self, error: EngineError) -> None:
        """The engine is closed: whoever still waits for an adapter to be freed is told so."""
        for waiting in self._unloading.values():
            for done in waiting:
                done.set_exception(error)
        self._unloading.clear()

    def _free_adapter(self, handle: int) -> None:
        self._weights.worker.adapters.remove(handle)
        for done in self._unloading.pop(handle, ()):
            done.set_result(None)

    @property
    def _weights(self) -> Weights:
        if self._known_weights is None:
            raise EngineError("this engine's worker has no weights of its own")
        return self._known_weights
