"""Conversations of several steps: what a trajectory is, and the tools that stand in its prompt."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from deepseek.training.curriculum import schema
from deepseek.training.curriculum.phrasing import Ask
from deepseek.training.curriculum.sample import Language, Message, Tool, tool_calls_message
from deepseek.training.curriculum.schema import Dressed

TOOL, SCHEMA = "<tool>", "<schema>"
"""In an error's text: the tool's name and its parameters; ``<key>`` in the same text is the parameter's own name."""


@dataclass(frozen=True, slots=True)
class Step:
    """One call and what the tool said.

    `operation` and `arguments` are canonical. `wrong`: these arguments (or this tool name) stand there to be corrected,
    and are not learnt.
    """

    operation: str
    arguments: Mapping[str, Any]
    result: str
    wrong: bool = False
    wrong_name: str = ""

    @staticmethod
    def of(ask: Ask) -> Step:
        return Step(ask.operation, ask.arguments, ask.result)


Round = tuple[Step, ...]
"""Calls made in one message, each independent of the others' results."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """What a user wants, the rounds of calls that serve it, and the answer, in which `fact` stands.

    `earlier`: whole exchanges before it, each a user's text, its rounds and its answer.
    """

    text: str
    phrasing: str
    rounds: tuple[Round, ...]
    answer: str
    fact: str
    earlier: tuple[tuple[str, tuple[Round, ...], str], ...] = field(default=())

    @property
    def operations(self) -> set[str]:
        rounds = [*self.rounds, *(round_ for _, rounds, _ in self.earlier for round_ in rounds)]
        return {step.operation for round_ in rounds for step in round_}


CLOCK = schema.Spec(
    ("clock", "time", "current_time", "get_time", "world_clock", "now"),
    ("Current date and time in a time zone", "Tell the time", "What time it is", "The time of day in a place"),
    ("某时区的当前日期和时间", "查询时间", "现在几点", "世界时钟"),
    (schema.Parameter(("zone", "timezone", "city", "place"), required=False, note="time zone"),),
    {"clock": {}},
)
SPECS = (*schema.SPECS, CLOCK)
CANONICAL = (schema.CALCULATOR, schema.CONVERT, schema.DATE, CLOCK, schema.MEMORY_SET, schema.MEMORY_GET, schema.SEARCH)
"""The tools the shipped agent offers, by their own names and descriptions."""

_OTHERS: tuple[Tool, ...] = (
    schema.function_tool("http_get", "Fetch a web page", {"url": {"type": "string"}}, ["url"]),
    schema.function_tool("query_database", "Run a read-only SQL query", {"sql": {"type": "string"}}, ["sql"]),
    schema.function_tool("python", "Run Python code in a sandbox", {"code": {"type": "string"}}, ["code"]),
    schema.function_tool("read_file", "Read a file of the workspace", {"path": {"type": "string"}}, ["path"]),
    schema.function_tool("write_file", "Write a file of the workspace", {"path": {"type": "string"}, "text": {"type": "string"}}, ["path", "text"]),
    schema.function_tool("list_files", "List the files of the workspace", {}, []),
    schema.function_tool("retrieve", "Find passages in the user's documents", {"query": {"type": "string"}}, ["query"]),
)  # fmt: skip
"""Further tools an agent may offer: nobody in the curriculum asks for them."""


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The tools of one prompt, and which of them serves what."""

    tools: tuple[Tool, ...]
    dressed: tuple[Dressed, ...]

    def name_and_arguments(self, step: Step) -> tuple[str, dict[str, Any]]:
        server = next(tool for tool in self.dressed if step.operation in tool.spec.serves)
        return step.wrong_name or server.name, server.arguments(step.operation, step.arguments)

    def said(self, step: Step) -> str:
        """The result; an error that speaks of the tool and its parameters speaks of this prompt's."""
        if "<" not in step.result:
            return step.result
        server = next(tool for tool in self.dressed if step.operation in tool.spec.serves)
        parameters = server.tool["function"]["parameters"]
        expected = {"properties": parameters["properties"], "required": parameters["required"]}
        shown = step.result.replace(TOOL, server.name).replace(SCHEMA, json.dumps(expected, ensure_ascii=False))
        for canonical, renamed in server.renamed.items():
            shown = shown.replace(f"<{canonical}>", renamed)
        return shown


def toolbox(rng: Random, operations: set[str], language: Language, avoid: Sequence[str] = ()) -> Toolbox:
    """Tools that serve `operations` and some that do not; none serves any of `avoid`.

    In two thirds they are the shipped agent's own; else under other names, as `schema.dress` has it.
    """
    if rng.random() < 0.66:
        return _own_tools(rng, operations, avoid)
    specs: list[schema.Spec] = []
    for operation in sorted(operations):
        taken = {name for spec in specs for name in spec.serves}
        if operation not in taken:
            specs.append(rng.choice([s for s in SPECS if operation in s.serves and not taken & set(s.serves)]))
    count = len(specs) + rng.choice((0, 0, 1, 1, 2))
    for spec in rng.sample((*SPECS, *schema.BYSTANDERS), len(SPECS) + len(schema.BYSTANDERS)):
        taken = {name for chosen in specs for name in chosen.serves} | set(avoid)
        if len(specs) < count and spec not in specs and not taken & set(spec.serves):
            specs.append(spec)
    rng.shuffle(specs)
    dressed = [schema.dress(rng, spec, language) for spec in specs]
    if len({tool.name for tool in dressed}) < len(dressed):
        return toolbox(rng, operations, language, avoid)
    return Toolbox(tuple(tool.tool for tool in dressed), tuple(dressed))


def _own_tools(rng: Random, operations: set[str], avoid: Sequence[str]) -> Toolbox:
    """All of the shipped tools, or some, with further ones now and then."""
    needed = [spec for spec in CANONICAL if operations & set(spec.serves)]
    allowed = [spec for spec in CANONICAL if not set(avoid) & set(spec.serves)]
    if rng.random() < 0.5:
        specs = allowed
    else:
        extra = [spec for spec in allowed if spec not in needed]
        chosen = rng.sample(extra, rng.randint(0, len(extra)))
        specs = [spec for spec in CANONICAL if spec in needed or spec in chosen]
    if rng.random() < 0.3:
        specs = rng.sample(specs, len(specs))
    dressed = tuple(
        Dressed(spec, _own_tool(rng, spec), {p.names[0]: p.names[0] for p in spec.parameters}) for spec in specs
    )
    tools = [tool.tool for tool in dressed]
    for other in rng.sample(_OTHERS, rng.choice((0, 0, 0, 1, 1, 2, 3))):
        tools.insert(rng.randint(0, len(tools)), other)
    return Toolbox(tuple(tools), dressed)


def _own_tool(rng: Random, spec: schema.Spec) -> Tool:
    """As `schema.canonical_tool`, sometimes described in other words."""
    tool = schema.canonical_tool(spec)
    if rng.random() < 0.6:
        return tool
    function = tool["function"]
    properties = dict(function["parameters"]["properties"])
    if rng.random() < 0.4:
        for parameter in spec.parameters:
            if parameter.note:
                properties[parameter.names[0]] = {**properties[parameter.names[0]], "description": parameter.note}
    description = rng.choice((*spec.en, *spec.zh))
    return schema.function_tool(function["name"], description, properties, function["parameters"]["required"])


def messages_of(box: Toolbox, trajectory: Trajectory, mistake_field: str) -> list[Message]:
    """The conversation from the first user's text to the answer."""
    out: list[dict[str, Any]] = []
    for text, rounds, answer in (*trajectory.earlier, (trajectory.text, trajectory.rounds, trajectory.answer)):
        out.append({"role": "user", "content": text})
        for round_ in rounds:
            message = tool_calls_message([box.name_and_arguments(step) for step in round_])
            if any(step.wrong for step in round_):
                message[mistake_field] = True
            out.append(message)
            out += [{"role": "tool", "content": box.said(step)} for step in round_]
        out.append({"role": "assistant", "content": answer})
    return list(out)
