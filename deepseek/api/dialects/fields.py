"""Field types the dialects share. Types are strict (no text for a number), and nothing unknown is ignored."""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Discriminator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, Tag
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from deepseek.core.sampling import (
    MAX_BAD_WORDS,
    MAX_LOGIT_BIAS,
    MAX_SEED,
    MAX_STOP_STRINGS,
    MAX_TOKEN_ID,
    MAX_TOP_LOGPROBS,
)

MAX_STOP_CHARS = 1024
MAX_CHOICES = 64
MAX_TIMEOUT_S = 86_400
MAX_NAME_CHARS = 256


class StrictModel(BaseModel):
    """A body or a part of one: exact types, no unknown fields, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


Model = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS, description="A name that /v1/models lists.")]
MaxTokens = Annotated[
    int, Field(ge=1, description="Tokens to generate at most. Default: 256, or what the context leaves.")
]
Temperature = Annotated[float, Field(ge=0, le=100, description="0 takes the most probable token. Default: 1.")]
TopP = Annotated[
    float, Field(gt=0, le=1, description="Keep the smallest set of tokens this probable together. Default: 1.")
]
TopK = Annotated[
    int, Field(ge=0, le=2**31 - 1, description="Keep the k most probable tokens; 0 keeps all. Default: 0.")
]
Seed = Annotated[
    int, Field(ge=0, le=MAX_SEED, description="Same seed, same answer. Default: drawn, and told in the x-seed header.")
]
StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
StopStrings = Annotated[
    list[StopString], Field(max_length=MAX_STOP_STRINGS, description="Strings that end the text; never part of it.")
]
MinP = Annotated[
    float, Field(ge=0, le=1, description="Drop tokens less probable than this share of the most probable. Default: 0.")
]
Penalty = Annotated[float, Field(ge=-2, le=2, description="Taken off the logits of tokens in the output. Default: 0.")]
RepetitionPenalty = Annotated[
    float, Field(ge=0.01, le=100, description="Above 1, makes tokens of prompt and output less probable. Default: 1.")
]
TokenId = Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]
LogitBias = Annotated[
    dict[Annotated[str, Field(pattern="^(0|[1-9][0-9]{0,9})$")], Annotated[float, Field(ge=-100, le=100)]],
    Field(max_length=MAX_LOGIT_BIAS, description="Token id (as a string) to what is added to its logit."),
]
BadWords = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]],
    Field(max_length=MAX_BAD_WORDS, description="Texts that are not generated."),
]
MinTokens = Annotated[int, Field(ge=0, le=2**31 - 1, description="No end of the sequence before that many tokens.")]
Choices = Annotated[int, Field(ge=1, le=MAX_CHOICES, description="Answers to generate for the one prompt. Default: 1.")]
TopLogprobs = Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)]
Priority = Annotated[
    int, Field(ge=-(2**31), le=2**31 - 1, description="Smaller is served first; waiting makes up for it. Default: 0.")
]
Timeout = Annotated[
    float, Field(gt=0, le=MAX_TIMEOUT_S, description="Seconds after which the answer ends with what there is.")
]


class Only:
    """Annotates a field that exists elsewhere: null and its neutral values are taken, the rest is refused by name."""

    def __init__(self, *neutral: object) -> None:
        self._neutral = neutral
        self._allowed = " or ".join(json.dumps(value) for value in (*neutral, None))

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, core_schema.any_schema())

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"enum": [*self._neutral, None], "description": f"Not supported yet: {self._allowed} only."}

    def _check(self, value: object) -> object:
        # bool is an int in Python, so True would pass for 1.
        if value is None or any(
            value == item and isinstance(value, bool) == isinstance(item, bool) for item in self._neutral
        ):
            return value
        raise PydanticCustomError(
            "unsupported", "{allowed}; anything else is not supported yet", {"allowed": self._allowed}
        )


class Octets:
    """Annotates a list of numbers below 256 that are the bytes of something; Protobuf has a type for that."""


class Unread(Only):
    """Annotates a field that a client's own library adds to what it received, and that is not looked at."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"description": "What OpenAI's client adds to an answer; not looked at."}

    def _check(self, value: object) -> object:
        return value


def tag_of(key: str, expected: str) -> Discriminator:
    """Picks a member of a union by the value of one field; each member is `Annotated[Model, tagged("value")]`.

    pydantic puts the tag into the place of an error; ours are no identifiers, so that problems leave them out.
    """

    def read(value: object) -> str | None:
        found = value.get(key) if isinstance(value, dict) else getattr(value, key, None)
        return f"<{found}>" if isinstance(found, str) else None

    return Discriminator(read, custom_error_type="unknown_member", custom_error_message=expected)


def tagged(value: str) -> Tag:
    return Tag(f"<{value}>")


Opaque = Annotated[str, Field(max_length=512)]
CallId = Annotated[str, Field(min_length=1, max_length=256)]
FunctionName = Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,128}$", description="Letters, digits, _ and -.")]
MAX_TOOLS = 256
