"""What is in `deepseek.v1`: which models, which calls; and the classes and codecs that the runtime has for them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from pydantic import BaseModel

from deepseek.api.dialects.chat_dialect import ChatResponse
from deepseek.api.dialects.chat_request import ChatRequest
from deepseek.api.dialects.generate import GenerateRequest, GenerateResponse
from deepseek.api.dialects.openai import ModelList
from deepseek.api.protobuf.bounds import Bounds
from deepseek.api.protobuf.codec import Codec
from deepseek.api.protobuf.frames import ChatChunk, GenerateFrame
from deepseek.api.protobuf.register import read_register
from deepseek.api.protobuf.schema import Method, Service, messages_of
from deepseek.api.protobuf.shapes import Record
from deepseek.api.protobuf.writing import PACKAGE, descriptor_of

PROTO_FILE = Path(__file__).with_name("deepseek.proto")


class ModelsRequest(BaseModel):
    """Asks for the names that this key may use."""


MODELS: tuple[type[BaseModel], ...] = (
    GenerateRequest,
    GenerateResponse,
    GenerateFrame,
    ChatRequest,
    ChatResponse,
    ChatChunk,
    ModelsRequest,
    ModelList,
)
SERVICE = Service(
    "DeepSeek",
    "The routes of the HTTP API as calls. A key goes into the metadata as `authorization: Bearer KEY`.",
    (
        Method("Generate", "GenerateRequest", "GenerateResponse", False, "Continue a prompt: POST /v1/generate."),
        Method("GenerateStream", "GenerateRequest", "GenerateFrame", True, "The same, streamed."),
        Method("Chat", "ChatRequest", "ChatResponse", False, "Answer a conversation: POST /v1/chat/completions."),
        Method("ChatStream", "ChatRequest", "ChatChunk", True, "The same, streamed."),
        Method("Models", "ModelsRequest", "ModelList", False, "The names that this key may use: GET /v1/models."),
    ),
)


@cache
def _classes() -> dict[str, Any]:
    messages = messages_of(MODELS)
    register = read_register()
    known = tuple(message for message in messages if message.name in register)
    pool = descriptor_pool.Default()  # where reflection looks
    file = descriptor_of(known, (SERVICE,), register)
    pool.AddSerializedFile(file.SerializeToString(deterministic=True))
    return {
        message.name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{message.name}"))
        for message in known
    }


@cache
def codec_of(model: type[BaseModel]) -> Codec:
    """The codec of one of the models. Made at the first use: it takes some milliseconds."""
    return Codec(model, _classes()[Record(model).name])


@cache
def bounds_of(model: type[BaseModel]) -> Bounds:
    """How much a message of one of the models may hold."""
    json_text = [
        f"{PACKAGE}.{message.name}.{field.name}"
        for message in messages_of((model,))
        for field in message.fields
        if field.type == "json"
    ]
    return Bounds(codec_of(model).make.DESCRIPTOR, json_text)
