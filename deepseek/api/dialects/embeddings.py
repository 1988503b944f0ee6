"""POST /v1/embeddings in OpenAI's form: each text, or list of token ids, as one vector of length 1.

The vector is the model's hidden state after the final norm: of the last token, or the mean of all (`pooling`, a field of
ours). Several inputs are several requests of the engine, run side by side. Once the first has reached it the others wait
for room where it alone would be refused.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deepseek.api.admission import adapter_of, new_id, refuse_while_draining
from deepseek.api.body import read_model
from deepseek.api.client import ClientWatch, SlowReader
from deepseek.api.dialects.fields import Model, Only, Opaque, Priority, StrictModel
from deepseek.api.dialects.prompts import Prompts, read_prompts
from deepseek.api.guard import caller_of
from deepseek.api.identity.caller import Caller
from deepseek.api.passage import embedding
from deepseek.api.problems import Problem, problem_of
from deepseek.api.scopes import Scope as Needed
from deepseek.api.scopes import needs
from deepseek.api.several import MAX_TOGETHER
from deepseek.api.state import ServerState
from deepseek.api.wire import dump_json
from deepseek.core.engine import Embedding, Pooling, Usage
from deepseek.core.engine import Request as EngineRequest
from deepseek.core.errors import AdmissionError, EngineError
from deepseek.core.sampling import SamplingParams

ROUTE = "/v1/embeddings"
# Nothing is generated, and a budget need not set anything aside for it.
NOTHING_GENERATED = SamplingParams(max_tokens=0, prompt_logprobs=0)


class EmbeddingRequest(StrictModel):
    """What /v1/embeddings takes. Optional fields may be null, which is their default."""

    model: Model
    input: Annotated[Prompts, Field(description="A text, several, the token ids of one, or of several.")]
    encoding_format: Annotated[
        Literal["float", "base64"] | None, Field(description="base64: little-endian float32. Default: float.")
    ] = None
    pooling: Annotated[
        Pooling | None, Field(description="The last token's hidden state, or the mean of all. Default: last.")
    ] = None
    priority: Priority | None = None
    dimensions: Annotated[object, Only()] = None
    user: Opaque | None = None


class EmbeddingItem(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Counted on token ids."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    """What /v1/embeddings answers."""

    object: Literal["list"]
    data: list[EmbeddingItem]
    model: str
    usage: EmbeddingUsage


BODY = TypeAdapter(EmbeddingRequest)


@needs(Needed.INFER)
async def embeddings(request: Request) -> Response:
    """Turn texts into vectors, in OpenAI's form."""
    state: ServerState = request.app.state.server
    caller = caller_of(request.scope)
    refuse_while_draining(state)
    body = await read_model(request, BODY, state.settings)
    adapter = adapter_of(state, caller, body.model)
    prompts = await read_prompts(state, body.input, "input")
    group = new_id("embd")
    requests = [
        EngineRequest(
            f"{group}-{at}",
            prompt.ids,
            NOTHING_GENERATED,
            priority=body.priority or 0,
            adapter=adapter,
            task="embed",
            pooling=body.pooling or "last",
        )
        for at, prompt in enumerate(prompts)
    ]
    return EmbeddingAnswer(state, caller, body, requests)


class EmbeddingAnswer(Response):
    """An ASGI response that runs the requests while their client waits; it ends them when the client leaves."""

    def __init__(
        self, state: ServerState, caller: Caller, body: EmbeddingRequest, requests: Sequence[EngineRequest]
    ) -> None:
        self.background = None
        self.status_code = 200
        self.raw_headers = []
        self._state, self._caller, self._body, self._requests = state, caller, body, requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = ClientWatch(receive, send, self._state.settings.send_timeout_s)
        try:
            async with client:
                body = self._written(await self._all())
                headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
                await client.send({"type": "http.response.start", "status": 200, "headers": headers})
                await client.send({"type": "http.response.body", "body": body})
        except SlowReader:
            client.gone = True
        except AdmissionError as error:
            wait = self._state.engine.load().oldest_wait_s
            raise problem_of(error, retry_after_s=wait, fields={"adapter": "model", "prompt": "input"}) from error
        finally:
            if client.gone:
                self._state.metrics.finished.labels("client_gone").inc()

    async def _all(self) -> list[tuple[Embedding, Usage]]:
        gate, begun = asyncio.Semaphore(MAX_TOGETHER), asyncio.Event()
        first = self._requests[0]
        tasks = [
            asyncio.create_task(self._one(request, gate, begun, waits=request is not first))
            for request in self._requests
        ]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(
        self, request: EngineRequest, gate: asyncio.Semaphore, begun: asyncio.Event, *, waits: bool
    ) -> tuple[Embedding, Usage]:
        lifecycle = self._state.lifecycle
        async with gate:
            if waits:
                await begun.wait()
            refuse_while_draining(self._state)
            lifecycle.running.add(request.id)
            try:
                found, usage = await embedding(
                    self._state, self._caller, request, model=self._body.model, route=ROUTE, begun=begun
                )
            except EngineError:
                if lifecycle.draining:
                    raise Problem("draining", "The server is shutting down; send the request to another.") from None
                lifecycle.engine_failed()
                raise
            finally:
                lifecycle.running.discard(request.id)
        self._state.metrics.prompt_tokens.inc(usage.prompt_tokens)
        return found, usage

    def _written(self, found: Sequence[tuple[Embedding, Usage]]) -> bytes:
        tokens = sum(usage.prompt_tokens for _, usage in found)
        data: list[dict[str, Any]] = []
        for index, (vector, _) in enumerate(found):
            little_endian = vector.values.astype("<f4", copy=False)
            value = (
                base64.b64encode(little_endian.tobytes()).decode()
                if self._body.encoding_format == "base64"
                else little_endian.tolist()
            )
            data.append({"object": "embedding", "index": index, "embedding": value})
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return dump_json({"object": "list", "data": data, "model": self._body.model, "usage": usage})
