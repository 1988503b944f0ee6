"""How much a message holds, counted in its bytes before anything is made of it: a field costs two bytes to send, and far
more to look at.

The bounds are those of a JSON body (`deepseek.api.body`), and what counts is what JSON would have: a field of a message
and an entry of a map are fields, a text is a string, whatever has a tag, or is a number in a list, is a value. A message in
a list counts as a string, for the word that says what it is. Fields of JSON text count by what they hold.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from deepseek.api.body import MAX_FIELDS, MAX_STRINGS, MAX_VALUES, require_few_values
from deepseek.api.problems import FieldError, Problem
from deepseek.api.protobuf.codec import WireError

MAX_NESTED = 100  # Protobuf's own bound
_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5
_CONTINUED = bytes(range(0x80, 0x100))  # bytes of a varint that are not its last


@dataclass(frozen=True, slots=True)
class _Plan:
    """What one field counts. inside: the message that it holds. packs: numbers as varints; width: as so many bytes each."""

    fields: int
    strings: int = 0
    inside: Descriptor | None = None
    is_json: bool = False
    packs: bool = False
    width: int = 0


_UNKNOWN = _Plan(fields=1)


class Bounds:
    """Of one type of message. json_text: the fields, by full name, that hold JSON text."""

    def __init__(self, message: Descriptor, json_text: Collection[str] = ()) -> None:
        self._message = message
        self._json_text = set(json_text)
        self._plans: dict[str, dict[int, _Plan]] = {}

    def require_few(self, data: bytes) -> None:
        """Raises Problem 422 for a message with more in it than any request has, and WireError for bytes that are none.

        Costs about a microsecond for each tag: for a large message, not a thing to do on the event loop.
        """
        fields = strings = values = 0
        texts: list[bytes] = []
        # Of each message around: its end, and the fields it may have.
        end, plans = len(data), self._plans_of(self._message)
        around: list[tuple[int, dict[int, _Plan]]] = []
        at = 0
        while True:
            if at == end:
                if not around:
                    break
                end, plans = around.pop()
                continue
            tag = data[at]
            at += 1
            if tag > 0x7F:
                tag, at = _varint(data, at - 1, end)
            number, wire = tag >> 3, tag & 7
            plan = plans.get(number, _UNKNOWN)
            fields += plan.fields
            strings += plan.strings
            values += 1
            if fields > MAX_FIELDS or strings > MAX_STRINGS or values > MAX_VALUES:
                break  # nothing beyond is looked at
            if wire == _VARINT:
                _, at = _varint(data, at, end)
            elif wire == _LENGTH:
                size, at = _varint(data, at, end)
                stop = at + size
                if stop > end:
                    raise WireError("a field is longer than its message", where=self._message.full_name)
                if plan.inside is not None:
                    if not size:
                        continue
                    if len(around) >= MAX_NESTED:
                        raise WireError("nested too deep", where=self._message.full_name)
                    around.append((end, plans))
                    end, plans = stop, self._plans_of(plan.inside)
                    continue
                if plan.is_json:
                    texts.append(data[at:stop])
                elif plan.width:
                    values += size // plan.width
                elif plan.packs:
                    values += len(data[at:stop].translate(None, _CONTINUED))
                at = stop
            elif wire in (_EIGHT, _FOUR):
                at += 8 if wire == _EIGHT else 4
                if at > end:
                    raise WireError("a field is longer than its message", where=self._message.full_name)
            else:
                raise WireError("groups, which no message here has", where=self._message.full_name)
        _require(MAX_FIELDS, fields, "fields")
        _require(MAX_STRINGS, strings, "strings")
        _require(MAX_VALUES, values, "values")
        require_few_values(b",".join(texts))

    def _plans_of(self, message: Descriptor) -> dict[int, _Plan]:
        found = self._plans.get(message.full_name)
        if found is None:
            found = {field.number: self._plan(field) for field in message.fields}
            self._plans[message.full_name] = found
        return found

    def _plan(self, field: FieldDescriptor) -> _Plan:
        inside = field.message_type
        if inside is not None and _is_entry(inside) and field.full_name in self._json_text:
            self._json_text.add(f"{inside.full_name}.value")
        named = not (_is_alternative(field) or _is_entry(field.containing_type))
        if field.is_repeated:
            named = _is_entry(inside)
        return _Plan(
            int(named),
            int(field.type in (field.TYPE_STRING, field.TYPE_BYTES) or (field.is_repeated and inside is not None)),
            inside,
            is_json=field.full_name in self._json_text,
            packs=field.type in (field.TYPE_INT64, field.TYPE_BOOL),
            width=8 if field.type == field.TYPE_DOUBLE else 0,
        )


def _require(most: int, found: int, what: str) -> None:
    if found > most:
        expected = f"at most {most} {what}"
        error = FieldError("body", f"more than {most} {what}", expected)
        raise Problem("invalid-request", f"body: expected {expected}; found more", (error,))


def _is_entry(message: Descriptor | None) -> bool:
    return message is not None and message.GetOptions().map_entry


def _is_alternative(field: FieldDescriptor) -> bool:
    """Whether it is one of several. A name with a bar before it is how descriptors say `optional`."""
    return field.containing_oneof is not None and not field.containing_oneof.name.startswith("_")


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The number that begins there, and where it ends. Raises WireError for none."""
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise WireError("a number without an end", where=f"byte {at}")
