"""Two servers over one Redis count together; without it each counts by itself. On a real redis-server, where there is one."""

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from deepseek.api.identity.caller import EVERYTHING, Caller
from deepseek.api.limits import LimitConfig, LocalLimiter, limiter_of
from deepseek.api.limits.shared_rate import PREFIX, SharedLimiter
from deepseek.api.tiers import Tier
from deepseek.core.errors import ConfigError

redis = pytest.importorskip("redis")
SERVER = shutil.which("redis-server") or shutil.which("valkey-server")
needs_server = pytest.mark.skipif(SERVER is None, reason="needs a redis-server on the PATH (apt install redis-server)")


def caller(rate: float = 1.0, burst_s: float = 5.0, subject: str = "key-1") -> Caller:
    return Caller("acme", Tier("basic", rate, burst_s=burst_s), EVERYTHING, subject)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    assert SERVER is not None
    port, directory = free_port(), tmp_path_factory.mktemp("redis")
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(directory)]
    with subprocess.Popen([SERVER, *options], stdout=subprocess.DEVNULL) as process:
        try:
            client = redis.Redis(port=port)
            ends = time.monotonic() + 10
            while True:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    assert time.monotonic() < ends, "redis-server did not start"
            client.close()
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()


@asynccontextmanager
async def limiters(url: str, count: int = 1, **options: float) -> AsyncIterator[list[SharedLimiter]]:
    # A busy machine may take longer than a server would wait.
    made = [SharedLimiter(url, **{"timeout_s": 5.0, **options}) for _ in range(count)]
    try:
        yield made
    finally:
        for limiter in made:
            await limiter.close()


@needs_server
def test_replicas_share_one_burst(server_url: str) -> None:
    async def ask() -> list[bool]:
        async with limiters(server_url, 2) as both:
            return [(await both[turn % 2].take(caller(0.01, 500, "shared"))).allowed for turn in range(8)]

    assert asyncio.run(ask()) == [True] * 5 + [False] * 3


@needs_server
def test_the_verdict_says_what_the_local_one_says(server_url: str) -> None:
    async def ask() -> None:
        async with limiters(server_url) as (limiter,):
            who, local = caller(0.001, 3000, "alike"), LocalLimiter(lambda: 0)
            for _ in range(5):
                shared, own = await limiter.take(who), local.decide(who)
                assert (shared.allowed, shared.limit, shared.remaining) == (own.allowed, own.limit, own.remaining)
                # Time has passed for the one and stood still for the other.
                assert own.reset_s - 60 < shared.reset_s <= own.reset_s
                assert own.retry_s - 60 < shared.retry_s <= own.retry_s

    asyncio.run(ask())


@needs_server
def test_many_at_once_get_no_more_than_the_burst(server_url: str) -> None:
    async def ask() -> int:
        async with limiters(server_url, 4) as four:
            who = caller(0.01, 2000, "crowd")
            verdicts = await asyncio.gather(*(four[turn % 4].take(who) for turn in range(100)))
            assert not any(limiter.faults for limiter in four)
            return sum(verdict.allowed for verdict in verdicts)

    assert asyncio.run(ask()) == 20


@needs_server
def test_a_subject_at_rest_leaves_nothing_in_redis(server_url: str) -> None:
    async def ask() -> None:
        async with limiters(server_url) as (limiter,):
            await limiter.take(caller(100.0, 1.0, "brief"))
            await limiter.take(caller(0.01, 1000.0, "long"))

    asyncio.run(ask())
    with redis.Redis.from_url(server_url) as client:
        assert client.pttl(f"{PREFIX}brief") <= 11
        assert 99_000 < client.pttl(f"{PREFIX}long") <= 100_001


@needs_server
def test_any_subject_is_a_key_of_its_own(server_url: str) -> None:
    async def ask() -> list[bool]:
        async with limiters(server_url) as (limiter,):
            subjects = ["a b", "a\r\nb", "ключ", "a\x00b", "*"]
            return [(await limiter.take(caller(0.01, 100, subject))).allowed for subject in subjects]

    assert all(asyncio.run(ask()))


def test_without_redis_a_server_counts_by_itself_and_asks_again_later() -> None:
    async def ask() -> None:
        now = 0.0
        url = f"redis://127.0.0.1:{free_port()}/0"
        limiter = SharedLimiter(url, timeout_s=1.0, pause_s=3.0, clock=lambda: now)
        try:
            who = caller(0.01, 200)
            assert [(await limiter.take(who)).allowed for _ in range(3)] == [True, True, False]
            assert limiter.faults == 3
        finally:
            await limiter.close()

    asyncio.run(ask())


def test_a_redis_that_accepts_and_says_nothing_costs_one_time_out_and_then_none() -> None:
    async def ask() -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            limiter = SharedLimiter(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", timeout_s=0.05, pause_s=3600)
            try:
                await limiter.take(caller(0.01, 10_000))
                begun = time.perf_counter()
                for _ in range(50):
                    assert (await limiter.take(caller(0.01, 10_000))).allowed
                assert time.perf_counter() - begun < 1.0
                assert limiter.faults == 51
            finally:
                await limiter.close()

    asyncio.run(ask())


@needs_server
def test_a_server_that_comes_back_is_asked_again(server_url: str) -> None:
    async def ask() -> None:
        now = 0.0
        limiter = SharedLimiter(server_url, timeout_s=5.0, pause_s=3.0, clock=lambda: now)
        limiter._resumes = 3.0  # as after a failure at 0
        try:
            await limiter.take(caller(1.0, 5, "back"))
            assert limiter.faults == 1
            now = 3.0
            await limiter.take(caller(1.0, 5, "back"))
            assert limiter.faults == 1
        finally:
            await limiter.close()

    asyncio.run(ask())


@pytest.mark.parametrize("url", ["cache:6379", "http://cache"])
def test_a_url_that_is_none_is_refused_in_one_line(url: str) -> None:
    with pytest.raises(ConfigError, match="not a Redis URL"):
        SharedLimiter(url)


def test_without_a_redis_in_the_configuration_rates_are_counted_here(tmp_path: Path) -> None:
    assert isinstance(limiter_of(LimitConfig(), None), LocalLimiter)
