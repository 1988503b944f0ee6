"""One plugin of a configuration's list:

plugins:
  - name: web_search
    params: {api_key: "${env:SEARCH_KEY}", trigger_words: [search, 最新]}
    order: 10               # smaller is called first; equals in the order of the list
    deadline_ms: 2000       # of each call of a hook
    on_failure: open        # leave the plugin out; closed: end the request
    tenants: [acme]         # for these alone; default: for all
    source: my_plugins.py   # where it is defined, if not installed: a file beside the configuration, or a module
    enabled: true
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from deepseek.core.errors import ConfigError
from deepseek.plugins.secret import with_variables

MAX_PLUGINS = 64
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

Word = Annotated[str, Field(min_length=1, max_length=256)]


class PluginConfig(BaseModel):
    """params: keyword arguments of the class. trigger_words: the plugin takes part only in requests whose prompt has one;
    they may stand in `params` too, unless the constructor has a parameter of that name."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    name: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
    params: dict[str, Any] = Field(default_factory=dict, repr=False)
    trigger_words: Annotated[list[Word], Field(min_length=1, max_length=1024)] | None = None
    order: Annotated[int, Field(ge=-1_000_000, le=1_000_000)] = 0
    deadline_ms: Annotated[float, Field(gt=0, le=60_000)] = 2000
    on_failure: Literal["open", "closed"] = "open"
    tenants: list[Annotated[str, Field(min_length=1, max_length=256)]] | None = None
    enabled: bool = True
    source: Annotated[str, Field(min_length=1)] | None = None

    @field_validator("trigger_words")
    @classmethod
    def _say_something(cls, words: list[str] | None) -> list[str] | None:
        if any(not word.strip() for word in words or ()):
            raise ValueError("a trigger word must not be empty")
        return words


def read_plugins(given: Any, where: str, directory: Path | None = None) -> tuple[PluginConfig, ...]:
    """The list as YAML gave it, with variables put into `params`. Raises ConfigError.

    directory: what a file named as `source` lies beside; the working directory by default.
    """
    if not isinstance(given, list):
        raise ConfigError("is no list of plugins", where=where, found=type(given).__name__, expected="- name: ...")
    if len(given) > MAX_PLUGINS:
        raise ConfigError("too many plugins", where=where, found=len(given), expected=f"at most {MAX_PLUGINS}")
    return tuple(_read(entry, f"{where}.{at}", directory) for at, entry in enumerate(given))


def _read(given: Any, where: str, directory: Path | None) -> PluginConfig:
    if isinstance(given, dict) and "params" in given:
        params = {} if given["params"] is None else given["params"]
        given = given | {"params": with_variables(params, f"{where}.params") if isinstance(params, dict) else params}
    try:
        config = PluginConfig.model_validate(given)
    except ValidationError as error:
        raise _explain(error, where) from None
    if config.source is not None and config.source.endswith(".py"):
        path = Path(config.source).expanduser()
        config = config.model_copy(update={"source": str((directory or Path.cwd()) / path)})
    return config


def _explain(error: ValidationError, where: str) -> ConfigError:
    """What was found is not repeated: a key may have slipped into another field."""
    details = error.errors()
    first = details[0]
    place = ".".join([where, *map(str, first["loc"])])
    more = f"; {len(details) - 1} more fields are wrong" if len(details) > 1 else ""
    if first["type"] == "extra_forbidden":
        known = ", ".join(PluginConfig.model_fields)
        return ConfigError(f"there is no such field{more}", where=place, expected=f"one of: {known}")
    if first["type"] == "missing":
        return ConfigError(f"is missing{more}", where=place, fix="add it")
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return ConfigError(f"has a wrong value{more}", where=place, expected=message)
