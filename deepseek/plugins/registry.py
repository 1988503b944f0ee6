"""Which plugins there are: built in, installed by other packages, and registered by whoever imports this.

    @register_plugin("web_search")
    class WebSearchPlugin: ...

A package offers one by an entry point of the group `deepseek.plugins` whose name is the plugin's and which is its class:

    [project.entry-points."deepseek.plugins"]
    shout = "shouting:Shout"

What is registered takes the place of what is installed, and that of what is built in. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar

from deepseek.core.errors import ConfigError
from deepseek.plugins.config import NAME
from deepseek.plugins.hooks import HOOKS

GROUP = "deepseek.plugins"
BUILTIN = "deepseek.plugins.builtin"

C = TypeVar("C", bound=type)

_REGISTERED: dict[str, type] = {}
_LOADING = threading.RLock()


@dataclass(frozen=True, slots=True)
class Found:
    """A plugin by its name. source: for people. error: why it cannot be loaded; then there is no class."""

    name: str
    source: str
    plugin: type | None
    error: str = ""


def register_plugin(name: str) -> Callable[[C], C]:
    """A class decorator: the class is the plugin of this name. The class is left as it is.

    Raises ConfigError for a name that is none, a class without hooks, and a name that another class has. A class that is
    defined anew, in a notebook for one, takes the place of the old one.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        expected = "letters, digits, - _ and ., at most 64"
        raise ConfigError("not a name of a plugin", where="register_plugin", found=repr(name)[:80], expected=expected)

    def register(plugin: C) -> C:
        check_class(plugin, f"plugin {name}")
        with _LOADING:
            before = _REGISTERED.get(name)
            if before is not None and not _is_builtin(before):
                if _is_builtin(plugin):
                    return plugin
                if (before.__module__, before.__qualname__) != (plugin.__module__, plugin.__qualname__):
                    raise ConfigError(
                        "another class is registered under this name",
                        where=f"plugin {name}",
                        found=_path(plugin),
                        expected=_path(before),
                        fix="choose another name",
                    )
            _REGISTERED[name] = plugin
        return plugin

    return register


def check_class(plugin: Any, where: str) -> None:
    """Raises ConfigError for what is no class with at least one hook."""
    if not isinstance(plugin, type):
        raise ConfigError("is no class", where=where, found=type(plugin).__name__, expected="a class with hooks")
    if not any(callable(getattr(plugin, hook, None)) for hook in HOOKS):
        raise ConfigError("has no hook", where=where, found=_path(plugin), expected=f"one of: {', '.join(HOOKS)}")


def find(name: str, source: str | None = None) -> type:
    """The class of a plugin. source: a file or module to import first. Raises ConfigError: there is none, or it cannot be
    imported."""
    with _LOADING:
        if source is not None:
            _import_source(source, name)
            found = _REGISTERED.get(name)
            if found is None or (_is_builtin(found) and found.__module__ != source):
                fix = f'decorate it with @register_plugin("{name}")'
                raise ConfigError("registers no such plugin", where=source, found=name, fix=fix)
        plugin = _REGISTERED.get(name)
        if plugin is not None and not _is_builtin(plugin):
            return plugin
        for entry in _entry_points():
            if entry.name == name:
                return _load(entry)
        if name in _builtins():
            _imported(f"{BUILTIN}.{name}", name)
            if name in _REGISTERED:
                return _REGISTERED[name]
    known = ", ".join(sorted({*_REGISTERED, *_builtins(), *(entry.name for entry in _entry_points())}))
    raise ConfigError("there is no such plugin", where="plugins", found=name, expected=f"one of: {known}")


def available() -> list[Found]:
    """Every plugin there is, by name; loads them all. What cannot be loaded says why instead."""
    installed = {entry.name: entry for entry in _entry_points()}
    found = []
    for name in sorted({*_REGISTERED, *_builtins(), *installed}):
        try:
            plugin = find(name)
        except ConfigError as error:
            source = _origin(installed[name]) if name in installed else "built in"
            found.append(Found(name, source, None, str(error)))
            continue
        if _is_builtin(plugin):
            source = "built in"
        elif name in installed and _REGISTERED.get(name) is not plugin:
            source = _origin(installed[name])
        else:
            source = _path(plugin)
        found.append(Found(name, source, plugin))
    return found


def _load(entry: EntryPoint) -> type:
    where = f"plugin {entry.name} ({_origin(entry)})"
    try:
        loaded = entry.load()
    except BaseException as error:
        raise _unloadable(error, where) from error
    check_class(loaded, where)
    found: type = loaded
    return found


def _import_source(source: str, name: str) -> None:
    if not source.endswith(".py"):
        _imported(source, name)
        return
    path = Path(source).absolute()
    module = f"deepseek_plugin_file_{path.stem}_{abs(hash(str(path))):x}"
    if module in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(module, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError("no such file", where=f"plugin {name}", found=source, expected="Python with the plugin")
    sys.modules[module] = made = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(made)
    except BaseException as error:
        del sys.modules[module]
        raise _unloadable(error, source) from error


def _imported(module: str, name: str) -> None:
    try:
        importlib.import_module(module)
    except BaseException as error:
        raise _unloadable(error, f"plugin {name} ({module})") from error


def _unloadable(error: BaseException, where: str) -> Exception:
    """Raises what is meant for the whole program."""
    if isinstance(error, KeyboardInterrupt | ConfigError):
        raise error
    return ConfigError("cannot be imported", where=where, found=f"{type(error).__name__}: {error}"[:300])


def _entry_points() -> Iterator[EntryPoint]:
    yield from entry_points(group=GROUP)


def _builtins() -> set[str]:
    try:
        package = importlib.import_module(BUILTIN)
    except ImportError:
        return set()
    return {module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_")}


def _is_builtin(plugin: type) -> bool:
    return plugin.__module__.startswith(f"{BUILTIN}.")


def _origin(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else entry.value


def _path(plugin: type) -> str:
    return f"{plugin.__module__}.{plugin.__qualname__}"
