"""The lines of a batch's files: what is asked, checked before anything runs, and what came of it.

Input:  {"custom_id": "...", "method": "POST", "url": "/v1/chat/completions", "body": {...}}
Output: {"id": ..., "custom_id": "...", "response": {"status_code": 200, "request_id": ..., "body": {...}}, "error": null}

Results are appended as they come, and synced, so a line that is in them is done: after a crash the torn last line is cut
off, and what the files hold is not asked again. Everything here blocks, and belongs into a thread.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from deepseek.api.kept.batches import BatchError
from deepseek.api.wire import dump_json

MAX_LINES = 50_000
MAX_LINE_BYTES = 4 * 2**20
MAX_ID_CHARS = 512
MAX_ERRORS = 100


@dataclass(frozen=True, slots=True)
class Line:
    """One request: `body` is JSON."""

    custom_id: str
    body: bytes


def check(path: Path, endpoint: str) -> tuple[int, tuple[BatchError, ...]]:
    """The number of requests in a batch's input, and what is wrong with it."""
    errors: list[BatchError] = []
    seen: set[str] = set()
    if not path.is_file():
        return 0, (BatchError("missing_file", "The input file is gone."),)
    for number, raw in _numbered(path):
        try:
            line = read_line(raw, endpoint)
        except LineError as error:
            errors.append(BatchError(error.code, str(error), number, error.param))
        else:
            if line.custom_id in seen:
                errors.append(
                    BatchError(
                        "duplicate_custom_id", f"The custom_id {line.custom_id[:80]!r} stands there twice.", number
                    )
                )
            seen.add(line.custom_id)
        if len(seen) > MAX_LINES:
            errors.append(BatchError("too_many_tasks", f"A batch may have at most {MAX_LINES} requests."))
        if len(errors) >= MAX_ERRORS or len(seen) > MAX_LINES:
            break
    if not seen and not errors:
        errors.append(BatchError("empty_file", "The input file has no requests."))
    return len(seen), tuple(errors)


def read_lines(path: Path, endpoint: str) -> Iterator[Line]:
    """The requests of an input that was checked."""
    for _, raw in _numbered(path):
        yield read_line(raw, endpoint)


class LineError(Exception):
    """Why a line is no request."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


def read_line(raw: bytes, endpoint: str) -> Line:
    """One line of the input. Raises LineError."""
    if len(raw) > MAX_LINE_BYTES:
        raise LineError("line_too_long", f"A line may have at most {MAX_LINE_BYTES} bytes.")
    try:
        value: Any = json.loads(raw)
    except (ValueError, RecursionError):
        raise LineError("invalid_json_line", "The line is not valid JSON.") from None
    if not isinstance(value, dict):
        raise LineError("invalid_json_line", "The line is not a JSON object.")
    unknown = next((name for name in value if name not in ("custom_id", "method", "url", "body")), None)
    if unknown is not None:
        raise LineError("unknown_field", f"There is no such field: {unknown[:80]!r}.", unknown[:80])
    custom_id = value.get("custom_id")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_ID_CHARS:
        raise LineError("invalid_custom_id", f"custom_id must be text of 1 to {MAX_ID_CHARS} characters.", "custom_id")
    if value.get("method") != "POST":
        raise LineError("invalid_method", "method must be POST.", "method")
    if value.get("url") != endpoint:
        raise LineError("invalid_url", f"url must be {endpoint}, as the batch's endpoint is.", "url")
    body = value.get("body")
    if not isinstance(body, dict):
        raise LineError("invalid_body", "body must be an object.", "body")
    if body.get("stream"):
        raise LineError("invalid_body", "Nothing is streamed in a batch: leave out body.stream.", "body.stream")
    return Line(custom_id, dump_json(body))


@dataclass(slots=True)
class Done:
    """What the results of a batch hold: the ids of their lines, and sums."""

    ids: set[str]
    completed: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def count(self, body: bytes) -> None:
        """Add the usage that an answer tells."""
        prompt, completion = usage_in(body)
        self.prompt_tokens += prompt
        self.completion_tokens += completion


def usage_in(body: bytes) -> tuple[int, int]:
    """Prompt and completion tokens of an answer, by either of their names."""
    try:
        usage = json.loads(body).get("usage") or {}
    except (ValueError, AttributeError):
        return 0, 0
    prompt = usage.get("prompt_tokens", usage.get("input_tokens", 0))
    completion = usage.get("completion_tokens", usage.get("output_tokens", 0))
    return int(prompt or 0), int(completion or 0)


class Results:
    """The two files of results: what succeeded, what failed. Opening them reads what they hold already."""

    def __init__(self, output: Path, errors: Path) -> None:
        self.done = Done(set())
        self._output = self._open(output, good=True)
        self._errors = self._open(errors, good=False)

    def add(self, custom_id: str, line: bytes, answer: bytes | None) -> None:
        """Append a line and sync it. answer: the body of a success; None for a failure."""
        file = self._errors if answer is None else self._output
        file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())
        self.done.ids.add(custom_id)
        if answer is None:
            self.done.failed += 1
        else:
            self.done.completed += 1
            self.done.count(answer)

    def close(self) -> None:
        self._output.close()
        self._errors.close()

    def _open(self, path: Path, *, good: bool) -> BinaryIO:
        file = path.open("a+b")
        file.seek(0)
        whole = 0
        for raw in file:
            try:
                value = json.loads(raw) if raw.endswith(b"\n") else None
            except ValueError:
                value = None
            if value is None:
                break
            whole += len(raw)
            self.done.ids.add(value["custom_id"])
            if good:
                self.done.completed += 1
                self.done.count(dump_json(value["response"]["body"]))
            else:
                self.done.failed += 1
        file.truncate(whole)
        return file


def result_line(batch_line_id: str, custom_id: str, status: int, request_id: str, body: bytes) -> bytes:
    """A line of the results. `body` is JSON already."""
    head = dump_json({"id": batch_line_id, "custom_id": custom_id})[:-1]
    response = dump_json({"status_code": status, "request_id": request_id})[:-1]
    return head + b',"response":' + response + b',"body":' + body + b'},"error":null}'


def unanswered_line(batch_line_id: str, custom_id: str, code: str, message: str) -> bytes:
    """A line of the results for a request that was never answered."""
    error = {"code": code, "message": message}
    return dump_json({"id": batch_line_id, "custom_id": custom_id, "response": None, "error": error})


def _numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(MAX_LINE_BYTES + 2):
            number += 1
            if raw.strip():
                yield number, raw.strip()
