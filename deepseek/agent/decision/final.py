"""Final answers of a type: a Python type becomes a JSON schema that the answer must match, and the answer its value.

What is no object in JSON (a number, a list) is asked for as `{"result": ...}`, since servers want an object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jsonschema
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from deepseek.core.errors import ConfigError

_WRAPPED = "result"


class OutputFault(Exception):
    """An answer is not of its form. What it says is written for the model."""


class OutputForm:
    """What a final answer must be: a type that pydantic knows, or a JSON schema. None: text.

    Raises ConfigError for what is neither.
    """

    def __init__(self, output: Any = None) -> None:
        self._adapter: TypeAdapter[Any] | None = None
        self._validator: Any = None
        self._wrapped = False
        self.schema: dict[str, Any] | None = None
        if output is None or output is str:
            return
        if isinstance(output, Mapping):
            self.schema = dict(output)
            try:
                kind = jsonschema.validators.validator_for(self.schema, default=jsonschema.Draft202012Validator)
                kind.check_schema(self.schema)
            except jsonschema.SchemaError as error:
                raise ConfigError("not a JSON schema", where="output", found=error.message[:200]) from None
            self._validator = kind(self.schema)
        else:
            try:
                self._adapter = TypeAdapter(output)
                self.schema = self._adapter.json_schema()
            except (PydanticSchemaGenerationError, PydanticUserError) as error:
                raise ConfigError("not a type of answers", where="output", found=str(error)[:200]) from None
        if not self._is_object(self.schema):
            self._wrapped = True
            definitions = {"$defs": self.schema.pop("$defs")} if "$defs" in self.schema else {}
            self.schema = {
                "type": "object",
                "properties": {_WRAPPED: self.schema},
                "required": [_WRAPPED],
                "additionalProperties": False,
                **definitions,
            }

    def read(self, text: str) -> Any:
        """The value of an answer. Raises OutputFault."""
        if self.schema is None:
            return text
        try:
            value = json.loads(_bare(text))
        except (ValueError, RecursionError) as error:
            raise OutputFault(f"The answer is not JSON: {error}. Answer with JSON alone.") from None
        if self._wrapped:
            if not isinstance(value, dict) or set(value) != {_WRAPPED}:
                raise OutputFault(f'The answer must be an object with the one key "{_WRAPPED}".')
            value = value[_WRAPPED]
        if self._adapter is not None:
            try:
                return self._adapter.validate_json(json.dumps(value), strict=None)
            except ValidationError as error:
                raise OutputFault(_told(error)) from None
        found = next(iter(self._validator.iter_errors(value)), None)
        if found is not None:
            raise OutputFault(f"The answer does not fit its schema: {found.json_path}: {found.message[:300]}")
        return value

    @staticmethod
    def _is_object(schema: Mapping[str, Any]) -> bool:
        target: Any = schema
        if isinstance(reference := schema.get("$ref"), str):
            target = schema.get("$defs", {}).get(reference.rpartition("/")[2], {})
        return isinstance(target, Mapping) and target.get("type") == "object"


def _bare(text: str) -> str:
    """The JSON in a fence, where a model put it into one."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        return text[text.index("\n") : -3]
    return text


def _told(error: ValidationError) -> str:
    lines = [
        f"- {'.'.join(map(str, one['loc'])) or 'answer'}: {one['msg']}" for one in error.errors(include_url=False)[:8]
    ]
    return "The answer does not fit:\n" + "\n".join(lines) + "\nAnswer again."
