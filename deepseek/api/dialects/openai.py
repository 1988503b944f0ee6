"""POST /v1/chat/completions and GET /v1/models in OpenAI's form: text in, text out, streamed or whole.

Beyond OpenAI's own fields it takes those that vLLM's users know (`min_p`, `structured_outputs`, ...; in OpenAI's client
through `extra_body`). Fields that would change the answer and are not supported are refused by name; their neutral values
(`tools: []`, `store: false`, ...) are taken, because clients send them unasked.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter, model_validator
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import Response

from deepseek.api.admission import adapter_of, completion_limit, encode, new_id, refuse_while_draining
from deepseek.api.answer import Answer
from deepseek.api.body import read_model
from deepseek.api.dialects.fields import MaxTokens, Model, Only, StopString, StopStrings, StrictModel, TopLogprobs
from deepseek.api.dialects.generate import UsageModel, usage_dict
from deepseek.api.dialects.logprobs import openai_entries, vllm_entries
from deepseek.api.dialects.sampling import SamplingFields
from deepseek.api.dialects.structured import constraint_of
from deepseek.api.problems import Problem, retry_after
from deepseek.api.scopes import Scope, needs
from deepseek.api.state import ServerState, TextCodec
from deepseek.api.wire import DONE_FRAME, dump_json, sse_frame
from deepseek.core.engine import Finish, PromptScores, Tokens
from deepseek.core.messages import Message, TextPart
from deepseek.engine.reading import join_scores

# OpenAI's words for why an answer ended; a budget and a deadline both cut it short.
FINISH_REASONS = {"stop": "stop", "length": "length", "budget": "length", "deadline": "length"}
Opaque = Annotated[str, Field(max_length=512)]


class TextContent(StrictModel):
    """One part of a message's content."""

    type: Literal["text"]
    text: str


class ChatMessage(StrictModel):
    """One message. An assistant's may be sent back as it was received."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextContent] | None = None
    name: Annotated[object, Only()] = None
    refusal: Annotated[object, Only()] = None
    tool_calls: Annotated[object, Only([])] = None
    function_call: Annotated[object, Only()] = None
    audio: Annotated[object, Only()] = None
    annotations: Annotated[object, Only([])] = None

    @model_validator(mode="after")
    def _content_is_there(self) -> ChatMessage:
        if self.content is None and self.role != "assistant":
            raise PydanticCustomError("content", "a message with content: text or a list of text parts")
        return self

    def internal(self) -> Message:
        texts = [self.content] if isinstance(self.content, str) else [part.text for part in self.content or ()]
        return Message("system" if self.role == "developer" else self.role, tuple(TextPart(text) for text in texts))


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
    user: Opaque | None = None
    safety_identifier: Opaque | None = None
    prompt_cache_key: Opaque | None = None
    metadata: dict[str, str] | None = None
    store: Annotated[object, Only(False)] = None
    tools: Annotated[object, Only([])] = None
    tool_choice: Annotated[object, Only("none", "auto")] = None
    parallel_tool_calls: Annotated[object, Only(True, False)] = None
    functions: Annotated[object, Only([])] = None
    function_call: Annotated[object, Only("none", "auto")] = None
    modalities: Annotated[object, Only(["text"])] = None
    service_tier: Annotated[object, Only("auto", "default")] = None
    audio: Annotated[object, Only()] = None
    prediction: Annotated[object, Only()] = None
    reasoning_effort: Annotated[object, Only()] = None
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


class ChatChoice(BaseModel):
    index: int
    message: dict[str, Any]
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length"]


class PromptToken(BaseModel):
    """A token at one place of the prompt; `rank` counts from 1 among the alternatives."""

    logprob: float
    rank: int | None
    decoded_token: str


class ChatResponse(BaseModel):
    """What /v1/chat/completions answers."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageModel
    prompt_logprobs: Annotated[
        list[dict[str, PromptToken] | None] | None,
        Field(description="For each token of the prompt, null for the first: token id -> its score."),
    ] = None


class ModelCard(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    parent: Annotated[str | None, Field(description="Of an adapter: the model it is computed with.")] = None
    max_model_len: int


class ModelList(BaseModel):
    """What /v1/models answers."""

    object: Literal["list"]
    data: list[ModelCard]


BODY = TypeAdapter(ChatRequest)


class ChatDialect:
    """The bytes of a chat completion."""

    openai = True

    def __init__(self, request_id: str, body: ChatRequest, text: TextCodec) -> None:
        self._text = text
        self._n = body.n or 1
        self._logprobs = bool(body.logprobs)
        self._usage = bool(body.stream_options and body.stream_options.include_usage)
        self._head = {"id": request_id, "created": int(time.time()), "model": body.model}
        # Every chunk of a choice but its text is the same, so it is written once.
        self._around = [self._written(index) for index in range(self._n)] if body.stream else []

    def opening(self) -> bytes:
        delta = {"role": "assistant", "content": ""}
        return b"".join(
            sse_frame(dump_json(self._chunk([{"index": index, "delta": delta, "finish_reason": None}])))
            for index in range(self._n)
        )

    def scores(self, scores: PromptScores) -> bytes:
        return b""  # a stream with prompt_logprobs is refused

    def delta(self, tokens: Tokens) -> bytes:
        if self._logprobs and tokens.logprobs:
            choice = {
                "index": tokens.choice,
                "delta": {"content": tokens.text},
                "logprobs": self._logprobs_of([tokens]),
                "finish_reason": None,
            }
            return sse_frame(dump_json(self._chunk([choice])))
        before, after = self._around[tokens.choice]
        return sse_frame(before + dump_json(tokens.text) + after) if tokens.text else b""

    def closing(self, finish: Finish) -> bytes:
        frames = b"".join(
            sse_frame(dump_json(self._chunk([{"index": index, "delta": {}, "finish_reason": reason}])))
            for index, reason in enumerate(_reasons(finish))
        )
        if self._usage:
            frames += sse_frame(dump_json(self._chunk([]) | {"usage": usage_dict(finish.usage)}))
        return frames + DONE_FRAME

    def whole(self, parts: list[Tokens], scores: list[PromptScores], finish: Finish) -> bytes:
        choices = []
        for index, reason in enumerate(_reasons(finish)):
            own = [part for part in parts if part.choice == index]
            choices.append(
                {
                    "index": index,
                    "message": {"role": "assistant", "content": "".join(part.text for part in own), "refusal": None},
                    "logprobs": self._logprobs_of(own) if self._logprobs else None,
                    "finish_reason": reason,
                }
            )
        body = {**self._head, "object": "chat.completion", "choices": choices, "usage": usage_dict(finish.usage)}
        if scores:
            body["prompt_logprobs"] = vllm_entries(join_scores(scores).logprobs, self._text)
        return dump_json(body)

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk: dict[str, Any] = {**self._head, "object": "chat.completion.chunk", "choices": choices}
        if self._usage:
            chunk["usage"] = None
        return chunk

    def _written(self, index: int) -> tuple[bytes, bytes]:
        chunk = self._chunk([{"index": index, "delta": {"content": ""}, "finish_reason": None}])
        before, _, after = dump_json(chunk).rpartition(b'""')
        return before, after

    def _logprobs_of(self, parts: list[Tokens]) -> dict[str, Any]:
        entries = (entry for part in parts for entry in part.logprobs or ())
        return {"content": openai_entries(entries, self._text), "refusal": None}


@needs(Scope.INFER)
async def chat_completions(request: Request) -> Response:
    """Answer a conversation, in OpenAI's form. Text only."""
    arrived = time.perf_counter()
    state: ServerState = request.app.state.server
    refuse_while_draining(state)
    body = await read_model(request, BODY, state.settings)
    adapter = adapter_of(state, body.model)
    constraint, constraint_field = await constraint_of(body.response_format, body.structured_outputs)
    messages = [message.internal() for message in body.messages]
    chars = sum(len(message.text) for message in messages)
    ids = await encode(state, lambda: state.text.encode_chat(messages, ()), chars, "messages")
    asked, field = body.max_tokens, "max_tokens"
    if body.max_completion_tokens is not None:
        asked, field = body.max_completion_tokens, "max_completion_tokens"
    request_id = new_id("chatcmpl")
    return Answer(
        state,
        body.to_request(
            request_id,
            ids,
            max_tokens=completion_limit(state, len(ids), asked, field),
            stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
            logprobs=(body.top_logprobs or 0) if body.logprobs else None,
            constraint=constraint,
            adapter=adapter,
            arrived=arrived,
        ),
        ChatDialect(request_id, body, state.text),
        stream=bool(body.stream),
        arrived=arrived,
        fields={"constraint": constraint_field, "adapter": "model", "prompt": "messages", "max_tokens": field},
    )


@needs(Scope.READ)
async def list_models(request: Request) -> Response:
    """The names this server answers to: the model's, then its adapters'."""
    state: ServerState = request.app.state.server
    parents = dict.fromkeys(state.models) | dict.fromkeys(state.adapters, state.models[0])
    cards = [
        {
            "id": name,
            "object": "model",
            "created": state.created,
            "owned_by": "deepseek-stack",
            "parent": parent,
            "max_model_len": state.max_model_len,
        }
        for name, parent in parents.items()
    ]
    return Response(dump_json({"object": "list", "data": cards}), media_type="application/json")


def _reasons(finish: Finish) -> list[str]:
    """For each choice. Raises Problem if one was cut off, which OpenAI has no word for."""
    if "cancelled" in finish.reasons:
        raise Problem("draining", "The answer was cut off: the server is shutting down.", headers=retry_after(5.0))
    return [FINISH_REASONS[reason] for reason in finish.reasons]
