"""The engine's loop, without threads: requests in, one step at a time, events out.

Each step: the scheduler plans, the worker computes and samples, the results become events. Whatever goes wrong for one
request (sampling, detokenising, a reader that raises) ends that request alone. A step that fails is computed again, one
sequence at a time, and ends those that fail by themselves; a scheduler that fails ends all and is replaced. The loop goes
on, and every request gets one Finish.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from deepseek.core.engine import Finish, FinishReason, Load, Request, Tokens
from deepseek.core.errors import INTERRUPTS, AdmissionError
from deepseek.core.sampling import SamplingParams, require_known_ids, with_bad_words_as_ids
from deepseek.engine.adapters import AdapterNames
from deepseek.engine.events import Live, Sink, StepReader
from deepseek.engine.grammar.thinking import bounded
from deepseek.engine.leases import Leases
from deepseek.engine.output import ChoiceOutput
from deepseek.engine.plan import StepPlan
from deepseek.engine.progress import Update, describe_failure
from deepseek.engine.request import RequestState
from deepseek.engine.result import StepResult, joined
from deepseek.engine.scheduler import Scheduler
from deepseek.engine.scheduler_config import SchedulerConfig
from deepseek.engine.worker import StepWorker
from deepseek.models.detokenize import TokenTable

if TYPE_CHECKING:
    from deepseek.engine.grammar.matcher import Matcher

__all__ = ["EngineLoop", "Sink"]

log = logging.getLogger("deepseek.engine")


class EngineLoop:
    """Scheduler, worker and tokenizer of one model. `clock` is what deadlines and waits are measured on, in seconds.

    `step` belongs to one thread at a time; everything else may be called from any, also while the worker computes,
    and does not wait for it. vocab_size: requests with other ids are refused (None: not checked). encode: text to
    token ids without special tokens, which bad words need (None: they are refused).
    """

    def __init__(
        self,
        worker: StepWorker,
        tokenizer: TokenTable,
        config: SchedulerConfig,
        *,
        vocab_size: int | None = None,
        encode: Callable[[str], Sequence[int]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scheduler = Scheduler(config)
        self._worker, self._tokenizer, self._vocab_size, self._clock = worker, tokenizer, vocab_size, clock
        self._encode = encode
        self.adapters = AdapterNames()
        self._live: dict[str, Live] = {}
        self._lock = threading.RLock()
        self._leases = Leases(self._lock)

    def require_servable(self, request: Request) -> None:
        """Raise AdmissionError if the request could not even be served alone."""
        self.scheduler.require_servable(request)
        with self._lock:
            self.adapters.handle_of(request.adapter)
        ids, size = request.prompt_ids, self._vocab_size
        if size is not None:
            if min(ids) < 0 or max(ids) >= size:
                found = next(token for token in ids if not 0 <= token < size)
                raise AdmissionError(
                    "not a token id of this model", where="prompt", found=found, expected=f"0 to {size - 1}"
                )
            require_known_ids(request.sampling, size)
        if request.thinking is not None and not (size is not None and 0 <= request.thinking.end_id < size):
            raise AdmissionError("not a token id of this model", where="thinking", found=request.thinking.end_id)
        if request.sampling.bad_words and self._encode is None:
            raise AdmissionError("this engine has no tokenizer to find their ids", where="bad_words")

    def add(self, request: Request, sink: Sink, new_grammar: Callable[[], Matcher] | None = None) -> None:
        """Queue a request. Raises AdmissionError at once if it can never be served or the queue is full.

        new_grammar: makes a matcher at the beginning of the text, one for each choice; needed where the request has a
        constraint, which whoever calls has compiled.
        """
        self.require_servable(request)
        if request.constraint is not None and new_grammar is None:
            raise AdmissionError("nobody has compiled it", where="constraint")
        request = self.with_ids(request)
        if request.thinking is not None and self._vocab_size is not None:
            new_grammar = bounded(request.thinking, new_grammar, self._vocab_size)
        sampling = request.sampling
        outputs = [
            ChoiceOutput(self._tokenizer, sampling.stop, sampling.skip_special_tokens) for _ in range(sampling.n)
        ]
        with self._lock:
            adapter = self.adapters.handle_of(request.adapter)
            state = self.scheduler.add(request, self._clock(), adapter, new_grammar)
            self.adapters.enter(adapter)
            self._live[request.id] = Live(state, sink, outputs[: len(state.sequences)])
            self._leases.enter(state)

    def end(self, request_id: str, reason: FinishReason, error: str | None = None) -> None:
        """End a request now; its Finish is delivered before this returns. Unknown ids are ignored."""
        self._or_reset(lambda: self.scheduler.end(request_id, reason, error))

    def end_all(self, reason: FinishReason, error: str | None = None) -> None:
        self._or_reset(lambda: self.scheduler.end_all(reason, error))

    def _or_reset(self, end: Callable[[], None]) -> None:
        """Whatever the scheduler does, who ends a request does not die of it."""
        with self._lock:
            try:
                end()
                self._deliver()
            except INTERRUPTS:
                raise
            except BaseException as failure:
                log.exception("the scheduler failed; everything alive ends with an error")
                self.reset("error", f"the scheduler failed: {type(failure).__name__}")

    def is_live(self, request_id: str) -> bool:
        with self._lock:
            return request_id in self._live

    def seconds_to(self, deadline: float | None) -> float | None:
        """From now to a request's deadline."""
        return None if deadline is None else deadline - self._clock()

    def with_ids(self, request: Request) -> Request:
        """The request with its bad words as token ids, which takes as long as there are words. Raises AdmissionError."""
        if not request.sampling.bad_words or self._encode is None:
            return request
        return replace(request, sampling=self._with_bad_words_as_ids(request.sampling, self._encode))

    def reset(self, reason: FinishReason, error: str | None = None) -> None:
        """End everything and start with an empty scheduler: for when a step was torn apart, by an interrupt or a defect."""
        with self._lock:
            live, self._live = self._live, {}
            broken, self.scheduler = self.scheduler, Scheduler(self.scheduler.config)
            self.scheduler.set_weights_version(broken.weights_version)
            self.scheduler.draining, self.scheduler.paused = broken.draining, broken.paused
            for request in live.values():
                for sequence in request.state.sequences:
                    sequence.finish_reason = sequence.finish_reason or reason
                if error is not None:
                    request.state.note_error(error)
                self._finish(request)

    def change_weights(self, change: Callable[[], None]) -> int:
        """Call `change`, which puts other weights into the worker, and compute everything alive under a new version.

        Returns the version. Between steps only, as `pause`. What `change` raises is raised, with nothing changed.
        """
        with self._lock:
            change()
            self.scheduler.draining = False
            self.scheduler.set_weights_version(self.scheduler.weights_version + 1)
            return self.scheduler.weights_version

    def drain(self, on: bool) -> None:
        """While on, no request is started. `drained` says when those that were have ended."""
        with self._lock:
            self.scheduler.draining = on

    @property
    def drained(self) -> bool:
        with self._lock:
            return self.scheduler.drained

    def new_adapter_handle(self) -> int:
        with self._lock:
            return self.adapters.new_handle()

    def publish_adapter(self, name: str, handle: int) -> None:
        """New requests for `name` compute with the adapter under `handle`."""
        with self._lock:
            self.adapters.publish(name, handle)

    def withdraw_adapter(self, name: str, announce: Callable[[int], None]) -> None:
        """Refuse requests for `name`; see `AdapterNames.withdraw`."""
        with self._lock:
            self.adapters.withdraw(name, announce)

    def pause(self) -> None:
        """Compute nothing until `resume`, and need nothing that was computed before."""
        with self._lock:
            self.scheduler.pause()

    def resume(self) -> None:
        with self._lock:
            self.scheduler.resume()

    @property
    def paused(self) -> bool:
        return self.scheduler.paused

    def deadline_in(self) -> float | None:
        """Seconds until the next request's deadline; None if none has one."""
        with self._lock:
            deadline = self.scheduler.next_deadline
        return None if deadline is None else max(0.0, deadline - self._clock())

    def load(self) -> Load:
        with self._lock:
            return self.scheduler.load(self._clock())

    @property
    def has_work(self) -> bool:
        with self._lock:
            return self.scheduler.has_work

    def step(self) -> bool:
        """Run one step. False when there was nothing to do."""
        try:
            return self._step()
        except INTERRUPTS:
            raise
        except BaseException as error:
            log.exception("the scheduler failed; everything alive ends with an error")
            self.reset("error", f"the scheduler failed: {type(error).__name__}")
            return True

    def _step(self) -> bool:
        if self._leases:
            self._leases.read(self.scheduler)
        begun = self._clock()
        with self._lock:
            scheduler = self.scheduler
            plan = scheduler.schedule(begun)
            self._deliver()
        if plan is None:
            return False
        try:
            result = _complete(self._worker.run(plan), plan)
        except INTERRUPTS:
            raise
        except BaseException as error:
            log.exception("step %d failed; each of its requests is computed by itself", plan.step)
            found = self._run_one_by_one(scheduler, plan, error)
            if found is None:
                return True
            result = found
        with self._lock:
            if self.scheduler is not scheduler:  # it failed meanwhile, and all that this step was for has ended
                return True
            reader = StepReader(self._live, plan, result, self.scheduler.weights_version, begun)
            updates = self.scheduler.apply(plan, result.token_ids, result.drafts, reader)
            for update in updates:
                self._take(update, reader)
            used = _leased(updates) if self._leases else ()
            if not used:
                self._deliver()
            self.scheduler.observe(self._clock() - begun)
        if used:
            # Before anybody can read the tokens, and the end of their request, they have been counted.
            self._leases.use(self.scheduler, used)
            with self._lock:
                self._deliver()
        return True

    def _run_one_by_one(self, scheduler: Scheduler, plan: StepPlan, error: BaseException) -> StepResult | None:
        """A step that failed, sequence by sequence: those that fail by themselves end, whatever it is that they do to
        the model, and the others get what they would have got. None if nobody got anything; the step is then over."""
        with self._lock:
            if self.scheduler is not scheduler:
                return None
            parts = scheduler.split(plan)
        results: list[StepResult | None] = []
        for sequence, alone in parts:
            result = None
            if alone is not None:
                try:
                    if len(parts) == 1:
                        raise error
                    result = _complete(self._worker.run(alone), alone)
                except INTERRUPTS:
                    raise
                except BaseException as failure:
                    with self._lock:
                        what = describe_failure(sequence, "the model could not compute this step", failure)
                        scheduler.finish(sequence, "error", what)
                        self._deliver()
            results.append(result)
        if any(result is not None for result in results):
            return joined(plan, results)
        with self._lock:
            scheduler.fail(plan, "the model could not compute this step")
            self._deliver()
        return None

    def _take(self, update: Update, reader: StepReader) -> None:
        sequence = update.sequence
        try:
            reader.take(update)
        except Exception as error:
            sequence.state.note_error(describe_failure(sequence, "its output could not be told", error))
            self.scheduler.finish(sequence, "error")
            sequence.finish_reason = "error"

    def _deliver(self) -> None:
        """Hand every request its events, the Finish of those that ended last."""
        for state in self.scheduler.take_ended():
            self._finish(self._live.pop(state.request.id))
        for live in [live for live in self._live.values() if live.events]:
            self._send(live)

    def _finish(self, live: Live) -> None:
        """The last events: text still held back where a choice was cut short, then Finish."""
        state = live.state
        for sequence, output in zip(state.sequences, live.outputs, strict=True):
            if sequence.finish_reason not in ("stop", "length", "error"):
                try:
                    held = output.end()
                except INTERRUPTS:
                    raise
                except BaseException as error:
                    log.exception("the last text of request %s failed", state.request.id)
                    sequence.finish_reason = "error"
                    state.note_error(f"its text could not be made: {type(error).__name__}")
                    continue
                if held:
                    version = self.scheduler.weights_version
                    live.events.append(Tokens(state.request.id, sequence.choice, held, (), weights_version=version))
        stops = tuple(output.stop for output in live.outputs) if state.request.sampling.stop else ()
        live.events.append(Finish(state.request.id, state.reasons, state.usage, state.error, stops))
        self.adapters.leave(state.adapter)
        self._leases.leave(state)
        self._send(live)

    def _send(self, live: Live) -> None:
        events, live.events = live.events, []
        try:
            live.sink(events)
        except INTERRUPTS:
            raise
        except BaseException:
            log.exception("the reader of request %s raised; it is aborted", live.state.request.id)
            self.scheduler.abort(live.state.request.id)

    def _with_bad_words_as_ids(self, params: SamplingParams, encode: Callable[[str], Sequence[int]]) -> SamplingParams:
        try:
            return with_bad_words_as_ids(params, encode)
        except (AdmissionError, *INTERRUPTS):
            raise
        except BaseException as error:
            raise AdmissionError("cannot be tokenised", where="bad_words", found=type(error).__name__) from error


def _leased(updates: Sequence[Update]) -> Collection[RequestState]:
    """The requests with a lease that gained tokens, in order."""
    return {
        update.sequence.state: None
        for update in updates
        if update.sequence.state.lease is not None and update.token_ids
    }


def _complete(result: StepResult, plan: StepPlan) -> StepResult:
    if not len(result.token_ids) == len(result.logprobs) == plan.num_rows:
        raise ValueError(f"the worker returned {len(result.token_ids)} tokens for {plan.num_rows} rows")
    if result.drafts is not None and len(result.drafts) != plan.num_sequences:
        raise ValueError(f"the worker returned drafts of {len(result.drafts)} sequences for {plan.num_sequences}")
    return result
