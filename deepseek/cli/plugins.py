"""`deepseek plugins list`: what is installed, and what a configuration makes of it. Values of parameters are never shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from deepseek.api.config import load
from deepseek.cli.screen import print_line
from deepseek.core.errors import ConfigError
from deepseek.plugins.config import PluginConfig
from deepseek.plugins.hooks import HOOKS
from deepseek.plugins.plugin import Plugin, build
from deepseek.plugins.registry import available


def show(config: Path | None, *, json_output: bool) -> None:
    """A line each, or a JSON object each. Raises ConfigError for a configuration that cannot be used; a plugin that cannot
    be made is listed with the reason."""
    configs = () if config is None else load(config).plugins
    listed = [_configured(entry, f"{config}: plugins.{at}") for at, entry in enumerate(configs)]
    listed.sort(key=lambda row: row["order"])
    names = {row["name"] for row in listed}
    listed += [row for row in _others() if row["name"] not in names]
    screen = Console()
    for row in listed:
        print_line(screen, json.dumps(row, ensure_ascii=False) if json_output else _line(row))
    if not listed:
        print_line(Console(stderr=True), "There are no plugins.")


def _configured(config: PluginConfig, where: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": config.name,
        "configured": True,
        "enabled": config.enabled,
        "source": config.source,
        "hooks": [],
        "order": config.order,
        "deadline_ms": config.deadline_ms,
        "on_failure": config.on_failure,
        "tenants": config.tenants,
        "params": sorted(map(str, config.params)),
    }
    try:
        plugin = build(config, where)
    except ConfigError as error:
        return row | {"error": str(error)}
    row["source"] = config.source or _path(plugin.kind)
    row["hooks"] = [hook for hook in HOOKS if hook in plugin.hooks]
    row["holds_streams"] = plugin.holds
    row["trigger_words"] = _words(plugin)
    return row


def _others() -> list[dict[str, Any]]:
    rows = []
    for found in available():
        row: dict[str, Any] = {"name": found.name, "configured": False, "source": found.source}
        row["hooks"] = [hook for hook in HOOKS if callable(getattr(found.plugin, hook, None))]
        rows.append(row | ({"error": found.error} if found.error else {}))
    return rows


def _line(row: dict[str, Any]) -> str:
    parts = [row["name"], " ".join(row["hooks"]) or "no hooks known"]
    if row["configured"]:
        parts.append("configured" if row["enabled"] else "disabled")
        parts.append(f"order {row['order']}, {row['deadline_ms']:g} ms, fails {row['on_failure']}")
        parts.append("all tenants" if row["tenants"] is None else f"tenants {', '.join(row['tenants'])}")
        if row.get("trigger_words"):
            parts.append(f"at {', '.join(row['trigger_words'])}")
        if row.get("holds_streams"):
            parts.append("holds streams")
    parts.append(str(row["source"] or ""))
    if "error" in row:
        parts.append(f"cannot be used: {row['error']}")
    return "  ".join(part for part in parts if part)


def _words(plugin: Plugin) -> list[str]:
    return [] if plugin.triggers is None else list(plugin.triggers.words)


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
