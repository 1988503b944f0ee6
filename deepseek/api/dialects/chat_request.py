"""What /v1/chat/completions takes, field by field.

Beyond OpenAI's own fields it takes those that vLLM's users know (`min_p`, `structured_outputs`, ...; in OpenAI's client
through `extra_body`). Fields that would change the answer and are not supported are refused by name; their neutral values
(`store: false`, `modalities: ["text"]`, ...) are taken, because clients send them unasked.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from deepseek.api.dialects.chat_messages import ChatMessage
from deepseek.api.dialects.chat_tools import ToolChoiceField, Tools
from deepseek.api.dialects.fields import (
    MaxTokens,
    Model,
    Only,
    Opaque,
    StopString,
    StopStrings,
    StrictModel,
    TopLogprobs,
)
from deepseek.api.dialects.sampling import SamplingFields
from deepseek.api.dialects.thinking import Effort, TemplateSwitches, ThinkingSwitch


class StreamOptions(StrictModel):
    include_usage: bool | None = None
    include_obfuscation: Annotated[object, Only(False)] = None


class ChatRequest(SamplingFields):
    """What /v1/chat/completions takes. Optional fields may be null, which is their default."""

    model: Model
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: MaxTokens | None = None
    max_completion_tokens: MaxTokens | None = None
    stop: StopString | StopStrings | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    tools: Tools | None = None
    tool_choice: Annotated[
        ToolChoiceField | None, Field(description='"none" keeps the tools from the model. Default: auto.')
    ] = None
    parallel_tool_calls: Annotated[bool | None, Field(description="Several calls in one answer. Default: true.")] = None
    reasoning_effort: Annotated[Effort | None, Field(description="Think first; how much is the model's own.")] = None
    thinking: ThinkingSwitch | None = None
    chat_template_kwargs: TemplateSwitches | None = None
    user: Opaque | None = None
    safety_identifier: Opaque | None = None
    prompt_cache_key: Opaque | None = None
    metadata: dict[str, str] | None = None
    store: Annotated[object, Only(False)] = None
    functions: Annotated[object, Only([])] = None
    function_call: Annotated[object, Only("none", "auto")] = None
    modalities: Annotated[object, Only(["text"])] = None
    service_tier: Annotated[object, Only("auto", "default")] = None
    audio: Annotated[object, Only()] = None
    prediction: Annotated[object, Only()] = None
    verbosity: Annotated[object, Only()] = None
    web_search_options: Annotated[object, Only()] = None

    @model_validator(mode="after")
    def _fields_agree(self) -> ChatRequest:
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise PydanticCustomError(
                "disagree", "one of max_tokens and max_completion_tokens, or the same number in both"
            )
        if self.top_logprobs is not None and not self.logprobs:
            raise PydanticCustomError("disagree", "logprobs: true beside top_logprobs")
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError("disagree", "stream: true beside stream_options")
        if self.prompt_logprobs is not None and self.stream:
            raise PydanticCustomError("disagree", "prompt_logprobs without stream, or /v1/generate, which streams them")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def longest(self) -> tuple[int | None, str]:
        """Tokens to generate at most, and the name of the field that says so."""
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens, "max_completion_tokens"
        return self.max_tokens, "max_tokens"
