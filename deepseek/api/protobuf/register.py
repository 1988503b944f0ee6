"""The numbers of fields, for good.

The register (`register.json`) is what was ever published: message -> field -> [number, type]. It only grows. A field that
is gone from its model stays in it, and is `reserved` in the .proto file; one whose type changed is refused, because old
clients would misread it. After a model has changed:

    python -m deepseek.api.protobuf

gives new fields numbers and writes register.json and deepseek.proto anew; a test says when that was forgotten. Until then
fields without a number are not carried.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from deepseek.api.protobuf.schema import Message
from deepseek.core.errors import ConfigError

REGISTER_FILE = Path(__file__).with_name("register.json")
Numbers = Mapping[str, tuple[int, str]]
Register = Mapping[str, Numbers]


def read_register(file: Path = REGISTER_FILE) -> Register:
    found = json.loads(file.read_text())
    return {
        message: {name: (number, kind) for name, (number, kind) in fields.items()} for message, fields in found.items()
    }


def write_register(register: Register, file: Path = REGISTER_FILE) -> None:
    """One field a line, so that a review sees what is new."""
    messages = []
    for message, fields in register.items():
        lines = [f"    {json.dumps(name)}: {json.dumps(list(entry))}" for name, entry in fields.items()]
        messages.append(f"  {json.dumps(message)}: {{\n" + ",\n".join(lines) + "\n  }")
    file.write_text("{\n" + ",\n".join(messages) + "\n}\n")


def extended(register: Register, messages: Sequence[Message]) -> Register:
    """The register with numbers for what is new. Raises ConfigError for a field whose type is not the published one."""
    result: dict[str, dict[str, tuple[int, str]]] = {name: dict(fields) for name, fields in register.items()}
    for message in messages:
        known = result.setdefault(message.name, {})
        for field in message.fields:
            if field.name not in known:
                known[field.name] = (_next_number(known.values()), field.registered)
            elif known[field.name][1] != field.registered:
                raise ConfigError(
                    "the type of a published field changed",
                    where=f"{message.name}.{field.name}",
                    found=field.registered,
                    expected=known[field.name][1],
                    fix="give the new field another name",
                )
    return result


def _next_number(known: Iterable[tuple[int, str]]) -> int:
    number = 1 + max((number for number, _ in known), default=0)
    return 20_000 if 19_000 <= number < 20_000 else number  # those are Protobuf's own


def breaking(old: Register, new: Register) -> list[str]:
    """What of the published schema is gone, renumbered or retyped, or gets a number that another field had."""
    found = []
    for message, fields in old.items():
        now = new.get(message, {})
        for name, (number, kind) in fields.items():
            if name not in now:
                found.append(f"{message}.{name} is gone; a field that is no longer used stays in the register")
            elif now[name][0] != number:
                found.append(f"{message}.{name} had number {number} and has {now[name][0]}")
            elif now[name][1] != kind:
                found.append(f"{message}.{name} was {kind} and is {now[name][1]}")
    for message, fields in new.items():
        numbers = [number for number, _ in fields.values()]
        found += [
            f"{message} has number {number} twice" for number in sorted(set(numbers)) if numbers.count(number) > 1
        ]
    return found
