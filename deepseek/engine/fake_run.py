"""One request inside the fake engine: its choices, its text, and the stream that its caller reads."""

from __future__ import annotations

import asyncio
import codecs
import math
import secrets
from collections import deque
from collections.abc import Iterable

from deepseek.core.engine import Event, Finish, FinishReason, Lease, Request, TokenLogprob, Tokens, Usage
from deepseek.core.errors import INTERRUPTS, EngineError
from deepseek.core.sampling import MAX_SEED
from deepseek.engine.request import samples
from deepseek.engine.stream import put

VOCABULARY = 256
MAX_TOKENS = 2**62


class Run:
    """One request inside the fake engine; its events wait here until they are read."""

    def __init__(self, request: Request, order: int, arrival: float, adapter: int) -> None:
        self.request = request
        self.order = order
        self.arrival = arrival
        self.adapter = adapter
        seed = request.sampling.seed
        self.seed = secrets.randbelow(MAX_SEED) if seed is None else seed
        self.choices: list[Choice] = []
        self.error: str | None = None
        self.rest: FinishReason | None = None
        self.turn = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.events: deque[Event] = deque()
        self.news = asyncio.Event()
        self.lease: Lease | None = request.lease if samples(request) else None
        self.fed = asyncio.Event()  # the lease may have changed

    @property
    def ended(self) -> bool:
        return self.rest is not None

    @property
    def generated(self) -> int:
        return sum(choice.generated for choice in self.choices)

    @property
    def tokens(self) -> int:
        return len(self.request.prompt_ids) + self.generated

    @property
    def left(self) -> int:
        """Tokens that the lease leaves it."""
        return MAX_TOKENS if self.lease is None else self.lease.granted - self.generated

    @property
    def reasons(self) -> tuple[FinishReason, ...]:
        rest = self.rest or "error"
        ended = tuple(choice.reason or rest for choice in self.choices)
        return ended or (rest,) * self.request.sampling.n

    @property
    def usage(self) -> Usage:
        return Usage(len(self.request.prompt_ids), self.generated)

    def end_rest(self, reason: FinishReason) -> None:
        """The reason for every choice that has none of its own; the first one given holds."""
        self.rest = self.rest or reason

    def watch_lease(self) -> None:
        """Raises EngineError, where the lease cannot be watched."""
        loop = asyncio.get_running_loop()

        def changed() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self.fed.set)

        if self.lease is not None:
            try:
                self.lease.watch(changed)
            except INTERRUPTS:
                raise
            except BaseException as error:
                raise EngineError("the request's lease failed", found=type(error).__name__) from error

    def cancel(self) -> None:
        self.cancelled.set()

    def emit(self, event: Event) -> None:
        put(self.events, event)
        self.news.set()


class Choice:
    """One choice: bytes in, text out, with possible beginnings of stop strings held back."""

    def __init__(self, request: Request, index: int, reply: Iterable[int]) -> None:
        self.request = request
        self.index = index
        self.generated = 0
        self.reason: FinishReason | None = None
        self.stop: str | None = None  # the stop string that ended it
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
        logprobs = None if sampling.logprobs is None else (flat_logprob(token_id, sampling.logprobs),)
        return Tokens(self.request.id, self.index, text, (token_id,), logprobs, weights_version)

    def end(self, weights_version: int) -> Tokens | None:
        """What was held back of a text that is cut short."""
        text = self._held + self._decoder.decode(b"", True)
        return Tokens(self.request.id, self.index, text, (), weights_version=weights_version) if text else None

    def _read(self, data: bytes, *, final: bool) -> str:
        text = self._held + self._decoder.decode(data, final)
        stops = self.request.sampling.stop
        found = min((at for stop in stops if (at := text.find(stop)) >= 0), default=None)
        if found is not None:
            self.reason = "stop"
            self.stop = max((stop for stop in stops if text.startswith(stop, found)), key=len)
            self._held = ""
            return text[:found]
        keep = 0 if final else max((_overlap(text, stop) for stop in stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


class RunStream:
    """The events of one run. Closing or dropping it before the end aborts the request."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._done = False

    def __aiter__(self) -> RunStream:
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


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0


def flat_logprob(token_id: int, alternatives: int) -> TokenLogprob:
    logprob = -math.log(VOCABULARY)
    return TokenLogprob(token_id, logprob, tuple((other, logprob) for other in range(alternatives)))
