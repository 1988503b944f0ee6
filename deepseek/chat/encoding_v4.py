"""Conversations as DeepSeek-V4 prompts.

V4's checkpoints bring no chat template but a program (`encoding/` in deepseek-ai/DeepSeek-V4-Pro, later the package
deepseek-recipe; both MIT). This is what deepseek-recipe 0.2 writes, in the form that keeps control tokens apart from
what people wrote:

    <｜begin▁of▁sentence｜>{system}{tools}<｜User｜>{text}<｜Assistant｜></think>{answer}{calls}<｜end▁of▁sentence｜>...

There is no role for tools: a result is a user's text, `<tool_result>...</tool_result>`, in the order of the calls.
What was thought in earlier turns is left out, unless there are tools: then an answer is
`<think>{thinking}</think>{text}`. Thinking is asked for at the very beginning, and opened at the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from deepseek.chat.dsml import DSML
from deepseek.chat.markup import THINK_BEGIN, THINK_END
from deepseek.chat.scanner import Marker
from deepseek.core.messages import Message, TextPart, ThinkingPart, ToolCallPart, ToolResultPart, ToolSpec

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"

# Word for word what the model was trained on.
_TOOLS = f"""## Tools

You have access to a set of tools to help answer the user's question. You can invoke tools by writing a \
"<{DSML}tool_calls>" block like the following:

<{DSML}tool_calls>
<{DSML}invoke name="$TOOL_NAME">
<{DSML}parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</{DSML}parameter>
...
</{DSML}invoke>
<{DSML}invoke name="$TOOL_NAME2">
...
</{DSML}invoke>
</{DSML}tool_calls>

String parameters should be specified as is and set `string="true"`. For all other types (numbers, booleans, arrays, \
objects), pass the value in JSON format and set `string="false"`.

If thinking_mode is enabled (triggered by {THINK_BEGIN}), you MUST output your complete reasoning inside \
{THINK_BEGIN}...{THINK_END} BEFORE any tool calls or final response.

Otherwise, output directly after {THINK_END} with tool calls or final response.

### Available Tool Schemas

"""
_EFFORT = """Reasoning Effort: Absolute maximum with no shortcuts permitted.
You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve the root cause, \
rigorously stress-testing your logic against all potential paths, edge cases, and adversarial scenarios.
Explicitly write out your entire deliberation process, documenting every intermediate step, considered alternative, \
and rejected hypothesis to ensure absolutely no assumption is left unchecked.

"""
_TOOLS_END = """

You MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.
"""


def pieces(
    messages: Sequence[Message], tools: Sequence[ToolSpec], control_tokens: Sequence[str], *, thinking: bool
) -> list[tuple[str, bool]]:
    """The prompt up to where the assistant speaks, cut into (text, False) and (control token, True)."""
    out = _Pieces(control_tokens)
    out.own(BOS + (_EFFORT if thinking else ""))
    out.text(_paragraphs(message.text for message in messages if message.role == "system"))
    if tools:
        _write_tools(out, tools)
    for role, parts in _turns(messages):
        if role == "user":
            out.own(USER)
            _write_user(out, parts)
        else:
            _write_assistant(out, parts[0], thinking=bool(tools))
    out.own(ASSISTANT + (THINK_BEGIN if thinking else THINK_END))
    return out.cut


Turn = tuple[str, list[Any]]


def _turns(messages: Sequence[Message]) -> list[Turn]:
    """Roles and what they said. Neighbouring users are one, and so is a user behind results of tools."""
    turns: list[Turn] = []
    order: dict[str, int] = {}
    orders: dict[int, dict[str, int]] = {}  # by the turn whose results follow it
    for message in messages:
        if message.role == "system":
            continue
        if message.role == "assistant":
            calls = [part for part in message.parts if isinstance(part, ToolCallPart)]
            order = {call.id: index for index, call in enumerate(calls)} if calls else order
            turns.append(("assistant", [message]))
            continue
        results = [part for part in message.parts if isinstance(part, ToolResultPart)]
        said: list[Any] = [*results] if message.role == "tool" else [*results, TextPart(message.text)]
        last = turns[-1][1] if turns and turns[-1][0] == "user" else None
        if last is None or (results and not isinstance(last[-1], ToolResultPart)):
            turns.append(("user", said))
        elif isinstance(last[-1], TextPart):
            last[-1] = TextPart(_paragraphs([last[-1].text, message.text]))
        else:
            last.extend(said)
        orders[len(turns) - 1] = order
    for index, order in orders.items():
        _sort_results(turns[index][1], order, last=index + 1 == len(turns))
    return turns


def _paragraphs(texts: Iterable[str]) -> str:
    return "\n\n".join(text for text in texts if text)


def _sort_results(turn: list[Any], order: Mapping[str, int], *, last: bool) -> None:
    """Put results in the order of their calls; not while some are still to come."""
    places = [index for index, part in enumerate(turn) if isinstance(part, ToolResultPart)]
    if last and places[-1:] == [len(turn) - 1] and not order.keys() <= {turn[place].call_id for place in places}:
        return
    results = sorted((turn[place] for place in places), key=lambda result: order.get(result.call_id, len(order)))
    for place, result in zip(places, results, strict=True):
        turn[place] = result


def _write_tools(out: _Pieces, tools: Sequence[ToolSpec]) -> None:
    out.own("\n\n" + _TOOLS)
    schemas = [{"name": tool.name, "description": tool.description, "parameters": tool.parameters} for tool in tools]
    out.text("\n".join(json.dumps(schema, ensure_ascii=False) for schema in schemas))
    out.own(_TOOLS_END)


def _write_user(out: _Pieces, parts: Sequence[Any]) -> None:
    for index, part in enumerate(parts):
        out.text("\n\n" if index else "")
        out.text(f"<tool_result>{part.text}</tool_result>" if isinstance(part, ToolResultPart) else part.text)


def _write_assistant(out: _Pieces, message: Message, *, thinking: bool) -> None:
    thought = "".join(part.text for part in message.parts if isinstance(part, ThinkingPart)) if thinking else ""
    out.own(ASSISTANT + (THINK_BEGIN if thought else ""))
    out.text(thought)
    out.own(THINK_END)
    out.text(message.text)
    calls = [part for part in message.parts if isinstance(part, ToolCallPart)]
    if calls:
        out.own(f"\n\n<{DSML}tool_calls>\n")
        for index, call in enumerate(calls):
            out.own(("\n" if index else "") + f'<{DSML}invoke name="')
            out.text(call.name)
            out.own('">\n')
            _write_arguments(out, call.arguments)
            out.own(f"</{DSML}invoke>")
        out.own(f"\n</{DSML}tool_calls>")
    out.own(EOS)


def _write_arguments(out: _Pieces, arguments: str) -> None:
    try:
        values = json.loads(arguments)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        values = {"arguments": arguments}
    for name, value in values.items():
        is_string = isinstance(value, str)
        out.own(f'<{DSML}parameter name="')
        out.text(name)
        out.own(f'" string="{"true" if is_string else "false"}">')
        out.text(value if is_string else json.dumps(value, ensure_ascii=False))
        out.own(f"</{DSML}parameter>\n")


class _Pieces:
    """The prompt as it grows. Neighbouring pieces of text are one."""

    def __init__(self, control_tokens: Sequence[str]) -> None:
        self._tokens = sorted(control_tokens, key=len, reverse=True)
        self.cut: list[tuple[str, bool]] = []

    def text(self, text: str) -> None:
        if text and self.cut and not self.cut[-1][1]:
            self.cut[-1] = (self.cut[-1][0] + text, False)
        elif text:
            self.cut.append((text, False))

    def own(self, text: str) -> None:
        """Text of this program: the control tokens in it are such."""
        at = 0
        for begin in Marker.of(text, self._tokens).controls:
            self.text(text[at:begin])
            token = next(token for token in self._tokens if text.startswith(token, begin))
            self.cut.append((token, True))
            at = begin + len(token)
        self.text(text[at:])
