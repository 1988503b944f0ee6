"""The API front's claims, on an engine that costs nothing: what identity, limits, leases, metering and dialects add.

    latency      200 requests a second for 10 s, each timed from when it was due; added: to what a bare FastAPI route with
                 a pydantic body takes in the same run, since any server has a socket to read
    throughput   32 connections, each asking as soon as it was answered; beside the bare route nothing here can beat
    streaming    time to the first frame; processor time of each frame while 1,000 streams of 5 frames a second run, beyond
                 what a request costs once and what the engine itself takes; how late frames are, and whether one is lost
    memory       resident size after 20,000 and after 100,000 requests
    tiers        100 and 500 requests a second, burst drained first: what passes in 10 s of twice that
    budget       64 streams on one budget: tokens beyond it
    abort        a reader that leaves: tokens made after that
    grpc         unary calls a second
    litellm      LiteLLM's proxy with an answer made up inside it, beside ours: requests a second and median time

    python benchmarks/api.py [PART ...] [--runs N] [--quick] [--json-only]

The server is `deepseek serve`'s application on a FakeEngine in a process of its own, held to one core, with keys, limits,
metering to SQLite and metrics on; the load comes from another core.

LITELLM_PYTHON: the interpreter of an environment with litellm[proxy]; without it that part is reported as not measured.

Progress goes to stderr; stdout gets a Markdown table and, last, one line of JSON. --quick takes seconds and means nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import uvloop
from support import machine, report
from support.api_server import Served, bare, litellm, served
from support.engine_alone import cpu_us_a_token
from support.http_load import Answer, closed_loop, connect, counted, lateness, many_streams, open_loop, post
from support.report import NotMeasured, Result, compared, percentile, progress

MODEL = "deepseek-fake"


@dataclass(frozen=True, slots=True)
class Size:
    """How long each part goes on."""

    seconds: float = 10.0
    runs: int = 3
    streams: int = 1000
    frames: int = 50
    requests: int = 100_000
    budget_tokens: int = 100_000


QUICK = Size(seconds=0.5, runs=1, streams=20, frames=5, requests=2_000, budget_tokens=2_000)


def ask(server: Served, *, tokens: int = 8, stream: bool = False, key: str = "main") -> bytes:
    body = {"model": MODEL, "prompt": "What does a front cost?", "max_tokens": tokens, "stream": stream}
    return post(server.url, "/v1/generate", body, server.keys[key])


async def latency(size: Size) -> dict[str, Result]:
    with served() as server, bare() as floor:
        await closed_loop(server.url, ask(server), 4, 0.5)
        ours, budgeted, floors = [], [], []
        for _ in range(size.runs):
            ours += _all_answered(await open_loop(server.url, ask(server), 200, size.seconds))
            payload = ask(server, key="budgeted")
            budgeted += _all_answered(await open_loop(server.url, payload, 200, size.seconds / 2))
            floors += await open_loop(floor, post(floor, "/v1/generate", _bare_body(), None), 200, size.seconds / 2)
    ms = [1000 * answer.seconds for answer in ours]
    budgeted_ms = [1000 * answer.seconds for answer in budgeted]
    floor_ms = [1000 * answer.seconds for answer in floors]
    results: dict[str, Result] = {}
    for name, share, wanted in (("p50", 0.5, 1.0), ("p99", 0.99, 5.0)):
        whole, floor_at = percentile(ms, share), percentile(floor_ms, share)
        notes = {"whole_ms": round(whole, 3), "bare_route_ms": round(floor_at, 3)}
        results[f"latency added at 200 requests/s, {name}"] = Result(whole - floor_at, "ms", wanted, notes=notes)
        results[f"latency at 200 requests/s, {name}"] = Result(
            whole, "ms", None, limit=floor_at, limit_is="it the bare route"
        )
    # A lease is on disk before the engine starts: a second commit.
    results["latency at 200 requests/s with a budget, p50"] = Result(percentile(budgeted_ms, 0.5), "ms", None)
    return results


async def throughput(size: Size) -> dict[str, Result]:
    ours, floors = [], []
    with served() as server, bare() as floor:
        for _ in range(size.runs):
            answers, took = await closed_loop(server.url, ask(server), 32, size.seconds / 2)
            ours.append(len(_all_answered(answers)) / took)
            answers, took = await closed_loop(
                floor, post(floor, "/v1/generate", _bare_body(), None), 32, size.seconds / 4
            )
            floors.append(len(answers) / took)
    return {
        "throughput, 32 connections": _at_least(ours, "requests/s", 1200, statistics.median(floors), "a bare route")
    }


async def streaming(size: Size) -> dict[str, Result]:
    with served() as server:
        connection = await connect(server.url)
        first = []
        for _ in range(max(20, size.requests // 500)):
            answer = await connection.request(ask(server, tokens=4, stream=True))
            first.append(1000 * (answer.frames[0] - answer.sent))
        connection.close()
    gap, few = 0.2, max(1, size.frames // 5)
    with served(gap_s=gap) as server:
        progress(f"  {size.streams} streams of {few} and of {size.frames} frames")
        answers, cpu = await _many(server, size.streams, size.frames, gap)
        _, fewer = await _many(server, size.streams, few, gap)
    frame_us = 1e6 * (cpu - fewer) / (size.streams * (size.frames - few))
    engine_us = await cpu_us_a_token(size.streams, size.frames, gap)
    texts = [_texts(answer) for answer in answers]
    lost = sum(size.frames - len(text) for text in texts)
    late = [1000 * value for answer in answers for value in lateness(answer.frames[: size.frames], gap)]
    total = size.streams * size.frames
    return {
        "streaming, time to the first frame, p50": Result(percentile(first, 0.5), "ms", 2.0),
        "streaming, processor time added to a frame": Result(
            frame_us - engine_us,
            "us",
            50.0,
            notes={"frames": total, "with_engine_us": frame_us, "engine_us": engine_us},
        ),
        f"streaming, lateness of {size.streams} streams, p99": Result(percentile(late, 0.99), "ms", 100.0),
        f"streaming, characters lost of {total}": Result(float(lost), "characters", 1.0),
    }


async def _many(server: Served, streams: int, frames: int, gap_s: float) -> tuple[list[Answer], float]:
    """The answers, and the processor seconds that the server took for them."""
    begun = server.cpu_s()
    answers = await many_streams(server.url, ask(server, tokens=frames, stream=True), streams, gap_s)
    return answers, server.cpu_s() - begun


async def memory(size: Size) -> dict[str, Result]:
    sizes: dict[int, float] = {}
    marks = {size.requests // 5, size.requests}
    with served() as server:

        def look(done: int) -> None:
            if done in marks:
                sizes[done] = server.rss_mib()

        failed = await counted(server.url, ask(server), 32, size.requests, look)
    early, late = (sizes[mark] for mark in sorted(marks))
    notes = {"mib_at": {str(mark): round(value, 1) for mark, value in sizes.items()}, "failed": failed}
    return {f"memory grown from request {min(marks)} to {max(marks)}": Result(late - early, "MiB", 8.0, notes=notes)}


async def tiers(size: Size) -> dict[str, Result]:
    results = {}
    for name, rate in (("basic", 100), ("professional", 500)):
        with served(burst_s=0.2) as server:
            payload = ask(server, tokens=1, key=name)
            await open_loop(server.url, payload, 2 * rate, 1.0)  # drains the burst
            answers = await open_loop(server.url, payload, 2 * rate, size.seconds)
        passed = sum(answer.status == 200 for answer in answers)
        off = 100 * abs(passed / (rate * size.seconds) - 1)
        refused = sum(answer.status == 429 for answer in answers)
        notes = {"passed": passed, "refused": refused, "others": len(answers) - passed - refused}
        results[f"tier {name}, off {rate} requests/s by"] = Result(off, "%", 2.0, notes=notes)
    return results


async def budget(size: Size) -> dict[str, Result]:
    """64 streams that would together take three times what there is."""
    with served(budget_tokens=size.budget_tokens, gap_s=0.001) as server:
        each = 3 * size.budget_tokens // 64
        answers = await many_streams(server.url, ask(server, tokens=each, stream=True, key="bounded"), 64, 0.0)
        used = server.used_tokens("bounded")
    shown = sum(len(_texts(answer)) for answer in answers if answer.status == 200)
    notes = {"budget": size.budget_tokens, "used": used, "characters_shown": shown}
    return {"budget, tokens beyond it": Result(float(max(0, used - size.budget_tokens)), "tokens", 1.0, notes=notes)}


async def abort(size: Size) -> dict[str, Result]:
    gap = 0.02
    over = []
    with served(gap_s=gap) as server:
        for _ in range(size.runs * 3):
            before, bills = server.used_tokens("main", prompts=False), server.bills("main")
            connection = await connect(server.url)
            seen = asyncio.Event()

            def look(answer: Answer, seen: asyncio.Event = seen) -> None:
                if len(answer.frames) >= 10:
                    seen.set()

            connection.on_frame = look
            reading = connection.request(ask(server, tokens=1000, stream=True))
            await seen.wait()
            frames = 10
            connection.close()
            await asyncio.gather(reading, return_exceptions=True)
            await server.until_billed("main", bills + 1)
            over.append(server.used_tokens("main", prompts=False) - before - frames)
    return {
        "abort, tokens made after the reader left, most": Result(float(max(over)), "tokens", 3.0, notes={"all": over})
    }


async def grpc(size: Size) -> dict[str, Result]:
    from support import api_grpc  # what grpc starts in a process must not be there while others are measured

    rates = []
    with served(grpc=True) as server:
        for _ in range(size.runs):
            rates.append(await api_grpc.unary_per_second(server, MODEL, 32, size.seconds / 2))
    return {"gRPC, unary calls": _at_least(rates, "calls/s", 1500)}


async def peer(size: Size) -> dict[str, Result]:
    ours: dict[int, list[list[Answer]]] = {1: [], 32: []}
    theirs: dict[int, list[list[Answer]]] = {1: [], 32: []}
    took: dict[tuple[str, int], list[float]] = {}
    body = {"model": MODEL, "messages": [{"role": "user", "content": "What does a front cost?"}], "max_tokens": 8}
    with served() as server, litellm(MODEL) as other:
        contestants = (
            ("ours", server.url, post(server.url, "/v1/chat/completions", body, server.keys["main"]), ours),
            ("litellm", other.url, post(other.url, "/v1/chat/completions", body, other.key), theirs),
        )
        for run in range(size.runs + 1):  # the first does not count
            for name, url, payload, into in contestants:
                for concurrency in (1, 32):
                    answers, seconds = await closed_loop(url, payload, concurrency, size.seconds / 2)
                    _all_answered(answers)
                    if run:
                        into[concurrency].append(answers)
                        took.setdefault((name, concurrency), []).append(len(answers) / seconds)
            progress(f"  round {run}/{size.runs}: {took}")
    medians = [
        [1000 * statistics.median(answer.seconds for answer in answers) for answers in into[1]]
        for into in (theirs, ours)
    ]
    return {
        "beside LiteLLM, requests at 32 connections": compared(
            took["ours", 32], took["litellm", 32], "requests/s", 10.0
        ),
        # Their time over ours, so that more is better as everywhere.
        "beside LiteLLM, median time at 1 connection (theirs first)": compared(medians[0], medians[1], "ms", 8.0),
    }


PARTS: dict[str, Callable[[Size], Awaitable[dict[str, Result]]]] = {
    "latency": latency,
    "throughput": throughput,
    "streaming": streaming,
    "memory": memory,
    "tiers": tiers,
    "budget": budget,
    "abort": abort,
    "grpc": grpc,
    "litellm": peer,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json-only", action="store_true")
    given = parser.parse_args(arguments)
    size = QUICK if given.quick else Size(runs=given.runs)
    about: dict[str, Any] = machine.describe()
    results: dict[str, Result] = {}
    missing: dict[str, str] = {}
    own = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, own[1:] or own)
    for name in given.parts or PARTS:
        progress(f"{name}:")
        try:
            results |= uvloop.run(PARTS[name](size))
        except NotMeasured as reason:
            missing[name] = str(reason)
    os.sched_setaffinity(0, own)
    about["load_per_core_after"] = round(machine.load_per_core(), 2)
    if not given.json_only:
        print(report.table(about, results, missing))
    print(report.json_line(about, results, missing))
    return 0


def _bare_body() -> dict[str, Any]:
    return {"model": MODEL, "prompt": "What does a front cost?", "max_tokens": 8}


def _all_answered(answers: list[Answer]) -> list[Answer]:
    wrong = next((answer for answer in answers if answer.status != 200), None)
    if wrong is not None:
        raise SystemExit(f"a request was answered {wrong.status}: {wrong.body[:300]!r}")
    return answers


def _texts(answer: Answer) -> str:
    """What a stream of /v1/generate said."""
    frames = [line[6:] for line in answer.body.split(b"\n") if line.startswith(b"data: ")]
    return "".join(json.loads(frame).get("text", "") for frame in frames)


def _at_least(
    values: Sequence[float], unit: str, wanted: float, limit: float | None = None, limit_is: str = ""
) -> Result:
    """A rate that must be reached: its share of what is wanted is the ratio."""
    got = statistics.median(values)
    notes = {"all": [round(value, 1) for value in values]}
    return Result(got, unit, 1.0, peer=wanted, ratio=got / wanted, limit=limit, limit_is=limit_is, notes=notes)


if __name__ == "__main__":
    sys.exit(main())
