"""What agents cost beside their models and tools: a scripted model, tools that do next to nothing, every event recorded.

    step       a step of four parallel calls, over 50 steps; the same scenario in smolagents and pydantic-ai, interleaved
    parallel   eight tools of 100 ms in one step
    cached     one call of a pure tool that is kept
    plugins    three plugins with trigger words, none of which is in the prompt
    runs       200 runs of one agent at a time, ten steps of four calls each: events lost

    python benchmarks/agent.py [PART ...] [--runs N] [--quick] [--json-only] [--peers-python PYTHON]

--peers-python: the interpreter of an environment with smolagents and pydantic-ai (or pydantic-ai-slim); without it, or where
it lacks one, that peer is reported as not measured. Peers run in a process of their own and record nothing to disk; ours
records to SQLite.

Progress goes to stderr; stdout gets a Markdown table and, last, one line of JSON. --quick takes seconds and means nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import machine, report
from support.report import NotMeasured, Result, compared, percentile, progress

from deepseek.agent import Agent, EventStore, Executor, Limits, ToolContext, ToolRegistry
from deepseek.agent.execution.cache import ToolCache
from deepseek.agent.record import RunRecord
from deepseek.agent.testing import ScriptedModel, calls
from deepseek.core.messages import ToolCallPart
from deepseek.plugins import PluginConfig, PluginContext, PluginManager, register_plugin

PEER_SCRIPT = Path(__file__).parent / "support" / "agent_peers.py"
PEERS = ("smolagents", "pydantic-ai")
CALLS = 4


@dataclass(frozen=True, slots=True)
class Size:
    """How long each part goes on. tool_s: how long a slow tool takes."""

    rounds: int = 7
    steps: int = 50
    tool_s: float = 0.1
    repeats: int = 20_000
    runs: int = 200
    run_steps: int = 10


QUICK = Size(rounds=1, steps=3, tool_s=0.01, repeats=100, runs=8, run_steps=2)

registry = ToolRegistry()


@registry.register("add")
async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@registry.register("square", pure=True)
async def square(a: int) -> int:
    """Square a number."""
    return a * a


@contextmanager
def recording() -> Iterator[EventStore]:
    with tempfile.TemporaryDirectory() as directory:
        store = EventStore(lambda tenant: Path(directory) / tenant)
        try:
            yield store
        finally:
            store.close()


def stepping(steps: int, store: EventStore) -> Agent:
    four = calls(*[("add", {"a": index, "b": 1}) for index in range(CALLS)])
    model = ScriptedModel(*[four] * steps, "done", most_kept=0)
    return Agent(model, registry, limits=Limits(steps=steps + 1, calls=None), store=store)


def step(size: Size, peers_python: str | None) -> dict[str, Result]:
    """Each round: ours, then each peer. A step is everything between two turns of the model, and the turn."""

    async def ours(steps: int) -> float:
        agent = stepping(steps, store)
        begun = time.perf_counter()
        result = await agent.run("Add.")
        took = time.perf_counter() - begun
        if result.answer != "done" or len(result.calls) != CALLS * steps:
            raise SystemExit(f"the run came to {result.status}: {result.answer!r}")
        return took / steps

    missing: dict[str, str] = {}
    taken: dict[str, list[float]] = {name: [] for name in ("ours", *PEERS)}
    versions: dict[str, str] = {}
    with recording() as store:
        asyncio.run(ours(size.steps))
        for number in range(size.rounds):
            taken["ours"].append(asyncio.run(ours(size.steps)))
            for name in PEERS:
                if name in missing:
                    continue
                try:
                    version, seconds = peer(name, peers_python, size.steps)
                except NotMeasured as reason:
                    missing[name] = str(reason)
                    continue
                versions[name] = version
                taken[name].append(seconds)
            progress(f"  round {number + 1}: {1000 * taken['ours'][-1]:.3f} ms")
    mine = [1000 * seconds for seconds in taken["ours"]]
    notes = {"all": [round(value, 4) for value in mine], "p95": percentile(mine, 0.95), "steps": size.steps}
    results = {"overhead of a step of four calls": Result(statistics.median(mine), "ms", 0.5, notes=notes)}
    for name in PEERS:
        if name in missing:
            MISSING[f"steps a second beside {name}"] = missing[name]
            continue
        rates = [[1 / seconds for seconds in taken[one]] for one in ("ours", name)]
        more = {"version": versions[name], "peer_ms": round(1000 * statistics.median(taken[name]), 3)}
        results[f"steps a second beside {name}"] = compared(rates[0], rates[1], "steps/s", 1.0, notes=more)
    return results


MISSING: dict[str, str] = {}


def peer(name: str, python: str | None, steps: int) -> tuple[str, float]:
    if python is None:
        raise NotMeasured("give --peers-python, an environment that has it")
    command = [python, str(PEER_SCRIPT), name, str(steps), str(CALLS)]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotMeasured(f"it cannot be run: {error}") from None
    if ran.returncode:
        said = ran.stderr.strip().splitlines() or ["no word"]
        raise NotMeasured(f"it fails: {said[-1][:200]}")
    told = json.loads(ran.stdout.strip().splitlines()[-1])
    return told["version"], told["seconds_a_step"]


def parallel(size: Size, peers_python: str | None) -> dict[str, Result]:
    slow = ToolRegistry()

    @slow.register("wait")
    async def wait() -> str:
        """Wait."""
        await asyncio.sleep(size.tool_s)
        return "waited"

    async def once(store: EventStore) -> float:
        model = ScriptedModel(calls(*[("wait", {})] * 8), "done", most_kept=0)
        begun = time.perf_counter()
        result = await Agent(model, slow, store=store).run("Wait.")
        took = time.perf_counter() - begun
        assert len(result.calls) == 8
        return 1000 * took

    with recording() as store:
        taken = [asyncio.run(once(store)) for _ in range(max(3, size.rounds) + 1)][1:]
    notes = {"all": [round(value, 2) for value in taken], "of_each_tool_ms": 1000 * size.tool_s}
    name = f"eight tools of {1000 * size.tool_s:g} ms, the whole run"
    return {name: Result(statistics.median(taken), "ms", 1150 * size.tool_s, notes=notes)}


def cached(size: Size, peers_python: str | None) -> dict[str, Result]:
    async def measure(store: EventStore) -> list[float]:
        executor = Executor(registry, cache=ToolCache())
        context = ToolContext(tenant="local", run_id="r")
        record = RunRecord(store, "local", "r")
        call = [ToolCallPart("c", "square", '{"a": 12}')]
        await executor.run(call, context=context, record=record.tool)
        rounds = []
        for _ in range(5):
            begun = time.perf_counter()
            for _ in range(size.repeats // 5):
                results = await executor.run(call, context=context, record=record.tool)
            rounds.append(1e6 * (time.perf_counter() - begun) / (size.repeats // 5))
            assert results[0].cached and results[0].text == "144"
            await store.flush()
        return rounds

    with recording() as store:
        taken = asyncio.run(measure(store))
    notes = {"all": [round(value, 2) for value in taken]}
    return {"a cached pure call": Result(statistics.median(taken), "us", 20.0, notes=notes)}


def plugins(size: Size, peers_python: str | None) -> dict[str, Result]:
    class Quiet:
        """Would be asked, if its words were said."""

        def pre_process(self, prompt: str) -> str:
            raise AssertionError("nobody said it")

    names = [f"benchmark_{index}" for index in range(3)]
    for name in names:
        register_plugin(name)(type(f"Quiet_{name}", (Quiet,), {}))
    words = ["search", "latest", "最新", "当前"]
    manager = PluginManager([PluginConfig(name=name, trigger_words=words) for name in names])
    context = PluginContext(tenant="local", request_id="r", route="/v1/generate", model="m", metadata={})
    prompt = "What is the capital of France, and how many people live there? " * 2
    taken = []
    for _ in range(5):
        begun = time.perf_counter()
        for _ in range(size.repeats // 5):
            session = manager.begin(prompt, context)
        taken.append(1e6 * (time.perf_counter() - begun) / (size.repeats // 5))
        assert session is None
    notes = {"all": [round(value, 3) for value in taken], "prompt_chars": len(prompt)}
    return {"three plugins, none triggered": Result(statistics.median(taken), "us", 20.0, notes=notes)}


def runs(size: Size, peers_python: str | None) -> dict[str, Result]:
    """An event is lost if it is not on disk, in its place, once its run has returned."""

    async def measure(store: EventStore) -> tuple[float, int, int]:
        agent = stepping(size.run_steps, store)
        begun = time.perf_counter()
        results = await asyncio.gather(*(agent.run(f"run {index}") for index in range(size.runs)))
        took = time.perf_counter() - begun
        # Started, said, two for each turn, two for each call, finished.
        expected = 3 + 2 * (size.run_steps + 1) + 2 * CALLS * size.run_steps
        lost = found = 0
        for result in results:
            events = await store.events("local", result.run_id, limit=expected + 10)
            found += len(events)
            lost += expected - sum(event.seq == at for at, event in enumerate(events, 1))
        return took, lost, found

    with recording() as store:
        took, lost, found = asyncio.run(measure(store))
    notes = {"events": found, "seconds": round(took, 3), "events_a_second": round(found / took)}
    steps = size.runs * size.run_steps
    return {
        f"events lost of {size.runs} runs at a time": Result(float(lost), "events", 1.0, notes=notes),
        f"a step, {size.runs} runs at a time": Result(1000 * took / steps, "ms", None),
    }


Part = Callable[[Size, str | None], dict[str, Result]]
PARTS: dict[str, Part] = {"step": step, "parallel": parallel, "cached": cached, "plugins": plugins, "runs": runs}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json-only", action="store_true")
    parser.add_argument("--peers-python")
    given = parser.parse_args(arguments)
    size = QUICK if given.quick else Size(rounds=given.runs)
    about: dict[str, Any] = machine.describe()
    results: dict[str, Result] = {}
    MISSING.clear()
    for name in given.parts or PARTS:
        progress(f"{name}:")
        results |= PARTS[name](size, given.peers_python)
    about["load_per_core_after"] = round(machine.load_per_core(), 2)
    if not given.json_only:
        print(report.table(about, results, MISSING))
    print(report.json_line(about, results, MISSING))
    return 0


if __name__ == "__main__":
    sys.exit(main())
