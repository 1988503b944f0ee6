"""POST /v1/generate: raw completion. The text continues the prompt; no chat template is applied.

Streamed, each frame is `data: {"id": ..., "text": ...}` and the last one also carries `model`,
`finish_reason` and `usage`. Nothing follows it.
"""

from __future__ import annotations

import time
from typing import Annotated, Literal

from pydantic import BaseModel, Field, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

from deepseek.api.admission import completion_limit, encode, new_id, refuse_while_draining, require_model
from deepseek.api.answer import Answer
from deepseek.api.body import read_model
from deepseek.api.dialects.fields import MaxTokens, Model, Seed, StopStrings, StrictModel, Temperature, TopK, TopP
from deepseek.api.scopes import Scope, needs
from deepseek.api.state import ServerState
from deepseek.api.wire import dump_json, sse_frame
from deepseek.core.engine import Finish, Tokens, Usage
from deepseek.core.engine import Request as EngineRequest
from deepseek.core.sampling import SamplingParams


class GenerateRequest(StrictModel):
    """What /v1/generate takes. Optional fields may be null, which is their default."""

    model: Model
    prompt: Annotated[str, Field(min_length=1, description="The text to continue.")]
    max_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    stop_sequences: StopStrings | None = None
    stream: bool | None = None
    seed: Seed | None = None
    top_k: TopK | None = None


class UsageModel(BaseModel):
    """Counted on token ids."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class GenerateResponse(BaseModel):
    """What /v1/generate answers, and the last frame when it streams."""

    id: str
    model: str
    text: str
    finish_reason: Literal["stop", "length", "budget", "deadline", "cancelled"]
    usage: UsageModel


BODY = TypeAdapter(GenerateRequest)


class GenerateDialect:
    """The bytes of a raw completion."""

    openai = False

    def __init__(self, request_id: str, model: str) -> None:
        self._id = request_id
        self._model = model

    def opening(self) -> bytes:
        return b""

    def delta(self, tokens: Tokens) -> bytes:
        return sse_frame(dump_json({"id": self._id, "text": tokens.text})) if tokens.text else b""

    def closing(self, finish: Finish) -> bytes:
        return sse_frame(self._body("", finish))

    def whole(self, parts: list[Tokens], finish: Finish) -> bytes:
        return self._body("".join(part.text for part in parts), finish)

    def _body(self, text: str, finish: Finish) -> bytes:
        return dump_json(
            {
                "id": self._id,
                "model": self._model,
                "text": text,
                "finish_reason": finish.reasons[0],
                "usage": usage_dict(finish.usage),
            }
        )


@needs(Scope.INFER)
async def generate(request: Request) -> Response:
    """Continue a prompt. Server-sent events when `stream` is true; the last one carries `finish_reason` and `usage`."""
    arrived = time.perf_counter()
    state: ServerState = request.app.state.server
    refuse_while_draining(state)
    body = await read_model(request, BODY, state.settings)
    require_model(state, body.model)
    prompt = body.prompt
    ids = await encode(state, lambda: state.text.encode_prompt(prompt), len(prompt), "prompt")
    sampling = SamplingParams(
        max_tokens=completion_limit(state, len(ids), body.max_tokens, "max_tokens"),
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=body.top_k or 0,
        seed=body.seed,
        stop=tuple(body.stop_sequences or ()),
    )
    request_id = new_id("gen")
    return Answer(
        state,
        EngineRequest(id=request_id, prompt_ids=ids, sampling=sampling),
        GenerateDialect(request_id, body.model),
        stream=bool(body.stream),
        arrived=arrived,
    )


def usage_dict(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
