"""What /v1/messages and its count take, field by field, as Anthropic's API names them.

What would change the answer and is not supported is refused by name; what only concerns Anthropic's own service is taken in
its neutral values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from deepseek.api.dialects.anthropic_messages import CacheControl, InputMessage, TextBlock
from deepseek.api.dialects.chat_tools import ObjectSchema, checked_choice, unique_specs
from deepseek.api.dialects.fields import (
    MAX_TOOLS,
    FunctionName,
    MaxTokens,
    Model,
    Only,
    Opaque,
    StopStrings,
    StrictModel,
    Temperature,
    TopK,
    TopP,
    tag_of,
    tagged,
)
from deepseek.core.messages import NamedTool, ToolChoice, ToolSpec


class Tool(StrictModel):
    """A function by name, with a JSON schema of its input. Tools that Anthropic runs itself are not there."""

    name: FunctionName
    input_schema: ObjectSchema
    description: str | None = None
    type: Annotated[object, Only("custom")] = None
    cache_control: CacheControl | None = None
    strict: Annotated[
        bool | None, Field(description="Input follows the schema wherever the answer's form is enforced at all.")
    ] = None
    input_examples: Annotated[object, Only([])] = None
    defer_loading: Annotated[object, Only(False)] = None
    eager_input_streaming: bool | None = None
    allowed_callers: Annotated[object, Only(["direct"])] = None


class AutoChoice(StrictModel):
    type: Literal["auto"]
    disable_parallel_tool_use: bool | None = None


class AnyChoice(StrictModel):
    type: Literal["any"]
    disable_parallel_tool_use: bool | None = None


class NamedChoice(StrictModel):
    type: Literal["tool"]
    name: FunctionName
    disable_parallel_tool_use: bool | None = None


class NoChoice(StrictModel):
    type: Literal["none"]


Choice = Annotated[
    Annotated[AutoChoice, tagged("auto")]
    | Annotated[AnyChoice, tagged("any")]
    | Annotated[NamedChoice, tagged("tool")]
    | Annotated[NoChoice, tagged("none")],
    tag_of("type", "a choice of type auto, any, tool or none"),
]
Display = Literal["summarized", "omitted"]


class ThinkingOn(StrictModel):
    """budget_tokens: when so many have been thought, thinking ends and the answer begins. max_tokens counts them too."""

    type: Literal["enabled"]
    budget_tokens: Annotated[int, Field(ge=1)]
    display: Display | None = None


class ThinkingAdaptive(StrictModel):
    """The same as enabled: the model thinks as long as it wants."""

    type: Literal["adaptive"]
    display: Display | None = None


class ThinkingOff(StrictModel):
    type: Literal["disabled"]


Thinking = Annotated[
    Annotated[ThinkingOn, tagged("enabled")]
    | Annotated[ThinkingAdaptive, tagged("adaptive")]
    | Annotated[ThinkingOff, tagged("disabled")],
    tag_of("type", "thinking of type enabled, adaptive or disabled"),
]


class JsonFormat(StrictModel):
    """JSON that the schema accepts, to the letter."""

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(StrictModel):
    effort: Annotated[
        Literal["low", "medium", "high", "xhigh", "max"] | None, Field(description="Taken; the model knows no degrees.")
    ] = None
    format: JsonFormat | None = None


class RequestMetadata(StrictModel):
    user_id: Opaque | None = None


class CountRequest(StrictModel):
    """What /v1/messages/count_tokens takes."""

    model: Model
    messages: Annotated[list[InputMessage], Field(min_length=1)]
    system: str | list[TextBlock] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Choice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = None
    speed: Annotated[object, Only("standard")] = None
    mcp_servers: Annotated[object, Only([])] = None

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """Raises Problem where two have one name."""
        specs = [ToolSpec(tool.name, tool.description or "", tool.input_schema) for tool in self.tools or ()]
        return unique_specs(specs, "tools.{}.name")

    def choice(self, specs: Sequence[ToolSpec]) -> ToolChoice:
        """Raises Problem for a choice that the tools do not leave."""
        found = self.tool_choice
        if isinstance(found, NamedChoice):
            return checked_choice(NamedTool(found.name), specs, "tool_choice.name")
        if isinstance(found, AnyChoice):
            return checked_choice("required", specs, "tool_choice")
        return "none" if isinstance(found, NoChoice) else "auto"

    @property
    def parallel(self) -> bool:
        return not getattr(self.tool_choice, "disable_parallel_tool_use", False)

    @property
    def thinks(self) -> bool:
        return isinstance(self.thinking, ThinkingOn | ThinkingAdaptive)

    @property
    def shows_thinking(self) -> bool:
        return getattr(self.thinking, "display", None) != "omitted"


class MessagesRequest(CountRequest):
    """What /v1/messages takes. Optional fields may be null, which is their default."""

    max_tokens: MaxTokens
    stop_sequences: StopStrings | None = None
    stream: bool | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    metadata: RequestMetadata | None = None
    service_tier: Annotated[object, Only("auto", "standard_only")] = None
    container: Annotated[object, Only()] = None
    context_management: Annotated[object, Only()] = None
    diagnostics: Annotated[object, Only()] = None
    inference_geo: Annotated[object, Only()] = None

    @model_validator(mode="after")
    def _budget_fits(self) -> MessagesRequest:
        if isinstance(self.thinking, ThinkingOn) and self.thinking.budget_tokens >= self.max_tokens:
            raise PydanticCustomError("disagree", "thinking.budget_tokens less than max_tokens")
        return self
