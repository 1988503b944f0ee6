"""Load on the gRPC server: one channel, so many calls at once, each asked again as soon as it was answered."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

import grpc

from deepseek.api.dialects.generate import GenerateRequest, GenerateResponse
from deepseek.api.protobuf.contract import codec_of

METHOD = "/deepseek.v1.DeepSeek/Generate"
WARM_UP_CALLS = 50


class Served(Protocol):
    @property
    def grpc_address(self) -> str: ...

    @property
    def keys(self) -> dict[str, str]: ...


async def unary_per_second(server: Served, model: str, concurrency: int, seconds: float) -> float:
    """Answers a second. Raises grpc.aio.AioRpcError for a refusal, and SystemExit for an answer of another length."""
    request = codec_of(GenerateRequest).encode({"model": model, "prompt": "What does a front cost?", "max_tokens": 8})
    key = (("authorization", f"Bearer {server.keys['enterprise']}"),)
    async with grpc.aio.insecure_channel(server.grpc_address) as channel:
        # Bytes in and out: what a client makes of them is not the server's time.
        generate = channel.unary_unary(METHOD)
        answer = codec_of(GenerateResponse).decode(await generate(request, metadata=key))
        if len(answer["text"]) != 8:
            raise SystemExit(f"8 tokens were asked for; the answer has {answer}")
        for _ in range(WARM_UP_CALLS):
            await generate(request, metadata=key)
        answered = 0
        start = time.perf_counter()

        async def ask() -> None:
            nonlocal answered
            while time.perf_counter() - start < seconds:
                await generate(request, metadata=key)
                answered += 1

        await asyncio.gather(*(ask() for _ in range(concurrency)))
        return answered / (time.perf_counter() - start)
