"""The configuration of a server for more than one person: one YAML file, `deepseek serve --config platform.yaml`.

    database: postgresql://deepseek:${env:DB_PASSWORD}@db/deepseek   # or a file; default: in the user's data directory
    files: /var/lib/deepseek/files               # what tenants upload; default: beside the database
    redis: redis://cache:6379/0                  # rates counted over several servers
    tiers:
      basic: {requests_per_second: 50}           # changes what the tier is by default
      gold: {based_on: professional, requests_per_second: 800}
    tenants:
      acme: {models: [acme-7b], adapters: {acme-poet: adapters/poet}}    # nobody else may use these names
    jwt: {issuer: https://id.acme.example, audience: deepseek, jwks: https://id.acme.example/jwks.json}
    prices: {deepseek-7b: {input: 0.27, output: 1.10}}
    budgets: [{scope: tenant, name: acme, period: month, money: 500}]
    limits: {dynamic: {ceiling: 256}}
    grpc: {port: 9090, certificate: tls/cert.pem, key: tls/key.pem}
    agents: [agents/helper.yaml]                 # served at /v1/agents; see deepseek.agent.config
    plugins: [{name: web_search, params: {api_key: "${env:SEARCH_KEY}", trigger_words: [search]}}]

Unknown fields, and fields given twice, are refused by name. `${env:NAME}` stands for an environment variable in the
fields that may hold a password, `database`, `redis` and the `params` of plugins, and nowhere else. File names are relative
to the file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from deepseek.api.grpc.config import GrpcConfig
from deepseek.api.identity.token_config import JwtConfig
from deepseek.api.limits.config import LimitConfig
from deepseek.api.metering.budgets import BudgetConfig
from deepseek.api.metering.prices import PriceConfig
from deepseek.api.problems import shown
from deepseek.api.store.tables import NAME_CHARS
from deepseek.api.tiers import DEFAULT_TIERS, LOCAL, Tier, Tiers
from deepseek.core.errors import ConfigError
from deepseek.core.messages import MediaKind
from deepseek.plugins.config import PluginConfig, read_plugins
from deepseek.plugins.secret import VARIABLE

SECRET_FIELDS = ("database", "redis")

Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=NAME_CHARS)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class TierConfig(_Section):
    """What a tier has otherwise than the one it is based on: the default tier of its own name, unless `based_on` says.

    requests_per_second null: not limited. The other fields: see `deepseek.api.tiers.Tier`.
    """

    based_on: str | None = None
    requests_per_second: Annotated[float, Field(gt=0, le=1e6)] | None = None
    burst_s: Annotated[float, Field(gt=0, le=3600)] = 1.0
    media: Annotated[frozenset[MediaKind], Field(strict=False)] = frozenset()
    protobuf: bool = False
    grpc: bool = False
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0
    may_prioritise: bool = False
    dynamic: bool = False
    share: Annotated[float, Field(gt=0, le=1e6)] = 1.0


class TenantConfig(_Section):
    """models: served names that only this tenant may use, and others that list them. adapters: name -> PEFT directory,
    loaded at the start, likewise. tier: of keys made for this tenant without one."""

    models: list[Name] = []
    adapters: dict[Name, str] = {}
    tier: str | None = None


class PlatformConfig(_Section):
    """The whole file. database None: in the user's data directory. files: where tenants' files are kept; several servers
    on one PostgreSQL need one directory that all of them see."""

    database: Annotated[str, Field(min_length=1)] | None = None
    files: Annotated[str, Field(min_length=1)] | None = None
    redis: Annotated[str, Field(min_length=1)] | None = None
    tiers: dict[Name, TierConfig] = {}
    tenants: dict[Name, TenantConfig] = {}
    jwt: JwtConfig | None = None
    prices: dict[Name, PriceConfig] = {}
    budgets: list[BudgetConfig] = []
    limits: LimitConfig = LimitConfig()
    grpc: GrpcConfig | None = None
    plugins: tuple[PluginConfig, ...] = ()
    agents: list[Annotated[str, Field(min_length=1)]] = []

    def tiers_of(self, where: str = "configuration") -> Tiers:
        """The tiers of the product, changed and added to. Raises ConfigError."""
        defaults = {tier.name: tier for tier in DEFAULT_TIERS}
        return Tiers(defaults | {name: _tier(name, given, defaults, where) for name, given in self.tiers.items()})

    def owners(self) -> dict[str, frozenset[str]]:
        """Of names that not every tenant may use, the tenants that may."""
        owners: dict[str, set[str]] = {}
        for tenant, section in self.tenants.items():
            for name in (*section.models, *section.adapters):
                owners.setdefault(name, set()).add(tenant)
        return {name: frozenset(tenants) for name, tenants in owners.items()}

    def adapters(self, where: str = "configuration") -> dict[str, str]:
        """Every adapter's directory by its name. Raises ConfigError for one name with two directories."""
        found: dict[str, str] = {}
        for tenant, section in self.tenants.items():
            for name, path in section.adapters.items():
                if found.setdefault(name, path) != path:
                    raise ConfigError(
                        "another tenant has another adapter of this name",
                        where=f"{where}: tenants.{tenant}.adapters.{name}",
                        found=path,
                        expected=found[name],
                        fix="give it a name of its own",
                    )
        return found


def load(path: str | Path) -> PlatformConfig:
    """Read a file and check all of it. Raises ConfigError, in one line: file, field, what was found, what is expected."""
    file = Path(path)
    try:
        raw = _Loader(file.read_text(encoding="utf-8")).get_single_data()
    except FileNotFoundError:
        raise ConfigError("no such configuration", where=file) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError("cannot be read as YAML", where=file, found=" ".join(str(error).split())[:200]) from None
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise ConfigError("is no mapping of fields", where=file, found=type(raw).__name__, expected="sections")
    given_plugins = raw.pop("plugins", None)
    try:
        config = PlatformConfig.model_validate(_with_variables(raw, file))
    except ValidationError as error:
        raise _explain(error, file) from None
    if given_plugins is not None:
        plugins = read_plugins(given_plugins, f"{file}: plugins", file.absolute().parent)
        config = config.model_copy(update={"plugins": plugins})
    config = _beside(config, file.absolute().parent)
    tiers = config.tiers_of(str(file)).by_name
    asked = [(f"tenants.{name}.tier", section.tier) for name, section in config.tenants.items()]
    for field, tier in [*asked, ("jwt.tier", config.jwt and config.jwt.tier)]:
        if tier is not None and tier not in tiers:
            raise ConfigError("there is no such tier", where=f"{file}: {field}", found=tier, expected=", ".join(tiers))
    config.adapters(str(file))
    return config


def _tier(name: str, given: TierConfig, defaults: dict[str, Tier], where: str) -> Tier:
    field = f"{where}: tiers.{name}"
    if name == LOCAL.name:
        raise ConfigError("is the tier of a server without keys", where=field, fix="choose another name")
    base = defaults.get(given.based_on or name)
    if base is None:
        raise ConfigError(
            "is based on no tier there is",
            where=f"{field}.based_on",
            found=given.based_on or "nothing",
            expected=", ".join(defaults),
        )
    changed = {key: getattr(given, key) for key in given.model_fields_set if key != "based_on"}
    return replace(base, name=name, **changed)


def _beside(config: PlatformConfig, directory: Path) -> PlatformConfig:
    """With file names made absolute, as they lie beside the configuration."""

    def absolute(name: str) -> str:
        return name if "://" in name else str(directory / Path(name).expanduser())

    changes: dict[str, Any] = {
        "tenants": {
            tenant: section.model_copy(
                update={"adapters": {name: absolute(path) for name, path in section.adapters.items()}}
            )
            for tenant, section in config.tenants.items()
        }
    }
    for field in ("database", "files"):
        named = getattr(config, field)
        if named is not None:
            changes[field] = absolute(named)
    if config.agents:
        changes["agents"] = [absolute(file) for file in config.agents]
    if config.grpc is not None and config.grpc.certificate is not None and config.grpc.key is not None:
        pair = {"certificate": directory / config.grpc.certificate, "key": directory / config.grpc.key}
        changes["grpc"] = config.grpc.model_copy(update=pair)
    if config.jwt is not None:
        changes["jwt"] = config.jwt.model_copy(update={"jwks": absolute(config.jwt.jwks)})
    return config.model_copy(update=changes)


def _with_variables(raw: dict[Any, Any], file: Path) -> dict[Any, Any]:
    """With environment variables put in where they may stand. Raises ConfigError where they may not."""
    for field, text in _strings(raw, ""):
        if "${" in text and field not in SECRET_FIELDS:
            raise ConfigError(
                "an environment variable cannot stand here",
                where=f"{file}: {field}",
                found="${…}",
                expected=f"it only in {', '.join(SECRET_FIELDS)} and the params of plugins",
            )

    filled = dict(raw)
    for name in SECRET_FIELDS:
        secret = raw.get(name)
        if isinstance(secret, str):
            filled[name] = VARIABLE.sub(partial(_value, where=f"{file}: {name}"), secret)
            if "${" in VARIABLE.sub("", secret):
                raise ConfigError("not a variable", where=f"{file}: {name}", found="${…}", expected="${env:NAME}")
    return filled


def _value(match: re.Match[str], where: str) -> str:
    found = os.environ.get(match[1])
    if found is None:
        raise ConfigError("the environment variable is not set", where=where, found=f"${{env:{match[1]}}}")
    return found


def _strings(value: object, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _strings(entry, f"{where}.{key}".lstrip("."))
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _strings(entry, f"{where}.{index}")


def _explain(error: ValidationError, file: Path) -> ConfigError:
    """The first of pydantic's findings as our kind of sentence, with how many more there are."""
    details = error.errors()
    first = details[0]
    parts = [str(part) for part in first["loc"]]
    where = f"{file}: {'.'.join(parts)}"
    more = f"; {len(details) - 1} more fields are wrong" if len(details) > 1 else ""
    if first["type"] == "extra_forbidden":
        near = get_close_matches(parts[-1], _known_fields(first), 1)
        return ConfigError(
            f"there is no such field{more}", where=where, fix=f"did you mean {near[0]}?" if near else "remove it"
        )
    if first["type"] == "missing":
        return ConfigError(f"is missing{more}", where=where, fix="add it")
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    # A database's address may hold a password: it is not repeated.
    found = None if parts[0] in SECRET_FIELDS else shown(first["input"])
    return ConfigError(f"has a wrong value{more}", where=where, found=found, expected=message)


def _known_fields(detail: ErrorDetails) -> list[str]:
    """The fields of the section that an unknown one stands in."""
    sections: dict[str, type[BaseModel]] = {
        "tiers": TierConfig,
        "tenants": TenantConfig,
        "jwt": JwtConfig,
        "prices": PriceConfig,
        "budgets": BudgetConfig,
        "grpc": GrpcConfig,
        "limits": LimitConfig,
    }
    if len(detail["loc"]) == 1:
        return list(PlatformConfig.model_fields)
    section = sections.get(str(detail["loc"][0]))
    return list(section.model_fields) if section is not None else []


class _Loader(yaml.SafeLoader):
    """Safe; a field given twice is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
            seen.add(str(getattr(key, "value", key)))
        return super().construct_mapping(node, deep)
