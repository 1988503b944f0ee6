"""The agents that a server's configuration names: read before anything is served, so that a mistake keeps it from starting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deepseek.agent.config import AgentConfig
from deepseek.agent.record import EventStore
from deepseek.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ConfiguredAgent:
    """One agent's configuration, and the directory that its files are relative to."""

    config: AgentConfig
    directory: Path


@dataclass(frozen=True, slots=True)
class AgentsConfig:
    """agents: by name, in their order. store: where runs are recorded; None: in the data directory, each tenant's own."""

    agents: dict[str, ConfiguredAgent] = field(default_factory=dict)
    store: EventStore | None = None


def read_agents(files: Sequence[str], where: str = "agents") -> AgentsConfig:
    """Read the agents' files. Raises ConfigError: for one that is wrong, for two of one name, and for one that has a model
    of its own, which nobody would be charged for."""
    found: dict[str, ConfiguredAgent] = {}
    for index, file in enumerate(files):
        config = AgentConfig.from_file(file)
        if not isinstance(config.model, str):
            raise ConfigError(
                "an agent that is served decides by the server's own model",
                where=f"{file}: model",
                found="a model at another address",
                expected='"builtin", or a name that is served',
            )
        if config.name in found:
            raise ConfigError("two agents of one name", where=f"{where}.{index}", found=config.name, fix="rename one")
        found[config.name] = ConfiguredAgent(config.model_copy(update={"record": True}), Path(file).parent)
    return AgentsConfig(found)
