"""Tool calls in DSML: DeepSeek V3.2, V4 and V4.1.

The wire format (`encoding/encoding_dsv4.py` and its README in deepseek-ai/DeepSeek-V4-Pro; deepseek-recipe):

    <｜DSML｜tool_calls>
    <｜DSML｜invoke name="NAME">
    <｜DSML｜parameter name="city" string="true">Paris</｜DSML｜parameter>
    <｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>
    </｜DSML｜invoke>
    </｜DSML｜tool_calls>

It looks like XML and is not: a value is raw text up to the next `</｜DSML｜`, JSON where `string` is "false". V3.2 calls
the block `function_calls`, V4.1 `<｜DSML｜ calls>` with a space before each tag. All three are read. There are no JSON
arguments in it, so they are written here, with the spacing of Python's `json.dumps`: `{"city": "Paris", "days": 3}`.

Where a tokenizer has a token `｜DSML｜`, only that token makes a tag; else the characters do, and no value may have them.

What models do wrong, and what becomes of it: a missing block, a missing end of a parameter or of a call is made up for
if something else begins or ends; a call that was cut off stays without an end; a missing `string` means "true"; a value
that is said to be JSON and cannot be is a string; a call without a name is text, as written; so is other text between
calls. What stands between two parameters is nothing.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable

from deepseek.chat.calls import MAX_HEAD_CHARS, Between, DeltaWriter, Progress
from deepseek.chat.scanner import Marker, Markers, Scanner

DSML = "｜DSML｜"
BLOCKS = ("tool_calls", "function_calls", " calls")
_OPEN, _CLOSE = f"<{DSML}", f"</{DSML}"

_NAME = 'name="'
_BLOCK_TAGS = tuple(block + ">" for block in BLOCKS)


class DsmlMarkers:
    """The markers as one tokenizer has them; `ignored` ones are dropped wherever they come."""

    def __init__(self, control_tokens: Iterable[str] = (), ignored: Iterable[Marker] = ()) -> None:
        tokens, dropped = tuple(control_tokens), tuple(ignored)

        def markers(*literals: str) -> list[Marker]:
            return [Marker.of(literal, tokens) for literal in literals]

        invoke = markers(f"{_OPEN}invoke", f"{_OPEN} invoke")
        parameter = markers(f"{_OPEN}parameter", f"{_OPEN} parameter")
        block = markers(*(_OPEN + tag for tag in _BLOCK_TAGS))
        close = markers(_CLOSE)
        self.begins = (*block, *invoke)
        self.between = Markers([*block, *invoke, *close], dropped)
        self.in_call = Markers([*block, *invoke, *parameter, *close], dropped)
        # In a value, a tag that begins is noticed only where it cannot be text.
        opened = [marker for marker in (*invoke, *parameter) if marker.controls]
        self.in_value = Markers([*close, *opened], dropped)


class _State(enum.Enum):
    BETWEEN = enum.auto()
    INVOKE = enum.auto()  # in the tag that begins a call
    IN_CALL = enum.auto()  # between parameters
    PARAMETER = enum.auto()  # in the tag that begins a parameter
    VALUE = enum.auto()
    CLOSING = enum.auto()  # in a tag that ends something


class DsmlReader:
    """Implements `CallReader`."""

    def __init__(self, markers: DsmlMarkers) -> None:
        self._markers = markers
        self._state = _State.BETWEEN
        self._between = Between()
        self._raw = ""  # a tag as far as it was read
        self._calling = False  # a call was started and not ended
        self._parameters = 0
        self._string: bool | None = None  # what the value is; None before its first character
        self._says_string = True

    def begin(self, marker: Marker) -> None:
        self._between.begin(fence=False)
        self._state = _State.BETWEEN
        if "invoke" in marker.literal:
            self._state, self._raw = _State.INVOKE, marker.literal

    def step(self, scanner: Scanner, out: DeltaWriter, closing: bool) -> Progress:
        match self._state:
            case _State.BETWEEN:
                text, marker = scanner.take(self._markers.between, closing)
                self._between.text(text, out)
                if marker is None:
                    return Progress.WAIT
                self._between.marker()
                return self._at(marker, out)
            case _State.IN_CALL:
                _, marker = scanner.take(self._markers.in_call, closing)  # line breaks between parameters
                return Progress.WAIT if marker is None else self._at(marker, out)
            case _State.VALUE:
                text, marker = scanner.take(self._markers.in_value, closing)
                self._add_value(text, out)
                if marker is None:
                    return Progress.WAIT
                self._end_value(out)
                return self._at(marker, out)
            case _State.INVOKE | _State.PARAMETER | _State.CLOSING:
                return self._read_tag(scanner, out, closing)

    def close(self, out: DeltaWriter) -> None:
        if not self._calling and self._state in (_State.INVOKE, _State.CLOSING):
            out.text(self._raw)

    def _at(self, marker: Marker, out: DeltaWriter) -> Progress:
        """A marker, with no value open."""
        literal = marker.literal
        if literal == _CLOSE:
            self._state, self._raw = _State.CLOSING, literal
        elif "parameter" in literal:
            self._state, self._raw = _State.PARAMETER, literal
        else:
            self._end_call(out)
            if "invoke" in literal:
                self._state, self._raw = _State.INVOKE, literal
        return Progress.AGAIN

    def _read_tag(self, scanner: Scanner, out: DeltaWriter, closing: bool) -> Progress:
        """Read the tag up to its ">", which may stand within the quotes of a name."""
        while (character := scanner.character()) is not None:
            self._raw += character
            if character == ">" and not _in_name(self._raw):
                return self._tag(out)
            if len(self._raw) > MAX_HEAD_CHARS:
                return self._no_tag(out)
        return Progress.WAIT

    def _tag(self, out: DeltaWriter) -> Progress:
        raw, self._raw = self._raw, ""
        if self._state is _State.CLOSING:
            return self._closed(raw, out)
        name, attributes = _name_of(raw)
        if self._state is _State.INVOKE:
            if not name or not name.strip():
                return self._text(raw, out)
            out.start_call(name)
            self._calling, self._parameters, self._state = True, 0, _State.IN_CALL
            return Progress.AGAIN
        if name is None:
            self._state = _State.IN_CALL  # a parameter without a name is nothing
            return Progress.AGAIN
        out.arguments(("{" if self._parameters == 0 else ", ") + json.dumps(name, ensure_ascii=False) + ": ")
        self._parameters += 1
        self._state, self._string, self._says_string = _State.VALUE, None, 'string="false"' not in attributes
        return Progress.AGAIN

    def _closed(self, raw: str, out: DeltaWriter) -> Progress:
        tag = raw.removeprefix(_CLOSE)
        if tag in _BLOCK_TAGS:
            self._end_call(out)
            return Progress.DONE
        if tag.strip() == "invoke>":
            self._end_call(out)
            return Progress.AGAIN
        if self._calling:
            self._state = _State.IN_CALL  # a parameter's end, or one that ends nothing
            return Progress.AGAIN
        return self._text(raw, out)

    def _no_tag(self, out: DeltaWriter) -> Progress:
        """Too long for a tag."""
        raw, self._raw = self._raw, ""
        if not self._calling:
            return self._text(raw, out)
        self._state = _State.IN_CALL
        return Progress.AGAIN

    def _text(self, raw: str, out: DeltaWriter) -> Progress:
        out.text(raw)
        self._between.begin(fence=False)
        self._state = _State.BETWEEN
        return Progress.AGAIN

    def _add_value(self, text: str, out: DeltaWriter) -> None:
        if not text:
            return
        if self._string is None:
            self._string = self._says_string or text[0] not in '{["-0123456789tfn \n'
            out.arguments('"' if self._string else "")
        out.arguments(json.dumps(text, ensure_ascii=False)[1:-1] if self._string else text)

    def _end_value(self, out: DeltaWriter) -> None:
        if self._string is None:
            out.arguments('""' if self._says_string else "null")
        elif self._string:
            out.arguments('"')
        self._state = _State.IN_CALL

    def _end_call(self, out: DeltaWriter) -> None:
        if self._calling:
            out.arguments("}" if self._parameters else "{}")
            out.end_call()
        self._calling = False
        self._state = _State.BETWEEN
        self._between.begin(fence=False)


def _in_name(raw: str) -> bool:
    """Whether the tag so far ends within the quotes of its name."""
    found = raw.find(_NAME)
    return found >= 0 and raw.find('"', found + len(_NAME)) < 0


def _name_of(raw: str) -> tuple[str | None, str]:
    """A tag's name, and what stands behind it."""
    _, found, rest = raw.partition(_NAME)
    if not found:
        return None, raw
    name, _, attributes = rest.partition('"')
    return name, attributes
