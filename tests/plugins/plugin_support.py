"""What the plugins' tests share: configured plugins of classes made on the spot, and a manager that keeps what it is told."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import deepseek.plugins.registry as registry
from deepseek.plugins.config import PluginConfig
from deepseek.plugins.hooks import PluginContext
from deepseek.plugins.manager import PluginManager

T = TypeVar("T")


def config(name: str, **fields: Any) -> PluginConfig:
    return PluginConfig.model_validate({"name": name, **fields})


def managed(*plugins: tuple[type, dict[str, Any]]) -> tuple[PluginManager, list[tuple[str, str, str]]]:
    """A manager of these classes, each with its configuration, and the outcomes it reports: plugin, hook, outcome."""
    configs = []
    for at, (kind, fields) in enumerate(plugins):
        name = fields.get("name", f"p{at}")
        registry._REGISTERED[name] = kind
        configs.append(config(**({"name": name} | fields)))
    seen: list[tuple[str, str, str]] = []
    manager = PluginManager(
        configs, observe=lambda plugin, hook, outcome, seconds: seen.append((plugin, hook, outcome))
    )
    return manager, seen


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


CONTEXT = PluginContext("acme", "req-1", "/v1/generate", "m")
