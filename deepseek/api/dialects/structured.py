"""What an answer must match, in the two forms clients know: OpenAI's `response_format`, vLLM's `structured_outputs`.

Both become one `core.Constraint`, which the engine compiles before it admits the request. A constraint that cannot be
enforced is refused with status 400, under the name of the field that it came from; nothing in it is ever ignored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from deepseek.api.dialects.fields import StrictModel
from deepseek.api.problems import problem_of
from deepseek.core.constraint import MAX_CHOICES, Constraint
from deepseek.core.errors import AdmissionError

Schema = dict[str, Any] | bool


class JsonSchema(StrictModel):
    """A JSON schema by name. It is always enforced to the letter, as with `strict`."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    description: str | None = None
    schema_: Annotated[Schema, Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(StrictModel):
    """What the text must be: anything, any JSON object, or JSON that a schema accepts."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _schema_where_needed(self) -> ResponseFormat:
        if (self.json_schema is not None) != (self.type == "json_schema"):
            raise PydanticCustomError("disagree", 'json_schema with type "json_schema", and only then')
        return self


class StructuredOutputs(StrictModel):
    """Exactly one of: a JSON schema (an object or its text), a regular expression, a list of texts, a Lark grammar, or
    any JSON object."""

    json_: Annotated[Schema | str | None, Field(alias="json")] = None
    regex: Annotated[str, Field(min_length=1)] | None = None
    choice: Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES)] | None = None
    grammar: Annotated[str, Field(min_length=1)] | None = None
    json_object: Literal[True] | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> StructuredOutputs:
        given = (self.json_, self.regex, self.choice, self.grammar, self.json_object)
        if sum(value is not None for value in given) != 1:
            raise PydanticCustomError("disagree", "exactly one of json, regex, choice, grammar and json_object")
        return self


async def constraint_of(
    response_format: ResponseFormat | None, structured: StructuredOutputs | None
) -> tuple[Constraint | None, str]:
    """The constraint, and the name of the field it came from. Raises Problem for one that has no valid form."""
    found = _find(response_format, structured)
    if found is None:
        return None, ""
    make, field = found
    return await constraint_made(make, field), field


async def constraint_made(make: Callable[[], Constraint], field: str) -> Constraint:
    """A constraint of this field, made in a worker thread: a schema may be large. Raises Problem as `constraint_of`."""
    try:
        return await asyncio.to_thread(make)
    except AdmissionError as error:
        raise problem_of(error, fields={"constraint": field}) from None


def _find(
    response_format: ResponseFormat | None, structured: StructuredOutputs | None
) -> tuple[Callable[[], Constraint], str] | None:
    if response_format is not None and response_format.json_schema is not None:
        schema = response_format.json_schema.schema_
        return lambda: Constraint.json_schema(schema), "response_format.json_schema.schema"
    if response_format is not None and response_format.type == "json_object":
        return Constraint.json_object, "response_format"
    if structured is None:
        return None
    given, regex, choice, grammar = structured.json_, structured.regex, structured.choice, structured.grammar
    if given is not None:
        return lambda: Constraint.json_schema(given), "structured_outputs.json"
    if regex is not None:
        return lambda: Constraint.regex(regex), "structured_outputs.regex"
    if choice is not None:
        return lambda: Constraint.choice(choice), "structured_outputs.choice"
    if grammar is not None:
        return lambda: Constraint.lark(grammar), "structured_outputs.grammar"
    return Constraint.json_object, "structured_outputs.json_object"
