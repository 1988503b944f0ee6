"""Tools in OpenAI's form, as requests name them and answers call them, and what they are inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from deepseek.api.dialects.fields import MAX_TOOLS, CallId, FunctionName, StrictModel, Unread
from deepseek.api.problems import FieldError, Problem, shown
from deepseek.core.messages import NamedTool, ToolCallPart, ToolChoice, ToolSpec


def _object_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Refuse what no template could write: the keywords that every template looks at must have their own types."""
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, dict) or not all(isinstance(one, dict | bool) for one in properties.values()):
        raise PydanticCustomError("schema", "a JSON schema, whose properties are an object of schemas")
    if not isinstance(required, list) or not all(isinstance(one, str) for one in required):
        raise PydanticCustomError("schema", "a JSON schema, whose required is a list of names")
    return schema


ObjectSchema = Annotated[dict[str, Any], AfterValidator(_object_schema)]


class FunctionSpec(StrictModel):
    """A function by name, with a JSON schema of its arguments; without one it takes none."""

    name: FunctionName
    description: str | None = None
    parameters: ObjectSchema | None = None
    strict: Annotated[
        bool | None, Field(description="Arguments follow the schema wherever the answer's form is enforced at all.")
    ] = None


class FunctionTool(StrictModel):
    type: Literal["function"]
    function: FunctionSpec


Tools = Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS)]


class FunctionReference(StrictModel):
    name: FunctionName


class NamedFunction(StrictModel):
    """A choice that leaves one function."""

    type: Literal["function"]
    function: FunctionReference


ToolChoiceField = Literal["none", "auto", "required"] | NamedFunction


class FunctionCall(StrictModel):
    name: FunctionName
    arguments: Annotated[str, Field(description="JSON text, as the model wrote it.")]
    parsed_arguments: Annotated[object, Unread()] = None


class FunctionToolCall(StrictModel):
    """A call of an assistant's message."""

    id: CallId
    type: Literal["function"]
    function: FunctionCall
    index: Annotated[object, Unread()] = None

    def part(self) -> ToolCallPart:
        return ToolCallPart(self.id, self.function.name, self.function.arguments)


NO_ARGUMENTS: dict[str, object] = {"type": "object", "properties": {}}


def specs_of(tools: Sequence[FunctionTool] | None) -> tuple[ToolSpec, ...]:
    """Raises Problem where two have one name."""
    return unique_specs(
        [
            ToolSpec(tool.function.name, tool.function.description or "", tool.function.parameters or NO_ARGUMENTS)
            for tool in tools or ()
        ],
        "tools.{}.function.name",
    )


def unique_specs(specs: Sequence[ToolSpec], field: str) -> tuple[ToolSpec, ...]:
    """field: where the name of number {} stands. Raises Problem where two have one name."""
    names: set[str] = set()
    for index, spec in enumerate(specs):
        if spec.name in names:
            where, expected = field.format(index), "a name that no other tool has"
            error = FieldError(where, shown(spec.name), expected)
            raise Problem("invalid-request", f"{where}: expected {expected}; found {shown(spec.name)}", (error,))
        names.add(spec.name)
    return tuple(specs)


def choice_of(choice: ToolChoiceField | None, specs: Sequence[ToolSpec]) -> ToolChoice:
    """Raises Problem for a choice that the tools do not leave."""
    if isinstance(choice, NamedFunction):
        return checked_choice(NamedTool(choice.function.name), specs, "tool_choice.function.name")
    return checked_choice(choice or "auto", specs, "tool_choice")


def checked_choice(choice: ToolChoice, specs: Sequence[ToolSpec], field: str) -> ToolChoice:
    """The choice, if the tools leave it. Raises Problem naming the field."""
    if isinstance(choice, NamedTool):
        names = [spec.name for spec in specs]
        if choice.name not in names:
            expected = "the name of one of the tools: " + (", ".join(names) or "there are none")
            error = FieldError(field, shown(choice.name), expected)
            raise Problem("invalid-request", f"{field}: expected {expected}; found {shown(choice.name)}", (error,))
    elif choice == "required" and not specs:
        error = FieldError(field, shown(choice), "tools to choose from")
        raise Problem("invalid-request", f"{field}: expected tools to choose from; there are none", (error,))
    return choice
