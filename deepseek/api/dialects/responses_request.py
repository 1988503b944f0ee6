"""What /v1/responses takes, field by field. What would change the answer and is not supported is refused by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from deepseek.api.dialects.fields import (
    MAX_TOOLS,
    FunctionName,
    MaxTokens,
    MinP,
    Model,
    Only,
    Opaque,
    Priority,
    Seed,
    StrictModel,
    Temperature,
    Timeout,
    TopK,
    TopLogprobs,
    TopP,
    tag_of,
    tagged,
)
from deepseek.api.dialects.responses_items import MAX_ITEMS, Item, ItemId
from deepseek.api.dialects.structured import Schema
from deepseek.api.dialects.thinking import Effort

LOGPROBS = "message.output_text.logprobs"

Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]


class TextFormat(StrictModel):
    type: Literal["text"]


class JsonObjectFormat(StrictModel):
    type: Literal["json_object"]


class JsonSchemaFormat(StrictModel):
    """A JSON schema by name. It is always enforced to the letter, as with `strict`."""

    type: Literal["json_schema"]
    name: Annotated[str, Field(min_length=1, max_length=256)]
    schema_: Annotated[Schema, Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None


Format = Annotated[
    Annotated[TextFormat, tagged("text")]
    | Annotated[JsonObjectFormat, tagged("json_object")]
    | Annotated[JsonSchemaFormat, tagged("json_schema")],
    tag_of("type", "a format of type text, json_object or json_schema"),
]


class TextOptions(StrictModel):
    format: Format | None = None
    verbosity: Annotated[object, Only("medium")] = None


class ReasoningOptions(StrictModel):
    """Whether to think first; how much is the model's own."""

    effort: Effort | None = None
    summary: Annotated[object, Only("auto")] = None
    generate_summary: Annotated[object, Only("auto")] = None


class ResponseTool(StrictModel):
    """A function that the model may call."""

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


Tool = Annotated[
    Annotated[ResponseTool, tagged("function")], tag_of("type", "a tool of type function; no other runs here")
]


class NamedTool(StrictModel):
    """A choice that leaves one function."""

    type: Literal["function"]
    name: FunctionName


class ResponseStreamOptions(StrictModel):
    include_obfuscation: Annotated[object, Only(False)] = None


class ResponseRequest(StrictModel):
    """What /v1/responses takes. Optional fields may be null, which is their default."""

    model: Model
    input: Annotated[
        Annotated[list[Item], Field(min_length=1, max_length=MAX_ITEMS)] | str,
        Field(description="A text, or items: messages, calls, results of calls, reasoning."),
    ]
    instructions: Annotated[str | None, Field(description="What the model is told first; not kept for the next.")] = (
        None
    )
    previous_response_id: Annotated[ItemId | None, Field(description="A kept answer to go on from.")] = None
    store: Annotated[bool | None, Field(description="Keep the answer, for 30 days at most. Default: true.")] = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    max_output_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    seed: Seed | None = None
    priority: Priority | None = None
    timeout_s: Timeout | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: Annotated[bool | None, Field(description="Several calls in one answer. Default: true.")] = None
    include: Annotated[list[Literal["message.output_text.logprobs"]], Field(max_length=16)] | None = None
    top_logprobs: TopLogprobs | None = None
    metadata: Metadata | None = None
    user: Opaque | None = None
    safety_identifier: Opaque | None = None
    prompt_cache_key: Opaque | None = None
    background: Annotated[object, Only(False)] = None
    conversation: Annotated[object, Only()] = None
    context_management: Annotated[object, Only([])] = None
    max_tool_calls: Annotated[object, Only()] = None
    moderation: Annotated[object, Only()] = None
    prompt: Annotated[object, Only()] = None
    prompt_cache_retention: Annotated[object, Only("in_memory")] = None
    service_tier: Annotated[object, Only("auto", "default")] = None
    truncation: Annotated[object, Only("disabled")] = None

    @model_validator(mode="after")
    def _fields_agree(self) -> ResponseRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise PydanticCustomError("disagree", 'include: ["message.output_text.logprobs"] beside top_logprobs')
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError("disagree", "stream: true beside stream_options")
        return self

    @property
    def logprobs(self) -> bool:
        return LOGPROBS in (self.include or ())

    @property
    def kept(self) -> bool:
        return self.store is not False
