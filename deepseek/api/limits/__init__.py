"""How fast a caller may ask, and what gives way first when there is too much."""

from __future__ import annotations

from deepseek.api.limits.config import LimitConfig
from deepseek.api.limits.gcra import LocalLimiter
from deepseek.api.limits.rate import RateLimiter
from deepseek.api.limits.shared_rate import SharedLimiter


def limiter_of(config: LimitConfig, redis: str | None) -> RateLimiter:
    """Rates counted in this process, or over all replicas where there is a Redis. Raises ConfigError as SharedLimiter."""
    return LocalLimiter() if redis is None else SharedLimiter(redis, timeout_s=config.shared_timeout_s)
