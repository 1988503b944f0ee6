"""`deepseek plugins list`: what a configuration has, what there is beside it, and no secret."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import deepseek.plugins.registry as registry
from tests.cli.conftest import Run

PLUGIN = """
from deepseek.plugins import register_plugin

@register_plugin("lister")
class Lister:
    def __init__(self, key): pass
    def pre_process(self, prompt): pass
    def post_process(self, text): pass

@register_plugin("spare")
class Spare:
    async def on_token(self, text): pass
"""
CONFIG = """
plugins:
  - {name: lister, source: plugins_of_mine.py, order: 5, on_failure: closed, tenants: [acme],
     params: {key: "${env:TEST_LISTED_KEY}", trigger_words: [find, 查找]}}
  - {name: nobody, order: -1}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))
    monkeypatch.setenv("TEST_LISTED_KEY", "hunter2-hunter2")
    (tmp_path / "plugins_of_mine.py").write_text(PLUGIN)
    path = tmp_path / "platform.yaml"
    path.write_text(CONFIG)
    yield path


def test_the_configured_are_listed_in_the_order_they_are_called(run: Run, file: Path) -> None:
    listed = run("plugins", "list", "--config", file, "--json")
    rows = [json.loads(line) for line in listed.out.splitlines()]
    assert listed.code == 0 and [row["name"] for row in rows[:2]] == ["nobody", "lister"]
    assert "there is no such plugin" in rows[0]["error"]
    assert rows[1]["hooks"] == ["pre_process", "post_process"] and rows[1]["trigger_words"] == ["find", "查找"]
    assert rows[1]["params"] == ["key", "trigger_words"] and rows[1]["holds_streams"] is True
    assert next(row for row in rows if row["name"] == "spare")["configured"] is False
    assert "hunter2" not in listed.out + listed.err


def test_a_line_says_what_a_person_wants_to_know(run: Run, file: Path) -> None:
    line = next(
        line for line in run("plugins", "list", "--config", file).out.splitlines() if line.startswith("lister ")
    )
    for part in ("pre_process post_process", "order 5, 2000 ms, fails closed", "tenants acme", "at find, 查找"):
        assert part in line
    assert "holds streams" in line and "plugins_of_mine.py" in line


def test_a_broken_configuration_is_one_line(refused: Callable[..., str], file: Path) -> None:
    file.write_text("plugins: [{name: x, colour: red}]")
    assert "plugins.0.colour: there is no such field" in refused("plugins", "list", "--config", file)


def test_it_works_without_a_configuration(run: Run) -> None:
    assert run("plugins", "list").code == 0
