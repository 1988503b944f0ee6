"""The offline front: a list of prompts in, a list of completions out, in this thread.

from deepseek import LLM, SamplingParams
LLM("builtin").generate(["Hello"], SamplingParams(temperature=0))
"""

from __future__ import annotations

import operator
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from deepseek.core.constraint import Constraint
from deepseek.core.engine import (
    Embedding,
    Event,
    Finish,
    FinishReason,
    Pooling,
    PromptScores,
    Request,
    TokenLogprob,
    Tokens,
    Usage,
)
from deepseek.core.errors import AdmissionError, ConfigError, EngineError
from deepseek.core.sampling import SamplingParams
from deepseek.engine.administration import Administration
from deepseek.engine.build import EngineOptions, LoadedModel, build_loop
from deepseek.engine.grammar.matcher import CompiledGrammar
from deepseek.engine.reading import join_scores, to_embed, to_score
from deepseek.engine.weights import Source

T = TypeVar("T")
Prompt = str | Sequence[int]
OnToken = Callable[[int, Tokens], None]


@dataclass(slots=True)
class Completion:
    """One choice. text excludes stop strings and stop tokens; token_ids is everything generated, stop tokens included.

    logprobs: one entry per token when asked for, else None. prompt_logprobs: likewise of the prompt's tokens, None for
    the first; on a prompt's first completion only. usage counts the whole request.
    """

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] | None = None
    finish_reason: FinishReason | None = None
    usage: Usage = Usage(0, 0)
    prompt_logprobs: list[TokenLogprob | None] | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """How likely a prompt is, token by token: one entry for each of token_ids, None for the first."""

    token_ids: list[int]
    logprobs: list[TokenLogprob | None]

    @property
    def total(self) -> float:
        """Natural-log probability of all tokens after the first, given it."""
        return sum(entry.logprob for entry in self.logprobs if entry is not None)


class LLM:
    """A model loaded for batches: "builtin", a checkpoint directory, a hub id, or what `build_loop` returned.

    See EngineOptions for the rest. Threads take turns.
    """

    def __init__(self, model: str | Path | LoadedModel = "builtin", *, options: EngineOptions | None = None) -> None:
        self._loaded = model if isinstance(model, LoadedModel) else build_loop(model, options)
        self._ids = count()
        self._turn = threading.RLock()
        self.tokenizer = self._loaded.tokenizer
        self.config = self._loaded.config
        # Whoever has the turn is between two steps, and nothing runs.
        self._administration = Administration(
            self._loaded.loop, self._loaded.weights, lambda do, when=lambda: True: do(), lambda do: do()
        )

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        constraint: Constraint | Sequence[Constraint | None] | None = None,
        adapter: str | Sequence[str | None] | None = None,
        on_token: OnToken | None = None,
    ) -> list[Completion]:
        """Complete all prompts, batched continuously. A prompt is text or a list of token ids.

        params, constraint (what every completion must match), adapter (name of a loaded one): one for all, or one for
        each prompt. Completions come in the order of the prompts; a prompt with n > 1 contributes n of them in a row.
        on_token sees the stream: (index of the prompt, new tokens).
        Raises AdmissionError, before anything is computed, for a prompt that cannot be served; EngineError if the
        model fails. Whatever is raised, also by on_token or Ctrl-C, all prompts are ended and the model stays usable.
        """
        batch = _as_batch(prompts)
        columns = (
            _one_each(batch, "sampling parameters", params, SamplingParams),
            _one_each(batch, "constraints", constraint, Constraint),
            _one_each(batch, "adapters", adapter, str),
        )
        jobs = []
        for index, (prompt, one, ruled, name) in enumerate(zip(batch, *columns, strict=True)):
            jobs.append(self._job(index, prompt, one or SamplingParams(), ruled, name))
        self._serve(jobs, on_token)
        return [choice for job in jobs for choice in job.choices]

    def score(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        alternatives: int = 0,
        adapter: str | Sequence[str | None] | None = None,
    ) -> list[Score]:
        """The log-probability of every token of every prompt, with as many alternatives beside each. Raises as
        `generate` does."""
        batch = _as_batch(prompts)
        params = SamplingParams(max_tokens=0, prompt_logprobs=alternatives)
        jobs = [
            self._job(index, prompt, params, None, name, to_score)
            for index, (prompt, name) in enumerate(zip(batch, _one_each(batch, "adapters", adapter, str), strict=True))
        ]
        self._serve(jobs, None)
        return [Score(list(job.request.prompt_ids), list(join_scores(job.scores).logprobs)) for job in jobs]

    def encode(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        pooling: Pooling = "last",
        adapter: str | Sequence[str | None] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Every prompt as a vector, float32 [prompts, D]: the last token's hidden state after the final norm, or the
        mean over all tokens, scaled to length 1. Raises as `generate` does."""
        batch = _as_batch(prompts)
        names = _one_each(batch, "adapters", adapter, str)
        jobs = [
            self._job(index, prompt, SamplingParams(), None, name, to_embed, pooling)
            for index, (prompt, name) in enumerate(zip(batch, names, strict=True))
        ]
        self._serve(jobs, None)
        return np.stack([job.vector() for job in jobs]) if jobs else np.empty((0, self.config.hidden_size), np.float32)

    def update_weights(self, source: Source) -> int:
        """Other weights from now on: a checkpoint of the same configuration, or tensors by their Hugging Face names, of
        which those not named stay. Returns their version. Raises ConfigError or CheckpointError, and changes nothing,
        if they do not fit."""
        with self._turn:
            return self._administration.update_weights(source, "recompute")

    def sleep(self, level: int = 1, *, weights: str | Path | None = None) -> None:
        """Free the key-value cache, and at level 2 the weights, until `wake`; see `core.Engine.sleep`."""
        with self._turn:
            self._administration.sleep(level, weights)

    def wake(self) -> None:
        """Take back what `sleep` freed."""
        with self._turn:
            self._administration.wake()

    def load_adapter(self, name: str, path: str | Path) -> int:
        """Read a LoRA adapter in PEFT's form, for `adapter=name`. Returns its version; see `core.Engine.load_adapter`."""
        with self._turn:
            return self._administration.load_adapter(name, path)

    def unload_adapter(self, name: str) -> None:
        """Free an adapter. Raises ConfigError for a name that is not loaded."""
        with self._turn:
            self._administration.unload_adapter(name).result()

    def _serve(self, jobs: list[_Job], on_token: OnToken | None) -> None:
        with self._turn:
            if self._loaded.loop.paused:
                raise EngineError("the model sleeps", fix="call wake()")
            try:
                self._run(jobs, on_token)
            except BaseException:
                self._loaded.loop.reset("cancelled")
                raise
        for job in jobs:
            if job.error is not None:
                raise EngineError("generation failed", where=f"prompt {job.index}", found=job.error)

    def _run(self, jobs: list[_Job], on_token: OnToken | None) -> None:
        loop = self._loaded.loop
        limits = loop.scheduler.config
        enough_waiting = min(limits.max_waiting, limits.max_sequences)
        pending, live = deque(jobs), deque[_Job]()
        while pending or live:
            while pending and loop.load().waiting < enough_waiting:
                job = pending.popleft()
                loop.add(job.request, job.events.extend, None if job.grammar is None else job.grammar.matcher)
                live.append(job)
            loop.step()
            for _ in range(len(live)):
                job = live.popleft()
                if not job.take(on_token):
                    live.append(job)

    def _job(
        self,
        index: int,
        prompt: Prompt,
        params: SamplingParams,
        constraint: Constraint | None,
        adapter: str | None,
        form: Callable[[Request], Request] = lambda request: request,
        pooling: Pooling = "last",
    ) -> _Job:
        """Raises AdmissionError that says which prompt it is."""
        grammar = None
        try:
            plain = Request(
                f"llm-{next(self._ids)}",
                self._encode(prompt),
                params,
                constraint=constraint,
                adapter=adapter,
                pooling=pooling,
            )
            request = form(plain)
            self._loaded.loop.require_servable(request)
            self._loaded.loop.adapters.handle_of(adapter)
            if constraint is not None:
                if self._loaded.grammars is None:
                    raise AdmissionError("this model has no grammars", where="constraint", fix="leave it out")
                grammar = self._loaded.grammars.compile(constraint)
        except AdmissionError as error:
            where = f"prompt {index}" if error.where in (None, "prompt") else f"prompt {index}, {error.where}"
            raise AdmissionError(
                error.what, reason=error.reason, where=where, found=error.found, expected=error.expected, fix=error.fix
            ) from None
        return _Job(index, request, grammar)

    def _encode(self, prompt: Prompt) -> tuple[int, ...]:
        if isinstance(prompt, str):
            return tuple(self.tokenizer.encode(prompt))
        try:
            return tuple(_token_id(token) for token in prompt)
        except TypeError:
            shown = repr(prompt)
            found = shown if len(shown) <= 80 else shown[:80] + "..."
            raise AdmissionError("not a prompt", found=found, expected="text, or a list of token ids") from None


class _Job:
    """One prompt's request, the events that came and have not been looked at, and its completions so far."""

    def __init__(self, index: int, request: Request, grammar: CompiledGrammar | None = None) -> None:
        self.index, self.request, self.grammar = index, request, grammar
        self.scores: list[PromptScores] = []
        self.embedding: Embedding | None = None
        self.events: deque[Event] = deque()
        self.error: str | None = None
        with_logprobs = request.sampling.logprobs is not None
        self.choices = [Completion(logprobs=[] if with_logprobs else None) for _ in range(request.sampling.n)]

    def take(self, on_token: OnToken | None) -> bool:
        """Look at what has come. Whether the request has ended."""
        while self.events:
            event = self.events.popleft()
            if isinstance(event, Finish):
                if "error" in event.reasons:
                    self.error = event.error or "unknown error"
                for choice, reason in zip(self.choices, event.reasons, strict=True):
                    choice.finish_reason, choice.usage = reason, event.usage
                if self.scores:
                    self.choices[0].prompt_logprobs = list(join_scores(self.scores).logprobs)
                return True
            if isinstance(event, PromptScores):
                self.scores.append(event)
            if isinstance(event, Embedding):
                self.embedding = event
            if isinstance(event, Tokens):
                choice = self.choices[event.choice]
                choice.text += event.text
                choice.token_ids += event.token_ids
                if choice.logprobs is not None and event.logprobs:
                    choice.logprobs += event.logprobs
                if on_token is not None:
                    on_token(self.index, event)
        return False

    def vector(self) -> npt.NDArray[np.float32]:
        if self.embedding is None:
            raise EngineError("the request ended without an embedding", where=f"prompt {self.index}")
        return self.embedding.values


def _as_batch(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, bytes | bytearray | Mapping) or not hasattr(prompts, "__getitem__"):
        raise ConfigError(
            "not a prompt", found=type(prompts).__name__, expected="text, a list of token ids, or a list of those"
        )
    if isinstance(prompts, str) or (len(prompts) > 0 and _is_token_id(prompts[0])):
        return [prompts]  # type: ignore[list-item]  # a single prompt
    return list(prompts)  # type: ignore[arg-type]  # a sequence of prompts


def _token_id(token: object) -> int:
    """Any integer, numpy's too. Raises TypeError for others."""
    if isinstance(token, bool):
        raise TypeError("a truth value is not a token id")
    return operator.index(token)  # type: ignore[arg-type]


def _is_token_id(value: object) -> bool:
    try:
        _token_id(value)
    except TypeError:
        return False
    return True


def _one_each(batch: list[Prompt], what: str, given: T | Sequence[T | None] | None, kind: type[T]) -> list[T | None]:
    """What was given for all prompts, or for each."""
    if given is None or isinstance(given, kind):
        return [given] * len(batch)
    each: list[T | None] = list(given)  # type: ignore[arg-type]  # not one, so a sequence of them
    if len(each) != len(batch):
        raise ConfigError(f"as many {what} as prompts are needed", found=len(each), expected=len(batch))
    return each
