"""The configuration's plugins: read with the rest of the file, made at the start, read again while the server runs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_support import MODELS, ByteCodec
from plugins_support import Recording, registered_here

from deepseek.api import ServerState, serving
from deepseek.api.config import load
from deepseek.api.platform import open_platform
from deepseek.core.errors import ConfigError

PLUGIN = """
from deepseek.plugins import register_plugin

@register_plugin("signs")
class Signs:
    def __init__(self, key, sign="!"):
        if not sign:
            raise ValueError(f"no sign for {key}")
        self.key, self.sign = key, sign

    def pre_process(self, prompt):
        return prompt + self.sign
"""
CONFIG = """
database: control.db
plugins:
  - name: signs
    source: signs.py
    params: {{key: "${{env:TEST_SIGNS_KEY}}", sign: "{sign}", trigger_words: [hi, 你好]}}
    tenants: [local]
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("TEST_SIGNS_KEY", "k-very-hidden")
    (tmp_path / "signs.py").write_text(PLUGIN)
    path = tmp_path / "platform.yaml"
    path.write_text(CONFIG.format(sign="!"))
    with registered_here():
        yield path


def test_plugins_are_read_with_the_rest_of_the_file(file: Path) -> None:
    config = load(file)
    (plugin,) = config.plugins
    assert plugin.name == "signs" and plugin.source == str(file.parent / "signs.py") and plugin.tenants == ["local"]
    assert "hidden" not in repr(config).replace("[hidden]", "")
    assert config.database == str(file.parent / "control.db")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("plugins: {name: x}", r"platform\.yaml: plugins: is no list of plugins"),
        ("plugins: [{name: x, colour: red}]", r"plugins\.0\.colour: there is no such field"),
        ("plugins: [{name: x, params: {a: '${env:NOT_SET_HERE}'}}]", r"plugins\.0\.params\.a: .* not set"),
        ("plugins: [{name: '${env:TEST_SIGNS_KEY}'}]", r"plugins\.0\.name: has a wrong value"),
        ("pluginz: []", r"there is no such field.*did you mean plugins"),
        ("prices: {'${env:TEST_SIGNS_KEY}': {input: 1}}\nfiles: '${env:TEST_SIGNS_KEY}'", r"params of plugins"),
    ],
)
def test_a_wrong_section_is_refused_by_its_place(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load(file)
    assert "hidden" not in str(caught.value)


def test_no_plugins_is_a_section_too(file: Path) -> None:
    file.write_text("plugins:\n")
    assert load(file).plugins == ()


def opened(file: Path) -> Any:
    return open_platform(load(file), host="127.0.0.1", where=str(file), watched=file)


def test_a_plugin_that_cannot_be_made_keeps_the_server_from_starting(file: Path) -> None:
    file.write_text(CONFIG.format(sign=""))
    with pytest.raises(ConfigError, match=r"plugins\.0: cannot be made; found ValueError: no sign for \[hidden\]"):
        opened(file)


def test_a_server_follows_its_file_and_keeps_what_it_has_when_the_file_breaks(file: Path) -> None:
    platform = opened(file)
    try:
        assert ("plugins", "signs") in platform.rows
        engine = Recording()
        state = ServerState(engine, ByteCodec(), MODELS, engine.max_model_len, **platform.state_fields())
        with serving(state, grace_s=1.0) as server:

            def asked() -> str:
                httpx.post(f"{server.url}/v1/generate", json={"model": MODELS[0], "prompt": "你好", "max_tokens": 1})
                return engine.prompts[-1]

            def stale() -> bool:
                return "deepseek_plugins_stale 1.0" in httpx.get(f"{server.url}/metrics").text

            assert asked() == "你好!"
            rewrite(file, CONFIG.format(sign="?"))
            until(lambda: asked() == "你好?")
            rewrite(file, "plugins: [{name: nobody_made_this}]")
            until(stale)
            assert asked() == "你好?"
            rewrite(file, "plugins: []")
            until(lambda: asked() == "你好")
            assert not stale()
    finally:
        platform.close()


def rewrite(file: Path, text: str) -> None:
    """As editors and mounted secrets do it: at once."""
    beside = file.with_suffix(".new")
    beside.write_text(text)
    os.replace(beside, file)


def until(happened: Any) -> None:
    ends = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < ends, "it did not happen"
