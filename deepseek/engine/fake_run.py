"""One request inside the fake engine: its choices, its text, and the stream that its caller reads."""

from __future__ import annotations

import asyncio
import codecs
import math
import secrets
from collections import deque
from collections.abc import Iterable, Sequence

from deepseek.core.engine import Event, Finish, FinishReason, Lease, Request, TokenLogprob, Tokens, Usage
from deepseek.core.errors import INTERRUPTS, EngineError
from deepseek.core.sampling import MAX_SEED
from deepseek.engine.request import samples
from deepseek.engine.stream import MOST_KEPT, compact, put

VOCABULARY = 256
"""The bytes. Ids from here on are control tokens, in the order in which the engine was given them."""
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
        self.finish: Finish | None = None
        self.news = asyncio.Event()
        self.begun = False  # tokens have been told
        self.kept: list[Event] = []  # until the end, where the reader wants the whole
        self.lease: Lease | None = request.lease if samples(request) else None
        self.fed = asyncio.Event()  # the lease may have changed
        self.cached = 0
        self.pause: asyncio.Future[None] | None = None

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
        return Usage(len(self.request.prompt_ids), self.generated, self.cached)

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
        self.resume()

    async def wait(self, seconds: float) -> None:
        """So long, or until it is cancelled: by one timer, since this happens for every token."""
        loop = asyncio.get_running_loop()
        self.pause = loop.create_future()
        timer = loop.call_later(seconds, self.resume)
        try:
            await self.pause
        finally:
            timer.cancel()
            self.pause = None

    def resume(self) -> None:
        if self.pause is not None and not self.pause.done():
            self.pause.set_result(None)

    def emit(self, event: Event) -> None:
        if isinstance(event, Finish):
            self.finish = event
        if self.request.whole and self.begun and self.finish is None:
            self.kept.append(event)
            if len(self.kept) > MOST_KEPT:
                self.kept = compact(self.kept)
            return
        for kept in compact(self.kept):
            put(self.events, kept)
        self.kept.clear()
        put(self.events, event)
        self.news.set()
        self.begun = self.begun or isinstance(event, Tokens)


class Choice:
    """One choice: bytes in, text out, with possible beginnings of stop strings held back."""

    def __init__(self, request: Request, index: int, reply: Iterable[int], controls: Sequence[str] = ()) -> None:
        self.request = request
        self._literals = controls
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
        logprobs = None if sampling.logprobs is None else (flat_logprob(token_id, sampling.logprobs),)
        final = self.reason is not None
        if token_id >= VOCABULARY:
            # What was held of a character or a stop string comes before it: no text goes across a control token.
            before = self._read(b"", final=True)
            shown = not stopped and not sampling.skip_special_tokens and self.stop is None
            text = before + (self._literals[token_id - VOCABULARY] if shown else "")
            controls = (len(before),) if shown else ()
            return Tokens(self.request.id, self.index, text, (token_id,), logprobs, weights_version, controls)
        text = self._read(b"" if stopped else bytes([token_id]), final=final)
        return Tokens(self.request.id, self.index, text, (token_id,), logprobs, weights_version)

    def end(self, weights_version: int) -> Tokens | None:
        """What was held back of a text that is cut short."""
        text = self._held + self._decoder.decode(b"", True)
        return Tokens(self.request.id, self.index, text, (), weights_version=weights_version) if text else None

    def _read(self, data: bytes, *, final: bool) -> str:
        stops = self.request.sampling.stop
        if not stops:
            return self._decoder.decode(data, final)
        text = self._held + self._decoder.decode(data, final)
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

    @property
    def finish(self) -> Finish | None:
        """The end it came to, or comes to now that it is cancelled: nothing is generated after that."""
        run = self._run
        if run.finish is None and run.cancelled.is_set():
            rest = run.rest or "cancelled"
            reasons = tuple(choice.reason or rest for choice in run.choices) or (rest,) * run.request.sampling.n
            return Finish(run.request.id, reasons, run.usage)
        return run.finish

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
