"""One configured plugin: its object, its hooks by name, and one way to call them that always comes back in time."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import pluggy

from deepseek.core.errors import ConfigError
from deepseek.plugins.breaker import Breaker
from deepseek.plugins.config import PluginConfig
from deepseek.plugins.errors import PluginRefusal
from deepseek.plugins.hooks import HOOKS, PROJECT, Hooks
from deepseek.plugins.lane import Lane, LaneTaken, Raised
from deepseek.plugins.registry import find
from deepseek.plugins.secret import Scrubber, plain
from deepseek.plugins.triggers import Triggers

OutcomeKind = Literal["unchanged", "changed", "refused", "raised", "timeout", "wrong_type", "unavailable"]
FAILURES: frozenset[OutcomeKind] = frozenset(("raised", "timeout", "wrong_type", "unavailable"))


class WrongType(Exception):
    """What a hook returned is not what it may return; the text says why."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one call. why: of a failure, or what a refusal says; holds no secret."""

    kind: OutcomeKind
    value: Any = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Hook:
    """names: the arguments it takes."""

    function: Callable[..., Any]
    names: frozenset[str]
    is_async: bool


class Plugin:
    """Raises ConfigError from `build` alone. Called from one event loop."""

    def __init__(self, config: PluginConfig, kind: type, instance: object, triggers: Triggers | None) -> None:
        self.config = config
        self.kind = kind
        self.instance = instance
        self.triggers = triggers
        self.tenants = None if config.tenants is None else frozenset(config.tenants)
        self.hooks = hooks_of(instance, f"plugin {config.name}")
        self.holds = "post_process" in self.hooks and bool(getattr(instance, "whole_text", True))
        """Whether it needs all that a choice says at once."""
        self.scrub = Scrubber(config.params)
        self.lane = Lane(config.name)
        self.breaker = Breaker()

    @property
    def name(self) -> str:
        return self.config.name

    def serves(self, tenant: str) -> bool:
        return self.tenants is None or tenant in self.tenants

    async def call(self, name: str, given: Mapping[str, Any], read: Callable[[Any], Any]) -> Outcome:
        """Call a hook that it has. read: what a result that is not None comes to; raises WrongType. Never raises but what
        cancels the caller."""
        hook = self.hooks[name]
        if not self.breaker.lets_through():
            return Outcome("unavailable", why="it did not answer in time before, and is left alone for a while")
        call = partial(hook.function, **{key: given[key] for key in hook.names})
        seconds = self.config.deadline_ms / 1000
        try:
            value = await self.lane.call(call, is_async=hook.is_async, seconds=seconds)
        except TimeoutError:
            self.breaker.timed_out()
            return Outcome("timeout", why=f"it took longer than {seconds * 1000:g} ms")
        except LaneTaken:
            self.breaker.gave_up()
            return Outcome("unavailable", why=f"all its places are taken; {self.lane.stuck} calls hang")
        except Raised as raised:
            self.breaker.answered()
            return self._raised(raised.error)
        except asyncio.CancelledError:
            self.breaker.gave_up()
            raise
        self.breaker.answered()
        if value is None:
            return Outcome("unchanged")
        try:
            return Outcome("changed", read(value))
        except WrongType as wrong:
            return Outcome("wrong_type", why=str(wrong))
        except Exception as error:  # a mapping, say, that cannot be read
            return Outcome(
                "wrong_type", why=f"it returned a {type(value).__name__}, which raised {type(error).__name__}"
            )

    async def close(self) -> None:
        """Let the plugin's own `aclose` or `close` end what it holds; one that cannot is left to its fate."""
        for name in ("aclose", "close"):
            function = getattr(self.instance, name, None)
            if callable(function):
                is_async = inspect.iscoroutinefunction(function)
                try:
                    await self.lane.call(function, is_async=is_async, seconds=self.config.deadline_ms / 1000)
                except (TimeoutError, LaneTaken, Raised):
                    return
                return

    def _raised(self, error: BaseException) -> Outcome:
        text = self.scrub(_text_of(error))
        if isinstance(error, PluginRefusal):
            return Outcome("refused", why=text)
        return Outcome("raised", why=f"{type(error).__name__}: {text}{_place_of(error)}")


def build(config: PluginConfig, where: str) -> Plugin:
    """Find the class, and make its object with the parameters. May take as long as its constructor does.

    Raises ConfigError, without any secret.
    """
    kind = find(config.name, config.source)
    params, words = _own_words(config, kind, where)
    scrub = Scrubber(config.params)
    _check_params(kind, params, where)
    try:
        instance = kind(**plain(params))
        return Plugin(config, kind, instance, None if words is None else Triggers(words))
    except ConfigError as error:
        raise ConfigError(scrub(str(error)), where=where) from None
    except (Exception, SystemExit) as error:
        found = f"{type(error).__name__}: {scrub(_text_of(error))}"
        raise ConfigError("cannot be made", where=where, found=found[:300]) from None


def hooks_of(instance: object, where: str) -> dict[str, Hook]:
    """The hooks of a plugin's object, held to `Hooks` by pluggy. Raises ConfigError for a signature that does not fit."""
    manager = _Manager(PROJECT)
    manager.add_hookspecs(Hooks)
    try:
        manager.register(instance)
    except (pluggy.PluginValidationError, TypeError) as error:
        what = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise ConfigError("has a hook of another signature", where=where, found=what) from None
    found = {}
    for name in HOOKS:
        for implementation in getattr(manager.hook, name).get_hookimpls():
            function = implementation.function
            found[name] = Hook(function, _names(function, name, where), inspect.iscoroutinefunction(function))
    if not found:
        raise ConfigError("has no hook", where=where, expected=f"one of: {', '.join(HOOKS)}")
    return found


class _Manager(pluggy.PluginManager):
    """Takes every method that has a hook's name; no marker is needed."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> Any:
        if name not in HOOKS or not callable(getattr(plugin, name, None)):
            return None
        return {
            "wrapper": False,
            "hookwrapper": False,
            "optionalhook": False,
            "tryfirst": False,
            "trylast": False,
            "specname": None,
        }


def _names(function: Callable[..., Any], name: str, where: str) -> frozenset[str]:
    """The arguments of the hook that this one takes, those with a default among them."""
    known = frozenset(inspect.signature(getattr(Hooks, name)).parameters) - {"self"}
    kinds = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in kinds):
        return known
    positional = [parameter.name for parameter in kinds if parameter.kind is parameter.POSITIONAL_ONLY]
    if positional:
        raise ConfigError(
            "is called by keyword", where=f"{where}: {name}", found=f"{positional[0]}, /", fix="leave out the /"
        )
    named = {parameter.name for parameter in kinds if parameter.kind is not parameter.VAR_POSITIONAL}
    required = {p.name for p in kinds if p.default is p.empty and p.kind is not p.VAR_POSITIONAL}
    if unknown := sorted(required - known):
        raise ConfigError(
            "takes an argument that there is none of",
            where=f"{where}: {name}",
            found=", ".join(unknown),
            expected=f"among: {', '.join(sorted(known))}",
        )
    return known & named


def _own_words(config: PluginConfig, kind: type, where: str) -> tuple[dict[str, Any], list[str] | None]:
    """Parameters of the constructor, and trigger words of the manager."""
    params, words = dict(config.params), config.trigger_words
    if "trigger_words" in params and "trigger_words" not in _parameters(kind):
        if words is not None:
            raise ConfigError("is given twice", where=f"{where}.trigger_words", fix="leave it out of params")
        given = params.pop("trigger_words")
        if not isinstance(given, list) or not given or not all(isinstance(w, str) and w.strip() for w in given):
            raise ConfigError(
                "has a wrong value", where=f"{where}.params.trigger_words", expected="a list of words, none empty"
            )
        words = given
    return params, words


def _parameters(kind: type) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(kind).parameters
    except (TypeError, ValueError):
        return {}


def _check_params(kind: type, params: Mapping[str, Any], where: str) -> None:
    parameters = _parameters(kind)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    takes = {p.name: p for p in parameters.values() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    if unknown := sorted(map(str, params.keys() - takes.keys())):
        raise ConfigError(
            "there is no such parameter",
            where=f"{where}.params.{unknown[0]}",
            expected=f"one of: {', '.join(takes)}" if takes else "none: its constructor takes nothing",
        )
    missing = sorted(name for name, found in takes.items() if found.default is found.empty and name not in params)
    if missing:
        raise ConfigError("is missing", where=f"{where}.params.{missing[0]}", fix="add it")


def _text_of(error: BaseException) -> str:
    try:
        return " ".join(str(error).split())[:1000]
    except Exception:  # its own __str__ may be broken
        return ""


def _place_of(error: BaseException) -> str:
    """Where it was raised, so that its author finds it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    return f" ({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})"
