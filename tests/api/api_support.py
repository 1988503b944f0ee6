"""What the front's tests share: a byte codec, an engine that holds still, and ways to build a server over either."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

from deepseek.api import ApiSettings, ServerState
from deepseek.chat.parsing import PlainParser, StreamParser
from deepseek.core.constraint import Constraint
from deepseek.core.engine import Event, Finish, FinishReason, Load, Ready, Request, Tokens, Usage
from deepseek.core.errors import AdmissionError, DeepSeekError, EngineError, TokenizerError
from deepseek.core.messages import Message, ToolChoice, ToolSpec
from deepseek.engine.fake import FakeEngine, say

CONTEXT = 512
MODELS = ("deepseek-7b", "deepseek-tiny")


class ByteCodec:
    """One token a byte."""

    def encode_prompt(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_chat(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], *, thinking: bool = False
    ) -> list[int]:
        return list("".join(f"<{message.role}>{message.text}" for message in messages).encode()) + list(b"<assistant>")

    def token_bytes(self, token_id: int) -> bytes:
        if token_id > 255:
            raise TokenizerError("not a token id of this model", where="token", found=token_id)
        return bytes([token_id])

    def parser(self, tools: bool, thinking: bool) -> StreamParser:
        return PlainParser()

    thinks = False

    def thinking_end(self) -> int | None:
        return None

    def answer_constraint(
        self, text: Constraint, tools: Sequence[ToolSpec], choice: ToolChoice, parallel: bool, *, thinking: bool = False
    ) -> Constraint | None:
        return text

    def tool_constraint(
        self, tools: Sequence[ToolSpec], choice: ToolChoice, parallel: bool, *, thinking: bool = False
    ) -> Constraint | None:
        return None


class HeldEngine:
    """Says `said`, then nothing more until released or left. Written as a generator, unlike the FakeEngine.

    `started` and `ended` are set from the server's thread when a request is taken up and when its iterator is closed.
    The start probe is answered at once.
    """

    def __init__(self, said: Sequence[str] = (), *, endless: bool = False) -> None:
        self.said = said
        self.endless = endless
        self.started = threading.Event()
        self.ended = threading.Event()
        self.closed = threading.Event()
        self.yielded = 0
        # Kept, so that only closing an iterator ends it, and not the collection of what nobody holds.
        self._kept: list[AsyncIterator[Event]] = []
        self._cut: dict[str, asyncio.Event] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reason: FinishReason = "cancelled"

    def generate(self, request: Request) -> AsyncIterator[Event]:
        events = self._events(request)
        self._kept.append(events)
        return events

    async def _events(self, request: Request) -> AsyncIterator[Event]:
        usage = Usage(len(request.prompt_ids), len(self.said))
        if request.id.startswith("probe-"):
            yield Finish(request.id, ("length",), usage)
            return
        self._loop = asyncio.get_running_loop()
        cut = self._cut[request.id] = asyncio.Event()
        self.started.set()
        try:
            if self.said or self.endless:
                yield Ready(request.id, 1)
            for text in self.said:
                yield Tokens(request.id, 0, text, (1,))
            while self.endless:
                self.yielded += 1
                yield Tokens(request.id, 0, "x" * 4096, (1,))
                await asyncio.sleep(0)
            await cut.wait()
            yield Finish(request.id, (self._reason,), usage)
        finally:
            self.ended.set()

    def release(self, reason: FinishReason = "stop") -> None:
        """From any thread: let everything held end with this reason."""
        self._reason = reason
        assert self._loop is not None
        for cut in tuple(self._cut.values()):
            self._loop.call_soon_threadsafe(cut.set)

    async def abort(self, request_id: str) -> None:
        self._cut[request_id].set()

    def load(self) -> Load:
        return Load(0, 0, 0, 0, 0.0)

    async def close(self) -> None:
        self.closed.set()


class RefusingEngine(FakeEngine):
    """Answers the start probe and raises `error` for everything else."""

    def __init__(self, error: DeepSeekError | Exception) -> None:
        super().__init__(reply=say("ok"), ttft_s=0.0, inter_token_s=0.0)
        self.error = error

    def generate(self, request: Request) -> AsyncIterator[Event]:
        if request.id.startswith("probe-"):
            return super().generate(request)
        raise self.error


def quick(text: str = "Hello, 世界!", **options: Any) -> FakeEngine:
    return FakeEngine(reply=say(text), ttft_s=0.001, inter_token_s=0.0005, max_model_len=CONTEXT, **options)


def state_of(engine: Any, **settings: Any) -> ServerState:
    return ServerState(engine, ByteCodec(), MODELS, CONTEXT, ApiSettings(**settings))


QUEUE_FULL = AdmissionError("too many requests are waiting", reason="queue_full", found=9)
BROKEN = EngineError("the worker died", where="/secret/path/worker.py", found="SIGSEGV")


class RecordingEngine(FakeEngine):
    """Says "Hello" and keeps the requests it got, the start probe not counted."""

    def __init__(self, **options: Any) -> None:
        super().__init__(reply=say("Hello"), ttft_s=0.0, inter_token_s=0.0, max_model_len=CONTEXT, **options)
        self.requests: list[Request] = []

    def generate(self, request: Request) -> AsyncIterator[Event]:
        if not request.id.startswith("probe-"):
            self.requests.append(request)
        return super().generate(request)
