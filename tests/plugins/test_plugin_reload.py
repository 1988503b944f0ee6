"""A configuration that is read again: what changed is changed, what did not is kept, and a broken file changes nothing."""

import logging
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from plugin_support import CONTEXT, run

import deepseek.plugins.registry as registry
from deepseek.plugins.config import PluginConfig, read_plugins
from deepseek.plugins.manager import PluginManager
from deepseek.plugins.reload import ConfigWatch


class Adds:
    closed: ClassVar[list[str]] = []

    def __init__(self, letter: str) -> None:
        self.letter = letter
        if letter == "hang":
            threading.Event().wait(30)

    def pre_process(self, prompt: str) -> str:
        return prompt + self.letter

    def close(self) -> None:
        self.closed.append(self.letter)


class Place:
    """A file, and what watches it."""

    def __init__(self, path: Path, *letters: str) -> None:
        registry._REGISTERED.update({f"p{at}": Adds for at in range(4)})
        Adds.closed = []
        self.path = path
        self.time = 1_000_000_000
        self.write(*letters)
        self.manager = PluginManager(self.read())
        self.watch = ConfigWatch(path, self.read, self.manager, look_s=0.01, build_s=0.05)
        self.told: list[bool] = []
        self.watch.told = self.told.append

    def write(self, *letters: str) -> None:
        self.put(yaml.safe_dump([{"name": f"p{at}", "params": {"letter": one}} for at, one in enumerate(letters)]))

    def put(self, text: str) -> None:
        self.path.write_text(text)
        self.time += 1
        os.utime(self.path, (self.time, self.time))

    def read(self) -> Sequence[PluginConfig]:
        return read_plugins(yaml.safe_load(self.path.read_text()), f"{self.path}: plugins")

    async def ask(self) -> str:
        session = self.manager.begin(">", CONTEXT)
        return ">" if session is None else await session.pre_process(">")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "platform.yaml", "a", "b")


def test_a_changed_file_changes_the_plugins_and_keeps_those_that_are_the_same(place: Place) -> None:
    async def work() -> None:
        assert await place.watch.look() is None
        first = place.manager.plugins[0]
        place.write("a", "c")
        assert await place.watch.look() is True
        assert await place.ask() == ">ac"
        assert place.manager.plugins[0] is first

    run(work())


@pytest.mark.parametrize(
    "text",
    [
        "{not yaml",
        "name: p0",
        '[{"name": "unheard_of"}]',
        '[{"name": "p0"}]',
        '[{"name": "p0", "params": {"letter": "${env:NOT_SET_ANYWHERE}"}}]',
        '[{"name": "p0", "params": {"letter": "hang"}}]',
    ],
)
def test_a_broken_file_changes_nothing_and_is_said(place: Place, text: str, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        place.put(text)
        with caplog.at_level(logging.ERROR):
            assert await place.watch.look() is False
        assert "cannot be used" in caplog.text and str(place.path) in caplog.text
        assert place.watch.broken and await place.ask() == ">ab"
        place.write("x")
        assert await place.watch.look() is True
        assert not place.watch.broken and await place.ask() == ">x"

    run(work())
    assert place.told == [False, True]


def test_a_file_that_is_gone_changes_nothing(place: Place) -> None:
    async def work() -> None:
        place.path.unlink()
        assert await place.watch.look() is False
        assert await place.ask() == ">ab"

    run(work())


def test_a_request_under_way_keeps_its_plugins_and_they_are_closed_after_it(place: Place) -> None:
    async def work() -> None:
        session: Any = place.manager.begin(">", CONTEXT)
        place.write("z")
        await place.watch.look()
        await place.manager.tidy()
        assert await session.pre_process(">") == ">ab" and Adds.closed == []
        del session
        await place.manager.tidy()
        assert sorted(Adds.closed) == ["a", "b"]
        await place.manager.close()

    run(work())


def test_it_is_read_again_by_itself_and_at_sighup(place: Place) -> None:
    async def until(letters: str) -> None:
        import asyncio

        async with asyncio.timeout(10):
            while await place.ask() != letters:
                await asyncio.sleep(0)

    async def work() -> None:
        place.watch.start()
        place.write("q")
        await until(">q")
        before = len(place.told)
        os.kill(os.getpid(), signal.SIGHUP)
        place.write("r")
        await until(">r")
        assert len(place.told) > before
        await place.watch.stop()

    run(work())
