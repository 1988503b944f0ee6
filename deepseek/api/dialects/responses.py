"""/v1/responses: OpenAI's Responses API. Answers are kept for their tenant, to be looked at again and gone on from."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.types import Scope as Connection

from deepseek.api.admission import adapter_of, completion_limit, refuse_while_draining
from deepseek.api.answer import Answer
from deepseek.api.body import read_model
from deepseek.api.dialects.chat_dialect import LimitedBy
from deepseek.api.dialects.chat_tools import NO_ARGUMENTS, checked_choice, unique_specs
from deepseek.api.dialects.conversation import Conversation, admit
from deepseek.api.dialects.fields import Only, StrictModel
from deepseek.api.dialects.files import listed, read_query, unknown
from deepseek.api.dialects.media import read_media
from deepseek.api.dialects.responses_events import ResponseDialect
from deepseek.api.dialects.responses_items import AnyItem, Item, ItemId, MessageItem, media_in, messages_of
from deepseek.api.dialects.responses_request import (
    JsonObjectFormat,
    JsonSchemaFormat,
    NamedTool,
    ResponseRequest,
)
from deepseek.api.dialects.sampling import SamplingFields
from deepseek.api.dialects.thinking import require_thinking
from deepseek.api.guard import caller_of
from deepseek.api.kept import answers as kept
from deepseek.api.kept.answers import PastAnswer
from deepseek.api.middleware import arrival_of
from deepseek.api.plugin_stage import Asked
from deepseek.api.problems import FieldError, Problem, problem_of
from deepseek.api.scopes import Scope, needs
from deepseek.api.state import ServerState
from deepseek.api.wire import dump_json
from deepseek.core.constraint import Constraint
from deepseek.core.errors import AdmissionError
from deepseek.core.messages import Message, TextPart, ToolChoice, ToolSpec
from deepseek.core.messages import NamedTool as OneTool

ROUTE = "/v1/responses"
CANCEL_WAIT_S = 5.0

BODY = TypeAdapter(ResponseRequest)
ITEMS: TypeAdapter[list[Item]] = TypeAdapter(list[Item])


class ResponseModel(BaseModel):
    """A response."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete", "in_progress", "failed", "cancelled"]
    model: str
    output: list[dict[str, Any]]
    usage: dict[str, Any] | None
    error: dict[str, Any] | None
    incomplete_details: dict[str, str] | None
    previous_response_id: str | None
    limited_by: LimitedBy = None


class ItemList(BaseModel):
    """What a response was asked with."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedResponse(BaseModel):
    id: str
    object: Literal["response"]
    deleted: bool


class ResponseQuery(StrictModel):
    """What is refused by name: kept responses are not streamed again."""

    stream: Annotated[object, Only("false")] = None
    starting_after: Annotated[object, Only()] = None
    include_obfuscation: Annotated[object, Only("false")] = None


class ItemsQuery(StrictModel):
    """What a list of items may be asked for."""

    after: ItemId | None = None
    limit: Annotated[int, Field(ge=1, le=100, strict=False)] = 20
    order: Literal["asc", "desc"] = "desc"


QUERY, ITEMS_QUERY = TypeAdapter(ResponseQuery), TypeAdapter(ItemsQuery)


@dataclass(slots=True, eq=False)
class RunningResponse:
    """A response to be kept, while it is made. request_id: the engine's."""

    request_id: str
    dialect: ResponseDialect
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class KeptAnswer(Answer):
    """An answer that can be looked at, and cancelled, while it runs."""

    def __init__(
        self, key: tuple[str, str], running: RunningResponse, state: ServerState, *args: Any, **more: Any
    ) -> None:
        super().__init__(state, *args, **more)
        self._key, self._running, self._responses = key, running, state.responses

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        self._responses[self._key] = self._running
        try:
            await super().__call__(scope, receive, send)
        finally:
            del self._responses[self._key]
            self._running.ended.set()


@needs(Scope.INFER)
async def create_response(request: Request) -> Response:
    """Answer a text, or items, in the form of OpenAI's Responses API."""
    state: ServerState = request.app.state.server
    caller, arrived = caller_of(request.scope), arrival_of(request.scope)
    refuse_while_draining(state)
    body = await read_model(request, BODY, state.settings)
    adapter = adapter_of(state, caller, body.model)
    past = await _past(state, caller.tenant, body.previous_response_id)
    items: list[AnyItem] = _items(body.input)
    asked = [_dumped(item) for item in items]
    context, places = await _with_past(past, items)
    media = await read_media(state, caller, body.model, media_in(context, places))
    messages = messages_of(context, places, media)
    if body.instructions is not None:
        messages = (Message("system", (TextPart(body.instructions),)), *messages)
    tools = _tools(body)
    thinking = body.reasoning is not None and body.reasoning.effort not in (None, "none", "minimal")
    if thinking:
        require_thinking(state, "reasoning.effort")
    conversation = Conversation(
        messages,
        tools,
        _choice(body, tools),
        parallel=body.parallel_tool_calls is not False,
        thinking=thinking,
        constraint=await _constraint(body),
    )
    response_id = f"resp_{secrets.token_hex(16)}"
    asked_as = Asked(caller, response_id, ROUTE, body.model, request.receive)
    admitted = await admit(state, conversation, field="input", asked=asked_as)
    sampling = SamplingFields(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        seed=body.seed,
        priority=body.priority,
        timeout_s=body.timeout_s,
    )
    engine_request = sampling.to_request(
        response_id,
        admitted.ids,
        max_tokens=completion_limit(state, len(admitted.ids), body.max_output_tokens, "max_output_tokens"),
        stop=(),
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        constraint=admitted.constraint,
        adapter=adapter,
        arrived=arrived,
        show_controls=admitted.show_controls,
    )
    dialect = ResponseDialect(
        _document(body, response_id), state.text, admitted.parsers[0], logprobs=body.logprobs, stream=bool(body.stream)
    )
    more: dict[str, Any] = {
        "caller": caller,
        "model": body.model,
        "route": ROUTE,
        "stream": bool(body.stream),
        "arrived": arrived,
        "plugins": admitted.plugins,
        "fields": {
            "constraint": "text.format" if body.text is not None and body.text.format is not None else "tools",
            "adapter": "model",
            "prompt": "input",
            "max_tokens": "max_output_tokens",
        },
    }
    if not body.kept:
        return Answer(state, engine_request, dialect, **more)

    async def keep() -> None:
        answer = PastAnswer(response_id, body.previous_response_id, dialect.document, asked)
        await state.shelf.write(lambda connection: kept.put(connection, caller.tenant, answer))

    running = RunningResponse(response_id, dialect)
    key = caller.tenant, response_id
    return KeptAnswer(key, running, state, engine_request, dialect, before_last=keep, **more)


@needs(Scope.READ)
async def get_response(request: Request) -> Response:
    """A response that was kept, or is being made."""
    state: ServerState = request.app.state.server
    read_query(request, QUERY)
    return _json(await _document_of(state, *_key(request)))


@needs(Scope.INFER)
async def delete_response(request: Request) -> Response:
    """Forget a response. Those that go on from it cannot be gone on from any more."""
    state: ServerState = request.app.state.server
    tenant, response_id = _key(request)
    if not await state.shelf.write(lambda connection: kept.delete(connection, tenant, response_id)):
        raise unknown("response", response_id)
    return _json({"id": response_id, "object": "response", "deleted": True})


@needs(Scope.INFER)
async def cancel_response(request: Request) -> Response:
    """End a response that is being made; its client gets what there is. One that has ended is answered as it is."""
    state: ServerState = request.app.state.server
    key = _key(request)
    running = state.responses.get(key)
    if running is None:
        return _json(await _document_of(state, *key))
    running.dialect.cancelled = True
    await state.lifecycle.cancel(running.request_id)
    with suppress(TimeoutError):
        async with asyncio.timeout(CANCEL_WAIT_S):
            await running.ended.wait()
    return _json(running.dialect.document)


@needs(Scope.READ)
async def input_items(request: Request) -> Response:
    """The items that a response was asked with."""
    state: ServerState = request.app.state.server
    query = read_query(request, ITEMS_QUERY)
    tenant, response_id = _key(request)
    found = await state.shelf.read(lambda connection: kept.get(connection, tenant, response_id))
    if found is None:
        raise unknown("response", response_id)
    items = found.items if query.order == "asc" else found.items[::-1]
    if query.after is not None:
        place = next((at for at, item in enumerate(items) if item["id"] == query.after), None)
        if place is None:
            raise unknown("item", query.after)
        items = items[place + 1 :]
    return _json(listed(items[: query.limit], len(items) > query.limit))


async def _document_of(state: ServerState, tenant: str, response_id: str) -> dict[str, Any]:
    running = state.responses.get((tenant, response_id))
    if running is not None:
        return running.dialect.document
    found = await state.shelf.read(lambda connection: kept.get(connection, tenant, response_id))
    if found is None:
        raise unknown("response", response_id)
    return found.document


def _key(request: Request) -> tuple[str, str]:
    return caller_of(request.scope).tenant, str(request.path_params["response_id"])


def _json(document: dict[str, Any]) -> Response:
    return Response(dump_json(document), media_type="application/json")


async def _past(state: ServerState, tenant: str, previous: str | None) -> list[PastAnswer]:
    if previous is None:
        return []
    found = await state.shelf.read(lambda connection: kept.chain(connection, tenant, previous))
    if found is None:
        expected = "a response that is kept, with all that it goes on from"
        error = FieldError("previous_response_id", previous[:80], expected)
        raise Problem("unknown-object", f"previous_response_id: expected {expected}; found {previous[:80]!r}", (error,))
    return found


async def _with_past(past: Sequence[PastAnswer], items: list[AnyItem]) -> tuple[list[AnyItem], list[str]]:
    """The whole conversation's items, and what each is called in an error."""
    places = [f"input.{at}" for at in range(len(items))]
    if not past:
        return items, places
    raw = [item for answer in past for item in (*answer.items, *answer.document["output"])]
    before = await asyncio.to_thread(ITEMS.validate_python, raw)
    return [*before, *items], [f"previous_response_id.{at}" for at in range(len(before))] + places


def _items(given: str | list[Any]) -> list[AnyItem]:
    items: list[AnyItem] = [MessageItem(role="user", content=given)] if isinstance(given, str) else given
    return [
        item
        if item.id is not None
        else item.model_copy(update={"id": f"{_PREFIXES[item.type]}_{secrets.token_hex(16)}"})
        for item in items
    ]


_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}


def _dumped(item: AnyItem) -> dict[str, Any]:
    """An item as it is kept and listed: a text as a part."""
    written = item.model_dump(exclude_none=True)
    if isinstance(item, MessageItem):
        if isinstance(item.content, str):
            kind = "output_text" if item.role == "assistant" else "input_text"
            part: dict[str, Any] = {"type": kind, "text": item.content}
            written["content"] = [part | {"annotations": []} if item.role == "assistant" else part]
        written["status"] = "completed"
    return written


def _tools(body: ResponseRequest) -> tuple[ToolSpec, ...]:
    return unique_specs(
        [
            ToolSpec(tool.name, tool.description or "", NO_ARGUMENTS if tool.parameters is None else tool.parameters)
            for tool in body.tools or ()
        ],
        "tools.{}.name",
    )


def _choice(body: ResponseRequest, tools: Sequence[ToolSpec]) -> ToolChoice:
    given = body.tool_choice
    choice: ToolChoice = OneTool(given.name) if isinstance(given, NamedTool) else given or "auto"
    return checked_choice(choice, tools, "tool_choice")


async def _constraint(body: ResponseRequest) -> Constraint | None:
    form = body.text.format if body.text is not None else None
    if isinstance(form, JsonObjectFormat):
        return Constraint.json_object()
    if not isinstance(form, JsonSchemaFormat):
        return None
    try:
        return await asyncio.to_thread(Constraint.json_schema, form.schema_)
    except AdmissionError as error:
        raise problem_of(error, fields={"constraint": "text.format.schema"}) from None


def _document(body: ResponseRequest, response_id: str) -> dict[str, Any]:
    """The response's object before anything was said."""
    form = body.text.format if body.text is not None else None
    choice = body.tool_choice
    reasoning = body.reasoning
    return {
        "id": response_id,
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": None,
        "metadata": body.metadata or {},
        "model": body.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": reasoning.effort if reasoning is not None else None, "summary": None},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": body.kept,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {
            "format": {"type": "text"} if form is None else form.model_dump(by_alias=True, exclude_none=True),
            "verbosity": "medium",
        },
        "tool_choice": choice.model_dump() if isinstance(choice, NamedTool) else choice or "auto",
        "tools": [
            {**tool.model_dump(), "parameters": NO_ARGUMENTS if tool.parameters is None else tool.parameters}
            for tool in body.tools or ()
        ],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": body.user,
    }
