"""/v1/agents: which there are, their runs, and a run's events as they come.

    POST /v1/agents/{agent}/runs                       ask; the answer is the whole run, or its events (`stream`)
    GET  /v1/agents/{agent}/runs/{run_id}              the run, whether it goes on or is over
    GET  /v1/agents/{agent}/runs/{run_id}/events       its events, from the one after `Last-Event-ID`, until it ends
    POST /v1/agents/{agent}/runs/{run_id}/cancel       end it
    POST /v1/agents/{agent}/runs/{run_id}/resume       go on with one that waits for a person, with what people answered

A client that leaves while it waits for a run ends it, as with every other request; one that asked for it in the background, or
only follows its events, does not.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import BaseModel, Field, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.types import Scope as Connection

from deepseek.agent.agent import Agent
from deepseek.agent.execution.approval import Approval
from deepseek.agent.perception.perceive import Attachment
from deepseek.agent.rows import Recorded
from deepseek.api.admission import refuse_while_draining
from deepseek.api.agents.documents import AgentList, RunModel, event_document
from deepseek.api.agents.live import Follower, LiveRun, Lost
from deepseek.api.agents.runs import AgentRuns
from deepseek.api.body import read_model
from deepseek.api.client import ClientWatch, SlowReader
from deepseek.api.dialects.fields import StrictModel
from deepseek.api.dialects.files import read_query
from deepseek.api.guard import caller_of
from deepseek.api.idempotency import HEADER_PARAMETER
from deepseek.api.identity.caller import Caller
from deepseek.api.problems import PROBLEM_MEDIA_TYPE, FieldError, Problem
from deepseek.api.scopes import Scope, needs
from deepseek.api.state import ServerState
from deepseek.api.wire import dump_json, sse_frame
from deepseek.core.deltas import TextDelta, ThinkingDelta

AGENT = "/v1/agents/{agent}"
RUN = AGENT + "/runs/{run_id}"
KEEP_ALIVE_S = 15.0
MAX_EVENT = 2**53 - 1
BODY_ERRORS = (400, 403, 404, 408, 409, 413, 415, 422, 429, 500, 503)

Name = Annotated[str, Field(min_length=1, max_length=128)]


class AttachmentInput(StrictModel):
    """A file that belongs to what is asked: text, HTML, Markdown, JSON, CSV or PDF, or an image, sound or film that the
    model takes."""

    data: Annotated[str, Field(min_length=1, description="Base64.")]
    name: Annotated[str, Field(max_length=128)] = ""


class RunLimits(StrictModel):
    """Lower bounds than the agent's own; higher ones change nothing."""

    steps: Annotated[int, Field(ge=1, le=10_000)] | None = None
    tokens: Annotated[int, Field(ge=1, le=10**9)] | None = None
    seconds: Annotated[float, Field(gt=0, le=86_400)] | None = None


class RunRequest(StrictModel):
    """What is asked of an agent."""

    input: Annotated[str, Field(min_length=1, description="What the user says.")]
    attachments: Annotated[list[AttachmentInput], Field(max_length=8, default_factory=list)]
    conversation: Annotated[
        str | None,
        Field(min_length=1, max_length=128, description="What was said under this name before is remembered."),
    ] = None
    limits: RunLimits = RunLimits()
    metadata: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
        Field(max_length=16, default_factory=dict),
    ]
    stream: Annotated[bool, Field(description="Answer with the run's events as they come.")] = False
    background: Annotated[bool, Field(description="Answer at once; the run goes on without the client.")] = False


class ApprovalInput(StrictModel):
    """What a person answered. arguments: to call the tool with instead."""

    id: Name
    approved: bool
    reason: Annotated[str, Field(max_length=2000)] = ""
    arguments: dict[str, Any] | None = None


class ResumeRequest(StrictModel):
    """Answers to what a run waits for. What is not answered stays open."""

    approvals: Annotated[list[ApprovalInput], Field(min_length=1, max_length=128)]
    stream: bool = False
    background: bool = False


class EventsQuery(StrictModel):
    """after: the number of the last event that is known; a header Last-Event-ID says the same and comes first."""

    after: Annotated[int, Field(ge=0, le=MAX_EVENT, strict=False)] = 0


BODIES = (RunRequest, ResumeRequest)
"""Models of bodies, for the description."""
RUN_BODY, RESUME_BODY, QUERY = TypeAdapter(RunRequest), TypeAdapter(ResumeRequest), TypeAdapter(EventsQuery)


@needs(Scope.READ)
async def list_agents(request: Request) -> Response:
    """The agents this caller may ask."""
    runs = _runs(request)
    shown = [
        {
            "id": agent.name,
            "object": "agent",
            "model": agent.model.name,
            "tools": [tool.name for tool in await agent.loop.executor.tools()],
        }
        for agent in runs.visible(caller_of(request.scope))
    ]
    return _json({"object": "list", "data": shown})


@needs(Scope.INFER)
async def create_run(request: Request) -> Response:
    """Ask an agent."""
    state, runs, caller = _state(request), _runs(request), caller_of(request.scope)
    refuse_while_draining(state)
    agent = runs.agent(caller, request.path_params["agent"])
    body = await read_model(request, RUN_BODY, state.settings)
    message = await runs.message(agent, body.input, [_attachment(at, one) for at, one in enumerate(body.attachments)])
    live = await runs.begin(
        caller,
        agent,
        message,
        conversation=body.conversation,
        limits=body.limits.model_dump(exclude_none=True),
        metadata=body.metadata,
        followed=body.stream,
    )
    return await _answer(state, runs, caller, agent, live, stream=body.stream, background=body.background)


@needs(Scope.READ)
async def get_run(request: Request) -> Response:
    """A run: how far it has come, or what came of it."""
    runs, caller, agent = _of(request)
    return _json(await runs.document(caller, agent, request.path_params["run_id"]))


@needs(Scope.READ)
async def run_events(request: Request) -> Response:
    """A run's events, those that were and those to come, until it ends or waits for a person."""
    runs, caller, agent = _of(request)
    run_id = request.path_params["run_id"]
    after = _last_event(request, read_query(request, QUERY).after)
    live = await runs.require(caller, agent, run_id)
    return RunStream(_state(request), runs, caller, agent, run_id, live, after=after, ends_run=False)


@needs(Scope.INFER)
async def cancel_run(request: Request) -> Response:
    """End a run that goes on or waits."""
    runs, caller, agent = _of(request)
    run_id = request.path_params["run_id"]
    await runs.cancel(caller, agent, run_id)
    return _json(await runs.document(caller, agent, run_id))


@needs(Scope.INFER)
async def resume_run(request: Request) -> Response:
    """Go on with a run that waits, with what people answered. What has run does not run again."""
    state = _state(request)
    refuse_while_draining(state)
    runs, caller, agent = _of(request)
    body = await read_model(request, RESUME_BODY, state.settings)
    answers = [
        Approval(
            one.id,
            one.approved,
            one.reason,
            by=caller.subject,
            arguments=None if one.arguments is None else dump_json(one.arguments).decode(),
        )
        for one in body.approvals
    ]
    run_id = request.path_params["run_id"]
    live = await runs.resume(caller, agent, run_id, answers, followed=body.stream)
    return await _answer(state, runs, caller, agent, live, stream=body.stream, background=body.background)


class RunStream(Response):
    """A run's events as server-sent events, each with its number as its id; beside them, without one, what the model says in
    pieces (`text`, `thinking`); at the end the run itself (`run`). A comment keeps a silent connection open.

    ends_run: whether the run ends when the client leaves. first: who has followed it from its beginning: nothing is read from
    disk before.
    """

    def __init__(
        self,
        state: ServerState,
        runs: AgentRuns,
        caller: Caller,
        agent: Agent,
        run_id: str,
        live: LiveRun | None,
        *,
        after: int,
        ends_run: bool,
        first: Follower | None = None,
    ) -> None:
        self.background = None
        self.status_code = 200
        self.raw_headers = []
        self._state, self._runs, self._caller, self._agent = state, runs, caller, agent
        self._run_id, self._live, self._after, self._ends_run = run_id, live, after, ends_run
        self._first = first

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        client = ClientWatch(receive, send, self._state.settings.send_timeout_s)
        try:
            async with client:
                await client.send({"type": "http.response.start", "status": 200, "headers": headers})
                async with aclosing(self._frames()) as frames:
                    async for frame in frames:
                        await client.send({"type": "http.response.body", "body": frame, "more_body": True})
                await client.send({"type": "http.response.body", "body": b""})
        except SlowReader:
            client.gone = True
        finally:
            if self._ends_run and self._live is not None and not self._live.over.is_set():
                assert self._live.task is not None
                self._live.task.cancel()

    async def _frames(self) -> AsyncGenerator[bytes]:
        live, tenant, last = self._live, self._caller.tenant, self._after
        # Followed first and read then, so that nothing falls between the two.
        following = follower = self._first or (None if live is None else live.follow())
        read = self._first is None
        try:
            while True:
                if read:
                    await self._runs.flush()
                    async for event in self._runs.events(tenant, self._run_id, last):
                        last = event.seq
                        yield _event_frame(event.seq, event_document(event))
                read = True
                if follower is None:
                    break
                while True:
                    try:
                        async with asyncio.timeout(KEEP_ALIVE_S):
                            piece = await follower.get()
                    except TimeoutError:
                        yield b": \n\n"
                        continue
                    if piece is None or isinstance(piece, Lost):
                        break
                    if isinstance(piece, Recorded):
                        if piece.seq > last:
                            last = piece.seq
                            yield _event_frame(last, event_document(piece))
                    elif isinstance(piece, TextDelta | ThinkingDelta) and piece.text:
                        kind = "text" if isinstance(piece, TextDelta) else "thinking"
                        yield sse_frame(dump_json({"text": piece.text}), kind)
                if piece is None:
                    follower = None  # once more from disk, for what was lost
        finally:
            if live is not None and following is not None:
                live.leave(following)
        if live is not None and isinstance(live.error, Problem):
            yield sse_frame(dump_json(live.error.document(instance=self._run_id)), "error")
        yield sse_frame(dump_json(await self._runs.document(self._caller, self._agent, self._run_id)), "run")


class _Whole(Response):
    """The run once it is over, waited for as long as the client does."""

    def __init__(self, state: ServerState, runs: AgentRuns, caller: Caller, agent: Agent, live: LiveRun) -> None:
        self.background = None
        self.status_code = 200
        self.raw_headers = []
        self._state, self._runs, self._caller, self._agent, self._live = state, runs, caller, agent, live

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        live = self._live
        client = ClientWatch(receive, send, self._state.settings.send_timeout_s)
        try:
            async with client:
                await live.over.wait()
                if live.error is not None:
                    raise live.error
                body = dump_json(await self._runs.document(self._caller, self._agent, live.run_id))
                headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
                await client.send({"type": "http.response.start", "status": 200, "headers": headers})
                await client.send({"type": "http.response.body", "body": body})
        except SlowReader:
            client.gone = True
        finally:
            if not live.over.is_set() and live.task is not None:
                live.task.cancel()


async def _answer(
    state: ServerState,
    runs: AgentRuns,
    caller: Caller,
    agent: Agent,
    live: LiveRun,
    *,
    stream: bool,
    background: bool,
) -> Response:
    if stream:
        ends = not background
        return RunStream(state, runs, caller, agent, live.run_id, live, after=0, ends_run=ends, first=live.first)
    if background:
        if live.error is not None and live.result is None:
            raise live.error
        return _json(await runs.document(caller, agent, live.run_id))
    return _Whole(state, runs, caller, agent, live)


def add_routes(app: FastAPI) -> None:
    """All of them."""
    _add(app, "GET", "/v1/agents", list_agents, AgentList)
    _add(app, "POST", AGENT + "/runs", create_run, RunModel, body=RunRequest, streams=True)
    _add(app, "GET", RUN, get_run, RunModel)
    _add(app, "GET", RUN + "/events", run_events, None, query=True)
    _add(app, "POST", RUN + "/cancel", cancel_run, RunModel)
    _add(app, "POST", RUN + "/resume", resume_run, RunModel, body=ResumeRequest, streams=True)


_FRAME = {
    "type": "object",
    "required": ["data", "event"],
    "properties": {
        "id": {"type": "string"},
        "event": {"type": "string"},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}
_LAST_EVENT = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "schema": {"type": "integer", "minimum": 0, "maximum": MAX_EVENT},
    "description": "The id of the last event that came; the answer goes on behind it.",
}
_AFTER = {
    "name": "after",
    "in": "query",
    "required": False,
    "schema": {"type": "integer", "minimum": 0, "maximum": MAX_EVENT, "default": 0},
}


def _add(
    app: FastAPI,
    method: str,
    path: str,
    endpoint: Callable[[Request], Awaitable[Response]],
    answer: type[BaseModel] | None,
    *,
    body: type[BaseModel] | None = None,
    query: bool = False,
    streams: bool = False,
) -> None:
    problem = {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemModel"}}}
    statuses = BODY_ERRORS if method == "POST" else (404, 422, 500, 503)
    schema = {"type": "string", "minLength": 1, "maxLength": 64}
    names = [name for name in ("agent", "run_id") if f"{{{name}}}" in path]
    described: dict[str, Any] = {
        "parameters": [{"name": name, "in": "path", "required": True, "schema": schema} for name in names]
    }
    if query:
        described["parameters"] += [_AFTER, _LAST_EVENT]
    if method == "POST":
        described["parameters"].append(HEADER_PARAMETER)
    if body is not None:
        reference = {"$ref": f"#/components/schemas/{body.__name__}"}
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": reference}}}
    stream = {"content": {"text/event-stream": {"itemSchema": _FRAME}}}
    good: dict[str, Any]
    good = {"description": "The events", **stream} if answer is None else {"model": answer}
    if streams:
        good |= stream
    app.add_api_route(
        path,
        endpoint,
        methods=[method],
        responses={
            200: good,
            **{status: {"description": "A problem document", "content": problem} for status in statuses},
        },
        response_class=Response,
        response_model=None,
        openapi_extra=described,
    )


def _state(request: Request) -> ServerState:
    state: ServerState = request.app.state.server
    return state


def _runs(request: Request) -> AgentRuns:
    return _state(request).runs


def _of(request: Request) -> tuple[AgentRuns, Caller, Agent]:
    runs, caller = _runs(request), caller_of(request.scope)
    return runs, caller, runs.agent(caller, request.path_params["agent"])


def _attachment(at: int, given: AttachmentInput) -> Attachment:
    try:
        return Attachment(base64.b64decode(given.data, validate=True), given.name)
    except (binascii.Error, ValueError):
        error = FieldError(f"attachments.{at}.data", None, "base64")
        raise Problem("invalid-request", f"{error.field}: expected base64", (error,)) from None


def _last_event(request: Request, after: int) -> int:
    """The header, which browsers send by themselves when they connect again; else the query's."""
    said = request.headers.get("last-event-id")
    if said is None:
        return after
    if not (said.isascii() and said.isdigit() and len(said) <= 16 and int(said) <= MAX_EVENT):
        raise Problem(
            "invalid-request", "Last-Event-ID: expected the number of an event", (FieldError("Last-Event-ID"),)
        )
    return int(said)


def _event_frame(seq: int, document: dict[str, Any]) -> bytes:
    return b"id: %d\n" % seq + sse_frame(dump_json(document), document["kind"])


def _json(document: dict[str, Any]) -> Response:
    return Response(dump_json(document), media_type="application/json")
