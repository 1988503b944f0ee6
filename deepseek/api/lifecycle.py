"""Starting, ready, failed, draining: what the readiness probe reports and when a request may still come in.

Ready means that the model has answered: one token was generated after the start, and again after
any failure. Draining is for good: new requests are refused, running ones finish or are cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import Literal

from deepseek.core.engine import Engine, Finish, Request
from deepseek.core.sampling import SamplingParams

Phase = Literal["starting", "ready", "failed", "draining"]

log = logging.getLogger("deepseek.api")


class Lifecycle:
    """Phase and running request ids of one server. Used from one event loop."""

    def __init__(self, engine: Engine, probe_ids: Callable[[], tuple[int, ...]]) -> None:
        self._phase: Phase = "starting"
        self._watchers: list[Callable[[Phase], None]] = []
        self.running: set[str] = set()
        self.cancelled: set[str] = set()
        """Of those, the ones to end though the engine may not have them yet."""
        self._engine = engine
        self._probe_ids = probe_ids
        self._probe: asyncio.Task[None] | None = None

    @property
    def phase(self) -> Phase:
        return self._phase

    @phase.setter
    def phase(self, phase: Phase) -> None:
        if phase != self._phase:
            self._phase = phase
            for told in tuple(self._watchers):
                told(phase)

    def watch(self, changed: Callable[[Phase], None]) -> None:
        """Call `changed` with every new phase, from where it changes."""
        self._watchers.append(changed)

    def unwatch(self, changed: Callable[[Phase], None]) -> None:
        self._watchers.remove(changed)

    @property
    def draining(self) -> bool:
        return self.phase == "draining"

    async def check(self) -> Phase:
        """The phase, after asking the model if it is not known to answer. Concurrent callers share one question."""
        if self.phase in ("starting", "failed"):
            if self._probe is None or self._probe.done():
                self._probe = asyncio.create_task(self._ask())
            await asyncio.shield(self._probe)
        return self.phase

    def engine_failed(self) -> None:
        """A request met an engine that cannot serve: not ready until it answers a probe again."""
        if self.phase == "ready":
            self.phase = "failed"

    def begin_drain(self) -> None:
        """Refuse new requests from now on. Idempotent."""
        self.phase = "draining"

    async def cancel(self, request_id: str) -> None:
        """End a running request with reason "cancelled", also where it has not reached the engine: it waits for its
        lease, or for room."""
        self.cancelled &= self.running
        self.cancelled.add(request_id)
        await self._engine.abort(request_id)

    async def cancel_running(self) -> None:
        """End what still runs with reason "cancelled"; each request then sends its last frame."""
        for request_id in tuple(self.running):
            await self.cancel(request_id)

    async def close(self) -> None:
        """Drain, stop a probe in flight and close the engine."""
        self.begin_drain()
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.gather(self._probe, return_exceptions=True)
        await self._engine.close()

    async def _ask(self) -> None:
        phase: Phase = "failed"
        try:
            request = Request(
                id=f"probe-{secrets.token_hex(8)}",
                prompt_ids=self._probe_ids(),
                sampling=SamplingParams(max_tokens=1, temperature=0.0),
            )
            async for event in self._engine.generate(request):
                if isinstance(event, Finish) and event.reasons[0] in ("stop", "length"):
                    phase = "ready"
        except Exception:
            # Whatever it is, the answer to "is it ready" is no; the traceback is for the operator.
            log.exception("the readiness probe failed")
        if not self.draining:
            self.phase = phase
