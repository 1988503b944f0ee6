"""Which failures may pass, and how long to wait before the next attempt: exponential back-off with full jitter.

    pause = random(0, min(most, base * 2 ** attempt)), but not less than the other side asked for (Retry-After)

(M. Brooker, "Exponential backoff and jitter", AWS Architecture Blog, 2015.) Attempts are bounded in number by the tool
and in time by the policy and the run's deadline: a pause that would end behind it is not begun.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from deepseek.agent.execution.errors import ToolBusy, ToolTimeout, ToolTransient

_SURE_STATUSES = (429, 503)  # the other side did not do it
_UNSURE_STATUSES = (408, 500, 502, 504)  # it may have
_UNSURE_ERRORS = frozenset({"TransportError", "ConnectionError", "Timeout"})  # of httpx and requests


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """base_s, most_s: of a pause before jitter. total_s: from the first attempt to the beginning of the last."""

    base_s: float = 0.25
    most_s: float = 8.0
    total_s: float = 60.0

    def pause_s(self, attempt: int, asked_s: float | None, draw: Callable[[], float]) -> float:
        """The pause behind attempt number `attempt`, counted from 0. draw: uniform over [0, 1)."""
        ceiling = min(self.most_s, self.base_s * 2.0 ** min(attempt, 60))
        return max(draw() * ceiling, asked_s or 0.0)


def may_pass(error: BaseException, repeatable: bool) -> bool:
    """Whether the same call may work later. repeatable: whether it may be made again though it may have worked."""
    if isinstance(error, ToolTransient | ToolBusy) or getattr(error, "retryable", False) is True:
        return True
    status = _status(error)
    if status is not None:
        return status in _SURE_STATUSES or (repeatable and status in _UNSURE_STATUSES)
    if isinstance(error, ToolTimeout):
        return repeatable and error.stopped
    if isinstance(error, ConnectionRefusedError):
        return True
    return repeatable and (
        isinstance(error, ConnectionError | TimeoutError)
        or any(
            base.__name__ in _UNSURE_ERRORS and base.__module__.partition(".")[0] in ("httpx", "requests")
            for base in type(error).__mro__
        )
    )


def asked_pause_s(error: BaseException) -> float | None:
    """How long the other side asked to wait: an attribute `retry_after_s`, or the header of an HTTP answer."""
    asked = getattr(error, "retry_after_s", None)
    if isinstance(asked, int | float):
        return max(0.0, float(asked))
    headers = getattr(getattr(error, "response", None), "headers", None)
    said = headers.get("retry-after") if isinstance(headers, Mapping) else None
    return None if said is None else parse_retry_after(str(said))


def parse_retry_after(value: str) -> float | None:
    """Seconds, or an HTTP date (RFC 9110, 10.2.3); None for anything else."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:12])
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def left_s(deadline: float | None) -> float:
    """Seconds until a deadline of `time.monotonic()`; infinite if there is none."""
    return float("inf") if deadline is None else deadline - time.monotonic()
