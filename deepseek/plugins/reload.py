"""A configuration that is read again when its file changes, or when the process gets SIGHUP.

A new file that is broken changes nothing: the plugins stay as they are, and the log and a metric say why. A constructor
that takes too long counts as broken.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from deepseek.core.errors import DeepSeekError
from deepseek.plugins.config import PluginConfig
from deepseek.plugins.lane import Lane, LaneTaken, Raised
from deepseek.plugins.manager import PluginManager
from deepseek.plugins.plugin import Plugin

log = logging.getLogger("deepseek.plugins")

LOOK_S = 1.0
BUILD_S = 30.0
"""For reading the file and making the plugins."""

Stamp = tuple[int, int, int]


class ConfigWatch:
    """Keeps a manager's plugins as a file says. read: the file's plugins; raises DeepSeekError."""

    def __init__(
        self,
        path: Path,
        read: Callable[[], Sequence[PluginConfig]],
        manager: PluginManager,
        *,
        look_s: float = LOOK_S,
        build_s: float = BUILD_S,
    ) -> None:
        self._path, self._read, self._manager = path, read, manager
        self._look_s, self._build_s = look_s, build_s
        self._seen = _stamp(path)
        self._now = asyncio.Event()
        self._lane = Lane("configuration", threads=2, waiting=2)
        self._task: asyncio.Task[None] | None = None
        self._signalled = False
        self.broken = False
        """Whether the file as it is could not be used."""
        self.told: Callable[[bool], None] = lambda good: None
        """Called after each attempt with whether it succeeded."""

    def start(self) -> None:
        """Look from now on; also at SIGHUP, where this is the main thread."""
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._watch())
        try:
            loop.add_signal_handler(signal.SIGHUP, self._now.set)
            self._signalled = True
        except (ValueError, RuntimeError, NotImplementedError):
            log.debug("SIGHUP does not reach this thread; the file is looked at")

    async def stop(self) -> None:
        if self._signalled:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
            self._signalled = False
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def look(self) -> bool | None:
        """Read the file again if it has changed: whether it could be used, or None where nothing has changed."""
        stamp = await asyncio.to_thread(_stamp, self._path)
        if stamp == self._seen:
            return None
        self._seen = stamp
        return await self.reload()

    async def reload(self) -> bool:
        """Read the file again. False where it could not be used, and the plugins stayed as they were."""
        why = None
        try:
            plugins = await self._lane.call(self._prepared, is_async=False, seconds=self._build_s)
            self._manager.use(plugins)
        except Raised as raised:
            why = str(raised.error) if isinstance(raised.error, DeepSeekError) else type(raised.error).__name__
        except TimeoutError:
            why = f"its plugins were not made within {self._build_s:g} s"
        except LaneTaken:
            why = "earlier attempts hang"
        self.broken = why is not None
        if why is None:
            names = ", ".join(plugin.name for plugin in self._manager.plugins) or "none"
            log.info("%s was read again; plugins: %s", self._path, names)
        else:
            log.error("%s cannot be used, and the plugins stay as they were: %s", self._path, why)
        self.told(why is None)
        return why is None

    def _prepared(self) -> tuple[Plugin, ...]:
        return self._manager.prepare(self._read())

    async def _watch(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._look_s):
                    await self._now.wait()
                self._now.clear()
                self._seen = await asyncio.to_thread(_stamp, self._path)
                await self.reload()
            except TimeoutError:
                await self.look()
            await self._manager.tidy()


def _stamp(path: Path) -> Stamp | None:
    """What changes with the file: mounted secrets and editors replace it, so that its number changes too."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
