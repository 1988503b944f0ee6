"""Environment variables in a plugin's parameters, and how they are kept out of everything that is shown.

    params: {api_key: "${env:SEARCH_KEY}"}

A value with a variable in it becomes a `SecretText`, which hides in every repr. What a plugin itself says of it, in an
exception for one, passes `Scrubber` before it reaches a log or a client.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

from deepseek.core.errors import ConfigError

HIDDEN = "[hidden]"
MIN_SCRUBBED_CHARS = 4
"""A shorter secret is in so many words that nothing of a text could be shown."""
VARIABLE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")


class SecretText(str):
    """A text that holds values of environment variables. secrets: it, and those values."""

    __slots__ = ("secrets",)
    secrets: tuple[str, ...]

    def __repr__(self) -> str:
        return HIDDEN


def with_variables(value: Any, where: str, environment: Mapping[str, str] | None = None) -> Any:
    """The value, with each `${env:NAME}` in its texts replaced. Raises ConfigError: no such variable, or no such form."""
    if isinstance(value, str):
        return _filled(value, where, os.environ if environment is None else environment)
    if isinstance(value, dict):
        return {key: with_variables(entry, f"{where}.{key}", environment) for key, entry in value.items()}
    if isinstance(value, list):
        return [with_variables(entry, f"{where}.{at}", environment) for at, entry in enumerate(value)]
    return value


def plain(value: Any) -> Any:
    """The value as a plugin gets it: a `SecretText` is an ordinary text to it."""
    if isinstance(value, SecretText):
        return "".join(value)
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    return value


class Scrubber:
    """Takes the secrets of some parameters out of texts: as they are, and as they stand in a URL, in JSON or in a repr."""

    def __init__(self, params: Any = None) -> None:
        found = {secret for secret in _secrets(params) if secret}
        self._mute = any(len(secret) < MIN_SCRUBBED_CHARS for secret in found)
        forms = {
            form
            for secret in found
            for form in (
                secret,
                quote(secret),
                quote(secret, safe=""),
                quote_plus(secret),
                json.dumps(secret)[1:-1],
                json.dumps(secret, ensure_ascii=False)[1:-1],
                repr(secret)[1:-1],
            )
        }
        self._pattern = re.compile("|".join(map(re.escape, sorted(forms, key=len, reverse=True)))) if forms else None

    def __call__(self, text: str) -> str:
        if self._mute:
            return HIDDEN
        return text if self._pattern is None else self._pattern.sub(HIDDEN, text)


def _filled(text: str, where: str, environment: Mapping[str, str]) -> str:
    if "${" not in text:
        return text
    if "${" in VARIABLE.sub("", text):
        raise ConfigError("not a variable", where=where, found="${…}", expected="${env:NAME}")
    values = []
    for name in VARIABLE.findall(text):
        if name not in environment:
            raise ConfigError("the environment variable is not set", where=where, found=f"${{env:{name}}}")
        values.append(environment[name])
    filled = SecretText(VARIABLE.sub(lambda match: environment[match[1]], text))
    filled.secrets = (str.__str__(filled), *values)
    return filled


def _secrets(value: Any) -> Iterator[str]:
    if isinstance(value, SecretText):
        yield from value.secrets
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _secrets(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _secrets(entry)
