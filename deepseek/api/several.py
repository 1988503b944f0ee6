"""Several prompts of one call: as many engine requests, some of them side by side, read as one stream of events.

    async with aclosing(several(state, caller, requests, group=..., model=..., route=...)) as events: ...

Choice c of request i becomes choice i * n + c; the end is one Finish with every reason in order and the usage added up.
Leaving early ends them all. Once the first has reached the engine the others wait for room where it alone would be refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from deepseek.api.identity.caller import Caller
from deepseek.api.passage import passage
from deepseek.api.state import ServerState
from deepseek.core.engine import Event, Finish, FinishReason, Ready, Request, Tokens, Usage

CUT_OFF: FinishReason = "cancelled"
MAX_TOGETHER = 16
"""Requests of one call in the engine at once; the others wait here, so that one call does not fill the engine's queue."""
MAX_UNREAD = 64
"""Events that wait for a reader; beyond it the requests wait."""


async def several(
    state: ServerState, caller: Caller, requests: Sequence[Request], *, group: str, model: str, route: str
) -> AsyncGenerator[Event]:
    """The events of all requests, which have one n. The first failure of one is raised and ends the others."""
    n = requests[0].sampling.n
    unread: asyncio.Queue[Event | int | Exception] = asyncio.Queue(MAX_UNREAD)
    gate = asyncio.Semaphore(MAX_TOGETHER)
    finishes: dict[int, Finish] = {}
    seed: int | None = None
    begun = asyncio.Event()

    async def read(index: int, request: Request) -> None:
        try:
            async with gate:
                if index:
                    await begun.wait()
                if any("cancelled" in finish.reasons for finish in finishes.values()):
                    # The server is on its way out: what has not begun does not begin.
                    finishes[index] = Finish(request.id, (CUT_OFF,) * n, Usage(0, 0))
                else:
                    await serve(index, request)
            begun.set()
            await unread.put(index)
        except Exception as error:
            await unread.put(error)

    async def serve(index: int, request: Request) -> None:
        state.lifecycle.running.add(request.id)
        try:
            way = passage(state, caller, request, model=model, route=route, begun=begun)
            async with aclosing(way) as events:
                async for event in events:
                    if isinstance(event, Finish):
                        finishes[index] = event
                    elif isinstance(event, Tokens):
                        await unread.put(replace(event, choice=index * n + event.choice))
                    else:
                        await unread.put(event)
        finally:
            state.lifecycle.running.discard(request.id)

    readers = [asyncio.create_task(read(index, request)) for index, request in enumerate(requests)]
    try:
        ended = 0
        while ended < len(readers):
            found = await unread.get()
            if isinstance(found, Exception):
                raise found
            if isinstance(found, int):
                ended += 1
            elif not isinstance(found, Ready):
                yield found
            elif seed is None:
                seed = found.seed
                yield replace(found, request_id=group)
        ends = [finishes[index] for index in range(len(requests))]
        yield Finish(
            group,
            tuple(reason for end in ends for reason in end.reasons),
            Usage(
                sum(end.usage.prompt_tokens for end in ends),
                sum(end.usage.completion_tokens for end in ends),
                sum(end.usage.cached_tokens for end in ends),
            ),
            next((end.error for end in ends if end.error is not None), None),
            budget=next((end.budget for end in ends if end.budget is not None), None),
        )
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
