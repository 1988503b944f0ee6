"""Repeated attempts: only where they may help, with pauses drawn from what the paper says, within all deadlines."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
import requests
from execution_support import Run, call, registry_of
from hypothesis import given
from hypothesis import strategies as st

from deepseek.agent import ToolContext
from deepseek.agent.execution.errors import ToolBusy, ToolFailed, ToolRetry, ToolTimeout, ToolTransient
from deepseek.agent.execution.retry import RetryPolicy, asked_pause_s, may_pass, parse_retry_after
from deepseek.core.errors import ModelError

POLICY = RetryPolicy()


class Shaky:
    """Fails so many times, then answers."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def work(self, box: list[int] | None = None) -> str:
        self.calls += 1
        if box is not None:
            box.append(self.calls)
        if self.errors:
            raise self.errors.pop(0)
        return "ok" if box is None else str(box)


class Pauses:
    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def run_of(tool: Shaky, pauses: Pauses, draw: float = 0.5, policy: RetryPolicy = POLICY, **options: Any) -> Run:
    return Run(registry_of(tool.work, **options), sleep=pauses, draw=lambda: draw, retry=policy)


def test_a_failure_that_passes_is_never_seen() -> None:
    tool, pauses = Shaky(ToolTransient("busy"), ToolTransient("busy")), Pauses()
    run = run_of(tool, pauses, retries=3)
    (result,) = run(call("work"))
    assert (result.text, result.attempts, tool.calls) == ("ok", 3, 3)
    assert pauses.seconds == [0.125, 0.25]  # half of 0.25 s, then of 0.5 s
    assert run.kinds() == ["tool_started", "tool_retried", "tool_retried", "tool_finished"]


def test_there_are_no_more_attempts_than_the_tool_allows() -> None:
    tool = Shaky(*[ToolTransient("busy")] * 9)
    (result,) = run_of(tool, Pauses(), retries=2)(call("work"))
    assert (result.status, result.attempts, tool.calls) == ("error", 3, 3) and "busy" in result.text
    once = Shaky(ToolTransient("busy"))
    assert run_of(once, Pauses())(call("work"))[0].attempts == 1


@pytest.mark.parametrize("error", [ToolFailed("no"), ToolRetry("other words"), ValueError("x"), SystemExit(1)])
def test_what_will_not_pass_is_not_tried_again(error: BaseException) -> None:
    tool = Shaky(error)
    assert run_of(tool, Pauses(), retries=5, idempotent=True)(call("work"))[0].attempts == 1


def test_the_other_side_may_ask_for_a_longer_pause() -> None:
    tool, pauses = Shaky(ToolTransient("busy", retry_after_s=7.0)), Pauses()
    run_of(tool, pauses, retries=1)(call("work"))
    assert pauses.seconds == [7.0]


def test_a_pause_that_would_end_behind_the_deadline_is_not_begun() -> None:
    tool, pauses = Shaky(ToolTransient("busy", retry_after_s=30.0)), Pauses()
    context = ToolContext(deadline=time.monotonic() + 20)
    (result,) = run_of(tool, pauses, retries=3)(call("work"), context=context)
    assert result.status == "error" and pauses.seconds == [] and tool.calls == 1
    tool = Shaky(ToolTransient("busy", retry_after_s=3.0))
    run_of(tool, pauses, retries=3, policy=RetryPolicy(total_s=2.0))(call("work"))
    assert pauses.seconds == [] and tool.calls == 1


def test_a_later_attempt_gets_the_arguments_as_they_were() -> None:
    tool = Shaky(ToolTransient("busy"))
    (result,) = run_of(tool, Pauses(), retries=1)(call("work", box=[]))
    assert result.text == "[2]"


@given(st.integers(0, 2000), st.floats(0, 1, exclude_max=True), st.none() | st.floats(0, 1000))
def test_a_pause_lies_between_nothing_and_the_ceiling_or_is_what_was_asked(
    attempt: int, drawn: float, asked: float | None
) -> None:
    policy = RetryPolicy(base_s=0.5, most_s=8.0)
    pause = policy.pause_s(attempt, asked, lambda: drawn)
    ceiling = min(8.0, 0.5 * 2.0 ** min(attempt, 100))
    assert pause == max(drawn * ceiling, asked or 0.0)


REQUEST = httpx.Request("GET", "http://example.com")


def status_error(status: int, **headers: str) -> httpx.HTTPStatusError:
    response = httpx.Response(status, headers=headers, request=REQUEST)
    return httpx.HTTPStatusError("bad", request=REQUEST, response=response)


@pytest.mark.parametrize(
    ("error", "sure", "unsure"),
    [
        (ToolTransient("x"), True, True),
        (ToolBusy("x"), True, True),
        (ModelError("x", retryable=True), True, True),
        (ModelError("x"), False, False),
        (status_error(429), True, True),
        (status_error(503), True, True),
        (status_error(502), False, True),
        (status_error(404), False, False),
        (httpx.ReadTimeout("x"), False, True),
        (httpx.ConnectError("x"), False, True),
        (httpx.InvalidURL("x"), False, False),
        (requests.ConnectionError("x"), False, True),
        (requests.Timeout("x"), False, True),
        (ConnectionResetError(), False, True),
        (ConnectionRefusedError(), True, True),
        (TimeoutError(), False, True),
        (ToolTimeout("x", stopped=True), False, True),
        (ToolTimeout("x", stopped=False), False, False),
        (OSError("disk"), False, False),
    ],
)
def test_what_may_have_worked_is_repeated_only_where_twice_is_as_good_as_once(
    error: BaseException, sure: bool, unsure: bool
) -> None:
    assert may_pass(error, repeatable=False) is sure
    assert may_pass(error, repeatable=True) is unsure


def test_a_pure_or_idempotent_tool_is_repeatable() -> None:
    for options, calls in (({}, 1), ({"pure": True}, 2), ({"idempotent": True}, 2)):
        tool = Shaky(ConnectionResetError())
        run_of(tool, Pauses(), retries=1, **options)(call("work"))
        assert tool.calls == calls


def test_the_header_of_an_answer_says_how_long_to_wait() -> None:
    assert asked_pause_s(status_error(429, **{"Retry-After": "12"})) == 12.0
    assert asked_pause_s(status_error(429)) is None
    assert asked_pause_s(ModelError("x", retryable=True, retry_after_s=2.5)) == 2.5


def test_retry_after_is_seconds_or_a_date() -> None:
    assert parse_retry_after(" 120 ") == 120.0
    soon = datetime.now(UTC) + timedelta(seconds=90)
    said = parse_retry_after(format_datetime(soon, usegmt=True))
    assert said is not None and 80 < said <= 90
    assert parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0


@given(st.text())
def test_any_other_header_says_nothing(value: str) -> None:
    parsed = parse_retry_after(value)
    assert parsed is None or parsed >= 0
