"""POST /v1/messages and /v1/messages/count_tokens in Anthropic's form."""

from __future__ import annotations

from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

from deepseek.api.admission import adapter_of, new_id, refuse_while_draining
from deepseek.api.answer import Answer
from deepseek.api.body import read_model
from deepseek.api.dialects.anthropic_dialect import MessagesDialect
from deepseek.api.dialects.anthropic_messages import conversation_of, media_of
from deepseek.api.dialects.anthropic_request import CountRequest, JsonFormat, MessagesRequest, ThinkingOn
from deepseek.api.dialects.conversation import Admitted, Conversation, admit
from deepseek.api.dialects.media import read_media
from deepseek.api.dialects.sampling import SamplingFields
from deepseek.api.dialects.structured import constraint_made
from deepseek.api.dialects.thinking import require_thinking
from deepseek.api.guard import caller_of
from deepseek.api.identity.caller import Caller
from deepseek.api.middleware import arrival_of
from deepseek.api.plugin_stage import Asked
from deepseek.api.scopes import Scope, needs
from deepseek.api.state import ServerState
from deepseek.api.wire import dump_json
from deepseek.core.constraint import Constraint
from deepseek.core.engine import ThinkingBound

ROUTE = "/v1/messages"
BODY = TypeAdapter(MessagesRequest)
COUNT_BODY = TypeAdapter(CountRequest)
FORMAT_FIELD = "output_config.format.schema"


@needs(Scope.INFER)
async def messages(request: Request) -> Response:
    """Answer a conversation, in Anthropic's form: text, thinking and tools, streamed or whole."""
    state: ServerState = request.app.state.server
    caller, arrived = caller_of(request.scope), arrival_of(request.scope)
    refuse_while_draining(state)
    body = await read_model(request, BODY, state.settings)
    adapter = adapter_of(state, caller, body.model)
    request_id = new_id("msg")
    admitted = await _admit(state, caller, body, Asked(caller, request_id, ROUTE, body.model, request.receive))
    room = state.max_model_len - len(admitted.ids)
    sampling = SamplingFields(temperature=body.temperature, top_p=body.top_p, top_k=body.top_k)
    return Answer(
        state,
        sampling.to_request(
            request_id,
            admitted.ids,
            # More than fits is taken, as Anthropic takes it: an answer that reaches the end says so.
            max_tokens=min(body.max_tokens, room),
            stop=tuple(body.stop_sequences or ()),
            logprobs=None,
            constraint=admitted.constraint,
            adapter=adapter,
            arrived=arrived,
            show_controls=admitted.show_controls,
            thinking=_thinking_bound(state, body),
        ),
        MessagesDialect(request_id, body, admitted.parsers, prompt_tokens=len(admitted.ids), room=room),
        caller=caller,
        model=body.model,
        route=ROUTE,
        stream=bool(body.stream),
        arrived=arrived,
        fields={
            "constraint": FORMAT_FIELD if _format_of(body) else "tools",
            "adapter": "model",
            "prompt": "messages",
            "stop": "stop_sequences",
        },
        plugins=admitted.plugins,
    )


@needs(Scope.INFER)
async def count_tokens(request: Request) -> Response:
    """How many tokens a conversation is, counted as the model reads it, but for what plugins make of it. Nothing is
    generated."""
    state: ServerState = request.app.state.server
    caller = caller_of(request.scope)
    body = await read_model(request, COUNT_BODY, state.settings)
    adapter_of(state, caller, body.model)
    admitted = await _admit(state, caller, body)
    return Response(dump_json({"input_tokens": len(admitted.ids)}), media_type="application/json")


def _thinking_bound(state: ServerState, body: MessagesRequest) -> ThinkingBound | None:
    asked = body.thinking
    end_id = state.text.thinking_end() if isinstance(asked, ThinkingOn) else None
    return None if end_id is None or not isinstance(asked, ThinkingOn) else ThinkingBound(asked.budget_tokens, end_id)


async def _admit(state: ServerState, caller: Caller, body: CountRequest, asked: Asked | None = None) -> Admitted:
    """Raises Problem for what cannot be answered. asked: None asks no plugins."""
    form = _format_of(body)
    constraint = None
    if form is not None:
        schema = form.schema_
        constraint = await constraint_made(lambda: Constraint.json_schema(schema), FORMAT_FIELD)
    if body.thinks:
        require_thinking(state, "thinking")
    media = await read_media(state, caller, body.model, media_of(body.messages))
    tools = body.specs
    conversation = Conversation(
        conversation_of(body.system, body.messages, media),
        tools,
        body.choice(tools),
        parallel=body.parallel,
        thinking=body.thinks,
        constraint=constraint,
    )
    return await admit(state, conversation, asked=asked)


def _format_of(body: CountRequest) -> JsonFormat | None:
    return body.output_config.format if body.output_config is not None else None
