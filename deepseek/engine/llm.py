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

from deepseek.core.engine import Event, Finish, FinishReason, Request, TokenLogprob, Tokens, Usage
from deepseek.core.errors import AdmissionError, ConfigError, EngineError
from deepseek.core.sampling import SamplingParams
from deepseek.engine.build import EngineOptions, LoadedModel, build_loop

Prompt = str | Sequence[int]
OnToken = Callable[[int, Tokens], None]


@dataclass(slots=True)
class Completion:
    """One choice. text excludes stop strings and stop tokens; token_ids is everything generated, stop tokens included.

    logprobs: one entry per token when asked for, else None. usage counts the whole request.
    """

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] | None = None
    finish_reason: FinishReason | None = None
    usage: Usage = Usage(0, 0)


class LLM:
    """A model loaded for batch generation: "builtin", a checkpoint directory, a hub id, or what `build_loop` returned.

    See EngineOptions for the rest. Threads take turns.
    """

    def __init__(self, model: str | Path | LoadedModel = "builtin", *, options: EngineOptions | None = None) -> None:
        self._loaded = model if isinstance(model, LoadedModel) else build_loop(model, options)
        self._ids = count()
        self._turn = threading.RLock()
        self.tokenizer = self._loaded.tokenizer
        self.config = self._loaded.config

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        on_token: OnToken | None = None,
    ) -> list[Completion]:
        """Complete all prompts, batched continuously. A prompt is text or a list of token ids.

        params: one for all, or one for each prompt. Completions come in the order of the prompts; a prompt with
        n > 1 contributes n of them in a row. on_token sees the stream: (index of the prompt, new tokens).
        Raises AdmissionError, before anything is computed, for a prompt that cannot be served; EngineError if the
        model fails. Whatever is raised, also by on_token or Ctrl-C, all prompts are ended and the model stays usable.
        """
        batch = _as_batch(prompts)
        chosen = _params_for(batch, params)
        jobs = [_Job(index, self._request(index, *pair)) for index, pair in enumerate(zip(batch, chosen, strict=True))]
        with self._turn:
            try:
                self._run(jobs, on_token)
            except BaseException:
                self._loaded.loop.reset("cancelled")
                raise
        for job in jobs:
            if job.error is not None:
                raise EngineError("generation failed", where=f"prompt {job.index}", found=job.error)
        return [choice for job in jobs for choice in job.choices]

    def _run(self, jobs: list[_Job], on_token: OnToken | None) -> None:
        loop = self._loaded.loop
        limits = loop.scheduler.config
        enough_waiting = min(limits.max_waiting, limits.max_sequences)
        pending, live = deque(jobs), deque[_Job]()
        while pending or live:
            while pending and loop.load().waiting < enough_waiting:
                job = pending.popleft()
                loop.add(job.request, job.events.extend)
                live.append(job)
            loop.step()
            for _ in range(len(live)):
                job = live.popleft()
                if not job.take(on_token):
                    live.append(job)

    def _request(self, index: int, prompt: Prompt, params: SamplingParams) -> Request:
        """Raises AdmissionError that says which prompt it is."""
        try:
            request = Request(f"llm-{next(self._ids)}", self._encode(prompt), params)
            self._loaded.loop.require_servable(request)
        except AdmissionError as error:
            where = f"prompt {index}" if error.where in (None, "prompt") else f"prompt {index}, {error.where}"
            raise AdmissionError(
                error.what, reason=error.reason, where=where, found=error.found, expected=error.expected, fix=error.fix
            ) from None
        return request

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

    def __init__(self, index: int, request: Request) -> None:
        self.index, self.request = index, request
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
                return True
            if isinstance(event, Tokens):
                choice = self.choices[event.choice]
                choice.text += event.text
                choice.token_ids += event.token_ids
                if choice.logprobs is not None and event.logprobs:
                    choice.logprobs += event.logprobs
                if on_token is not None:
                    on_token(self.index, event)
        return False


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


def _params_for(batch: list[Prompt], params: SamplingParams | Sequence[SamplingParams] | None) -> list[SamplingParams]:
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * len(batch)
    if len(params) != len(batch):
        raise ConfigError("as many sampling parameters as prompts are needed", found=len(params), expected=len(batch))
    return list(params)
