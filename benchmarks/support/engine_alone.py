"""What the fake engine itself costs for each token, read by nobody but a loop: no part of the front's time."""

from __future__ import annotations

import asyncio
import time

from deepseek.core.engine import Request, Tokens
from deepseek.core.sampling import SamplingParams
from deepseek.engine.fake import FakeEngine


async def cpu_us_a_token(streams: int, tokens: int, gap_s: float) -> float:
    """Microseconds of processor time, beyond what a request costs once."""
    few = max(1, tokens // 5)
    return 1e6 * (await _cpu_s(streams, tokens, gap_s) - await _cpu_s(streams, few, gap_s)) / (streams * (tokens - few))


async def _cpu_s(streams: int, tokens: int, gap_s: float) -> float:
    engine = FakeEngine(
        ttft_s=0.0,
        inter_token_s=gap_s,
        max_model_len=1 << 20,
        max_running=streams,
        max_waiting=streams,
        num_blocks=1 << 22,
    )

    async def read(name: str) -> int:
        request = Request(name, (1, 2, 3), SamplingParams(max_tokens=tokens))
        return sum([len(event.token_ids) async for event in engine.generate(request) if isinstance(event, Tokens)])

    begun = time.process_time()
    made = await asyncio.gather(*(read(f"r{index}") for index in range(streams)))
    took = time.process_time() - begun
    await engine.close()
    if sum(made) != streams * tokens:
        raise SystemExit(f"the engine made {sum(made)} tokens of {streams * tokens}")
    return took
