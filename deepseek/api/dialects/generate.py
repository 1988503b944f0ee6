"""POST /v1/generate: raw completion. The text continues the prompt; no chat template is applied.

Streamed, each frame is `data: {"id": ..., "text": ...}` and the last one also carries `model`,
`finish_reason` and `usage`. Nothing follows it. With `n` above 1 a frame says whose text it is by `index`, and the
last one, like the unstreamed answer, has `choices`; what stands outside of them is the first choice's.
Scores of the prompt come in frames with `prompt_logprobs` and the position of the first of them, `prompt_start`; where
that is not past the last one's end, the prompt was computed anew and the new scores hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

from deepseek.api.admission import adapter_of, completion_limit, encode, new_id, refuse_while_draining
from deepseek.api.answer import Answer, ServerSentEvents
from deepseek.api.body import read_model
from deepseek.api.dialects.fields import Model, StopStrings, TopLogprobs
from deepseek.api.dialects.logprobs import LogprobModel, own_entries
from deepseek.api.dialects.sampling import SamplingFields
from deepseek.api.dialects.structured import constraint_of
from deepseek.api.guard import caller_of
from deepseek.api.middleware import arrival_of
from deepseek.api.plugin_stage import Asked, PluginStage, read_prompt
from deepseek.api.scopes import Scope, needs
from deepseek.api.spoken import Spoken, text_of
from deepseek.api.state import ServerState, TextCodec
from deepseek.api.wire import dump_json, sse_frame
from deepseek.core.deltas import Delta
from deepseek.core.engine import Finish, FinishReason, PromptScores, Tokens, Usage
from deepseek.engine.reading import join_scores

Reason = Literal["stop", "length", "budget", "deadline", "cancelled"]


class GenerateRequest(SamplingFields):
    """What /v1/generate takes. Optional fields may be null, which is their default."""

    model: Model
    prompt: Annotated[str, Field(min_length=1, description="The text to continue.")]
    max_tokens: (
        Annotated[
            int,
            Field(
                ge=0,
                description="Tokens to generate at most; 0 only beside prompt_logprobs. "
                "Default: 256, or what the context leaves.",
            ),
        ]
        | None
    ) = None
    stop_sequences: StopStrings | None = None
    stream: bool | None = None
    logprobs: Annotated[TopLogprobs, Field(description="Score every token, with so many alternatives.")] | None = None
    echo: Annotated[bool, Field(description="Let the text begin with the prompt.")] | None = None


class UsageModel(BaseModel):
    """Counted on token ids."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


LimitedBy = Annotated[
    str | None,
    Field(
        description="Which budget it was, where one ended the answer and is known.", examples=["budget:tenant/month"]
    ),
]


class GenerateChoice(BaseModel):
    """One of several answers."""

    index: int
    text: str
    finish_reason: Reason
    logprobs: list[LogprobModel] | None = None
    limited_by: LimitedBy = None


class GenerateResponse(BaseModel):
    """What /v1/generate answers, and the last frame when it streams."""

    id: str
    model: str
    text: str
    finish_reason: Reason
    usage: UsageModel
    choices: Annotated[list[GenerateChoice] | None, Field(description="All answers, where n is above 1.")] = None
    logprobs: list[LogprobModel] | None = None
    prompt_logprobs: Annotated[
        list[LogprobModel | None] | None, Field(description="One for each token of the prompt, null for the first.")
    ] = None
    limited_by: LimitedBy = None


def which_budget(reason: FinishReason, finish: Finish) -> dict[str, str]:
    return {"limited_by": f"budget:{finish.budget}"} if reason == "budget" and finish.budget is not None else {}


BODY = TypeAdapter(GenerateRequest)
Body = TypeVar("Body", bound=GenerateRequest)


class GenerateDialect(ServerSentEvents):
    """The bytes of a raw completion."""

    def __init__(self, request_id: str, body: GenerateRequest, text: TextCodec) -> None:
        self._id = request_id
        self._model = body.model
        self._text = text
        self._n = body.n or 1
        self._logprobs = body.logprobs is not None
        self._echo = body.prompt if body.echo else ""

    def opening(self) -> bytes:
        if not self._echo:
            return b""
        return b"".join(sse_frame(dump_json(self._frame(index, self._echo))) for index in range(self._n))

    def scores(self, scores: PromptScores) -> bytes:
        entries = own_entries(scores.logprobs, self._text)
        frame = {"id": self._id, "text": "", "prompt_logprobs": entries, "prompt_start": scores.start}
        return sse_frame(dump_json(frame))

    def delta(self, tokens: Tokens, deltas: Sequence[Delta]) -> bytes:
        text = text_of(deltas)
        if self._logprobs and tokens.logprobs:
            entries = own_entries(tokens.logprobs, self._text)
            return sse_frame(dump_json({**self._frame(tokens.choice, text), "logprobs": entries}))
        return sse_frame(dump_json(self._frame(tokens.choice, text))) if text else b""

    def closing(self, finish: Finish, deltas: Mapping[int, Sequence[Delta]]) -> bytes:
        choices = [
            {"index": index, "text": text_of(deltas.get(index, ())), "finish_reason": reason}
            | which_budget(reason, finish)
            for index, reason in enumerate(finish.reasons)
        ]
        return sse_frame(dump_json(self._body(choices, finish)))

    def whole(self, choices: Sequence[Spoken], scores: Sequence[PromptScores], finish: Finish) -> bytes:
        written: list[dict[str, Any]] = []
        for spoken in choices:
            choice = {"index": spoken.index, "text": self._echo + spoken.text, "finish_reason": spoken.reason}
            choice |= which_budget(spoken.reason, finish)
            if self._logprobs:
                choice["logprobs"] = own_entries(spoken.logprobs(), self._text)
            written.append(choice)
        body = self._body(written, finish)
        if scores:
            body["prompt_logprobs"] = own_entries(join_scores(list(scores)).logprobs, self._text)
        return dump_json(body)

    def _frame(self, index: int, text: str) -> dict[str, Any]:
        frame: dict[str, Any] = {"id": self._id, "text": text}
        if self._n > 1:
            frame["index"] = index
        return frame

    def _body(self, choices: list[dict[str, Any]], finish: Finish) -> dict[str, Any]:
        first = {key: value for key, value in choices[0].items() if key != "index"}
        body = {"id": self._id, "model": self._model, **first, "usage": usage_dict(finish.usage)}
        if self._n > 1:
            body["choices"] = choices
        return body


@needs(Scope.INFER)
async def generate(request: Request) -> Response:
    """Continue a prompt. Server-sent events when `stream` is true; the last one carries `finish_reason` and `usage`."""
    state: ServerState = request.app.state.server
    caller, arrived = caller_of(request.scope), arrival_of(request.scope)
    refuse_while_draining(state)
    body = await read_model(request, BODY, state.settings)
    adapter = adapter_of(state, caller, body.model)
    constraint, field = await constraint_of(body.response_format, body.structured_outputs)
    request_id = new_id("gen")
    asked = Asked(caller, request_id, "/v1/generate", body.model, request.receive)
    body, plugins = await with_plugins(state, asked, body)
    prompt = body.prompt
    ids = await encode(state, lambda: state.text.encode_prompt(prompt), len(prompt), "prompt")
    return Answer(
        state,
        body.to_request(
            request_id,
            ids,
            max_tokens=completion_limit(state, len(ids), body.max_tokens, "max_tokens"),
            stop=tuple(body.stop_sequences or ()),
            logprobs=body.logprobs,
            constraint=constraint,
            adapter=adapter,
            arrived=arrived,
        ),
        GenerateDialect(request_id, body, state.text),
        caller=caller,
        model=body.model,
        route="/v1/generate",
        stream=bool(body.stream),
        arrived=arrived,
        fields={"constraint": field, "adapter": "model"},
        plugins=plugins,
    )


async def with_plugins(state: ServerState, asked: Asked, body: Body) -> tuple[Body, PluginStage | None]:
    """The request with the prompt that plugins made of its own, and those that take part. Raises Problem."""
    if not state.plugins.reads_prompts(asked.caller.tenant):
        return body, None
    prompt, plugins = await read_prompt(state, asked, body.prompt)
    return body.model_copy(update={"prompt": prompt}), plugins


def usage_dict(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
