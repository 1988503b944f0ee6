"""How many choices may run at once: Netflix's Gradient2 (github.com/Netflix/concurrency-limits), on what the engine says.

    gradient = clamp(tolerance · usual / now, 1/2, 1)
    limit   <- (1 - smoothing) · limit + smoothing · (limit · gradient + queue)

`usual` and `now` are seconds per prompt token until the first token. The latency of a whole request would say nothing,
since it follows the length of the answer. The engine says how long a request waited in its queue, so we know more than
the original can: `usual` is averaged over the time without that wait, `now` has it. A queue that stays is therefore
never taken for usual. Sums are taken over a window of requests, since a wait does not grow with one's own prompt.

In three more things this differs. The limit begins at its ceiling, and does not have to be earned; so a queue lowers it
even where little of it is used (the original does nothing below half). Growth is by the square root of the limit, so
that a large one recovers as fast as a small one. And while first tokens come soon in absolute terms, nothing lowers it:
thirty at once take longer than one alone on any engine.
"""

from __future__ import annotations

import math

from deepseek.api.limits.config import DynamicConfig

BASE_TOKENS = 256
"""A prompt costs a step even if it is short: counted as so many tokens more than it has."""

WARM_UP = 10
"""Windows that are simply averaged before the exponential average begins."""

PATIENCE = 10
"""Times a window's length after which it ends with however few first tokens: an engine that hardly gives any is slow."""


class Gradient2:
    """One limit. `now`: seconds on any monotonic clock."""

    def __init__(self, config: DynamicConfig) -> None:
        self._config = config
        self.limit = float(config.initial or config.ceiling)
        self.usual = 0.0
        self.wait_s = 0.0
        """From arrival in the engine to the first token, on average, in the last window: what one who is refused may
        expect."""
        self._windows = 0
        self._began: float | None = None
        # Of the window that is open: first tokens, their waits, services and prompts summed up, the most in flight.
        self._samples, self._tokens, self._in_flight = 0, 0, 0
        self._queued, self._service = 0.0, 0.0

    def observe(self, now: float, queued_s: float, service_s: float, prompt_tokens: int, in_flight: int) -> None:
        """One first token. queued_s: its wait in the engine's queue; service_s: from there to the token. in_flight:
        choices running and waiting, its own included."""
        if self._began is None:
            self._began = now
        self._samples += 1
        self._queued += max(0.0, queued_s)
        self._service += max(0.0, service_s)
        self._tokens += prompt_tokens + BASE_TOKENS
        self._in_flight = max(self._in_flight, in_flight)
        lasted, config = now - self._began, self._config
        enough = self._samples >= config.window_samples or lasted >= PATIENCE * config.window_s
        if lasted >= config.window_s and enough:
            self._update()
            self._began = now
            self._reset()

    def expected_s(self, prompt_tokens: int) -> float:
        """The usual time to the first token of such a prompt, without waiting."""
        return self.usual * (prompt_tokens + BASE_TOKENS)

    def _reset(self) -> None:
        self._samples = self._tokens = self._in_flight = 0
        self._queued = self._service = 0.0

    def _update(self) -> None:
        config = self._config
        service, queued = self._service / self._tokens, self._queued / self._tokens
        self.wait_s = (self._service + self._queued) / self._samples
        self._windows += 1
        weight = 1 / self._windows if self._windows <= WARM_UP else 2 / (config.baseline_windows + 1)
        self.usual += weight * (service - self.usual)
        if service and self.usual > 2 * service:
            # The engine has become much faster: do not wait for the average to notice.
            self.usual *= 0.95
        little_used = self._in_flight < self.limit / 2
        if little_used and queued <= service:
            return
        gradient = min(1.0, max(0.5, config.tolerance * self.usual / max(service + queued, 1e-12)))
        if self.wait_s < config.unhurried_s:
            gradient = 1.0
        wanted = self.limit * gradient + max(config.queue, math.sqrt(self.limit))
        moved = (1 - config.smoothing) * self.limit + config.smoothing * wanted
        if little_used:
            moved = min(moved, self.limit)
        self.limit = min(float(config.ceiling), max(float(config.floor), moved))
