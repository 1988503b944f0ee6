"""The soak: thousands of random requests through an engine that is given no rest, and an account of it at the end.

A tiny real model (latent attention, experts, a draft layer) with the built-in tokenizer; a pool too small for what runs;
readers that come and go; weights that change, sleep and wake; faults put where single requests meet them.

    python tests/engine/soak_run.py --requests 10000 --seed 1
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import random
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine_support import tiny_config
from safetensors.torch import load_file, save_file
from soak_ledger import Ledger, join
from soak_requests import (
    ADAPTERS,
    CHANGING_ADAPTER,
    COMPUTE_SEED,
    DRAW_SEED,
    FAULT_STOP,
    MAX_LENGTH,
    NAN_ADAPTER,
    Spec,
    hostile,
    is_refused,
    schedule,
    spec_of,
)
from weights_support import write_adapter

from deepseek import kernels
from deepseek.core.constraint import Constraint
from deepseek.core.engine import Event, Finish
from deepseek.core.errors import AdmissionError, CheckpointError, ConfigError, LayoutError
from deepseek.engine.engine import Engine
from deepseek.engine.grammar.compiler import GrammarCompiler
from deepseek.engine.grammar.matcher import CompiledGrammar, Matcher
from deepseek.engine.loop import EngineLoop
from deepseek.engine.output import ChoiceOutput
from deepseek.engine.plan import StepPlan
from deepseek.engine.result import StepResult
from deepseek.engine.sampling import sampler
from deepseek.engine.sampling.history import History
from deepseek.engine.scheduler_config import SchedulerConfig
from deepseek.engine.stream import Mailbox
from deepseek.engine.weights import Weights
from deepseek.engine.worker import Worker
from deepseek.models.adapter_files import read_adapter
from deepseek.models.checkpoint import load_model, save_model
from deepseek.models.locate import builtin_dir
from deepseek.models.tokenizer import Tokenizer
from deepseek.models.transformer import Model

OPEN_AT_ONCE = 24
STEP_FAILS_EVERY = 400
# RSS may grow by this much for each thousand requests once the first third is over.
SLOPE_MIB_PER_1000 = 1.0
COUNTED = frozenset(
    {
        *("Sequence", "RequestState", "Live", "StepReader", "ChoiceOutput", "Detokenizer", "StopMatcher", "History"),
        *("NgramIndex", "Mailbox", "Stream", "_Matcher", "Finish", "Tokens", "Ready", "PromptScores", "Embedding"),
    }
)


class InjectedFault(Exception):
    pass


@dataclass
class Summary:
    seed: int
    requests: int
    seconds: float
    reasons: Counter[str]
    refused: Counter[str]
    errors: Counter[str]
    steps: int
    load: dict[str, Any]
    admin: Counter[str]
    compared: int
    slope_mib: float | None
    rss_mib: tuple[float, float]
    left: dict[str, int]
    failures: list[str]

    def __str__(self) -> str:
        slope = "not measured" if self.slope_mib is None else f"{self.slope_mib:+.2f} MiB for 1,000 requests"
        lines = [
            f"soak: seed {self.seed}, {self.requests} requests in {self.seconds:.0f} s, {self.steps} steps",
            f"  ends      {_counts(self.reasons)}",
            f"  refused   {_counts(self.refused)}",
            f"  errors    {_counts(self.errors)}",
            f"  engine    {', '.join(f'{name} {value}' for name, value in self.load.items())}",
            f"  admin     {_counts(self.admin)}",
            f"  compared  {self.compared} answers with those of an engine that does nothing else",
            f"  memory    {self.rss_mib[0]:.0f} to {self.rss_mib[1]:.0f} MiB, {slope}; objects left {self.left or 'none'}",
            f"  wrong     {len(self.failures)}",
        ]
        return "\n".join([*lines, *(f"    {failure}" for failure in self.failures[:20])])


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counter.most_common()) or "none"


def soak(requests: int, seed: int, *, keep_every: int, measures_memory: bool = True) -> Summary:
    """Run it. What must never happen is in `failures` of the summary; an empty list is a pass."""
    with tempfile.TemporaryDirectory() as directory, _faults():
        return asyncio.run(Soak(Path(directory), requests, seed, keep_every, measures_memory).run())


# What is served.


def _files(directory: Path) -> dict[str, Path]:
    """Two checkpoints of one model, and adapters for it."""
    tokenizer = Tokenizer.from_dir(builtin_dir())
    config = replace(
        tiny_config("latent_experts", tokenizer.vocab_size, draft_layers=1),
        eos_token_ids=tuple(tokenizer.eos_ids),
        tie_word_embeddings=False,
    )
    files = {}
    for number, name in enumerate(("a", "b")):
        save_model(Model(config).initialize(seed=number, std=0.25), directory / name)
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(builtin_dir() / file, directory / name)
        files[name] = directory / name
    model = load_model(files["a"])
    for number, name in enumerate((*ADAPTERS, CHANGING_ADAPTER, "changed", NAN_ADAPTER)):
        files[name] = write_adapter(directory / f"adapter {name}", model, number)
    # Finite, as a file must be, and too large for what it is multiplied with.
    path = files[NAN_ADAPTER] / "adapter_model.safetensors"
    save_file({key: torch.full_like(tensor, 1e25) for key, tensor in load_file(path).items()}, path)
    return files


class UnsteadyWorker(Worker):
    """Fails for one marked request, and now and then for no reason."""

    steps = 0

    def run(self, plan: StepPlan) -> StepResult:
        self.steps += 1
        marked = (plan.sampling.seed == COMPUTE_SEED) & (plan.sampling.position % 7 == 3)
        if marked.any():
            raise LayoutError("a fault of this row")
        if self.steps % STEP_FAILS_EVERY == 0 and plan.num_sequences > 1:
            raise MemoryError("a fault of this step")
        return super().run(plan)


class UnsteadyMatcher:
    """Wraps the real one of a marked request, and breaks after a few tokens."""

    def __init__(self, inner: Matcher) -> None:
        self._inner, self._left = inner, 9

    def masks(self, draft: Sequence[int]) -> Any:
        self._left -= 1
        if self._left < 0:
            raise InjectedFault("masks")
        return self._inner.masks(draft)

    def accept(self, token: int) -> None:
        self._inner.accept(token)

    def forced(self, limit: int) -> list[int]:
        return self._inner.forced(limit)

    def valid_prefix(self, tokens: Sequence[int]) -> int:
        return self._inner.valid_prefix(tokens)

    @property
    def done(self) -> bool:
        return self._inner.done


class UnsteadyGrammar:
    def __init__(self, inner: CompiledGrammar) -> None:
        self._inner = inner

    def matcher(self) -> Matcher:
        return UnsteadyMatcher(self._inner.matcher())


class UnsteadyCompiler(GrammarCompiler):
    async def compile_async(self, constraint: Constraint) -> Any:
        grammar = await super().compile_async(constraint)
        return UnsteadyGrammar(grammar) if constraint.source.startswith("fault") else grammar


@contextlib.contextmanager
def _faults() -> Iterator[None]:
    """Marked requests fail in their text, their history, their draws."""
    push, bias, uniform = ChoiceOutput.push, History.bias, sampler.draw_uniform

    def marked_push(self: ChoiceOutput, token_ids: Sequence[int]) -> str:
        if FAULT_STOP + "text" in self._matcher._stops and token_ids[0] % 5 == 0:
            raise InjectedFault("text")
        return push(self, token_ids)

    def marked_bias(self: History, token_ids: Sequence[int], *rest: Any, **named: Any) -> Any:
        if FAULT_STOP + "history" in self._params.stop and len(token_ids) % 5 == 0:
            raise InjectedFault("history")
        return bias(self, token_ids, *rest, **named)

    def marked_uniform(seed: int, choice: int, position: int) -> float:
        if seed == DRAW_SEED and position % 5 == 0:
            raise InjectedFault("draw")
        return uniform(seed, choice, position)

    ChoiceOutput.push, History.bias = marked_push, marked_bias  # type: ignore[method-assign]
    sampler.draw_uniform = marked_uniform  # type: ignore[assignment]
    try:
        yield
    finally:
        ChoiceOutput.push, History.bias = push, bias  # type: ignore[method-assign]
        sampler.draw_uniform = uniform  # type: ignore[assignment]


# The run.


class Soak:
    def __init__(self, directory: Path, requests: int, seed: int, keep_every: int, measures_memory: bool) -> None:
        self.count, self.seed, self.measures_memory = requests, seed, measures_memory
        self.files = _files(directory)
        self.tokenizer = Tokenizer.from_dir(self.files["a"])
        self.ledger = Ledger(keep_every)
        self.weights_of = {0: "a"}
        self.admin: Counter[str] = Counter()
        self.rss: list[tuple[int, float]] = []
        self.tensors = {
            name: {
                key: tensor.clone()
                for file in self.files[name].glob("*.safetensors")
                for key, tensor in load_file(file).items()
            }
            for name in ("a", "b")
        }

    def loop_on(self, path: Path, worker_class: type[Worker], **changes: Any) -> tuple[EngineLoop, Worker]:
        model = load_model(path)
        fields: dict[str, Any] = {
            "num_blocks": 28,
            "block_size": 8,
            "max_model_len": MAX_LENGTH,
            "max_tokens_per_step": 96,
            "max_sequences": 14,
            "max_waiting": 23,
            "speculation": "auto",
            "eos_token_ids": frozenset(self.tokenizer.eos_ids),
        }
        config = SchedulerConfig(**fields | changes)
        worker = worker_class(model, config.num_blocks, config.block_size, drafts=True)
        encode: Callable[[str], Sequence[int]] = lambda text: self.tokenizer.encode_piece(text, at_start=False)  # noqa: E731
        size = model.config.vocab_size
        return EngineLoop(worker, self.tokenizer, config, vocab_size=size, encode=encode), worker

    def compiler(self, kind: type[GrammarCompiler]) -> GrammarCompiler:
        # Few grammars are kept, so that those which are let go are many, and what is kept looks like no leak.
        ends = sorted(self.tokenizer.eos_ids)
        return kind(self.tokenizer, self.tokenizer.vocab_size, ends, deadline_s=3.0, cache_bytes=4 << 20)

    async def run(self) -> Summary:
        begun = time.monotonic()
        loop, worker = self.loop_on(self.files["a"], UnsteadyWorker)
        before = _living()
        engine = Engine(loop, Weights(worker, self.files["a"]), self.compiler(UnsteadyCompiler))
        receive, refuse = Mailbox.receive, Mailbox.refuse
        lock = threading.Lock()

        def noted(mailbox: Mailbox, events: list[Event]) -> None:
            with lock:
                self.ledger.note(mailbox.request_id, events)
            receive(mailbox, events)

        def refused(mailbox: Mailbox, error: Exception) -> None:
            reason = f"constraint {error.reason}" if isinstance(error, AdmissionError) else type(error).__name__
            with lock:
                self.ledger.refuse(mailbox.request_id, reason)
            refuse(mailbox, error)

        Mailbox.receive, Mailbox.refuse = noted, refused  # type: ignore[method-assign]
        try:
            for name in (*ADAPTERS, CHANGING_ADAPTER, NAN_ADAPTER):
                await engine.load_adapter(name, self.files[name])
            stop = asyncio.Event()
            admin = asyncio.create_task(self.administer(engine, stop))
            await self.send_all(engine)
            stop.set()
            await admin
            await self.until_idle(engine)
            load = engine.load()
            self.ledger.closing = True
            await asyncio.wait_for(engine.close(), 60)
        finally:
            Mailbox.receive, Mailbox.refuse = receive, refuse  # type: ignore[method-assign]
        loop.scheduler.check()
        failures = self.ledger.failures
        if self.ledger.open:
            failures += [f"{name} never ended" for name in self.ledger.open]
        if load.blocks_used or load.running or load.waiting:
            failures.append(f"not empty at the end: {load}")
        if loop._live or engine._preparing or loop.scheduler._deadlines:
            failures.append("something of a request is left in the engine")
        steps = worker.steps
        del engine, loop, worker
        left = {name: count for name, count in (_living() - before).items() if count > 0}
        if left:
            failures.append(f"objects that nobody needs are left: {left}")
        slope = self.slope()
        if slope is not None and slope > SLOPE_MIB_PER_1000:
            failures.append(f"memory grows by {slope:.2f} MiB for 1,000 requests, over {SLOPE_MIB_PER_1000}")
        compared = self.compare()
        return Summary(
            self.seed,
            self.count,
            time.monotonic() - begun,
            self.ledger.reasons,
            self.ledger.refused,
            self.ledger.errors,
            steps,
            {
                "preemptions": load.preemptions,
                "prefix hits": f"{load.prefix_hit_tokens} of {load.prefix_query_tokens} tokens",
                "guesses": f"{load.accepted_tokens} right of {load.drafted_tokens}",
                "grammars": f"{load.grammars_compiled} + {load.grammars_refused} refused",
                "weights": load.weights_version,
            },
            self.admin,
            compared,
            slope,
            (self.rss[0][1], self.rss[-1][1]) if self.rss else (0.0, 0.0),
            left,
            failures,
        )

    async def send_all(self, engine: Engine) -> None:
        places = asyncio.Semaphore(OPEN_AT_ONCE)
        tasks: set[asyncio.Task[None]] = set()
        rng = random.Random(f"{self.seed} wrongs")
        sample_every = max(1, self.count // 60)
        for spec in schedule(self.seed, self.count, self.tokenizer.vocab_size):
            if not engine._thread.is_alive():
                raise AssertionError("the engine's thread is dead")
            await places.acquire()
            task = asyncio.create_task(self.send(engine, spec))
            tasks.add(task)
            task.add_done_callback(lambda done: (tasks.discard(done), places.release()))
            if spec.index % 50 == 7 and not is_refused(hostile(rng)):
                self.ledger.fail(spec, "a hostile request was let in")
            if spec.index % 400 == 300:
                await asyncio.to_thread(self.vanish, engine, spec)
            if self.measures_memory and spec.index % sample_every == 0:
                self.rss.append((spec.index, _rss_mib()))
            if spec.gap_s:
                await asyncio.sleep(spec.gap_s)
        while tasks:
            done, _ = await asyncio.wait(tasks, timeout=120)
            if not done:
                raise AssertionError(f"stuck: {len(tasks)} readers wait for {sorted(self.ledger.open)[:5]}")

    async def send(self, engine: Engine, spec: Spec) -> None:
        request = spec.request
        if spec.expires_s is not None:
            request = replace(request, deadline=time.monotonic() + spec.expires_s)
        self.ledger.enter(spec)
        try:
            stream = engine.generate(request)
        except AdmissionError as error:
            self.ledger.refuse(spec.request.id, error.reason)
            return
        except BaseException as error:
            self.ledger.fail(spec, f"raised {error!r}")
            return
        if spec.index % 40 == 11:
            self.twice(engine, spec)
        try:
            await self.read(engine, spec, stream)
        except AdmissionError as error:
            if request.constraint is None and not request.sampling.bad_words:
                self.ledger.fail(spec, f"was refused late: {error}")
        except Exception as error:
            self.ledger.fail(spec, f"its reader got {error!r}")

    async def read(self, engine: Engine, spec: Spec, stream: AsyncIterator[Event]) -> None:
        if spec.reader == "cancel":
            task = asyncio.create_task(_collect(stream))
            del stream
            await asyncio.wait([task], timeout=spec.delay_s)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            return
        if spec.reader == "abort":
            aborting = asyncio.get_running_loop().call_later(
                spec.delay_s, lambda: self._keep(asyncio.create_task(engine.abort(spec.request.id)))
            )
            events = await _collect(stream)
            aborting.cancel()
            self.check_reading(spec, events)
            return
        if spec.reader in ("aclose", "drop"):
            for _ in range(spec.at):
                if isinstance(await anext(stream), Finish):
                    return
            if spec.reader == "aclose":
                await stream.aclose()  # type: ignore[attr-defined]
            del stream
            return
        self.check_reading(spec, await _collect(stream, spec.delay_s if spec.reader == "slow" else None))

    def _keep(self, task: asyncio.Task[None]) -> None:
        """Tasks that nobody holds may be collected before they have run."""
        self._aborts = {one for one in getattr(self, "_aborts", set()) if not one.done()} | {task}

    def check_reading(self, spec: Spec, events: list[Event]) -> None:
        if [type(event) for event in events].count(Finish) != 1 or not isinstance(events[-1], Finish):
            self.ledger.fail(spec, f"its reader saw {[type(event).__name__ for event in events]}")
        told = join(spec, events)
        if any(len(a) != len(b) for a, b in zip(told.ids, told.logprobs, strict=True) if b):
            self.ledger.fail(spec, "its reader lost logprobs")

    def twice(self, engine: Engine, spec: Spec) -> None:
        """The same id again, while the first is alive: refused at once, or the first has ended already."""
        if spec.request.id not in self.ledger.open:
            return
        try:
            again = engine.generate(replace(spec.request, constraint=None))
        except AdmissionError as error:
            if error.reason not in ("duplicate", "queue_full"):
                self.ledger.fail(spec, f"a duplicate was refused as {error.reason}")
            return
        del again
        # Between the look and the call the first may have ended; the second is then the ledger's to miss.

    def vanish(self, engine: Engine, spec: Spec) -> None:
        """Readers whose whole event loop goes away: with requests that run, wait, and compile."""
        kept: list[Any] = []

        async def leave() -> None:
            for number in range(3):
                request = replace(
                    spec.request, id=f"v{spec.index} {number}", adapter=None, task="generate", deadline=None
                )
                if number == 1:
                    request = replace(request, constraint=Constraint.choice([f"other {spec.index}", "none"]))
                elif number == 0:
                    request = replace(request, constraint=None)
                asked = replace(spec, request=request, index=-spec.index * 4 - number, reader="drop", fault=spec.fault)
                self.ledger.enter(asked)
                try:
                    kept.append(engine.generate(request))
                except AdmissionError as error:
                    self.ledger.refuse(request.id, error.reason)

        asyncio.run(leave())
        kept.clear()
        gc.collect()
        self.admin["event loops that vanished"] += 1

    async def administer(self, engine: Engine, stop: asyncio.Event) -> None:
        """One change after the other, for as long as requests come."""
        rng = random.Random(f"{self.seed} admin")
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), rng.choice([0.2, 0.5, 1.5]))
            what = rng.choice(["tensors", "path", "misfit", "sleep", "sleep", "adapter", "adapter", "unload"])
            current = self.weights_of[engine.load().weights_version]
            other = "b" if current == "a" else "a"
            try:
                if what == "tensors":
                    mode = rng.choice(["recompute", "drain"])
                    version = await engine.update_weights(self.tensors[other], mode)  # type: ignore[arg-type]
                    self.weights_of[version] = other
                elif what == "path":
                    version = await engine.update_weights(self.files[other])
                    self.weights_of[version] = other
                elif what == "misfit":
                    wrong = {"model.norm.weight": torch.zeros(3), "model.nowhere.weight": torch.zeros(1)}
                    with contextlib.suppress(ConfigError, CheckpointError, LayoutError):
                        await engine.update_weights(wrong)
                        self.ledger.failures.append("weights that do not fit were taken")
                elif what == "sleep":
                    level = rng.choice([1, 2])
                    await engine.sleep(level, weights=self.files[current] if level == 2 else None)
                    await asyncio.sleep(rng.choice([0.0, 0.05]))
                    await engine.wake()
                    self.weights_of[engine.load().weights_version] = current  # a new one, if tensors were in use
                elif what == "adapter":
                    await engine.load_adapter(CHANGING_ADAPTER, self.files[rng.choice([CHANGING_ADAPTER, "changed"])])
                else:
                    with contextlib.suppress(ConfigError):
                        await engine.unload_adapter(CHANGING_ADAPTER)
                self.admin[what] += 1
            except Exception as error:
                self.ledger.failures.append(f"admin: {what} raised {error!r}")

    async def until_idle(self, engine: Engine) -> None:
        for _ in range(3000):
            gc.collect()
            load = engine.load()
            if not (load.running or load.waiting or engine.loop.has_work or engine._preparing):
                return
            await asyncio.sleep(0.02)
        self.ledger.failures.append(f"never idle: {engine.load()}, open {sorted(self.ledger.open)[:5]}")

    def slope(self) -> float | None:
        """MiB for 1,000 requests after the first third, by least squares."""
        late = [(index / 1000, mib) for index, mib in self.rss if index > self.count / 3]
        if len(late) < 10:
            return None
        return float(np.polyfit(*np.array(late).T, 1)[0])

    def compare(self) -> int:
        """What was kept of the answers, with what a fresh engine says that serves one request at a time."""
        loops: dict[str, EngineLoop] = {}
        grammars = self.compiler(GrammarCompiler)
        compared = 0
        try:
            for index, version, digest in self.ledger.kept:
                spec = spec_of(self.seed, index, self.tokenizer.vocab_size)
                name, request = self.weights_of[version], spec.request
                if request.adapter == CHANGING_ADAPTER:
                    continue
                if name not in loops:
                    loops[name], worker = self.loop_on(self.files[name], Worker, speculation="off", num_blocks=64)
                    for adapter in ADAPTERS:
                        handle = loops[name].new_adapter_handle()
                        worker.adapters.install(handle, read_adapter(self.files[adapter], worker.model))
                        loops[name].publish_adapter(adapter, handle)
                events: list[Event] = []
                matcher = None if request.constraint is None else grammars.compile(request.constraint).matcher
                loops[name].add(replace(request, cache_salt=f"alone {spec.index}"), events.extend, matcher)
                while loops[name].step():
                    pass
                if join(spec, events).digest != digest:
                    self.ledger.fail(spec, f"another answer than alone, weights {name}")
                compared += 1
        finally:
            grammars.close()
        return compared


async def _collect(stream: AsyncIterator[Event], pause_s: float | None = None) -> list[Event]:
    events = []
    async for event in stream:
        events.append(event)
        if pause_s is not None:
            await asyncio.sleep(pause_s)
    return events


def _living() -> Counter[str]:
    """How many objects of the engine's own classes there are."""
    gc.collect()
    return Counter(
        kind.__name__
        for kind in map(type, gc.get_objects())
        if kind.__name__ in COUNTED and kind.__module__.startswith("deepseek.")
    )


def _rss_mib() -> float:
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep-every", type=int, default=37)
    parser.add_argument("--loud", action="store_true", help="let the engine log what it contains")
    options = parser.parse_args()
    logging.getLogger("deepseek").setLevel(logging.INFO if options.loud else logging.CRITICAL)
    kernels.set_num_threads(1)
    summary = soak(options.requests, options.seed, keep_every=options.keep_every)
    print(summary)
    raise SystemExit(bool(summary.failures))


if __name__ == "__main__":
    main()
