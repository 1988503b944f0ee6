"""One file out of a multipart/form-data body (RFC 7578), written to disk while it arrives: nothing of it is held in memory.

The client's file name is a label. Its part is called `file`; the other parts are short fields of text.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from deepseek.api.problems import FieldError, Problem

MAX_FIELD_BYTES = 1024
MAX_FIELDS = 16
MAX_HEADER_BYTES = 4096
MAX_NAME_CHARS = 255
WRITE_BYTES = 1 << 18
# Slowest upload that is waited for, beside the time a body may pause.
MIN_BYTES_PER_S = 64 * 1024


@dataclass(slots=True)
class Upload:
    """name: as the client calls the file. fields: the other parts, by name."""

    name: str
    size: int
    fields: dict[str, str] = field(default_factory=dict)


async def receive_upload(request: Request, path: Path, *, max_bytes: int, pause_s: float) -> Upload:
    """Write the body's file to `path`, which must not exist, and return its fields. Nothing is left there on failure.

    pause_s: the longest wait for more. Raises Problem: 415, 413, 408, 400, 422; ClientDisconnect.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 0 < len(boundary) <= 256:
        raise Problem("unsupported-media-type", "Send the file as multipart/form-data.")
    form = await asyncio.to_thread(_Form, boundary, path, max_bytes)
    try:
        await _receive(request, form, pause_s)
        await asyncio.to_thread(form.finish)
        return form.upload()
    except BaseException:
        await asyncio.to_thread(form.discard)
        raise


async def _receive(request: Request, form: _Form, pause_s: float) -> None:
    begun, received = time.monotonic(), 0
    try:
        while True:
            async with asyncio.timeout(pause_s):
                message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk = message.get("body", b"")
            received += len(chunk)
            if received > form.max_bytes + MAX_FIELDS * (MAX_FIELD_BYTES + MAX_HEADER_BYTES):
                raise _too_large(form.max_bytes)
            form.feed(chunk)
            if form.unwritten >= WRITE_BYTES:
                await asyncio.to_thread(form.write)
            if not message.get("more_body", False):
                return
            if time.monotonic() - begun > pause_s + received / MIN_BYTES_PER_S:
                raise TimeoutError
    except TimeoutError:
        raise Problem("body-timeout", "The file did not arrive in time.") from None


class _Form:
    """The parser's state. Fed on the event loop; `write`, `finish` and `discard` belong into a thread."""

    def __init__(self, boundary: bytes, path: Path, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.unwritten = 0
        self._path = path
        self._out = path.open("xb")
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_end": self._all,
            },
        )
        self._complete = False
        self._pieces: list[bytes] = []
        self._size = 0
        self._name: str | None = None
        self._fields: dict[str, str] = {}
        self._parts = 0
        self._clear()

    def feed(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except MultipartParseError:
            raise Problem("malformed-request", "The body is not valid multipart/form-data.") from None

    def write(self) -> None:
        pieces, self._pieces, self.unwritten = self._pieces, [], 0
        self._out.writelines(pieces)

    def finish(self) -> None:
        self.write()
        self._out.close()

    def discard(self) -> None:
        self._out.close()
        self._path.unlink(missing_ok=True)

    def upload(self) -> Upload:
        if not self._complete:
            raise Problem("malformed-request", "The body ends before its last part does.")
        if self._name is None:
            error = FieldError("file", expected="a value; the field is required")
            raise Problem("invalid-request", "file: expected a part with a file name", (error,))
        return Upload(self._name, self._size, self._fields)

    def _clear(self) -> None:
        self._header = (bytearray(), bytearray())
        self._part = ""
        self._is_file = False
        self._value = bytearray()
        self._header_size = 0

    def _begin(self) -> None:
        self._clear()
        self._parts += 1
        if self._parts > MAX_FIELDS:
            raise Problem("malformed-request", f"The body may have at most {MAX_FIELDS} parts.")

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._grow_header(self._header[0], data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._grow_header(self._header[1], data[start:end])

    def _grow_header(self, header: bytearray, data: bytes) -> None:
        header += data
        self._header_size += len(data)
        if self._header_size > MAX_HEADER_BYTES:
            raise Problem("malformed-request", f"A part's headers may have at most {MAX_HEADER_BYTES} bytes.")

    def _header_end(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(value))
            self._part = options.get(b"name", b"").decode("utf-8", "replace")
            if self._part == "file" and b"filename" in options:
                self._is_file = True
                if self._name is not None:
                    error = FieldError("file", expected="one file")
                    raise Problem("invalid-request", "file: expected one file", (error,))
                self._name = _shown_name(options[b"filename"])
        self._header = (bytearray(), bytearray())

    def _headers_finished(self) -> None:
        if not self._part:
            raise Problem("malformed-request", "A part of the body has no name.")

    def _data(self, data: bytes, start: int, end: int) -> None:
        piece = data[start:end]
        if self._is_file:
            self._size += len(piece)
            if self._size > self.max_bytes:
                raise _too_large(self.max_bytes)
            self._pieces.append(piece)
            self.unwritten += len(piece)
            return
        self._value += piece
        if len(self._value) > MAX_FIELD_BYTES:
            name = self._part[:80]
            error = FieldError(name, expected=f"at most {MAX_FIELD_BYTES} bytes")
            raise Problem("invalid-request", f"{name}: expected at most {MAX_FIELD_BYTES} bytes", (error,))

    def _end(self) -> None:
        if not self._is_file:
            self._fields[self._part] = self._value.decode("utf-8", "replace")

    def _all(self) -> None:
        self._complete = True


def _shown_name(raw: bytes) -> str:
    """A file's name as it may be shown and sent back in a header: no path, no control characters, not too long."""
    name = raw.decode("utf-8", "replace").replace("\\", "/").rpartition("/")[2]
    return "".join(char for char in name if char.isprintable())[:MAX_NAME_CHARS] or "file"


def _too_large(limit: int) -> Problem:
    return Problem("body-too-large", f"The file may have at most {limit} bytes.")
