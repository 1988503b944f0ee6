"""Agents of other people's frameworks on our address, as their users run them: pydantic-ai and smolagents.

The engine is scripted, in the built-in model's own markup and control tokens: the first thing it says is a call, and once
the result stands in the prompt, an answer that repeats it. So what is tested is what lies between: the dialects, the
parser, the template.
"""

import asyncio
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelRetry
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from smolagents import CodeAgent, OpenAIModel, ToolCallingAgent, tool

from deepseek.api import ServerState, serving
from deepseek.chat.codec import TextCodec
from deepseek.chat.tool_tokens import CALL_BEGIN, CALL_END, CALLS_BEGIN, CALLS_END, LITERALS, SEPARATOR
from deepseek.core.engine import Request
from deepseek.engine.fake import FakeEngine, say
from deepseek.models.locate import builtin_dir
from deepseek.models.tokenizer import Tokenizer

MODEL = "deepseek-tiny"
CONTEXT = 32_768
RESULT = re.compile(
    r"<｜tool▁outputs?▁begin｜>(.*?)<｜tool▁outputs?▁end｜>"
    r"|<｜User｜>Observation:\n(.*?)<｜",  # smolagents tells results as the user
    re.DOTALL,
)


def call(name: str, arguments: str) -> str:
    return f"{CALL_BEGIN}{name}{SEPARATOR}{arguments}{CALL_END}"


def calls(*each: str) -> str:
    return CALLS_BEGIN + "".join(each) + CALLS_END


class Script:
    """What the engine says, by how many results stand in the prompt. `{0}`, `{1}` in it are those results.

    prompts: what it was asked, with control tokens.
    """

    def __init__(self, said: Sequence[str]) -> None:
        self.said = said
        self.prompts: list[str] = []
        self.tokenizer = Tokenizer.from_dir(builtin_dir())

    def __call__(self, request: Request, choice: int, seed: int) -> Any:
        if request.id.startswith("probe-"):
            return b"a"
        prompt = self.tokenizer.decode(list(request.prompt_ids), skip_special=False)
        self.prompts.append(prompt)
        results = [one or other for one, other in RESULT.findall(prompt)]
        text = self.said[min(len(results), len(self.said) - 1)]
        for index, result in enumerate(results):
            text = text.replace(f"{{{index}}}", result.strip())
        return say(text, LITERALS)(request, choice, seed)


class Served:
    def __init__(self, url: str, script: Script) -> None:
        self.url, self.script = url, script

    def model(self, kind: str) -> Any:
        if kind == "anthropic":
            return AnthropicModel(MODEL, provider=AnthropicProvider(base_url=self.url, api_key="none"))
        provider = OpenAIProvider(base_url=f"{self.url}/v1", api_key="none")
        return (OpenAIChatModel if kind == "chat" else OpenAIResponsesModel)(MODEL, provider=provider)

    def smol(self) -> OpenAIModel:
        return OpenAIModel(MODEL, api_base=f"{self.url}/v1", api_key="none")


@pytest.fixture
def script(request: pytest.FixtureRequest) -> Script:
    return Script(request.param)


@pytest.fixture
def served(script: Script) -> Iterator[Served]:
    engine = FakeEngine(reply=script, controls=LITERALS, ttft_s=0.0, inter_token_s=0.0, max_model_len=CONTEXT)
    state = ServerState(engine, TextCodec(script.tokenizer), (MODEL,), CONTEXT)
    with serving(state, grace_s=1.0) as server:
        yield Served(server.url, script)


ROME = call("temperature", '{"city": "Rome"}')
OSLO = call("temperature", '{"city": "Oslo"}')
KINDS = ("chat", "responses", "anthropic")
scripted = pytest.mark.parametrize


def weather_agent(model: Any, seen: list[str]) -> Agent[None, str]:
    agent = Agent(model, system_prompt="Answer about the weather.")

    @agent.tool_plain
    def temperature(city: str) -> str:
        """The temperature in a city.

        Args:
            city: Its English name.
        """
        seen.append(city)
        return f"{len(city)} degrees"

    return agent


@scripted("kind", KINDS)
@scripted("script", [[calls(ROME), "It is {0} there."]], indirect=True)
def test_an_agent_of_pydantic_ai_calls_its_tool_and_reads_the_result(served: Served, kind: str) -> None:
    seen: list[str] = []
    found = weather_agent(served.model(kind), seen).run_sync("How warm is Rome?")
    assert (found.output, seen) == ("It is 4 degrees there.", ["Rome"])
    assert "The temperature in a city." in served.script.prompts[0] and "Its English name." in served.script.prompts[0]
    assert (len(served.script.prompts), found.usage.tool_calls) == (2, 1)
    assert found.usage.input_tokens > 0 and found.usage.output_tokens > 0


@scripted("kind", KINDS)
@scripted("script", [[calls(ROME, OSLO), "", "{0} and {1}"]], indirect=True)
def test_calls_made_together_are_answered_together(served: Served, kind: str) -> None:
    seen: list[str] = []
    found = weather_agent(served.model(kind), seen).run_sync("How warm are Rome and Oslo?")
    assert found.output == "4 degrees and 4 degrees" and sorted(seen) == ["Oslo", "Rome"]


@scripted("kind", KINDS)
@scripted("script", [[calls(ROME), "It is {0} there."]], indirect=True)
def test_a_streamed_run_comes_in_pieces_and_ends_alike(served: Served, kind: str) -> None:
    async def main() -> list[str]:
        async with weather_agent(served.model(kind), []).run_stream("How warm is Rome?") as stream:
            return [piece async for piece in stream.stream_text(delta=True, debounce_by=None)]

    pieces = asyncio.run(main())
    assert "".join(pieces) == "It is 4 degrees there." and len(pieces) > 1


class City(BaseModel):
    name: str
    people: int


@scripted("kind", KINDS)
@scripted("script", [[calls(call("final_result", '{"name": "Rome", "people": 2800000}'))]], indirect=True)
def test_a_typed_answer_is_a_call_that_must_come(served: Served, kind: str) -> None:
    agent = Agent(served.model(kind), output_type=City)
    assert agent.run_sync("How many live in Rome?").output == City(name="Rome", people=2_800_000)


@scripted(
    "script", [[calls(call("look", '{"page": "a"}')), calls(call("look", '{"page": "b"}')), "Found."]], indirect=True
)
def test_a_tool_that_asks_for_another_try_gets_one(served: Served) -> None:
    agent = Agent(served.model("chat"))

    @agent.tool_plain(retries=2)
    def look(page: str) -> str:
        """Look at a page."""
        if page == "a":
            raise ModelRetry("There is no such page; try b.")
        return "x"

    assert agent.run_sync("Look.").output == "Found."
    assert "There is no such page; try b." in served.script.prompts[1]


@tool
def temperature(city: str) -> str:
    """The temperature in a city.

    Args:
        city: Its English name.
    """
    return f"{len(city)} degrees"


@scripted("script", [[calls(ROME), calls(call("final_answer", '{"answer": "It is {0}."}'))]], indirect=True)
def test_a_tool_calling_agent_of_smolagents_comes_to_its_answer(served: Served) -> None:
    agent = ToolCallingAgent(tools=[temperature], model=served.smol(), max_steps=3, verbosity_level=0)
    found = agent.run("How warm is Rome?")
    assert "4 degrees" in str(found) and len(served.script.prompts) == 2


@scripted("script", [['Thought: I ask.\n<code>\nfinal_answer(temperature(city="Rome"))\n</code>']], indirect=True)
def test_a_code_agent_of_smolagents_runs_what_the_model_writes(served: Served) -> None:
    agent = CodeAgent(tools=[temperature], model=served.smol(), max_steps=2, verbosity_level=0)
    assert agent.run("How warm is Rome?") == "4 degrees"


@scripted("script", [[calls(ROME), calls(call("final_answer", '{"answer": "It is {0}."}'))]], indirect=True)
def test_a_streamed_run_of_smolagents_comes_to_the_same(served: Served) -> None:
    agent = ToolCallingAgent(
        tools=[temperature], model=served.smol(), max_steps=3, verbosity_level=0, stream_outputs=True
    )
    *steps, last = agent.run("How warm is Rome?", stream=True)
    assert "4 degrees" in str(last.output) and len(steps) > 2
