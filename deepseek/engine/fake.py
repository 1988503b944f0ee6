"""An engine without a model: made-up tokens at a set pace, under the same contract as the real one.

Everything above the engine (fronts, limits, streams, agents) is tested and measured against it. Its
vocabulary is the 256 bytes; what it says comes from a `Reply`, by default letters drawn from the seed.
Time comes from a clock and a sleep that a test can replace, `VirtualTime` for one, so nothing really waits.

    time = VirtualTime()
    engine = FakeEngine(reply=say("Hello!"), clock=time.now, sleep=time.sleep)
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, get_args

import numpy as np

from deepseek.core.engine import (
    Embedding,
    Event,
    Finish,
    Load,
    PromptScores,
    Ready,
    Request,
    SwapMode,
    Tokens,
)
from deepseek.core.errors import AdmissionError, ConfigError, EngineError
from deepseek.engine.adapters import AdapterNames
from deepseek.engine.fake_run import VOCABULARY, Choice, Run, RunStream, flat_logprob
from deepseek.engine.reading import read_embedding, read_scores, to_embed, to_score
from deepseek.engine.virtual_time import VirtualTime

__all__ = ["VOCABULARY", "FakeEngine", "Reply", "VirtualTime", "babble", "say"]

EMBEDDING_SIZE = 8

Reply = Callable[[Request, int, int], Iterable[int]]
"""(request, choice, seed) -> the bytes of an answer, one a token. When they run out the choice ends with "stop"."""


def say(text: str, controls: Sequence[str] = ()) -> Reply:
    """A reply that is always this text. controls: the engine's control tokens, by which it is told where one stands."""
    ids = _spelt(text, controls)
    return lambda request, choice, seed: ids


def _spelt(text: str, controls: Sequence[str]) -> list[int]:
    if not controls:
        return list(text.encode())
    pieces = re.split(f"({'|'.join(re.escape(each) for each in sorted(controls, key=len, reverse=True))})", text)
    known = {literal: [VOCABULARY + index] for index, literal in enumerate(controls)}
    return [token for piece in pieces for token in known.get(piece) or piece.encode()]


def babble(request: Request, choice: int, seed: int) -> Iterator[int]:
    """Endless lower-case words, a function of prompt, choice and seed (of the prompt alone at temperature 0)."""
    drawn = (choice, seed) if request.sampling.temperature else ()
    state = hashlib.sha256(repr((request.prompt_ids, drawn)).encode()).digest()
    while True:
        for byte in state:
            # One byte in eight is a space, the others are letters.
            yield 0x20 if byte % 8 == 0 else 0x61 + byte % 26
        state = hashlib.sha256(state).digest()


TOKENS_A_TURN = 16
"""Tokens without time between them that nobody waits for one by one are made so many in a turn of the event loop."""


class FakeEngine:
    """Implements `deepseek.core.engine.Engine` for one event loop.

    ttft_s: from a request's start to its first token. inter_token_s: between tokens, all choices advance together.
    max_running: requests served at once; others wait in order of priority, then arrival. One that waits for its lease
    keeps its place.
    max_waiting: beyond which requests are refused.
    controls: control tokens, whose ids are 256, 257, …; a reply that says one is told as the real engine would.
    cached_tokens: of each prompt, as if found in a prefix cache; always less than the prompt, as in the real one.
    fail_at: generated tokens per choice after which a request ends with "error" (0: before the first), or a
    function from the request to that number; None never fails.
    """

    def __init__(
        self,
        *,
        reply: Reply = babble,
        ttft_s: float = 0.05,
        inter_token_s: float = 0.01,
        max_model_len: int = 4096,
        max_running: int = 64,
        max_waiting: int = 1024,
        block_size: int = 16,
        num_blocks: int = 4096,
        fail_at: int | Callable[[Request], int | None] | None = None,
        controls: Sequence[str] = (),
        cached_tokens: int = 0,
        weights_version: int = 0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        for name, value in (
            ("max_model_len", max_model_len - 1),
            ("max_running", max_running),
            ("block_size", block_size),
        ):
            if value < 1:
                raise ConfigError("too small", where=name, found=value)
        self.reply = reply
        self.ttft_s = ttft_s
        self.inter_token_s = inter_token_s
        self.max_model_len = max_model_len
        self.max_running = max_running
        self.max_waiting = max_waiting
        self.block_size = block_size
        self.num_blocks = num_blocks
        self.controls = tuple(controls)
        self.cached_tokens = cached_tokens
        self.weights_version = weights_version
        self._fail_at = fail_at if callable(fail_at) else lambda request: fail_at
        self._clock = clock
        self._sleep = sleep
        self._live: dict[str, Run] = {}
        self._waiting: list[Run] = []
        self._running: set[Run] = set()
        self._orders = count()
        self._closed = False
        self._awake = asyncio.Event()
        self._awake.set()
        self._draining = False
        self._ended = asyncio.Event()  # some request ended
        self._updates = asyncio.Lock()
        self._adapters = AdapterNames()

    def generate(self, request: Request) -> AsyncIterator[Event]:
        """See the protocol. Raises AdmissionError for what the real engine refuses, EngineError when closed."""
        self._require_open()
        if not request.prompt_ids:
            raise AdmissionError("the prompt has no tokens", where="prompt")
        if len(request.prompt_ids) + bool(request.sampling.max_tokens) > self.max_model_len:
            raise AdmissionError(
                "the prompt leaves no room for a single new token",
                reason="too_long",
                where="prompt",
                found=f"{len(request.prompt_ids)} tokens",
                expected=f"at most {self.max_model_len - 1}",
            )
        if request.id in self._live:
            raise AdmissionError("a live request has this id", reason="duplicate", where="id", found=request.id)
        if len(self._running) >= self.max_running and len(self._waiting) >= self.max_waiting:
            raise AdmissionError(
                "too many requests are waiting", reason="queue_full", found=len(self._waiting), fix="try again later"
            )
        adapter = self._adapters.handle_of(request.adapter)
        run = Run(request, next(self._orders), self._clock(), adapter)
        run.watch_lease()
        self._adapters.enter(adapter)
        self._live[request.id] = run
        self._waiting.append(run)
        self._start_those_next()
        run.task = asyncio.get_running_loop().create_task(self._serve(run))
        return RunStream(run)

    async def score(self, request: Request) -> PromptScores:
        return await read_scores(self.generate(to_score(request)))

    async def encode(self, request: Request) -> Embedding:
        return await read_embedding(self.generate(to_embed(request)))

    async def load_adapter(self, name: str, path: str | Path) -> int:
        """Takes any path: what is said does not depend on it."""
        self._require_open()
        handle = self._adapters.new_handle()
        self._adapters.publish(name, handle)
        return handle

    async def unload_adapter(self, name: str) -> None:
        self._require_open()
        handles: list[int] = []
        self._adapters.withdraw(name, handles.append)
        await self._until_none(lambda run: run.adapter in handles)

    async def update_weights(self, source: str | Path | Mapping[str, Any], mode: SwapMode = "recompute") -> int:
        """Takes any source: only the version changes."""
        if mode not in get_args(SwapMode):
            raise ConfigError("unknown", where="mode", found=repr(mode), expected=" or ".join(get_args(SwapMode)))
        async with self._updates:
            self._require_open()
            if mode == "drain":
                if self.is_sleeping:
                    raise ConfigError("nothing drains while the engine sleeps", where="mode", expected="recompute")
                self._draining = True
                try:
                    await self._until_none(lambda run: run.turn.is_set())
                finally:
                    self._draining = False
            self.weights_version += 1
            self._start_those_next()
            return self.weights_version

    async def sleep(self, level: int = 1, *, weights: str | Path | None = None) -> None:
        if level not in (1, 2):
            raise ConfigError("out of range", where="level", found=level, expected="1 or 2")
        self._require_open()
        self._awake.clear()

    async def wake(self) -> None:
        self._require_open()
        self._awake.set()

    @property
    def is_sleeping(self) -> bool:
        return not self._awake.is_set()

    async def abort(self, request_id: str) -> None:
        run = self._live.get(request_id)
        if run is not None:
            run.cancel()

    def load(self) -> Load:
        running = () if self.is_sleeping else self._running
        sizes = [run.tokens for run in running]
        return Load(
            waiting=len(self._waiting) + len(self._running) - len(running),
            running=len(running),
            blocks_used=min(self.num_blocks, sum(-(-size // self.block_size) for size in sizes)),
            blocks_total=self.num_blocks,
            oldest_wait_s=max((self._clock() - run.arrival for run in self._waiting), default=0.0),
            weights_version=self.weights_version,
            sleeping=self.is_sleeping,
        )

    async def close(self) -> None:
        self._closed = True
        live = list(self._live.values())
        for run in live:
            run.cancel()
        await asyncio.gather(*(run.task for run in live if run.task is not None))

    def _require_open(self) -> None:
        if self._closed:
            raise EngineError("the engine is closed")

    def _start_those_next(self) -> None:
        while self._waiting and len(self._running) < self.max_running and not self._draining:
            following = min(self._waiting, key=lambda waiting: (waiting.request.priority, waiting.order))
            self._waiting.remove(following)
            self._running.add(following)
            following.turn.set()

    async def _until_none(self, such: Callable[[Run], bool]) -> None:
        while any(such(run) for run in self._live.values()):
            self._ended.clear()
            await self._ended.wait()
        self._require_open()

    async def _serve(self, run: Run) -> None:
        error = None
        try:
            await self._produce(run)
        except Exception as failure:
            # Whatever a reply or a sleep does wrong, the request must still end, and end once.
            error = f"{type(failure).__name__}: {failure}"
            run.end_rest("error")
        finally:
            run.end_rest("cancelled")
            self._emit_held_text(run)
            self._leave(run)
            stops = tuple(choice.stop for choice in run.choices) if run.request.sampling.stop else ()
            run.emit(Finish(run.request.id, run.reasons, run.usage, error or run.error, stops))

    async def _produce(self, run: Run) -> None:
        request = run.request
        if not run.turn.is_set() and not await self._until(run, run.turn.wait(), None):
            return
        choices = [
            Choice(request, index, self.reply(request, index, run.seed), self.controls)
            for index in range(request.sampling.n)
        ]
        run.choices = choices
        run.cached = min(self.cached_tokens, len(request.prompt_ids) - 1)
        fail_at = self._fail_at(request)
        begun = self._clock()
        due = begun + self.ttft_s
        for step in count():
            if run.left <= 0:
                if not await self._feed(run):
                    return
                now = self._clock()
                begun, due = (begun, now + self.inter_token_s) if step else (now, now + self.ttft_s)
            if not await self._until(run, None, due):
                return
            if self.is_sleeping:
                if not await self._until(run, self._awake.wait(), None):
                    return
                due = self._clock()
            if step == 0:
                run.emit(Ready(request.id, run.seed, begun - run.arrival, run.cached))
                self._emit_about_prompt(run)
                if request.task == "embed" or not request.sampling.max_tokens:
                    run.end_rest("stop" if request.task == "embed" else "length")
                    return
            if step == fail_at:
                run.error = f"injected failure after {step} tokens"
                run.end_rest("error")
                return
            self._advance(run)
            if all(choice.reason is not None for choice in choices):
                return
            due += self.inter_token_s

    async def _feed(self, run: Run) -> bool:
        """Wait until its lease has tokens for a run. False if it ended instead."""
        lease = run.lease
        assert lease is not None
        while True:
            run.fed.clear()
            final = lease.final  # read first: nothing is added once it is
            if run.left > 0:
                return True
            if final:
                run.end_rest("budget")
                return False
            if not await self._until(run, run.fed.wait(), None):
                return False

    def _advance(self, run: Run) -> None:
        """A token for each choice, as far as the lease goes."""
        if run.lease is None:
            for choice in run.choices:
                if choice.reason is None:
                    event = choice.step(self.max_model_len, self.weights_version)
                    if event is not None:
                        run.emit(event)
            return
        left, before = run.left, run.generated
        events: list[Tokens] = []
        for choice in run.choices:
            if choice.reason is None and left > 0:
                left += choice.generated
                event = choice.step(self.max_model_len, self.weights_version)
                left -= choice.generated
                if event is not None:
                    events.append(event)
        if run.generated > before:
            run.lease.use(run.generated)
        for event in events:
            run.emit(event)

    def _emit_held_text(self, run: Run) -> None:
        """Of choices that were cut short."""
        for choice in run.choices:
            if choice.reason is None and run.rest != "error":
                event = choice.end(self.weights_version)
                if event is not None:
                    run.emit(event)

    def _emit_about_prompt(self, run: Run) -> None:
        request, ids = run.request, run.request.prompt_ids
        wanted = request.sampling.prompt_logprobs
        if request.task == "embed":
            digest = hashlib.sha256(repr((ids, request.pooling)).encode()).digest()
            values = np.frombuffer(digest[:EMBEDDING_SIZE], np.uint8).astype(np.float32) / np.float32(255)
            run.emit(Embedding(request.id, values, self.weights_version))
        elif wanted is not None:
            scores = (None, *(flat_logprob(token, wanted) for token in ids[1:]))
            run.emit(PromptScores(request.id, 0, scores, self.weights_version))

    async def _until(self, run: Run, turn: Awaitable[object] | None, due: float | None) -> bool:
        """Wait for the turn or the due time. False if the request was cancelled or its deadline came first."""
        deadline = run.request.deadline
        wake = deadline if due is None else due if deadline is None else min(due, deadline)
        if turn is None and wake is not None and self._sleep is asyncio.sleep:
            # For every token: tasks to wait for would cost more than it does.
            left = wake - self._clock()
            if left > 0.0 and not run.cancelled.is_set():
                await run.wait(left)
            elif not run.request.whole or run.generated % TOKENS_A_TURN == 0:
                await asyncio.sleep(0)
            return self._goes_on(run)
        waits: list[asyncio.Future[object]] = [asyncio.ensure_future(run.cancelled.wait())]
        if turn is not None:
            waits.append(asyncio.ensure_future(turn))
        if wake is not None:
            waits.append(asyncio.ensure_future(self._sleep(max(0.0, wake - self._clock()))))
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in done:
                wait.result()  # a sleep that raises is the request's error
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        return self._goes_on(run)

    def _goes_on(self, run: Run) -> bool:
        deadline = run.request.deadline
        if run.cancelled.is_set():
            run.end_rest("cancelled")
        elif deadline is not None and self._clock() >= deadline:
            run.end_rest("deadline")
        return not run.ended

    def _leave(self, run: Run) -> None:
        del self._live[run.request.id]
        self._running.discard(run)
        if run in self._waiting:
            self._waiting.remove(run)
        self._adapters.leave(run.adapter)
        self._ended.set()
        self._start_those_next()
