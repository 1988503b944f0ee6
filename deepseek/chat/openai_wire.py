"""A conversation in the form of OpenAI's chat completions, written and read: what `remote` says to a server and hears.

Reading is forgiving where servers differ: arguments in one piece or many, calls without an index or an id, thinking as
`reasoning_content` or `reasoning`, usage with the last chunk or in one of its own.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deepseek.chat.calls import new_call_id
from deepseek.chat.turns import TurnBuilder
from deepseek.core.deltas import Delta, TextDelta, ThinkingDelta, ToolCallArguments, ToolCallEnd, ToolCallStart
from deepseek.core.engine import Usage
from deepseek.core.errors import AdmissionError, ModelError
from deepseek.core.language import Turn, TurnEnd
from deepseek.core.messages import (
    MediaPart,
    Message,
    NamedTool,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
    ToolSpec,
)
from deepseek.core.sampling import SamplingParams

Json = dict[str, Any]

# OpenAI's words for the ends of an answer. What is not among them counts as "stop".
_ENDS: dict[str, TurnEnd] = {"length": "length", "content_filter": "cancelled"}
MAX_CALLS = 256


def request_body(
    model: str,
    messages: Sequence[Message],
    tools: Sequence[ToolSpec],
    choice: ToolChoice,
    parallel: bool,
    schema: Mapping[str, object] | None,
    sampling: SamplingParams | None,
) -> Json:
    """What is posted. Raises AdmissionError for sampling that these APIs have no field for."""
    body: Json = {"model": model, "messages": [entry for message in messages for entry in _entries(message)]}
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    if tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
            }
            for tool in tools
        ]
        named = isinstance(choice, NamedTool)
        body["tool_choice"] = {"type": "function", "function": {"name": choice.name}} if named else choice  # type: ignore[union-attr]
        if not parallel:
            body["parallel_tool_calls"] = False
    if schema is not None:
        form = {"name": "answer", "schema": dict(schema), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    if sampling is not None:
        body |= _sampling(sampling)
    return body


def _sampling(sampling: SamplingParams) -> Json:
    """Only what differs from everybody's default, but for max_tokens and temperature, whose defaults differ."""
    if sampling.n != 1:
        raise AdmissionError("a turn is one answer", where="n", found=sampling.n, expected="1")
    default = SamplingParams()
    fields: Json = {"max_tokens": sampling.max_tokens, "temperature": sampling.temperature}
    for name in ("top_p", "seed", "frequency_penalty", "presence_penalty"):
        if getattr(sampling, name) != getattr(default, name):
            fields[name] = getattr(sampling, name)
    if sampling.stop:
        fields["stop"] = list(sampling.stop)
    # Beyond OpenAI's own, by the names that vLLM's users and ours know.
    for name in ("top_k", "min_p", "repetition_penalty", "min_tokens", "ignore_eos"):
        if getattr(sampling, name) != getattr(default, name):
            fields[name] = getattr(sampling, name)
    if sampling.logit_bias:
        fields["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias}
    return fields


def _entries(message: Message) -> list[Json]:
    results = [part for part in message.parts if isinstance(part, ToolResultPart)]
    entries: list[Json] = [{"role": "tool", "tool_call_id": part.call_id, "content": part.text} for part in results]
    if message.role == "tool":
        return entries
    if any(isinstance(part, MediaPart) for part in message.parts):
        content: Any = [_content(part) for part in message.parts if isinstance(part, TextPart | MediaPart)]
    else:
        content = message.text
    entry: Json = {"role": message.role, "content": content}
    calls = [part for part in message.parts if isinstance(part, ToolCallPart)]
    if calls:
        entry["content"] = message.text or None
        entry["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ]
        thought = "".join(part.text for part in message.parts if isinstance(part, ThinkingPart))
        if thought:  # DeepSeek wants the thinking of a turn that goes on after its calls, and of no other
            entry["reasoning_content"] = thought
    return [*entries, entry]


def _content(part: TextPart | MediaPart) -> Json:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    url = part.url or f"data:{part.media_type};base64,{base64.b64encode(part.data).decode()}"
    if part.kind == "audio":
        form = part.media_type.partition("/")[2].removeprefix("x-")
        return {"type": "input_audio", "input_audio": {"data": url.partition(",")[2], "format": form}}
    kind = f"{part.kind}_url"
    return {"type": kind, kind: {"url": url}}


@dataclass(slots=True)
class _Call:
    """A call on its way. index: its number in the answer."""

    index: int
    arguments: list[str] = field(default_factory=list)

    def end(self) -> list[Delta]:
        """What ends it; one without arguments has none: `{}`."""
        missing: list[Delta] = [] if self.arguments else [ToolCallArguments(self.index, "{}")]
        return [*missing, ToolCallEnd(self.index)]

    def is_object(self) -> bool:
        try:
            return isinstance(json.loads("".join(self.arguments)), dict)
        except (ValueError, RecursionError):
            return False


class AnswerReader:
    """Reads chunks of one answer (or the whole of it, from a server that does not stream) to deltas and a turn."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._built = TurnBuilder()
        self._calls: dict[object, _Call] = {}  # by the server's index or id
        self._open: _Call | None = None
        self._finish: str | None = None
        self._usage: Usage | None = None
        self._chunks = 0

    @property
    def finished(self) -> bool:
        return self._finish is not None

    def feed(self, chunk: object) -> list[Delta]:
        """What a chunk says. Raises ModelError for one that is none."""
        if not isinstance(chunk, dict):
            raise self._broken(chunk)
        if chunk.get("error"):
            raise ModelError("the server broke off", retryable=True, where=self._where, found=_said(chunk["error"]))
        self._read_usage(chunk.get("usage"))
        choices = chunk.get("choices") or []
        if not isinstance(choices, list) or not all(isinstance(one, dict) for one in choices):
            raise self._broken(choices)
        deltas: list[Delta] = []
        for one in choices[:1]:
            said = one.get("delta") or one.get("message") or {}
            if not isinstance(said, dict):
                raise self._broken(said)
            deltas += self._deltas(said)
            if isinstance(one.get("finish_reason"), str):
                self._finish = one["finish_reason"]
        self._chunks += bool(deltas)
        self._built.add(deltas)
        return deltas

    def close(self, end: TurnEnd | None = None) -> list[Delta]:
        """What is certain once no more comes. end: why, where it was not the server's choice."""
        cut = end is not None or self._finish in (None, "length", "content_filter")
        # A call whose arguments are an object is whole, wherever the answer was cut off.
        deltas: list[Delta] = []
        if self._open is not None and (not cut or self._open.is_object()):
            deltas += self._open.end()
        self._open = None
        self._built.add(deltas)
        return deltas

    def turn(self, end: TurnEnd | None = None) -> Turn:
        """After `close`."""
        reason: TurnEnd = end or _ENDS.get(self._finish or "length", "stop")
        usage = self._usage or Usage(0, self._chunks)
        return Turn(self._built.message(), "calls" if self._built.calls else reason, usage, self._built.cut)

    def _deltas(self, said: Json) -> list[Delta]:
        deltas: list[Delta] = []
        thought = said.get("reasoning_content") or said.get("reasoning")
        if isinstance(thought, str):
            deltas.append(ThinkingDelta(thought))
        for text in (said.get("content"), said.get("refusal")):
            if isinstance(text, str) and text:
                deltas.append(TextDelta(text))
        pieces = said.get("tool_calls") or []
        if not isinstance(pieces, list):
            raise self._broken(pieces)
        for piece in pieces:
            deltas += self._call(piece)
        return deltas

    def _call(self, piece: object) -> list[Delta]:
        if not isinstance(piece, dict) or not isinstance(piece.get("function") or {}, dict):
            raise self._broken(piece)
        function: Json = piece.get("function") or {}
        name, text, call_id = function.get("name"), function.get("arguments"), piece.get("id")
        key: object = piece.get("index", call_id)
        deltas: list[Delta] = []
        call = self._calls.get(key) if key is not None else self._open
        if call is None or (key is None and name):
            if not isinstance(name, str) or not name or len(self._calls) >= MAX_CALLS:
                raise self._broken(piece)
            if self._open is not None:
                deltas += self._open.end()
            call = self._open = self._calls[key if key is not None else object()] = _Call(len(self._calls))
            deltas.append(ToolCallStart(call.index, call_id if isinstance(call_id, str) else new_call_id(), name))
        if call is not self._open:
            raise self._broken(piece)
        if isinstance(text, dict):
            text = json.dumps(text, ensure_ascii=False)
        if isinstance(text, str) and text:
            call.arguments.append(text)
            deltas.append(ToolCallArguments(call.index, text))
        return deltas

    def _read_usage(self, usage: object) -> None:
        if not isinstance(usage, dict):
            return
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
        details = usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else usage.get("prompt_cache_hit_tokens")
        if isinstance(prompt, int) and isinstance(completion, int):
            self._usage = Usage(prompt, completion, cached if isinstance(cached, int) else 0)

    def _broken(self, found: object) -> ModelError:
        return ModelError("the server's answer cannot be read", where=self._where, found=repr(found)[:200])


def _said(error: object) -> str:
    message = error.get("message") if isinstance(error, dict) else None
    return str(message or error)[:500]
