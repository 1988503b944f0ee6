"""A training sample, and the one function that turns a conversation into model input.

The built-in model speaks DeepSeek V3.1's own chat format::

    <｜begin▁of▁sentence｜>{system}{tools}<｜User｜>{text}<｜Assistant｜></think>{answer}<｜end▁of▁sentence｜>

A tool call takes the answer's place, and its result is followed by the answer proper::

    <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{"a": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>
    <｜tool▁output▁begin｜>RESULT<｜tool▁output▁end｜>{answer}<｜end▁of▁sentence｜>

DeepSeek writes tool schemas into the system prompt under ``## Tools``; here each takes one compact line
(``{"expression": "string"}``), because a context of 512 tokens has no room for JSON Schema.

`render` cuts the text at the template's literals. Only those become special ids: everything between two of them
is one segment, encoded with special tokens disabled, so no user text or tool result can forge a turn or a call.
``deepseek/models/builtin/chat_template.jinja`` renders the same text; a test holds the two together.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tokenizers import Tokenizer

from deepseek.core.errors import TokenizerError

BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"
PAD = "<｜▁pad▁｜>"
USER = "<｜User｜>"
ASSISTANT = "<｜Assistant｜>"
THINK = "<think>"
END_THINK = "</think>"
CALLS_BEGIN = "<｜tool▁calls▁begin｜>"
CALL_BEGIN = "<｜tool▁call▁begin｜>"
TOOL_SEP = "<｜tool▁sep｜>"
CALL_END = "<｜tool▁call▁end｜>"
CALLS_END = "<｜tool▁calls▁end｜>"
OUTPUTS_BEGIN = "<｜tool▁outputs▁begin｜>"
OUTPUT_BEGIN = "<｜tool▁output▁begin｜>"
OUTPUT_END = "<｜tool▁output▁end｜>"
OUTPUTS_END = "<｜tool▁outputs▁end｜>"

SPECIAL_TOKENS: tuple[str, ...] = (
    BOS, EOS, PAD, USER, ASSISTANT, THINK, END_THINK, CALLS_BEGIN, CALL_BEGIN, TOOL_SEP, CALL_END, CALLS_END,
    OUTPUTS_BEGIN, OUTPUT_BEGIN, OUTPUT_END, OUTPUTS_END,
)  # fmt: skip
"""DeepSeek's literals, in the order of their ids 0, 1, 2, …"""

MISTAKE = "mistake"
"""A field of an assistant message that is there to be corrected: it is rendered, and never learnt."""

Language = Literal["en", "zh"]
Kind = Literal["call", "reading", "no_call", "plain", "trajectory"]
Message = Mapping[str, Any]
Tool = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of rendered text: either one template literal, or the content between two of them.

    `loss` marks what the assistant writes itself, calls and the end of its turn included.
    """

    text: str
    special: bool
    loss: bool


@dataclass(frozen=True, slots=True)
class Expected:
    """What a right answer to the sample is: a call with exactly these arguments, or a text containing `fact`."""

    fact: str = ""
    name: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_call(self) -> bool:
        return bool(self.name)


@dataclass(frozen=True, slots=True)
class Turn:
    """One message that the assistant writes: what it sees before, and what is right. `calls`: exactly these, in order."""

    prompt: tuple[Segment, ...]
    calls: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    fact: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """One conversation in OpenAI form, ending with the assistant message that `expected` describes.

    `phrasing` identifies the template the user's words came from; `withheld` says that it is never trained on.
    """

    family: str
    kind: Kind
    language: Language
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    expected: Expected
    phrasing: str
    withheld: bool

    @property
    def user_text(self) -> str:
        """What the user said last."""
        return next(str(m["content"]) for m in reversed(self.messages) if m["role"] == "user")

    def segments(self) -> list[Segment]:
        return render(self.messages, self.tools)

    def prompt(self) -> list[Segment]:
        """All that the model sees before it writes the last assistant message."""
        return render(self.messages[:-1], self.tools, add_generation_prompt=True)

    def turns(self) -> list[Turn]:
        """What the assistant writes after the user's last words, message by message; mistakes are given, not asked."""
        if self.kind != "trajectory":
            wanted = self.expected
            call = ((wanted.name, wanted.arguments),) if wanted.is_call else ()
            return [Turn(tuple(self.prompt()), call, wanted.fact)]
        first = 1 + max(place for place, message in enumerate(self.messages) if message["role"] == "user")
        out = []
        for place, message in enumerate(self.messages[first:], first):
            if message["role"] != "assistant" or message.get(MISTAKE):
                continue
            functions = [call["function"] for call in message.get("tool_calls") or ()]
            calls = tuple((function["name"], json.loads(function["arguments"])) for function in functions)
            prompt = tuple(render(self.messages[:place], self.tools, add_generation_prompt=True))
            out.append(Turn(prompt, calls, "" if calls else self.expected.fact))
        return out


def render(
    messages: Iterable[Message], tools: Sequence[Tool] = (), *, add_generation_prompt: bool = False
) -> list[Segment]:
    """Render OpenAI-style `messages` and `tools` to segments; joined, their texts equal the jinja template's output."""
    messages = list(messages)
    system = "\n\n".join(str(m["content"]) for m in messages if m["role"] == "system")
    out = [Segment(BOS, True, False)]
    head = system + render_tools(tools)
    if head:
        out.append(Segment(head, False, False))
    after_user = False
    for message in messages:
        role, content = message["role"], message.get("content") or ""
        if role == "user":
            _put(out, (USER, True), (content, False), loss=False)
            after_user = True
        elif role == "assistant":
            if after_user:
                _put(out, (ASSISTANT, True), (END_THINK, True), loss=False)
            after_user = False
            own = not message.get(MISTAKE)
            _put(out, (content, False), loss=own)
            calls = message.get("tool_calls") or []
            if calls:
                _put(out, (CALLS_BEGIN, True), loss=own)
                for call in calls:
                    function = call["function"]
                    arguments = dump_arguments(function["arguments"])
                    _put(out, (CALL_BEGIN, True), (function["name"], False), (TOOL_SEP, True), loss=own)
                    _put(out, (arguments, False), (CALL_END, True), loss=own)
                _put(out, (CALLS_END, True), loss=own)
            _put(out, (EOS, True), loss=own)
        elif role == "tool":
            after_user = False
            _put(out, (OUTPUT_BEGIN, True), (content, False), (OUTPUT_END, True), loss=False)
    if add_generation_prompt and after_user:
        _put(out, (ASSISTANT, True), (END_THINK, True), loss=False)
    return out


def _put(out: list[Segment], *pieces: tuple[str, bool], loss: bool) -> None:
    out.extend(Segment(text, special, loss) for text, special in pieces if text)


def render_tools(tools: Sequence[Tool]) -> str:
    """The ``## Tools`` block: for each function its name, its description and one line of parameters."""
    if not tools:
        return ""
    blocks = []
    for tool in tools:
        function = tool["function"]
        description = function.get("description") or ""
        line = description + "\n" if description else ""
        blocks.append(f"\n\n### {function['name']}\n{line}{_render_parameters(function.get('parameters') or {})}")
    return "\n\n## Tools" + "".join(blocks)


def _render_parameters(parameters: Mapping[str, Any]) -> str:
    required = parameters.get("required")
    pairs = []
    for name, schema in (parameters.get("properties") or {}).items():
        optional = "?" if required is not None and name not in required else ""
        note = f": {schema['description']}" if schema.get("description") else ""
        pairs.append(f'"{name}": "{_render_type(schema)}{optional}{note}"')
    return "{" + ", ".join(pairs) + "}"


def _render_type(schema: Mapping[str, Any]) -> str:
    if schema.get("enum"):
        return "|".join(str(value) for value in schema["enum"])
    return schema["type"] if isinstance(schema.get("type"), str) else "any"


def dump_arguments(arguments: str | Mapping[str, Any]) -> str:
    """A call's arguments as the model writes them: JSON, ``", "`` and ``": "`` between, nothing escaped to ASCII."""
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def encode_segments(segments: Sequence[Segment], tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """Token ids, and for each whether the assistant wrote it (the positions a loss on answers alone counts).

    Raises:
        TokenizerError: the tokenizer does not know one of the template's literals.
    """
    tokenizer.encode_special_tokens = True  # a literal inside content is encoded as plain text
    ids: list[int] = []
    mask: list[bool] = []
    for segment in segments:
        if segment.special:
            piece = [literal_id(tokenizer, segment.text)]
        else:
            piece = tokenizer.encode(segment.text, add_special_tokens=False).ids
        ids += piece
        mask += [segment.loss] * len(piece)
    return ids, mask


def literal_id(tokenizer: Tokenizer, literal: str) -> int:
    """The id of a template literal.

    Raises:
        TokenizerError: the tokenizer does not know it.
    """
    token_id = tokenizer.token_to_id(literal)
    if token_id is None:
        raise TokenizerError(
            "the tokenizer lacks a literal of the chat template",
            found=f"no token {literal!r}",
            expected="DeepSeek's special tokens",
            fix="use the built-in model's tokenizer.json",
        )
    return int(token_id)


def encode(sample: Sample, tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """`encode_segments` of the whole sample."""
    return encode_segments(sample.segments(), tokenizer)


def text_of(segments: Sequence[Segment]) -> str:
    """The rendered text, literals included."""
    return "".join(segment.text for segment in segments)


def tool_call_message(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """An assistant message that makes one call, in OpenAI form."""
    return tool_calls_message([(name, arguments)])


def tool_calls_message(calls: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """An assistant message that makes `calls`, in OpenAI form."""
    made = [
        {"id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": dump_arguments(arguments)}}
        for index, (name, arguments) in enumerate(calls)
    ]
    return {"role": "assistant", "content": None, "tool_calls": made}
