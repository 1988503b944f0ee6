"""The bytes of a response: its object, whole, or the events by which it comes to be, in the order of OpenAI's API.

    response.created, response.in_progress
    for each item of the output:
        response.output_item.added
        a message, or what was thought: response.content_part.added, response.output_text.delta ... .done (or
            response.reasoning_text.delta ... .done), response.content_part.done
        a call: response.function_call_arguments.delta ... .done
        response.output_item.done
    response.completed | response.incomplete | response.failed

Each has a `sequence_number`, counted from 0.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from deepseek.api.answer import ServerSentEvents
from deepseek.api.dialects.chat_dialect import limited_by, refuse_cancelled
from deepseek.api.dialects.logprobs import openai_entries
from deepseek.api.problems import Problem
from deepseek.api.spoken import Spoken, ThinkingCount
from deepseek.api.state import TextCodec
from deepseek.api.wire import dump_json, sse_frame
from deepseek.chat.parsing import StreamParser
from deepseek.core.deltas import Delta, TextDelta, ThinkingDelta, ToolCallArguments, ToolCallStart
from deepseek.core.engine import Finish, FinishReason, PromptScores, TokenLogprob, Tokens, Usage

Kind = Literal["message", "reasoning"]
PART = {"message": "output_text", "reasoning": "reasoning_text"}


@dataclass(slots=True)
class _Open:
    """An item that is being written. at: its place in the output. pieces: of its text or arguments."""

    item: dict[str, Any]
    at: int
    kind: Kind | Literal["function_call"]
    pieces: list[str] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)


class ResponseDialect(ServerSentEvents):
    """One response. document: the object without its output, which grows while events are read."""

    envelope = "openai"

    def __init__(
        self, document: dict[str, Any], text: TextCodec, parser: StreamParser, *, logprobs: bool, stream: bool
    ) -> None:
        self.parsers = (parser,)
        self.document = document
        self.ended = False
        self.cancelled = False
        """Set by whoever ends it on the client's behalf, so that its end is told from the server's."""
        self._output: list[dict[str, Any]] = document["output"]
        self._text, self._logprobs, self._stream = text, logprobs, stream
        self._number = 0
        self._frames: list[bytes] = []
        self._open: _Open | None = None
        self._calls: dict[int, _Open] = {}
        self._thinking = ThinkingCount()
        self._unsaid: list[dict[str, Any]] = []

    def opening(self) -> bytes:
        self._emit("response.created", response=self.document)
        self._emit("response.in_progress", response=self.document)
        return self._written()

    def delta(self, tokens: Tokens, deltas: Sequence[Delta]) -> bytes:
        self._thinking.add(tokens, deltas)
        self._say(deltas, tokens.logprobs or ())
        return self._written()

    def closing(self, finish: Finish, deltas: Mapping[int, Sequence[Delta]]) -> bytes:
        self._end(finish.reasons[0], finish.usage, deltas.get(0, ()), self._thinking.tokens, finish.budget)
        return self._written()

    def whole(self, choices: Sequence[Spoken], scores: Sequence[PromptScores], finish: Finish) -> bytes:
        spoken = choices[0]
        self._say(spoken.deltas, tuple(spoken.logprobs()))
        self._end(spoken.reason, finish.usage, (), spoken.thinking_tokens, finish.budget)
        return dump_json(self.document)

    def failure(self, problem: Problem, instance: str | None) -> bytes:
        self._finish_items("incomplete")
        code = problem.kind.replace("-", "_")
        self.document["status"] = "failed"
        self.document["error"] = {
            "code": "rate_limit_exceeded" if problem.status == 429 else "server_error",
            "message": problem.detail,
        }
        self.ended = True
        self._emit("error", code=code, message=problem.detail, param=None)
        self._emit("response.failed", response=self.document)
        return self._written()

    def _end(
        self, reason: FinishReason, usage: Usage, rest: Sequence[Delta], thinking: int, budget: str | None
    ) -> None:
        if not self.cancelled:
            refuse_cancelled(reason)
        self._say(rest, ())
        whole = reason == "stop"
        if whole and not self._output:
            self._open_item("message")
        self._finish_items("completed" if whole else "incomplete")
        self.document["status"] = "completed" if whole else "cancelled" if reason == "cancelled" else "incomplete"
        self.document["usage"] = response_usage(usage, thinking)
        if whole:
            self.document["completed_at"] = int(time.time())
        elif reason != "cancelled":
            self.document["incomplete_details"] = {"reason": "max_output_tokens"}
        self.document |= limited_by(reason, budget)
        self.ended = True
        self._emit("response.completed" if whole else "response.incomplete", response=self.document)

    def _say(self, deltas: Sequence[Delta], logprobs: Sequence[TokenLogprob]) -> None:
        entries = openai_entries(logprobs, self._text) if self._logprobs and logprobs else []
        silent = all(isinstance(delta, TextDelta) and not delta.text for delta in deltas)
        if silent and (self._open is None or self._open.kind == "message"):
            self._unsaid += entries  # half a character: its scores go with what completes it
        for delta in deltas:
            if isinstance(delta, TextDelta | ThinkingDelta):
                if delta.text:
                    self._add_text("message" if isinstance(delta, TextDelta) else "reasoning", delta.text, entries)
                    entries = []
            elif isinstance(delta, ToolCallStart):
                self._begin_call(delta)
            elif isinstance(delta, ToolCallArguments):
                call = self._calls[delta.index]
                call.pieces.append(delta.text)
                self._emit("response.function_call_arguments.delta", **_place(call), delta=delta.text)
            else:
                self._end_call(self._calls.pop(delta.index), "completed")

    def _add_text(self, kind: Kind, text: str, entries: list[dict[str, Any]]) -> None:
        if self._open is None or self._open.kind != kind:
            self._close_open("completed")
            self._open_item(kind)
        opened = self._open
        assert opened is not None
        opened.pieces.append(text)
        place = {**_place(opened), "content_index": 0, "delta": text}
        if kind == "message":
            place["logprobs"], self._unsaid = self._unsaid + entries, []
            opened.logprobs += place["logprobs"]
        self._emit(f"response.{PART[kind]}.delta", **place)

    def _open_item(self, kind: Kind) -> None:
        if kind == "message":
            item = {
                "id": _new_id("msg"),
                "type": "message",
                "status": "in_progress",
                "role": "assistant",
                "content": [],
            }
        else:
            item = {"id": _new_id("rs"), "type": "reasoning", "status": "in_progress", "summary": [], "content": []}
        self._open = self._added(item, kind)
        part = _part(kind, "", [])
        self._emit("response.content_part.added", **_place(self._open), content_index=0, part=part)

    def _close_open(self, status: str) -> None:
        opened, self._open = self._open, None
        if opened is None or opened.kind == "function_call":
            return
        text = "".join(opened.pieces)
        opened.logprobs += self._unsaid
        self._unsaid = []
        part = _part(opened.kind, text, opened.logprobs)
        done = {**_place(opened), "content_index": 0, "text": text}
        if opened.kind == "message":
            done["logprobs"] = opened.logprobs
        self._emit(f"response.{PART[opened.kind]}.done", **done)
        self._emit("response.content_part.done", **_place(opened), content_index=0, part=part)
        opened.item["content"] = [part]
        self._done(opened, status)

    def _begin_call(self, start: ToolCallStart) -> None:
        self._close_open("completed")
        item = {
            "id": _new_id("fc"),
            "type": "function_call",
            "status": "in_progress",
            "call_id": start.id,
            "name": start.name,
            "arguments": "",
        }
        self._calls[start.index] = self._added(item, "function_call")

    def _end_call(self, call: _Open, status: str) -> None:
        call.item["arguments"] = "".join(call.pieces)
        self._emit(
            "response.function_call_arguments.done",
            **_place(call),
            name=call.item["name"],
            arguments=call.item["arguments"],
        )
        self._done(call, status)

    def _finish_items(self, status: str) -> None:
        """Close what is open. A call without an end was cut off, however the answer ended."""
        self._close_open(status)
        for call in self._calls.values():
            self._end_call(call, "incomplete")
        self._calls.clear()

    def _added(self, item: dict[str, Any], kind: Kind | Literal["function_call"]) -> _Open:
        self._output.append(item)
        opened = _Open(item, len(self._output) - 1, kind)
        self._emit("response.output_item.added", output_index=opened.at, item=item)
        return opened

    def _done(self, opened: _Open, status: str) -> None:
        opened.item["status"] = status
        self._emit("response.output_item.done", output_index=opened.at, item=opened.item)

    def _emit(self, kind: str, **members: Any) -> None:
        if self._stream:
            event = {"type": kind, "sequence_number": self._number, **members}
            self._number += 1
            self._frames.append(sse_frame(dump_json(event), kind))

    def _written(self) -> bytes:
        frames, self._frames = b"".join(self._frames), []
        return frames


def response_usage(usage: Usage, thinking: int) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": min(thinking, usage.completion_tokens)},
        "total_tokens": usage.total_tokens,
    }


def _place(opened: _Open) -> dict[str, Any]:
    return {"item_id": opened.item["id"], "output_index": opened.at}


def _part(kind: Kind, text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
    if kind == "message":
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}
    return {"type": "reasoning_text", "text": text}


def _new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"
