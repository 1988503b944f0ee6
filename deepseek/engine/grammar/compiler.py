"""From constraints to grammars, within bounds, beside the engine's own work.

A constraint is compiled before its request is admitted. Whatever it is, within the deadline there is a grammar or an
AdmissionError that says why not: each is first tried in a process that can be killed (`probe`), and then built
here, in a thread that does not hold the interpreter's lock. Grammars are kept by content, the least recently used go
first.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import llguidance

from deepseek.core.constraint import Constraint
from deepseek.core.errors import AdmissionError, EngineError
from deepseek.engine.grammar.limits import PROBE_STACK_BYTES, build
from deepseek.engine.grammar.matcher import CompiledGrammar, GrammarError
from deepseek.engine.grammar.vocabulary import GrammarTokenizer, grammar_vocabulary, text_bytes

DEFAULT_DEADLINE_S = 10.0
DEFAULT_MAX_QUEUE = 32
DEFAULT_CACHE_BYTES = 256 << 20
PROBE_MEMORY_BYTES = 1 << 30
# Starting the process and handing it a vocabulary of 128,000 tokens; not counted against a constraint's deadline.
_START_S = 60.0
# A compiled grammar holds lexer states and grammar symbols; measured over real schemas, it grows with its source.
_BYTES_PER_GRAMMAR = 200_000
_BYTES_PER_SOURCE_BYTE = 100
_REFUSED_S, _MOST_REFUSALS = 60.0, 256
"""How long a refusal is remembered, and how many are."""


@dataclass(slots=True)
class GrammarStats:
    """Counted since the start: constraints compiled, those that could not be, and the seconds both took."""

    compiled: int = 0
    refused: int = 0
    seconds: float = 0.0


class GrammarCompiler:
    """Compiles constraints for one tokenizer. Its methods may be called from any thread.

    vocab_size: the model's number of logits, padding included. eos_ids: the ids that end a sequence.
    workers: constraints compiled at a time. max_queue: how many may wait; more are refused with reason "queue_full".
    deadline_s: how long one may take. cache_bytes: about how much the grammars kept may take.

    Nothing is started, and the vocabulary not read, before the first constraint comes.
    """

    def __init__(
        self,
        tokenizer: GrammarTokenizer,
        vocab_size: int,
        eos_ids: Sequence[int],
        *,
        workers: int = 1,
        max_queue: int = DEFAULT_MAX_QUEUE,
        deadline_s: float = DEFAULT_DEADLINE_S,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos_ids = tuple(eos_ids)
        self._deadline_s = deadline_s
        self._most_pending = workers + max_queue
        self._cache_bytes = cache_bytes
        self._lock = threading.Lock()
        self._grammars: OrderedDict[Constraint, CompiledGrammar] = OrderedDict()
        self._grammar_bytes = 0
        self._pending: dict[Constraint, Future[CompiledGrammar]] = {}
        self._waiting: dict[Constraint, int] = {}  # readers of each that is pending
        self._refusals: OrderedDict[Constraint, tuple[float, AdmissionError]] = OrderedDict()  # until when, and why
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="grammar")
        self._local = threading.local()
        self._probes: list[_Probe] = []
        self._vocabulary: llguidance.LLTokenizer | None = None
        self._tokens: list[bytes] = []
        self._closed = False
        self.stats = GrammarStats()

    def compile(self, constraint: Constraint) -> CompiledGrammar:
        """The grammar of a constraint; blocks. Raises AdmissionError, and EngineError once closed."""
        found = self._find_or_start(constraint)
        if isinstance(found, CompiledGrammar):
            return found
        try:
            return found.result()
        finally:
            self._leave(constraint, found)

    async def compile_async(self, constraint: Constraint) -> CompiledGrammar:
        """The same, without blocking the event loop. Cancelling it does not stop work under way; what has
        not begun is left undone if nobody else waits for it."""
        found = self._find_or_start(constraint)
        if isinstance(found, CompiledGrammar):
            return found
        try:
            return await asyncio.shield(asyncio.wrap_future(found))
        finally:
            self._leave(constraint, found)

    def close(self) -> None:
        """Refuse further constraints and end the processes. Those who wait get an EngineError. Idempotent."""
        with self._lock:
            self._closed = True
            probes = list(self._probes)
            self._grammars.clear()
        for probe in probes:
            probe.kill()
        self._threads.shutdown(wait=True)

    def _find_or_start(self, constraint: Constraint) -> CompiledGrammar | Future[CompiledGrammar]:
        with self._lock:
            if self._closed:
                raise EngineError("the grammar compiler is closed")
            if (grammar := self._grammars.get(constraint)) is not None:
                self._grammars.move_to_end(constraint)
                return grammar
            if (refusal := self._refusals.get(constraint)) is not None:
                until, said = refusal
                if time.monotonic() < until:
                    raise _same(said)
                del self._refusals[constraint]
            if (pending := self._pending.get(constraint)) is not None:
                self._waiting[constraint] += 1
                return pending
            if len(self._pending) >= self._most_pending:
                raise AdmissionError(
                    "too many constraints are waiting to be compiled",
                    reason="queue_full",
                    where="constraint",
                    found=len(self._pending),
                    fix="try again later, or use constraints that were used before",
                )
            future: Future[CompiledGrammar] = Future()
            self._pending[constraint] = future
            self._waiting[constraint] = 1
            with _stack_size(2 * PROBE_STACK_BYTES):
                self._threads.submit(self._work, constraint, future)
            return future

    def _leave(self, constraint: Constraint, future: Future[CompiledGrammar]) -> None:
        with self._lock:
            if self._pending.get(constraint) is future:
                self._waiting[constraint] -= 1

    def _work(self, constraint: Constraint, future: Future[CompiledGrammar]) -> None:
        with self._lock:
            if not self._waiting[constraint]:
                del self._pending[constraint], self._waiting[constraint]
                future.cancel()
                return
        begun = time.monotonic()
        try:
            grammar = self._compile(constraint)
        except BaseException as error:  # whoever waits is told, whatever it is
            with self._lock:
                del self._pending[constraint], self._waiting[constraint]
                self.stats.refused += 1
                self.stats.seconds += time.monotonic() - begun
                if isinstance(error, AdmissionError):
                    self._refuse_for_a_while(constraint, error)
            future.set_exception(error)
            return
        with self._lock:
            del self._pending[constraint], self._waiting[constraint]
            self.stats.compiled += 1
            self.stats.seconds += time.monotonic() - begun
            self._keep(constraint, grammar)
        future.set_result(grammar)

    def _compile(self, constraint: Constraint) -> CompiledGrammar:
        if self._closed:
            raise EngineError("the grammar compiler is closed")
        with self._lock:
            if self._vocabulary is None:
                self._tokens = text_bytes(self._tokenizer, self._vocab_size, self._eos_ids)
                self._vocabulary = grammar_vocabulary(self._tokens, self._eos_ids, self._encode)
        source = self._probe().source_of(constraint, self._deadline_s)
        try:
            return CompiledGrammar(build(self._vocabulary, source), self._vocab_size, self._eos_ids)
        except GrammarError as error:
            raise AdmissionError(
                "cannot be compiled", where=f"constraint {constraint.kind}", found=error.found
            ) from error

    def _probe(self) -> _Probe:
        """This thread's process, started if there is none."""
        probe: _Probe | None = getattr(self._local, "probe", None)
        if probe is None or not probe.alive:
            probe = _Probe(self._tokens, self._eos_ids)
            with self._lock:
                self._probes = [p for p in self._probes if p.alive] + [probe]
                closed = self._closed
            if closed:
                probe.kill()
                raise EngineError("the grammar compiler is closed")
            self._local.probe = probe
        return probe

    def _refuse_for_a_while(self, constraint: Constraint, error: AdmissionError) -> None:
        """What cannot be compiled takes as long as what can, and clients ask again."""
        while len(self._refusals) >= _MOST_REFUSALS:
            self._refusals.popitem(last=False)
        self._refusals[constraint] = time.monotonic() + _REFUSED_S, _same(error)

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode_piece(text, at_start=False)

    def _keep(self, constraint: Constraint, grammar: CompiledGrammar) -> None:
        self._grammars[constraint] = grammar
        self._grammar_bytes += _grammar_bytes(constraint)
        while self._grammar_bytes > self._cache_bytes and len(self._grammars) > 1:
            dropped, _ = self._grammars.popitem(last=False)
            self._grammar_bytes -= _grammar_bytes(dropped)


@contextlib.contextmanager
def _stack_size(size: int) -> Iterator[None]:
    """Give threads started within this a stack of so many bytes, whatever the machine's default is."""
    before = threading.stack_size(size)
    try:
        yield
    finally:
        threading.stack_size(before)


def _grammar_bytes(constraint: Constraint) -> int:
    return _BYTES_PER_GRAMMAR + _BYTES_PER_SOURCE_BYTE * len(constraint.source)


def _same(error: AdmissionError) -> AdmissionError:
    """What it says, without its traceback, which holds whoever it was raised to."""
    return AdmissionError(
        error.what,
        reason=error.reason,
        where=error.where,
        found=error.found,
        expected=error.expected,
        fix=error.fix,
    )


class _Probe:
    """The process that tries constraints out, seen from here."""

    def __init__(self, tokens: Sequence[bytes], eos_ids: Sequence[int]) -> None:
        self._connection, theirs = Pipe()
        package_root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "deepseek.engine.grammar.probe", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            env={**os.environ, "PYTHONPATH": path},
        )
        theirs.close()
        encoded = [base64.b64encode(token).decode() for token in tokens]
        try:
            self._send({"tokens": encoded, "eos_ids": list(eos_ids), "memory_bytes": PROBE_MEMORY_BYTES})
            self._receive(time.monotonic() + _START_S)
        except (EOFError, OSError) as error:  # a TimeoutError is an OSError
            raise EngineError(
                "the process that compiles grammars does not start",
                found=f"exit status {self._process.returncode}",
                fix="see what it wrote to standard error",
            ) from error

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def source_of(self, constraint: Constraint, deadline_s: float) -> str:
        """What llguidance compiles for this constraint. Raises AdmissionError; the process is then gone if need be."""
        started = time.monotonic()
        try:
            self._send({"kind": constraint.kind, "source": constraint.source})
            answer = self._receive(started + deadline_s)
        except TimeoutError:
            raise AdmissionError(
                "takes too long to compile",
                where=f"constraint {constraint.kind}",
                found=f"more than {deadline_s:g} s",
                fix="make it simpler",
            ) from None
        except (EOFError, OSError):
            raise AdmissionError(
                "too complex to compile",
                where=f"constraint {constraint.kind}",
                found=f"more memory or stack than there is ({PROBE_MEMORY_BYTES >> 20} MiB)",
                fix="make it simpler",
            ) from None
        if "refused" in answer:
            raise AdmissionError(**answer["refused"])
        return str(answer["grammar"])

    def kill(self) -> None:
        """End the process at once. Idempotent."""
        self._process.kill()
        self._process.wait()

    def _send(self, message: dict[str, Any]) -> None:
        self._connection.send_bytes(json.dumps(message).encode())

    def _receive(self, until: float) -> dict[str, Any]:
        try:
            if not self._connection.poll(max(0.0, until - time.monotonic())):
                raise TimeoutError
            answer: dict[str, Any] = json.loads(self._connection.recv_bytes())
        except BaseException:
            self.kill()
            with contextlib.suppress(OSError):
                self._connection.close()
            raise
        return answer
