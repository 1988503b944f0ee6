"""One agent's `config.yaml`, read and put together.

    name: helper
    model: builtin                       # a directory or hub id, or {url: ..., name: ..., api_key: "${env:KEY}"}
    instructions: Use your tools.
    tools: [calculator, date, {python: "my_tools:registry", needs_approval: true}]
    limits: {steps: 8, seconds: 60}

`AgentConfig` says all there is. A key that there is not is refused by name. Secrets come from the environment.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from deepseek.agent.agent import Agent, Closable
from deepseek.agent.decision.limits import Limits, Prices
from deepseek.agent.execution.cache import ToolCache
from deepseek.agent.execution.executor import Executor, ToolHooks
from deepseek.agent.execution.registry import ToolRegistry
from deepseek.agent.execution.tool import Tool, Toolset
from deepseek.agent.memory import Memory
from deepseek.agent.record import EventStore
from deepseek.agent.tools import GROUPS, KNOWN, builtin_tools
from deepseek.chat.local import LocalModel
from deepseek.chat.remote import RemoteModel
from deepseek.core.errors import ConfigError
from deepseek.core.language import LanguageModel
from deepseek.core.messages import MediaKind
from deepseek.core.sampling import SamplingParams
from deepseek.engine.build import EngineOptions
from deepseek.plugins.search import SearchEngine
from deepseek.plugins.secret import plain, with_variables

MAX_CONFIG_BYTES = 1 << 20
MAX_AGENTS = 32


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RemoteConfig(_Strict):
    """A model behind an OpenAI-compatible address. key: of the API, as `${env:NAME}`. body: more fields of each request."""

    url: str
    name: str
    api_key: str | None = None
    takes: frozenset[MediaKind] = frozenset()
    attempts: int = 3
    body: dict[str, Any] = Field(default_factory=dict)
    headers: dict[str, str] = Field(default_factory=dict)


class LimitsConfig(_Strict):
    """As `Limits`; what is left out is as there."""

    steps: int | None = None
    calls: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    cost: float | None = None
    corrections: int | None = None
    model_retries: int | None = None
    replans: int | None = None


class PricesConfig(_Strict):
    input: float
    output: float
    cached_input: float | None = None


class SamplingConfig(_Strict):
    """As `SamplingParams`. max_tokens: of each turn."""

    max_tokens: int = 1024
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: list[str] = Field(default_factory=list)
    repetition_penalty: float = 1.0


class PythonTools(_Strict):
    """Tools of one's own: `module:name` of a `ToolRegistry`, a toolset, a `Tool` or a function, the module found beside the
    configuration or on Python's path. needs_approval: ask a person before each of them."""

    python: str
    needs_approval: bool = False


class NamedTool(_Strict):
    """A built-in tool, with other settings than its own."""

    name: str
    needs_approval: bool = False


class AgentTool(_Strict):
    """Another agent as a tool: the file of its configuration."""

    agent: str
    name: str | None = None
    description: str = ""


class McpServer(_Strict):
    """Tools of an MCP server: a command that is started, or an address."""

    mcp: str | list[str]
    name: str | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    environment: dict[str, str] = Field(default_factory=dict)
    needs_approval: bool = False


ToolEntry = str | PythonTools | AgentTool | McpServer | NamedTool


class MemoryConfig(_Strict):
    most_chars: int | None = 24_000
    keep: int = 2


class SearchConfig(_Strict):
    """What `web_search` asks: a SearXNG instance, by its url, or Brave, with an api_key; else the tenant's documents.
    allow: hosts that may be asked although they are not on the public web."""

    api_key: str | None = None
    url: str | None = None
    provider: str | None = None
    limit: int = 5
    allow: list[str] = Field(default_factory=list)


class AgentConfig(_Strict):
    """tools: names of built-in tools and groups, "builtin" for those that the built-in model knows, and others.
    output: a JSON schema of its answers. record: whether its runs are recorded. workspace: of the file tools; None: the
    tenant's own. context_tokens: of a local model, fewer than it could."""

    name: str = "agent"
    model: str | RemoteConfig = "builtin"
    context_tokens: int | None = None
    instructions: str = ""
    tools: Annotated[list[ToolEntry], Field(max_length=256)] = Field(default_factory=list)
    limits: LimitsConfig = LimitsConfig()
    prices: PricesConfig | None = None
    sampling: SamplingConfig | None = None
    thinking: bool = False
    parallel: bool = True
    planning: bool = False
    reflections: int = Field(default=0, ge=0, le=8)
    output: dict[str, Any] | None = None
    memory: MemoryConfig | Literal[False] = MemoryConfig()
    record: bool = True
    cache: bool = True
    workspace: str | None = None
    search: SearchConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _tools_listed(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("tools"), str):
            return value | {"tools": [value["tools"]]}
        return value

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> AgentConfig:
        """Raises ConfigError naming the file and the field."""
        file = Path(path)
        try:
            if file.stat().st_size > MAX_CONFIG_BYTES:
                raise ConfigError("too large", where=file, expected=f"at most {MAX_CONFIG_BYTES} bytes")
            written = yaml.safe_load(file.read_text("utf-8"))
        except OSError as error:
            raise ConfigError("cannot be read", where=file, found=error.strerror) from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError("not YAML", where=file, found=" ".join(str(error).split())[:200]) from None
        return cls.from_mapping({} if written is None else written, where=str(file))

    @classmethod
    def from_mapping(cls, written: Any, *, where: str = "agent") -> AgentConfig:
        """Of what a YAML file holds. Raises ConfigError."""
        if not isinstance(written, dict):
            raise ConfigError("not a mapping", where=where, found=type(written).__name__, expected="name: value")
        try:
            return cls.model_validate(plain(with_variables(written, where)))
        except ValidationError as error:
            raise _explained(error, where) from None


def load_agent(
    path: str | os.PathLike[str],
    *,
    model: LanguageModel | None = None,
    store: EventStore | None = None,
    toolsets: Sequence[Toolset] = (),
) -> Agent:
    """The agent of a configuration file. model: instead of the one it names. store: where its runs are recorded; None:
    a store of its own in the data directory, if it asks for one. toolsets: more tools.

    Reads files and may load a model: not for an event loop. Raises ConfigError, and what loading a model raises.
    """
    file = Path(path)
    return build_agent(AgentConfig.from_file(file), file.parent, model=model, store=store, toolsets=toolsets)


def load_tools(path: str | os.PathLike[str]) -> list[Toolset]:
    """The tools alone of a configuration file; a model is loaded only for agents among them.

    Reads files: not for an event loop. Raises ConfigError.
    """
    file = Path(path)
    return _toolsets(AgentConfig.from_file(file), file.parent, None, None, ())


def build_agent(
    config: AgentConfig,
    directory: Path | None = None,
    *,
    model: LanguageModel | None = None,
    store: EventStore | None = None,
    toolsets: Sequence[Toolset] = (),
    hooks: ToolHooks | None = None,
    _above: tuple[Path, ...] = (),
) -> Agent:
    """As `load_agent`, of a configuration at hand. directory: what its files are relative to. hooks: around its tools."""
    directory = directory or Path.cwd()
    if store is None and (config.record or config.memory):
        store = EventStore()
    model = model or _model(config)
    sets = [*toolsets, *_toolsets(config, directory, model, store, _above)]
    executor = Executor(sets, cache=ToolCache() if config.cache else None, hooks=hooks)
    memory = None
    if config.memory and store is not None:
        memory = Memory(store, config.memory.most_chars, config.memory.keep)
    given = config.limits.model_dump(exclude_unset=True)
    sampling = config.sampling
    return Agent(
        model,
        executor,
        name=config.name,
        instructions=config.instructions,
        output=config.output,
        limits=Limits(**given),
        sampling=None
        if sampling is None
        else SamplingParams(**{**sampling.model_dump(), "stop": tuple(sampling.stop)}),
        thinking=config.thinking,
        parallel=config.parallel,
        planning=config.planning,
        reflections=config.reflections,
        prices=None if config.prices is None else Prices(**config.prices.model_dump()),
        store=store if config.record else None,
        memory=memory,
        owned=tuple(one for one in sets[len(toolsets) :] if isinstance(one, Closable)),
    )


def _model(config: AgentConfig) -> LanguageModel:
    if isinstance(config.model, RemoteConfig):
        given = config.model
        return RemoteModel(
            given.url,
            given.name,
            api_key=given.api_key,
            takes=given.takes,
            attempts=given.attempts,
            extra=given.body,
            headers=given.headers,
        )
    options = EngineOptions(max_model_len=config.context_tokens)
    return LocalModel.load(config.model, options)


class _Asking:
    """A toolset whose tools all ask a person first."""

    def __init__(self, inner: Toolset) -> None:
        self._inner = inner
        self._known: dict[int, tuple[Tool, Tool]] = {}

    async def aclose(self) -> None:
        close = getattr(self._inner, "aclose", None)
        if close is not None:
            await close()

    async def tools(self) -> Sequence[Tool]:
        found = []
        for tool in await self._inner.tools():
            kept = self._known.get(id(tool))
            if kept is None or kept[0] is not tool:
                kept = self._known[id(tool)] = tool, replace(tool, needs_approval=True)
            found.append(kept[1])
        return found


def _toolsets(
    config: AgentConfig, directory: Path, model: LanguageModel | None, store: EventStore | None, above: tuple[Path, ...]
) -> list[Toolset]:
    # One registry for all that does not change: an executor finds its tools without asking around.
    registry = ToolRegistry()
    others: list[Toolset] = []
    _add_builtin(registry, config, directory)
    for at, entry in enumerate(config.tools):
        where = f"tools.{at}"
        if isinstance(entry, str | NamedTool):
            continue
        if isinstance(entry, PythonTools):
            found = _imported(entry.python, directory, where)
            if isinstance(found, Tool):
                _add(registry, replace(found, needs_approval=True) if entry.needs_approval else found, where)
            else:
                others.append(_Asking(found) if entry.needs_approval else found)
        elif isinstance(entry, AgentTool):
            _add(registry, _agent(entry, directory, model, store, above, where), where)
        else:
            others.append(_mcp(entry, where))
    return [registry, *others]


def _add_builtin(registry: ToolRegistry, config: AgentConfig, directory: Path) -> None:
    """Those that are named, made together, so that they share what they need."""
    asking: dict[str, bool] = {}
    for at, entry in enumerate(config.tools):
        if isinstance(entry, str | NamedTool):
            name = entry if isinstance(entry, str) else entry.name
            names = KNOWN if name == "builtin" else GROUPS.get(name, (name,))
            for one in names:
                if one in asking:
                    where = f"tools.{at}"
                    raise ConfigError("this tool is there already", where=where, found=repr(one), fix="leave one out")
                asking[one] = isinstance(entry, NamedTool) and entry.needs_approval
    if asking:
        workspace = None if config.workspace is None else directory / config.workspace
        search = None if config.search is None else SearchEngine(**config.search.model_dump())
        for tool in builtin_tools(asking, workspace=workspace, search=search):
            registry.add(replace(tool, needs_approval=True) if asking.get(tool.name) else tool)


def _add(registry: ToolRegistry, tool: Tool, where: str) -> None:
    if tool.name in registry:
        raise ConfigError("this tool is there already", where=where, found=repr(tool.name), fix="leave one out")
    registry.add(tool)


def _imported(reference: str, directory: Path, where: str) -> Tool | Toolset:
    module_name, _, name = reference.partition(":")
    if not module_name or not name:
        raise ConfigError("not a reference", where=where, found=repr(reference), expected="module:name")
    # The directory comes first on the path for this import only.
    sys.path.insert(0, str(directory.absolute()))
    try:
        found: Any = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigError("cannot be imported", where=where, found=f"{reference}: {error}"[:300]) from error
    finally:
        sys.path.remove(str(directory.absolute()))
    if isinstance(found, Tool):
        return found
    if callable(getattr(found, "tools", None)):
        return found  # type: ignore[no-any-return]
    if callable(found):
        return Tool.of(found)
    expected = "a ToolRegistry, a toolset, a Tool or a function"
    raise ConfigError("no tool", where=where, found=type(found).__name__, expected=expected)


def _agent(
    entry: AgentTool,
    directory: Path,
    model: LanguageModel | None,
    store: EventStore | None,
    above: tuple[Path, ...],
    where: str,
) -> Tool:
    file = (directory / entry.agent).resolve()
    if file in above or len(above) >= MAX_AGENTS:
        raise ConfigError("agents ask each other in a circle", where=where, found=str(file))
    config = AgentConfig.from_file(file)
    # One that names the same local model shares it; loading it twice would take the memory twice.
    shared = model if isinstance(model, LocalModel) and config.model == "builtin" else None
    inner = build_agent(config, file.parent, model=shared, store=store, _above=(*above, file))
    return inner.as_tool(entry.name, entry.description or config.instructions[:200])


def _mcp(entry: McpServer, where: str) -> Toolset:
    try:
        client = importlib.import_module("deepseek.agent.mcp.client")
    except ImportError as error:
        fix = 'pip install "deepseek-stack[mcp]"'
        raise ConfigError("MCP is not installed", where=where, found=str(error), fix=fix) from error
    connected: Toolset = client.toolset_of(
        entry.mcp,
        name=entry.name,
        headers=entry.headers,
        environment=entry.environment,
        needs_approval=entry.needs_approval,
    )
    return connected


def _explained(error: ValidationError, where: str) -> ConfigError:
    """What was found is not repeated: a key may have slipped into another field."""
    first = error.errors(include_url=False)[0]
    place = ".".join([where, *(str(part) for part in first["loc"] if isinstance(part, int) or part.islower())])
    if first["type"] == "extra_forbidden":
        known = ", ".join(AgentConfig.model_fields) if len(first["loc"]) == 1 else "see the documentation of agents"
        return ConfigError("there is no such key", where=place, expected=known)
    return ConfigError("has a wrong value", where=place, expected=first["msg"].removeprefix("Input should be "))
