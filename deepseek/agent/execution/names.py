"""Names of tools as every model's API takes them, `[A-Za-z0-9_-]+`, and back.

A dot becomes `_dot_` (`math.factorial` -> `math_dot_factorial`), any other character that does not fit `_x` and its
code point in hexadecimal and `_`. An underscore that would read as the beginning of one of these is escaped itself, so
that the way back is certain for every name.
"""

from __future__ import annotations

import re

_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPE = re.compile(r"_(dot|x[0-9a-f]{1,6})_")
_ESCAPE_TAIL = re.compile(r"(dot|x[0-9a-f]{1,6})_")


def wire_name(name: str) -> str:
    """The name as a model sees it. Different names stay different."""
    if _PLAIN.fullmatch(name) and not _ESCAPE.search(name):
        return name
    written = ""
    for character in reversed(name):
        if character == ".":
            written = "_dot_" + written
        elif not _PLAIN.fullmatch(character) or (character == "_" and _ESCAPE_TAIL.match(written)):
            written = f"_x{ord(character):x}_{written}"
        else:
            written = character + written
    return written


def own_name(wire: str) -> str:
    """The name that `wire_name` wrote; any other text comes back as it is, or names no tool."""
    return _ESCAPE.sub(_character, wire)


def _character(escape: re.Match[str]) -> str:
    if escape[1] == "dot":
        return "."
    code = int(escape[1][1:], 16)
    return chr(code) if code <= 0x10FFFF else escape[0]
