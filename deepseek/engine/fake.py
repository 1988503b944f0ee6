"""An engine without a model: made-up tokens at a set pace, under the same contract as the real one.

Everything above the engine (fronts, limits, streams, agents) is tested and measured against it. Its
vocabulary is the 256 bytes; what it says comes from a `Reply`, by default letters drawn from the seed.
Time comes from a clock and a sleep that a test can replace, `VirtualTime` for one, so nothing really waits.

    time = VirtualTime()
    engine = FakeEngine(reply=say("Hello!"), clock=time.now, sleep=time.sleep)
"""

from __future__ import annotations

import asyncio
import codecs
import hashlib
import heapq
import math
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from itertools import count

from deepseek.core.engine import Event, Finish, FinishReason, Load, Ready, Request, TokenLogprob, Tokens, Usage
from deepseek.core.errors import AdmissionError, ConfigError, EngineError
from deepseek.core.sampling import MAX_SEED

VOCABULARY = 256

Reply = Callable[[Request, int, int], Iterable[int]]
"""(request, choice, seed) -> the bytes of an answer, one a token. When they run out the choice ends with "stop"."""


def say(text: str) -> Reply:
    """A reply that is always this text."""
    return lambda request, choice, seed: text.encode()


def babble(request: Request, choice: int, seed: int) -> Iterator[int]:
    """Endless lower-case words, a function of prompt, choice and seed (of the prompt alone at temperature 0)."""
    drawn = (choice, seed) if request.sampling.temperature else ()
    state = hashlib.sha256(repr((request.prompt_ids, drawn)).encode()).digest()
    while True:
        for byte in state:
            # One byte in eight is a space, the others are letters.
            yield 0x20 if byte % 8 == 0 else 0x61 + byte % 26
        state = hashlib.sha256(state).digest()


class FakeEngine:
    """Implements `deepseek.core.engine.Engine` for one event loop.

    ttft_s: from a request's start to its first token. inter_token_s: between tokens, all choices advance together.
    max_running: requests served at once; others wait in order of priority, then arrival.
    max_waiting: beyond which requests are refused.
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
        self.weights_version = weights_version
        self._fail_at = fail_at if callable(fail_at) else lambda request: fail_at
        self._clock = clock
        self._sleep = sleep
        self._live: dict[str, _Run] = {}
        self._waiting: list[_Run] = []
        self._running: set[_Run] = set()
        self._orders = count()
        self._closed = False

    def generate(self, request: Request) -> AsyncIterator[Event]:
        """See the protocol. Raises AdmissionError for what the real engine refuses, EngineError when closed."""
        if self._closed:
            raise EngineError("the engine is closed")
        if not request.prompt_ids:
            raise AdmissionError("the prompt has no tokens", where="prompt")
        if len(request.prompt_ids) >= self.max_model_len:
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
        run = _Run(request, next(self._orders), self._clock())
        self._live[request.id] = run
        if len(self._running) < self.max_running:
            self._start(run)
        else:
            self._waiting.append(run)
        run.task = asyncio.get_running_loop().create_task(self._serve(run))
        return _Stream(run)

    async def abort(self, request_id: str) -> None:
        run = self._live.get(request_id)
        if run is not None:
            run.cancel()

    def load(self) -> Load:
        sizes = [run.tokens for run in self._running]
        return Load(
            waiting=len(self._waiting),
            running=len(self._running),
            blocks_used=min(self.num_blocks, sum(-(-size // self.block_size) for size in sizes)),
            blocks_total=self.num_blocks,
            oldest_wait_s=max((self._clock() - run.arrival for run in self._waiting), default=0.0),
        )

    async def close(self) -> None:
        self._closed = True
        live = list(self._live.values())
        for run in live:
            run.cancel()
        await asyncio.gather(*(run.task for run in live if run.task is not None))

    def _start(self, run: _Run) -> None:
        self._running.add(run)
        run.turn.set()

    async def _serve(self, run: _Run) -> None:
        error = None
        try:
            await self._produce(run)
        except Exception as failure:
            # Whatever a reply or a sleep does wrong, the request must still end, and end once.
            error = f"{type(failure).__name__}: {failure}"
            run.end_rest("error")
        finally:
            run.end_rest("cancelled")
            self._leave(run)
            run.emit(Finish(run.request.id, run.reasons, run.usage, error or run.error))

    async def _produce(self, run: _Run) -> None:
        request = run.request
        if not run.turn.is_set() and not await self._until(run, run.turn.wait(), None):
            return
        choices = [_Choice(request, index, self.reply(request, index, run.seed)) for index in range(request.sampling.n)]
        run.choices = choices
        fail_at = self._fail_at(request)
        due = self._clock() + self.ttft_s
        for step in count():
            if not await self._until(run, None, due):
                return
            if step == 0:
                run.emit(Ready(request.id, run.seed))
            if step == fail_at:
                run.error = f"injected failure after {step} tokens"
                run.end_rest("error")
                return
            for choice in choices:
                if choice.reason is None:
                    event = choice.step(self.max_model_len, self.weights_version)
                    if event is not None:
                        run.emit(event)
            if all(choice.reason is not None for choice in choices):
                return
            due += self.inter_token_s

    async def _until(self, run: _Run, turn: Awaitable[object] | None, due: float | None) -> bool:
        """Wait for the turn or the due time. False if the request was cancelled or its deadline came first."""
        deadline = run.request.deadline
        waits: list[asyncio.Future[object]] = [asyncio.ensure_future(run.cancelled.wait())]
        if turn is not None:
            waits.append(asyncio.ensure_future(turn))
        wake = min((at for at in (due, deadline) if at is not None), default=None)
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
        if run.cancelled.is_set():
            run.end_rest("cancelled")
        elif deadline is not None and self._clock() >= deadline:
            run.end_rest("deadline")
        return not run.ended

    def _leave(self, run: _Run) -> None:
        del self._live[run.request.id]
        self._running.discard(run)
        if run in self._waiting:
            self._waiting.remove(run)
        while self._waiting and len(self._running) < self.max_running:
            following = min(self._waiting, key=lambda waiting: (waiting.request.priority, waiting.order))
            self._waiting.remove(following)
            self._start(following)


class _Run:
    """One request inside the fake engine; its events wait here until they are read."""

    def __init__(self, request: Request, order: int, arrival: float) -> None:
        self.request = request
        self.order = order
        self.arrival = arrival
        seed = request.sampling.seed
        self.seed = secrets.randbelow(MAX_SEED) if seed is None else seed
        self.choices: list[_Choice] = []
        self.error: str | None = None
        self.rest: FinishReason | None = None
        self.turn = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.events: deque[Event] = deque()
        self.news = asyncio.Event()

    @property
    def ended(self) -> bool:
        return self.rest is not None

    @property
    def tokens(self) -> int:
        return len(self.request.prompt_ids) + sum(choice.generated for choice in self.choices)

    @property
    def reasons(self) -> tuple[FinishReason, ...]:
        rest = self.rest or "error"
        ended = tuple(choice.reason or rest for choice in self.choices)
        return ended or (rest,) * self.request.sampling.n

    @property
    def usage(self) -> Usage:
        return Usage(len(self.request.prompt_ids), sum(choice.generated for choice in self.choices))

    def end_rest(self, reason: FinishReason) -> None:
        """The reason for every choice that has none of its own; the first one given holds."""
        self.rest = self.rest or reason

    def cancel(self) -> None:
        self.cancelled.set()

    def emit(self, event: Event) -> None:
        self.events.append(event)
        self.news.set()


class _Choice:
    """One choice: bytes in, text out, with possible beginnings of stop strings held back."""

    def __init__(self, request: Request, index: int, reply: Iterable[int]) -> None:
        self.request = request
        self.index = index
        self.generated = 0
        self.reason: FinishReason | None = None
        self._reply = iter(reply)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def step(self, max_model_len: int, weights_version: int) -> Tokens | None:
        """The next token, or None if the reply had ended before."""
        sampling = self.request.sampling
        token_id = next(self._reply, None)
        if token_id is None:
            self.reason = "stop"
            text = self._read(b"", final=True)
            return Tokens(self.request.id, self.index, text, (), weights_version=weights_version) if text else None
        self.generated += 1
        stopped = token_id in sampling.stop_token_ids
        if stopped:
            self.reason = "stop"
        elif self.generated >= sampling.max_tokens or len(self.request.prompt_ids) + self.generated >= max_model_len:
            self.reason = "length"
        text = self._read(b"" if stopped else bytes([token_id]), final=self.reason is not None)
        logprobs = None if sampling.logprobs is None else (_flat_logprob(token_id, sampling.logprobs),)
        return Tokens(self.request.id, self.index, text, (token_id,), logprobs, weights_version)

    def _read(self, data: bytes, *, final: bool) -> str:
        text = self._held + self._decoder.decode(data, final)
        stops = self.request.sampling.stop
        found = min((at for stop in stops if (at := text.find(stop)) >= 0), default=None)
        if found is not None:
            self.reason = "stop"
            self._held = ""
            return text[:found]
        keep = 0 if final else max((_overlap(text, stop) for stop in stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


class _Stream:
    """The events of one run. Closing or dropping it before the end aborts the request."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._done = False

    def __aiter__(self) -> _Stream:
        return self

    async def __anext__(self) -> Event:
        if self._done:
            raise StopAsyncIteration
        run = self._run
        try:
            while not run.events:
                run.news.clear()
                await run.news.wait()
        except asyncio.CancelledError:
            run.cancel()
            raise
        event = run.events.popleft()
        self._done = isinstance(event, Finish)
        return event

    async def aclose(self) -> None:
        self._done = True
        self._run.cancel()

    def __del__(self) -> None:
        self._run.cancel()


class VirtualTime:
    """A clock that jumps: when everything else waits, the earliest sleeper's time has come.

    `now` and `sleep` go where `time.monotonic` and `asyncio.sleep` would.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._orders = count()
        self._driver: asyncio.Task[None] | None = None

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + max(0.0, seconds), next(self._orders), woken))
        if self._driver is None or self._driver.done():
            self._driver = asyncio.get_running_loop().create_task(self._drive())
        await woken

    async def _drive(self) -> None:
        while self._sleepers:
            # Let whoever can run do so first: they may want to wake earlier than those asleep.
            for _ in range(_SETTLING_TURNS):
                await asyncio.sleep(0)
            due, _, woken = heapq.heappop(self._sleepers)
            if not woken.done():
                self._now = max(self._now, due)
                woken.set_result(None)


_SETTLING_TURNS = 25


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0


def _flat_logprob(token_id: int, alternatives: int) -> TokenLogprob:
    logprob = -math.log(VOCABULARY)
    return TokenLogprob(token_id, logprob, tuple((other, logprob) for other in range(alternatives)))
