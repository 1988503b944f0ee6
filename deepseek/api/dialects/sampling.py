"""The fields about choosing tokens that every dialect has, by the names OpenAI and vLLM gave them, and the engine's
Request made of them."""

from __future__ import annotations

import time
from typing import Annotated

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from deepseek.api.dialects.fields import (
    BadWords,
    Choices,
    LogitBias,
    MinP,
    MinTokens,
    Penalty,
    Priority,
    RepetitionPenalty,
    Seed,
    StrictModel,
    Temperature,
    Timeout,
    TokenId,
    TopK,
    TopLogprobs,
    TopP,
)
from deepseek.api.dialects.structured import ResponseFormat, StructuredOutputs
from deepseek.core.constraint import Constraint
from deepseek.core.engine import Request, ThinkingBound
from deepseek.core.sampling import SamplingParams


class SamplingFields(StrictModel):
    """Fields of every request for text; each may be null, which is its default."""

    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    seed: Seed | None = None
    n: Choices | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: RepetitionPenalty | None = None
    logit_bias: LogitBias | None = None
    bad_words: BadWords | None = None
    min_tokens: MinTokens | None = None
    stop_token_ids: list[TokenId] | None = None
    ignore_eos: bool | None = None
    prompt_logprobs: (
        Annotated[TopLogprobs, Field(description="Score the prompt, with so many alternatives.")] | None
    ) = None
    priority: Priority | None = None
    timeout_s: Timeout | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None

    @model_validator(mode="after")
    def _one_constraint(self) -> SamplingFields:
        form = self.response_format
        if self.structured_outputs is not None and form is not None and form.type != "text":
            raise PydanticCustomError("disagree", "one of response_format and structured_outputs")
        return self

    def to_request(
        self,
        request_id: str,
        prompt_ids: tuple[int, ...],
        *,
        max_tokens: int,
        stop: tuple[str, ...],
        logprobs: int | None,
        constraint: Constraint | None,
        adapter: str | None,
        arrived: float,
        show_controls: bool = False,
        thinking: ThinkingBound | None = None,
    ) -> Request:
        """The engine's request. arrived: on time.perf_counter; a timeout counts from there. show_controls: control tokens
        stand in the text, for a parser to read.

        Raises AdmissionError for fields that do not go together.
        """
        sampling = SamplingParams(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=self.top_k or 0,
            min_p=self.min_p or 0.0,
            seed=self.seed,
            n=self.n or 1,
            stop=stop,
            stop_token_ids=tuple(self.stop_token_ids or ()),
            ignore_eos=bool(self.ignore_eos),
            logprobs=logprobs,
            prompt_logprobs=self.prompt_logprobs,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            logit_bias=tuple((int(token), bias) for token, bias in (self.logit_bias or {}).items()),
            bad_words=tuple(self.bad_words or ()),
            min_tokens=self.min_tokens or 0,
            skip_special_tokens=not show_controls,
        )
        deadline = None
        if self.timeout_s is not None:
            deadline = time.monotonic() + self.timeout_s - (time.perf_counter() - arrived)
        return Request(
            request_id,
            prompt_ids,
            sampling,
            thinking=thinking,
            priority=self.priority or 0,
            deadline=deadline,
            constraint=constraint,
            adapter=adapter,
        )
