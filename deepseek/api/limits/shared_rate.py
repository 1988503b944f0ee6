"""The same rate limit over all replicas of a server: the numbers of `gcra` lie in Redis, and Redis's clock counts.

One script does what `LocalLimiter.decide` does, in one round trip and in one step. Where Redis does not answer in time,
a request is not refused for that: this process counts by itself, at the tier's full rate, and asks Redis again a little
later. Until then n replicas together let through up to n times the rate.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from deepseek.api.identity.caller import Caller
from deepseek.api.limits.gcra import LocalLimiter, spacing_and_burst
from deepseek.api.limits.rate import Verdict
from deepseek.core.errors import ConfigError

log = logging.getLogger("deepseek.api")

PREFIX = "deepseek:rate:"
CONNECTIONS = 16
US = 1_000_000

# Redis's numbers are doubles: microseconds since 2026 keep thousandths, since 1970 they would not.
SCRIPT = """
local time = redis.call('TIME')
local now = (time[1] - 1767225600) * 1000000 + time[2]
local spacing, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local whole_at = math.max(now, tonumber(redis.call('GET', KEYS[1]) or now))
local wait = whole_at + spacing - burst - now
if wait > 0 then
  return {0, math.ceil(wait), math.ceil(whole_at - now)}
end
whole_at = whole_at + spacing
redis.call('SET', KEYS[1], string.format('%.3f', whole_at), 'PX', math.ceil((whole_at - now) / 1000) + 1)
return {1, 0, math.ceil(whole_at - now)}
"""


class SharedLimiter:
    """Counts in Redis. Used from one event loop. Raises ConfigError without redis-py, or for a URL that is none.

    timeout_s: for one verdict, connecting included. pause_s: how long Redis is left alone after it failed.
    """

    def __init__(
        self, url: str, *, timeout_s: float = 0.05, pause_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        try:
            from redis import asyncio as redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
            from redis.exceptions import RedisError
        except ImportError:
            raise ConfigError(
                "redis-py is not installed", where="redis", fix="pip install 'deepseek-stack[redis]'"
            ) from None
        try:
            pool: Any = redis.BlockingConnectionPool.from_url(
                url,
                max_connections=CONNECTIONS,
                timeout=timeout_s,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError as error:
            raise ConfigError(
                "not a Redis URL", where="redis", found=str(error), expected="redis://host:6379/0"
            ) from None
        self.faults = 0
        self._client = redis.Redis(connection_pool=pool)
        self._script = self._client.register_script(SCRIPT)
        self._failures = (RedisError, OSError, TimeoutError)
        self._local = LocalLimiter()
        self._timeout_s, self._pause_s, self._clock = timeout_s, pause_s, clock
        self._resumes = float("-inf")
        self._away = False  # whether the last question went unanswered

    async def take(self, caller: Caller) -> Verdict:
        if caller.tier.requests_per_second is None:
            return Verdict(True)
        if self._clock() >= self._resumes:
            spacing, burst = spacing_and_burst(caller.tier, US)
            try:
                async with asyncio.timeout(self._timeout_s):
                    allowed, wait, whole_in = await self._script(keys=[PREFIX + caller.subject], args=[spacing, burst])
            except self._failures as error:
                self._resumes = self._clock() + self._pause_s
                if not self._away:
                    log.warning("Redis does not answer, rates are counted here meanwhile: %s", type(error).__name__)
                self._away = True
            else:
                self._away = False
                remaining = max(0, burst - whole_in) // spacing if allowed else 0
                return Verdict(bool(allowed), burst // spacing, remaining, whole_in / US, wait / US)
        self.faults += 1
        return self._local.decide(caller)

    async def close(self) -> None:
        await self._client.aclose()
        await self._client.connection_pool.disconnect()
