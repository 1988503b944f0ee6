"""Tool calls between control tokens: DeepSeek V3, V3-0324, R1 and V3.1.

Two wire formats, both read by one reader, because models of one generation now and then write the other's:

V3, V3-0324 and R1 (the chat template in `tokenizer_config.json` of deepseek-ai/DeepSeek-V3, -V3-0324 and -R1):

    <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME
    ```json
    {"city": "Paris"}
    ```<｜tool▁call▁end｜>
    <｜tool▁call▁begin｜>...<｜tool▁call▁end｜><｜tool▁calls▁end｜>

V3.1 (the template in `assets/chat_template.jinja` of deepseek-ai/DeepSeek-V3.1, "ToolCall" in its README), which the
built-in model writes too:

    <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{"city": "Paris"}<｜tool▁call▁end｜>...<｜tool▁calls▁end｜>

What models do wrong, and what becomes of it: a missing `<｜tool▁calls▁begin｜>` or any missing end is made up for, since
a call is complete where its JSON value ends; arguments that are cut off leave a call without an end; other text inside
the block is text; a call without a name is text, as written; no arguments at all are `{}`.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable

from deepseek.chat.calls import MAX_HEAD_CHARS, Between, DeltaWriter, JsonExtent, Progress
from deepseek.chat.scanner import Marker, Markers, Scanner

CALLS_BEGIN = "<｜tool▁calls▁begin｜>"
CALLS_END = "<｜tool▁calls▁end｜>"
CALL_BEGIN = "<｜tool▁call▁begin｜>"
CALL_END = "<｜tool▁call▁end｜>"
SEPARATOR = "<｜tool▁sep｜>"
LITERALS = (CALLS_BEGIN, CALLS_END, CALL_BEGIN, CALL_END, SEPARATOR)

FENCE = "```"
_MAX_FENCE_LABEL = 16
_NAME_END = re.compile(r"[\n{`]")


class ToolTokenMarkers:
    """The markers as one tokenizer has them; `ignored` ones are dropped wherever they come."""

    def __init__(self, control_tokens: Iterable[str] = (), ignored: Iterable[Marker] = ()) -> None:
        tokens = tuple(control_tokens)
        markers = [Marker.of(literal, tokens) for literal in LITERALS]
        self.all = Markers(markers, ignored)
        self.begins = tuple(marker for marker in markers if marker.literal in (CALLS_BEGIN, CALL_BEGIN))


class _State(enum.Enum):
    BETWEEN = enum.auto()
    HEAD = enum.auto()  # up to the separator
    NAME = enum.auto()  # behind "function" and the separator
    OPENING = enum.auto()  # white space and a fence before the arguments
    JSON = enum.auto()
    OTHER = enum.auto()  # arguments that are no JSON object or array


class ToolTokenReader:
    """Implements `CallReader`."""

    def __init__(self, markers: ToolTokenMarkers) -> None:
        self._markers = markers
        self._state = _State.BETWEEN
        self._between = Between()
        self._raw = ""  # a call as far as it was read, while it may become text again
        self._held = ""  # of its name, or of a fence
        self._json = JsonExtent()
        self._empty = True  # no arguments yet

    def begin(self, marker: Marker) -> None:
        self._between.begin(fence=False)
        self._state = _State.BETWEEN
        if marker.literal == CALL_BEGIN:
            self._enter_head()

    def step(self, scanner: Scanner, out: DeltaWriter, closing: bool) -> Progress:
        text, marker = scanner.take(self._markers.all, closing)
        self._read(text, out)
        if marker is None:
            return Progress.WAIT
        if self._state is _State.BETWEEN:
            self._between.marker()
            return self._outside(marker, out)
        return self._inside(marker, out)

    def close(self, out: DeltaWriter) -> None:
        if self._state in (_State.HEAD, _State.NAME):
            self._back_to_text("", out)
        elif self._state is _State.OPENING and self._held:
            out.arguments(self._held)

    def _enter_head(self) -> None:
        self._state, self._raw, self._held = _State.HEAD, CALL_BEGIN, ""

    def _outside(self, marker: Marker, out: DeltaWriter) -> Progress:
        """A marker between two calls."""
        if marker.literal == CALLS_END:
            return Progress.DONE
        if marker.literal == CALL_BEGIN:
            self._enter_head()
        elif marker.literal == SEPARATOR:
            out.text(SEPARATOR)
        return Progress.AGAIN

    def _inside(self, marker: Marker, out: DeltaWriter) -> Progress:
        """A marker before the arguments' end."""
        literal = marker.literal
        if self._state is _State.HEAD and literal == SEPARATOR:
            self._raw += SEPARATOR
            name = self._held.strip()
            if name == "function":
                self._state, self._held = _State.NAME, ""
            elif name:
                self._start(name, out)
            else:
                self._back_to_text("", out)
            return Progress.AGAIN
        if self._state is _State.NAME and literal == CALL_END and self._held.strip():
            self._start(self._held.strip(), out)
        if self._state in (_State.HEAD, _State.NAME):
            self._back_to_text(literal if literal in (SEPARATOR, CALL_END) else "", out)
        elif literal in (CALLS_BEGIN, SEPARATOR) or (self._state is _State.JSON and self._spelt_in_string(marker)):
            if self._state is not _State.OPENING:
                self._add_arguments(literal, out)
            return Progress.AGAIN
        else:
            self._end(literal, out)
        return self._outside(marker, out) if literal in (CALLS_END, CALL_BEGIN) else Progress.AGAIN

    def _spelt_in_string(self, marker: Marker) -> bool:
        """Whether a marker is mere text in a JSON string: only where no token sets it apart."""
        return not marker.controls and self._json.in_string

    def _end(self, literal: str, out: DeltaWriter) -> None:
        """The model ended the call, or began something else; the arguments had no end of their own."""
        if self._state is _State.OPENING and literal == CALL_END:
            out.arguments("{}")
            out.end_call()
        elif self._state is _State.OTHER and literal == CALL_END:
            out.end_call()
        self._enter_between(fence=False)

    def _read(self, text: str, out: DeltaWriter) -> None:
        while text:
            match self._state:
                case _State.BETWEEN:
                    self._between.text(text, out)
                    return
                case _State.HEAD:
                    room = MAX_HEAD_CHARS - len(self._held)
                    self._held += text[:room]
                    self._raw += text[:room]
                    text = text[room:]
                    if text:
                        self._back_to_text("", out)
                case _State.NAME:
                    text = self._read_name(text, out)
                case _State.OPENING:
                    text = self._read_opening(text, out)
                case _State.JSON | _State.OTHER:
                    text = self._add_arguments(text, out)

    def _read_name(self, text: str, out: DeltaWriter) -> str:
        """The rest of the text, behind what belongs to the name."""
        room = 2 * MAX_HEAD_CHARS - len(self._raw)
        chunk, rest = text[:room], text[room:]
        begin = 0 if self._held else len(chunk) - len(chunk.lstrip())
        end = _NAME_END.search(chunk, begin)
        at = len(chunk) if end is None else end.start()
        self._held += chunk[begin:at]
        self._raw += chunk[:at]
        if end is not None:
            # Behind "function" stands the name, or, in V3.1's format, the arguments of a tool called so.
            self._start(self._held.strip() or "function", out)
        elif rest:
            self._back_to_text("", out)
        return chunk[at:] + rest

    def _read_opening(self, text: str, out: DeltaWriter) -> str:
        if not self._held:
            text = text.lstrip()
        for at, character in enumerate(text):
            held = self._held + character
            label = held[len(FENCE) :]
            if FENCE.startswith(held) or (
                held.startswith(FENCE) and label.isalpha() and len(label) <= _MAX_FENCE_LABEL
            ):
                self._held = held
                continue
            rest = text[at:]
            if self._held.startswith(FENCE):
                # The fence ends here; white space behind it is not part of the arguments.
                self._held, rest = "", rest.lstrip()
                if not rest:
                    return ""
            rest, self._held = self._held + rest, ""
            self._state = _State.JSON if rest[0] in "{[" else _State.OTHER
            self._json = JsonExtent()
            return rest
        return ""

    def _add_arguments(self, text: str, out: DeltaWriter) -> str:
        end = self._json.feed(text) if self._state is _State.JSON else None
        if end is None:
            out.arguments(text)
            return ""
        out.arguments(text[:end])
        out.end_call()
        self._enter_between(fence=True)
        return text[end:]

    def _start(self, name: str, out: DeltaWriter) -> None:
        out.start_call(name)
        self._state, self._raw, self._held = _State.OPENING, "", ""

    def _enter_between(self, *, fence: bool) -> None:
        self._state, self._raw, self._held = _State.BETWEEN, "", ""
        self._between.begin(fence=fence)

    def _back_to_text(self, literal: str, out: DeltaWriter) -> None:
        out.text(self._raw + literal)
        self._enter_between(fence=False)
