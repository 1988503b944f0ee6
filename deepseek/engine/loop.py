"""The engine's loop, without threads: requests in, one step at a time, events out.

Each step: the scheduler plans, the worker computes and samples, the results become events. Whatever goes wrong for one
request (sampling, detokenising, a reader that raises) ends that request alone; a worker that fails ends the requests of
that step; a scheduler that fails ends all and is replaced. The loop goes on, and every request gets one Finish.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from deepseek.core.engine import Event, Finish, FinishReason, Load, Ready, Request, TokenLogprob, Tokens
from deepseek.core.errors import AdmissionError
from deepseek.engine.output import ChoiceOutput
from deepseek.engine.plan import StepPlan
from deepseek.engine.request import RequestState, Sequence
from deepseek.engine.sampler import Sampled
from deepseek.engine.scheduler import Scheduler, Update
from deepseek.engine.scheduler_config import SchedulerConfig
from deepseek.engine.worker import StepWorker
from deepseek.models.detokenize import TokenTable

log = logging.getLogger("deepseek.engine")

Sink = Callable[[list[Event]], None]
"""Receives a request's events in order; called with the loop's lock held, so it must only hand them over."""


@dataclass(slots=True)
class _Live:
    state: RequestState
    sink: Sink
    outputs: list[ChoiceOutput]
    ready: bool = False
    events: list[Event] = field(default_factory=list)


class EngineLoop:
    """Scheduler, worker and tokenizer of one model. `clock` is what deadlines and waits are measured on, in seconds.

    `step` belongs to one thread at a time; everything else may be called from any, also while the worker computes,
    and does not wait for it. vocab_size: prompts with other ids are refused (None: not checked).
    """

    def __init__(
        self,
        worker: StepWorker,
        tokenizer: TokenTable,
        config: SchedulerConfig,
        *,
        vocab_size: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scheduler = Scheduler(config)
        self._worker, self._tokenizer, self._vocab_size, self._clock = worker, tokenizer, vocab_size, clock
        self._live: dict[str, _Live] = {}
        self._lock = threading.RLock()

    def require_servable(self, request: Request) -> None:
        """Raise AdmissionError if the request could not even be served alone."""
        self.scheduler.require_servable(request)
        ids, size = request.prompt_ids, self._vocab_size
        if size is not None and (min(ids) < 0 or max(ids) >= size):
            found = next(token for token in ids if not 0 <= token < size)
            raise AdmissionError(
                "not a token id of this model", where="prompt", found=found, expected=f"0 to {size - 1}"
            )

    def add(self, request: Request, sink: Sink) -> None:
        """Queue a request. Raises AdmissionError at once if it can never be served or the queue is full."""
        self.require_servable(request)
        outputs = [ChoiceOutput(self._tokenizer, request.sampling.stop) for _ in range(request.sampling.n)]
        with self._lock:
            state = self.scheduler.add(request, self._clock())
            self._live[request.id] = _Live(state, sink, outputs)

    def end(self, request_id: str, reason: FinishReason, error: str | None = None) -> None:
        """End a request now; its Finish is delivered before this returns. Unknown ids are ignored."""
        with self._lock:
            self.scheduler.end(request_id, reason, error)
            self._deliver()

    def end_all(self, reason: FinishReason, error: str | None = None) -> None:
        with self._lock:
            self.scheduler.end_all(reason, error)
            self._deliver()

    def reset(self, reason: FinishReason, error: str | None = None) -> None:
        """End everything and start with an empty scheduler: for when a step was torn apart, by an interrupt or a defect."""
        with self._lock:
            live, self._live = self._live, {}
            broken, self.scheduler = self.scheduler, Scheduler(self.scheduler.config)
            self.scheduler.set_weights_version(broken.weights_version)
            for request in live.values():
                for sequence in request.state.sequences:
                    sequence.finish_reason = sequence.finish_reason or reason
                request.state.error = request.state.error or error
                self._finish(request)

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
        except Exception as error:
            log.exception("the scheduler failed; everything alive ends with an error")
            self.reset("error", f"the scheduler failed: {type(error).__name__}")
            return True

    def _step(self) -> bool:
        with self._lock:
            plan = self.scheduler.schedule(self._clock())
            self._deliver()
        if plan is None:
            return False
        try:
            sampled = _complete(self._worker.run(plan), plan)
        except Exception as error:
            log.exception("step %d failed; its requests end with an error", plan.step)
            with self._lock:
                self.scheduler.fail(plan, f"the model could not compute this step: {type(error).__name__}")
                self._deliver()
            return True
        with self._lock:
            for update in self.scheduler.apply(plan, sampled.token_ids):
                self._take(update, sampled)
            self._deliver()
        return True

    def _take(self, update: Update, sampled: Sampled) -> None:
        """Turn one sequence's step into events. What raises here is that request's alone."""
        state = update.sequence.state
        live = self._live[state.request.id]
        if not live.ready:
            live.ready = True
            live.events.append(Ready(state.request.id, state.seed))
        if update.token_id is None or update.row is None:
            return
        try:
            tokens = self._tokens(
                update, update.token_id, live.outputs[update.sequence.choice], sampled.logprobs[update.row]
            )
        except Exception as error:
            log.exception("the output of request %s failed; it ends with an error", state.request.id)
            self._fail(update.sequence, f"its text could not be made: {type(error).__name__}")
        else:
            live.events.append(tokens)

    def _tokens(self, update: Update, token_id: int, output: ChoiceOutput, logprob: TokenLogprob | None) -> Tokens:
        sequence = update.sequence
        # A stop token ends the sequence and is counted, but is not part of the text.
        text = "" if update.reason == "stop" else output.push([token_id])
        if update.reason is not None and not output.stopped:
            text += output.end()
        if output.stopped:
            self.scheduler.finish(sequence, "stop")
        logprobs = None if logprob is None else (logprob,)
        version = self.scheduler.weights_version
        return Tokens(sequence.request.id, sequence.choice, text, (token_id,), logprobs, version)

    def _fail(self, sequence: Sequence, error: str) -> None:
        self.scheduler.finish(sequence, "error", error)
        # Where this very token had ended the choice, its text is missing all the same.
        sequence.finish_reason = "error"
        sequence.state.error = sequence.state.error or error

    def _deliver(self) -> None:
        """Hand every request its events, the Finish of those that ended last."""
        for state in self.scheduler.take_ended():
            self._finish(self._live.pop(state.request.id))
        for live in [live for live in self._live.values() if live.events]:
            self._send(live)

    def _finish(self, live: _Live) -> None:
        """The last events: text still held back where a choice was cut short, then Finish."""
        state = live.state
        for sequence, output in zip(state.sequences, live.outputs, strict=True):
            if sequence.finish_reason not in ("stop", "length", "error"):
                try:
                    held = output.end()
                except Exception as error:
                    log.exception("the last text of request %s failed", state.request.id)
                    sequence.finish_reason = "error"
                    state.error = state.error or f"its text could not be made: {type(error).__name__}"
                    continue
                if held:
                    version = self.scheduler.weights_version
                    live.events.append(Tokens(state.request.id, sequence.choice, held, (), weights_version=version))
        live.events.append(Finish(state.request.id, state.reasons, state.usage, state.error))
        self._send(live)

    def _send(self, live: _Live) -> None:
        events, live.events = live.events, []
        try:
            live.sink(events)
        except Exception:
            log.exception("the reader of request %s raised; it is aborted", live.state.request.id)
            self.scheduler.abort(live.state.request.id)


def _complete(sampled: Sampled, plan: StepPlan) -> Sampled:
    if not len(sampled.token_ids) == len(sampled.logprobs) == plan.num_rows:
        raise ValueError(f"the worker returned {len(sampled.token_ids)} tokens for {plan.num_rows} rows")
    return sampled
