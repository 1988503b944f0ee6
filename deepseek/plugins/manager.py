"""The plugins of one configuration, who of them takes part in a request, and what happens when one fails.

    manager = PluginManager(configs)
    session = manager.begin(prompt, context)        # None: no plugin takes part; costs microseconds
    prompt = await session.pre_process(prompt)
    text = await session.post_process(text)

A plugin that raises, is too slow or returns something of a wrong type is left out of that call (`on_failure: open`), or
ends the request by `PluginFailure` (`closed`). What one hook returns is what the next plugin's gets.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from deepseek.core.errors import ConfigError
from deepseek.plugins.config import PluginConfig
from deepseek.plugins.errors import PluginFailure, PluginRefusal
from deepseek.plugins.hooks import TEXT_HOOKS, PluginContext
from deepseek.plugins.plugin import FAILURES, OutcomeKind, Plugin, WrongType, build
from deepseek.plugins.triggers import normalised

log = logging.getLogger("deepseek.plugins")

MAX_TEXT_CHARS = 4_000_000
"""Of what a hook may return."""
MAX_TOLD = 64
"""Calls of `on_error` under way; more are dropped."""
LOG_EVERY_S = 10.0
"""Of one plugin's failures of one kind."""

Observe = Callable[[str, str, OutcomeKind, float], None]
"""(plugin, hook, outcome, seconds): called once for each call of a hook."""


class PluginManager:
    """Used from one event loop, but for its making and `prepare`, which may be in a thread.

    where: the configuration, for errors. observe: told of every call. Raises ConfigError for plugins that cannot be made.
    """

    def __init__(
        self, configs: Sequence[PluginConfig] = (), *, where: str = "plugins", observe: Observe | None = None
    ) -> None:
        self.where = where
        self.observe: Observe = observe or (lambda plugin, hook, outcome, seconds: None)
        self._plugins: tuple[Plugin, ...] = ()
        self._of_text: tuple[Plugin, ...] = ()
        self._before_tool: tuple[Plugin, ...] = ()
        self._after_tool: tuple[Plugin, ...] = ()
        self._telling: set[asyncio.Task[None]] = set()
        self._logged: dict[tuple[str, str], float] = {}
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._retired: list[Plugin] = []
        self.use(self.prepare(configs))

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """In the order they are called."""
        return self._plugins

    def prepare(self, configs: Sequence[PluginConfig]) -> tuple[Plugin, ...]:
        """These plugins, in the order they are called; nothing is changed yet. What is configured as before is the object
        that it was, with all it remembers. May be called in a thread, since a constructor may take long.

        Raises ConfigError.
        """
        made: list[Plugin] = []
        for at, config in enumerate(configs):
            if not config.enabled:
                continue
            where = f"{self.where}.{at}"
            if any(config.name == plugin.name for plugin in made):
                raise ConfigError("is given twice", where=f"{where}.name", found=config.name, fix="leave one out")
            before = next((plugin for plugin in self._plugins if plugin.config == config), None)
            made.append(build(config, where) if before is None else before)
        return tuple(sorted(made, key=lambda plugin: plugin.config.order))

    def use(self, plugins: tuple[Plugin, ...]) -> None:
        """Use these from now on. Requests under way go on with those that they began with."""
        self._retired += [plugin for plugin in self._plugins if plugin not in plugins]
        self._plugins = plugins
        self._of_text = tuple(plugin for plugin in plugins if not TEXT_HOOKS.isdisjoint(plugin.hooks))
        self._before_tool = tuple(plugin for plugin in plugins if "before_tool" in plugin.hooks)
        self._after_tool = tuple(plugin for plugin in plugins if "after_tool" in plugin.hooks)

    async def tidy(self) -> None:
        """Close what was replaced, once no request has it any more."""
        if self._retired:
            in_use = {id(plugin) for session in self._sessions for plugin in session.plugins}
            ended = [plugin for plugin in self._retired if id(plugin) not in in_use]
            self._retired = [plugin for plugin in self._retired if id(plugin) in in_use]
            await asyncio.gather(*(plugin.close() for plugin in ended))

    def reads_prompts(self, tenant: str) -> bool:
        """Whether some plugin may look at a prompt of this tenant."""
        return any(plugin.serves(tenant) for plugin in self._of_text)

    def begin(self, prompt: str | None, context: PluginContext, form: str | None = None) -> Session | None:
        """Those who take part in a request: who serve its tenant, and whose trigger words, if any, are in the prompt. None
        where nobody does. prompt None: there is none. form: it `normalised`, where somebody has done that already."""
        plugins = self._of_text
        if not plugins:
            return None
        tenant = context.tenant
        taking: list[Plugin] = []
        for plugin in plugins:
            if plugin.tenants is not None and tenant not in plugin.tenants:
                continue
            if plugin.triggers is not None:
                if prompt is None:
                    continue
                if form is None:
                    form = normalised(prompt)
                if not plugin.triggers.found_in(form):
                    continue
            taking.append(plugin)
        if not taking:
            return None
        session = Session(self, taking, context)
        self._sessions.add(session)
        return session

    async def before_tool(self, name: str, arguments: Mapping[str, Any], context: PluginContext) -> dict[str, Any]:
        """The arguments to call an agent's tool with: what the plugins made of these. Called by the agent's executor, for
        every call, before it validates the arguments. Trigger words, which are of prompts, are not asked.

        Raises PluginRefusal where a plugin refuses the call, and PluginFailure where one that must not be left out failed.
        Where there is no such plugin it costs about a microsecond.
        """
        found = dict(arguments)
        for plugin in self._before_tool:
            if plugin.serves(context.tenant):
                # A copy: what a plugin changes in place and does not return is nobody's.
                given = {"name": name, "arguments": copy.deepcopy(found), "context": context}
                changed = await self.call(plugin, "before_tool", given, read_arguments)
                found = found if changed is None else changed
        return found

    async def after_tool(self, name: str, arguments: Mapping[str, Any], result: str, context: PluginContext) -> str:
        """The text of a tool's result for the model: what the plugins made of this one. Called by the agent's executor once
        a tool has answered. Raises as `before_tool`."""
        for plugin in self._after_tool:
            if plugin.serves(context.tenant):
                given = {
                    "name": name,
                    "arguments": copy.deepcopy(dict(arguments)),
                    "result": result,
                    "context": context,
                }
                changed = await self.call(plugin, "after_tool", given, read_text)
                result = result if changed is None else changed
        return result

    async def call(self, plugin: Plugin, hook: str, given: Mapping[str, Any], read: Callable[[Any], Any]) -> Any:
        """What the hook returned; None for nothing, and for a failure that is let pass. Raises PluginRefusal and
        PluginFailure."""
        began = time.perf_counter()
        outcome = await plugin.call(hook, given, read)
        self.observe(plugin.name, hook, outcome.kind, time.perf_counter() - began)
        if outcome.kind == "refused":
            raise PluginRefusal(outcome.why or "It was refused.", where=plugin.name)
        if outcome.kind in FAILURES:
            self._log(plugin, hook, outcome.kind, outcome.why)
            if plugin.config.on_failure == "closed":
                raise PluginFailure(f"the plugin {plugin.name} failed ({outcome.kind})", where=hook)
            return None
        return outcome.value

    def tell(self, plugins: Sequence[Plugin], error: Exception, context: PluginContext) -> None:
        """Call `on_error` of these, with nobody waiting for it."""
        for plugin in plugins:
            if "on_error" in plugin.hooks and len(self._telling) < MAX_TOLD:
                task = asyncio.get_running_loop().create_task(self._tell(plugin, error, context))
                self._telling.add(task)
                task.add_done_callback(self._telling.discard)

    async def close(self) -> None:
        """Once nothing is asked any more: let the plugins end what they hold, each within its deadline."""
        for task in self._telling:
            task.cancel()
        await asyncio.gather(*self._telling, return_exceptions=True)
        await asyncio.gather(*(plugin.close() for plugin in (*self._plugins, *self._retired)))

    async def _tell(self, plugin: Plugin, error: Exception, context: PluginContext) -> None:
        began = time.perf_counter()
        outcome = await plugin.call("on_error", {"error": error, "context": context}, lambda value: None)
        kind: OutcomeKind = "raised" if outcome.kind == "refused" else outcome.kind
        self.observe(plugin.name, "on_error", kind, time.perf_counter() - began)
        if kind in FAILURES:
            self._log(plugin, "on_error", kind, outcome.why)

    def _log(self, plugin: Plugin, hook: str, kind: str, why: str) -> None:
        key, now = (plugin.name, kind), time.monotonic()
        if now - self._logged.get(key, -LOG_EVERY_S) >= LOG_EVERY_S:
            self._logged[key] = now
            policy = "the request is ended" if plugin.config.on_failure == "closed" else "it is left out"
            log.warning("plugin %s: %s failed (%s): %s; %s", plugin.name, hook, kind, why, policy)


class Session:
    """One request, and those who take part in it. Bound to them: a new configuration does not touch it."""

    __slots__ = ("__weakref__", "_last", "_manager", "_on_token", "_post", "_pre", "context", "plugins")

    def __init__(self, manager: PluginManager, plugins: Sequence[Plugin], context: PluginContext) -> None:
        self._manager = manager
        self.plugins = tuple(plugins)
        self.context = context
        self._pre = [plugin for plugin in plugins if "pre_process" in plugin.hooks]
        self._on_token = [
            (plugin, hook)
            for plugin in plugins
            for hook in ("on_token", "post_process")
            if hook in plugin.hooks and not (hook == "post_process" and plugin.holds)
        ]
        self._post = [plugin for plugin in plugins if plugin.holds]
        self._last = any(hook == "on_token" and "last" in plugin.hooks[hook].names for plugin, hook in self._on_token)

    @property
    def reads_prompt(self) -> bool:
        return bool(self._pre)

    @property
    def reads_pieces(self) -> bool:
        """Whether `on_piece` has anybody to call."""
        return bool(self._on_token)

    @property
    def wants_last(self) -> bool:
        """Whether one of them is to be told that no more pieces come."""
        return self._last

    @property
    def holds(self) -> bool:
        """Whether `post_process` has anybody to call, and so what a choice says must be held until it is all there."""
        return bool(self._post)

    @property
    def changes_answers(self) -> bool:
        return self.reads_pieces or self.holds

    @property
    def stays(self) -> bool:
        """Whether there is anything to do once the prompt is read."""
        return self.changes_answers or any("on_error" in plugin.hooks for plugin in self.plugins)

    async def pre_process(self, prompt: str) -> str:
        """The prompt to use. Raises PluginRefusal and PluginFailure."""
        for plugin in self._pre:
            given = {"prompt": prompt, "context": self.context}
            changed = await self._manager.call(plugin, "pre_process", given, read_text)
            prompt = prompt if changed is None else changed
        return prompt

    async def on_piece(self, text: str, choice: int, *, last: bool = False) -> str:
        """What to say instead of a piece. last: no more come; text is then empty. Raises as `pre_process`."""
        context = self._of(choice)
        for plugin, hook in self._on_token:
            if text:
                given = {"text": text, "context": context, "last": False}
                changed = await self._manager.call(plugin, hook, given, read_text)
                text = text if changed is None else changed
            if last and hook == "on_token" and "last" in plugin.hooks[hook].names:
                given = {"text": "", "context": context, "last": True}
                text += await self._manager.call(plugin, hook, given, read_text) or ""
        return text

    async def post_process(self, text: str, choice: int = 0) -> str:
        """What to say instead of all of a choice's text. Raises as `pre_process`."""
        context = self._of(choice)
        for plugin in self._post:
            changed = await self._manager.call(plugin, "post_process", {"text": text, "context": context}, read_text)
            text = text if changed is None else changed
        return text

    def failed(self, error: Exception) -> None:
        """Tell those who take part that the request failed."""
        self._manager.tell(self.plugins, error, self.context)

    def _of(self, choice: int) -> PluginContext:
        return replace(self.context, choice=choice) if choice else self.context


def read_text(value: Any) -> str:
    """A text that a hook returned. Raises WrongType."""
    if not isinstance(value, str):
        raise WrongType(f"it returned {type(value).__name__}; expected str or None")
    text = "".join((value,))  # of a subclass too an ordinary text, whatever its methods do
    if len(text) > MAX_TEXT_CHARS:
        raise WrongType(f"it returned {len(text)} characters; expected at most {MAX_TEXT_CHARS}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise WrongType("it returned half of a surrogate pair, which is no text") from None
    return text


def read_arguments(value: Any) -> dict[str, Any]:
    """Arguments that a hook returned. Raises WrongType."""
    found = dict(value) if isinstance(value, Mapping) else None
    if found is None or not all(isinstance(key, str) for key in found):
        raise WrongType(f"it returned {type(value).__name__}; expected a mapping with names, or None")
    return found
