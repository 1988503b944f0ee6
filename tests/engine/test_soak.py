"""Thousands of random requests, wrong ones, leaving ones and broken ones among them: each ends once, and nothing is left.

The short form is part of the suite, the long one of `make soak`. Both print what happened, and the seed that repeats the
schedule: `python tests/engine/soak_run.py --requests N --seed S`.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator

import pytest
from soak_http import soak_http
from soak_requests import hostile, is_refused, schedule
from soak_run import Summary, soak

from deepseek import kernels

SEED = int(os.environ.get("DEEPSEEK_SOAK_SEED", "1"))


@pytest.fixture(autouse=True)
def quietly(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.CRITICAL)
    before = kernels.num_threads()
    kernels.set_num_threads(1)
    yield
    kernels.set_num_threads(before)


def passed(summary: Summary, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{summary}")
    assert not summary.failures


def test_the_schedule_is_a_function_of_its_seed() -> None:
    assert list(schedule(3, 50, 400)) == list(schedule(3, 80, 400))[:50]
    assert list(schedule(3, 50, 400)) != list(schedule(4, 50, 400))


def test_some_hundred_requests_end_once_each_and_leave_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    summary = soak(1200, SEED, keep_every=13, measures_memory=False)
    passed(summary, capsys)
    # Else it would prove little.
    assert summary.reasons["length"] > 100 and summary.reasons["cancelled"] > 10 and summary.reasons["error"] > 3
    assert summary.refused["constraint invalid"] > 3 and summary.compared > 5 and summary.admin


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_ten_thousand_requests_end_once_each_and_leave_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    passed(soak(10_000, SEED, keep_every=17), capsys)


def test_hostile_fields_are_all_refused() -> None:
    rng = random.Random(0)
    assert all(is_refused(hostile(rng)) for _ in range(100))


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_clients_that_leave_or_send_nonsense_harm_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    counts, failures = soak_http(600, SEED)
    with capsys.disabled():
        print(f"\nsoak over HTTP: seed {SEED}, {dict(counts.most_common())}, wrong {len(failures)}")
    assert not failures
    assert counts["whole 200"] > 50 and counts["stream 200"] > 50 and counts["left while reading"] > 50
