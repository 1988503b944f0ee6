"""POST /v1/chat/completions and GET /v1/models in OpenAI's form: text in, text out, streamed or whole.

Fields that would change the answer and are not supported are refused by name; their neutral values
(`n: 1`, `frequency_penalty: 0`, `tools: []`, ...) are taken, because clients send them unasked.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter, model_validator
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import Response

from deepseek.api.admission import completion_limit, encode, new_id, refuse_while_draining, require_model
from deepseek.api.answer import Answer
from deepseek.api.body import read_model
from deepseek.api.dialects.fields import (
    MaxTokens,
    Model,
    Only,
    Seed,
    StopString,
    StopStrings,
    StrictModel,
    Temperature,
    TopK,
    TopP,
)
from deepseek.api.dialects.generate import UsageModel, usage_dict
from deepseek.api.problems import Problem, retry_after
from deepseek.api.scopes import Scope, needs
from deepseek.api.state import ServerState, TextCodec
from deepseek.api.wire import DONE_FRAME, dump_json, sse_frame
from deepseek.core.engine import Finish, TokenLogprob, Tokens
from deepseek.core.engine import Request as EngineRequest
from deepseek.core.messages import Message, TextPart
from deepseek.core.sampling import MAX_TOP_LOGPROBS, SamplingParams

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


class ChatRequest(StrictModel):
    """What /v1/chat/completions takes. Optional fields may be null, which is their default."""

    model: Model
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: MaxTokens | None = None
    max_completion_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    stop: StopString | StopStrings | None = None
    seed: Seed | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    user: Opaque | None = None
    safety_identifier: Opaque | None = None
    prompt_cache_key: Opaque | None = None
    metadata: dict[str, str] | None = None
    n: Annotated[object, Only(1)] = None
    store: Annotated[object, Only(False)] = None
    frequency_penalty: Annotated[object, Only(0)] = None
    presence_penalty: Annotated[object, Only(0)] = None
    logit_bias: Annotated[object, Only({})] = None
    tools: Annotated[object, Only([])] = None
    tool_choice: Annotated[object, Only("none", "auto")] = None
    parallel_tool_calls: Annotated[object, Only(True, False)] = None
    functions: Annotated[object, Only([])] = None
    function_call: Annotated[object, Only("none", "auto")] = None
    response_format: Annotated[object, Only({"type": "text"})] = None
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
        return self


class ChatChoice(BaseModel):
    index: int
    message: dict[str, Any]
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length"]


class ChatResponse(BaseModel):
    """What /v1/chat/completions answers."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageModel


class ModelCard(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
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
        self._logprobs = bool(body.logprobs)
        self._usage = bool(body.stream_options and body.stream_options.include_usage)
        self._head = {"id": request_id, "created": int(time.time()), "model": body.model}
        # Every chunk but its text is the same, so it is written once.
        empty = dump_json(self._chunk([{"index": 0, "delta": {"content": ""}, "finish_reason": None}]))
        self._before, _, self._after = empty.partition(b'""')

    def opening(self) -> bytes:
        delta = {"role": "assistant", "content": ""}
        return sse_frame(dump_json(self._chunk([{"index": 0, "delta": delta, "finish_reason": None}])))

    def delta(self, tokens: Tokens) -> bytes:
        if self._logprobs and tokens.logprobs:
            choice = {
                "index": 0,
                "delta": {"content": tokens.text},
                "logprobs": self._logprobs_of([tokens]),
                "finish_reason": None,
            }
            return sse_frame(dump_json(self._chunk([choice])))
        return sse_frame(self._before + dump_json(tokens.text) + self._after) if tokens.text else b""

    def closing(self, finish: Finish) -> bytes:
        last = self._chunk([{"index": 0, "delta": {}, "finish_reason": _reason(finish)}])
        frames = sse_frame(dump_json(last))
        if self._usage:
            frames += sse_frame(dump_json(self._chunk([]) | {"usage": usage_dict(finish.usage)}))
        return frames + DONE_FRAME

    def whole(self, parts: list[Tokens], finish: Finish) -> bytes:
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": "".join(part.text for part in parts), "refusal": None},
            "logprobs": self._logprobs_of(parts) if self._logprobs else None,
            "finish_reason": _reason(finish),
        }
        return dump_json(
            {**self._head, "object": "chat.completion", "choices": [choice], "usage": usage_dict(finish.usage)}
        )

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk: dict[str, Any] = {**self._head, "object": "chat.completion.chunk", "choices": choices}
        if self._usage:
            chunk["usage"] = None
        return chunk

    def _logprobs_of(self, parts: list[Tokens]) -> dict[str, Any]:
        content = []
        for part in parts:
            for entry in part.logprobs or ():
                top = [self._token(token_id, logprob) for token_id, logprob in entry.top]
                content.append({**self._chosen(entry), "top_logprobs": top})
        return {"content": content, "refusal": None}

    def _chosen(self, entry: TokenLogprob) -> dict[str, Any]:
        return self._token(entry.token_id, entry.logprob)

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        raw = self._text.token_bytes(token_id)
        # OpenAI writes -9999.0 for "practically impossible"; JSON has no minus infinity.
        return {"token": raw.decode("utf-8", "replace"), "logprob": max(logprob, -9999.0), "bytes": list(raw)}


@needs(Scope.INFER)
async def chat_completions(request: Request) -> Response:
    """Answer a conversation, in OpenAI's form. Text only."""
    arrived = time.perf_counter()
    state: ServerState = request.app.state.server
    refuse_while_draining(state)
    body = await read_model(request, BODY, state.settings)
    require_model(state, body.model)
    messages = [message.internal() for message in body.messages]
    chars = sum(len(message.text) for message in messages)
    ids = await encode(state, lambda: state.text.encode_chat(messages, ()), chars, "messages")
    asked, field = body.max_tokens, "max_tokens"
    if body.max_completion_tokens is not None:
        asked, field = body.max_completion_tokens, "max_completion_tokens"
    sampling = SamplingParams(
        max_tokens=completion_limit(state, len(ids), asked, field),
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=body.top_k or 0,
        seed=body.seed,
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )
    request_id = new_id("chatcmpl")
    return Answer(
        state,
        EngineRequest(id=request_id, prompt_ids=ids, sampling=sampling),
        ChatDialect(request_id, body, state.text),
        stream=bool(body.stream),
        arrived=arrived,
    )


@needs(Scope.READ)
async def list_models(request: Request) -> Response:
    """The names this server answers to."""
    state: ServerState = request.app.state.server
    cards = [
        {
            "id": name,
            "object": "model",
            "created": state.created,
            "owned_by": "deepseek-stack",
            "max_model_len": state.max_model_len,
        }
        for name in state.models
    ]
    return Response(dump_json({"object": "list", "data": cards}), media_type="application/json")


def _reason(finish: Finish) -> str:
    reason = FINISH_REASONS.get(finish.reasons[0])
    if reason is None:
        raise Problem("draining", "The answer was cut off: the server is shutting down.", headers=retry_after(5.0))
    return reason
