"""One round of the agent benchmark in another framework, run by the interpreter that has it:

    python agent_peers.py smolagents|pydantic-ai STEPS TOOLS

Prints one line of JSON: {"version", "seconds_a_step"}. The scenario is that of benchmarks/agent.py: a scripted model, so
many steps of four calls each, and an answer. Imports nothing of this package.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import sys
import time
from typing import Any

WARM_STEPS = 5


def smolagents(steps: int, tools: int) -> float:
    from smolagents import ToolCallingAgent, tool
    from smolagents.models import (
        ChatMessage,
        ChatMessageToolCall,
        ChatMessageToolCallFunction,
        MessageRole,
        Model,
    )
    from smolagents.monitoring import LogLevel

    @tool
    def add(a: int, b: int) -> int:
        """Add two numbers.

        Args:
            a: The first.
            b: The second.
        """
        return a + b

    class Scripted(Model):
        def __init__(self, turns: int) -> None:
            super().__init__(model_id="scripted")
            self.turns, self.turn = turns, 0

        def generate(self, messages: Any, *given: Any, **options: Any) -> ChatMessage:
            self.turn += 1
            if self.turn > self.turns:
                made = [("final_answer", {"answer": "done"})]
            else:
                made = [("add", {"a": index, "b": 1}) for index in range(tools)]
            calls = [
                ChatMessageToolCall(ChatMessageToolCallFunction(arguments, name), f"{self.turn}-{index}", "function")
                for index, (name, arguments) in enumerate(made)
            ]
            return ChatMessage(MessageRole.ASSISTANT, content=None, tool_calls=calls)

    def once(turns: int) -> float:
        agent = ToolCallingAgent([add], Scripted(turns), max_steps=turns + 1, verbosity_level=LogLevel.OFF)
        begun = time.perf_counter()
        answer = agent.run("Add.")
        took = time.perf_counter() - begun
        if answer != "done":
            raise SystemExit(f"smolagents answered {answer!r}")
        return took / turns

    once(WARM_STEPS)
    return once(steps)


def pydantic_ai(steps: int, tools: int) -> float:
    from pydantic_ai import Agent
    from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
    from pydantic_ai.models.function import FunctionModel
    from pydantic_ai.usage import UsageLimits

    def made(turns: int) -> Agent:
        def say(messages: Any, info: Any) -> ModelResponse:
            turn = sum(message.kind == "response" for message in messages)
            if turn >= turns:
                return ModelResponse(parts=[TextPart("done")])
            return ModelResponse(parts=[ToolCallPart("add", {"a": index, "b": 1}) for index in range(tools)])

        agent = Agent(FunctionModel(say))

        @agent.tool_plain
        async def add(a: int, b: int) -> int:
            """Add two numbers."""
            return a + b

        return agent

    async def once(turns: int) -> float:
        agent = made(turns)
        begun = time.perf_counter()
        result = await agent.run("Add.", usage_limits=UsageLimits(request_limit=None))
        took = time.perf_counter() - begun
        if result.output != "done":
            raise SystemExit(f"pydantic-ai answered {result.output!r}")
        return took / turns

    async def both() -> float:
        await once(WARM_STEPS)
        return await once(steps)

    return asyncio.run(both())


PEERS = {"smolagents": (smolagents, "smolagents"), "pydantic-ai": (pydantic_ai, "pydantic-ai-slim")}

if __name__ == "__main__":
    run, package = PEERS[sys.argv[1]]
    seconds = run(int(sys.argv[2]), int(sys.argv[3]))
    print(json.dumps({"version": importlib.metadata.version(package), "seconds_a_step": seconds}))
