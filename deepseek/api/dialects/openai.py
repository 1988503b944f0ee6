"""POST /v1/chat/completions in OpenAI's form, and GET /v1/models in OpenAI's and Anthropic's."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from deepseek.api.admission import adapter_of, completion_limit, new_id, refuse_while_draining
from deepseek.api.answer import Answer
from deepseek.api.body import read_model
from deepseek.api.dialects.chat_dialect import ChatDialect
from deepseek.api.dialects.chat_messages import conversation_of, media_of
from deepseek.api.dialects.chat_request import ChatRequest
from deepseek.api.dialects.chat_tools import choice_of, specs_of
from deepseek.api.dialects.conversation import Conversation, admit
from deepseek.api.dialects.media import read_media
from deepseek.api.dialects.structured import constraint_of
from deepseek.api.dialects.thinking import thinking_of
from deepseek.api.guard import caller_of
from deepseek.api.identity.caller import Caller
from deepseek.api.middleware import arrival_of
from deepseek.api.plugin_stage import Asked, PluginStage
from deepseek.api.scopes import Scope, needs
from deepseek.api.state import ServerState
from deepseek.api.wire import dump_json
from deepseek.chat.parsing import StreamParser
from deepseek.core.engine import Request as EngineRequest

ROUTE = "/v1/chat/completions"
BODY = TypeAdapter(ChatRequest)
MODEL_PARAMETER = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}


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


class AnthropicModelCard(BaseModel):
    type: Literal["model"]
    id: str
    display_name: str
    created_at: str
    lifecycle: Literal["active"]
    max_input_tokens: int


class AnthropicModelList(BaseModel):
    """What /v1/models answers a client of Anthropic's API."""

    data: list[AnthropicModelCard]
    has_more: bool
    first_id: str | None
    last_id: str | None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A chat request as the engine takes it. parsers: one for each choice. fields: what its own words for the engine's
    fields are (`deepseek.api.problems.problem_of`). plugins: those that take part."""

    request: EngineRequest
    parsers: tuple[StreamParser, ...]
    fields: dict[str, str]
    plugins: PluginStage | None


async def prepare(
    state: ServerState,
    caller: Caller,
    body: ChatRequest,
    arrived: float,
    *,
    route: str = ROUTE,
    receive: Receive | None = None,
) -> Prepared:
    """Raises Problem for what cannot be answered. arrived: on time.perf_counter. route, receive: of `Asked`."""
    adapter = adapter_of(state, caller, body.model)
    constraint, constraint_field = await constraint_of(body.response_format, body.structured_outputs)
    media = await read_media(state, caller, body.model, media_of(body.messages))
    tools = specs_of(body.tools)
    conversation = Conversation(
        conversation_of(body.messages, media),
        tools,
        choice_of(body.tool_choice, tools),
        parallel=body.parallel_tool_calls is not False,
        thinking=thinking_of(state, body.reasoning_effort, body.thinking, body.chat_template_kwargs),
        constraint=constraint,
    )
    asked = Asked(caller, new_id("chatcmpl"), route, body.model, receive)
    admitted = await admit(state, conversation, choices=body.n or 1, asked=asked)
    longest, field = body.longest
    request = body.to_request(
        asked.request_id,
        admitted.ids,
        max_tokens=completion_limit(state, len(admitted.ids), longest, field),
        stop=body.stops,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        constraint=admitted.constraint,
        adapter=adapter,
        arrived=arrived,
        show_controls=admitted.show_controls,
    )
    fields = {"constraint": constraint_field or "tools", "adapter": "model", "prompt": "messages", "max_tokens": field}
    return Prepared(request, admitted.parsers, fields, admitted.plugins)


@needs(Scope.INFER)
async def chat_completions(request: Request) -> Response:
    """Answer a conversation, in OpenAI's form: text, thinking and calls of tools, streamed or whole."""
    state: ServerState = request.app.state.server
    caller, arrived = caller_of(request.scope), arrival_of(request.scope)
    refuse_while_draining(state)
    body = await read_model(request, BODY, state.settings)
    prepared = await prepare(state, caller, body, arrived, receive=request.receive)
    return Answer(
        state,
        prepared.request,
        ChatDialect(prepared.request.id, body, state.text, prepared.parsers),
        caller=caller,
        model=body.model,
        route=ROUTE,
        stream=bool(body.stream),
        arrived=arrived,
        fields=prepared.fields,
        plugins=prepared.plugins,
    )


@needs(Scope.READ)
async def list_models(request: Request) -> Response:
    """The names this server answers to: the model's, then its adapters'.

    A client that says which version of Anthropic's API it speaks (`anthropic-version`) gets them in that API's form.
    """
    state: ServerState = request.app.state.server
    names = state.names_for(caller_of(request.scope))
    if "anthropic-version" in request.headers:
        # All on one page.
        ends = {"first_id": names[0] if names else None, "last_id": names[-1] if names else None}
        cards = [_anthropic_card(state, name) for name in names]
        return _json({"data": cards, "has_more": False, **ends})
    return _json({"object": "list", "data": [_card(state, name) for name in names]})


@needs(Scope.READ)
async def show_model(request: Request) -> Response:
    """One of them."""
    state: ServerState = request.app.state.server
    name = request.path_params["model"]
    adapter_of(state, caller_of(request.scope), name)
    return _json((_anthropic_card if "anthropic-version" in request.headers else _card)(state, name))


def _card(state: ServerState, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": state.created,
        "owned_by": "deepseek-stack",
        "parent": state.models[0] if name in state.adapters else None,
        "max_model_len": state.max_model_len,
    }


def _anthropic_card(state: ServerState, name: str) -> dict[str, Any]:
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": datetime.fromtimestamp(state.created, UTC).isoformat().replace("+00:00", "Z"),
        "lifecycle": "active",
        "max_input_tokens": state.max_model_len - 1,
    }


def _json(document: dict[str, Any]) -> Response:
    return Response(dump_json(document), media_type="application/json")
