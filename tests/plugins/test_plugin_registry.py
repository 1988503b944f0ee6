"""Which class is the plugin of a name: registered, installed, or built in, in that order."""

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from plugin_support import config

import deepseek.plugins.registry as registry
from deepseek.core.errors import ConfigError
from deepseek.plugins import register_plugin
from deepseek.plugins.plugin import build
from deepseek.plugins.registry import available, find


class Shout:
    def pre_process(self, prompt: str) -> str:
        return prompt.upper()


def test_a_registered_class_is_found_and_left_as_it_is() -> None:
    assert register_plugin("shout")(Shout) is Shout
    assert find("shout") is Shout


def test_two_classes_of_one_name_are_refused_and_the_same_one_anew_is_not() -> None:
    register_plugin("shout")(Shout)
    register_plugin("shout")(Shout)

    class Other(Shout): ...

    with pytest.raises(ConfigError, match="another class"):
        register_plugin("shout")(Other)


@pytest.mark.parametrize("name", ["", "a b", "../x", "x" * 65, 7, "名"])
def test_what_is_no_name_is_refused(name: Any) -> None:
    with pytest.raises(ConfigError, match="not a name"):
        register_plugin(name)


def test_a_class_without_hooks_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no hook"):
        register_plugin("none")(dict)


def test_an_unknown_name_says_which_there_are() -> None:
    register_plugin("shout")(Shout)
    with pytest.raises(ConfigError, match=r"found whisper; expected one of: .*shout"):
        find("whisper")


def test_a_users_class_takes_the_place_of_the_built_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    built_in = type("WebSearch", (Shout,), {"__module__": f"{registry.BUILTIN}.web_search"})
    register_plugin("web_search")(built_in)
    mine = type("Mine", (Shout,), {"__module__": "mine"})
    register_plugin("web_search")(mine)
    assert find("web_search") is mine
    register_plugin("web_search")(built_in)
    assert find("web_search") is mine


def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, source: str) -> None:
    """As if a package with this module had been installed."""
    module = f"installed_{name}"
    (tmp_path / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, module, raising=False)
    entry = EntryPoint(name, f"{module}:Plugin", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry] if group == registry.GROUP else [])


def test_an_entry_point_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed(
        monkeypatch, tmp_path, "louder", "class Plugin:\n    def pre_process(self, prompt): return prompt + '!'\n"
    )
    assert find("louder")().pre_process("a") == "a!"
    assert [found.name for found in available() if found.plugin is not None].count("louder") == 1


def test_an_entry_point_that_cannot_be_loaded_is_listed_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed(monkeypatch, tmp_path, "broken", "raise SystemExit('no licence')")
    (broken,) = [found for found in available() if found.name == "broken"]
    assert broken.plugin is None and "SystemExit: no licence" in broken.error
    with pytest.raises(ConfigError, match="cannot be imported"):
        find("broken")


def test_a_file_is_imported_once(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from deepseek.plugins import register_plugin\n"
        "@register_plugin('mine')\n"
        "class Mine:\n"
        "    def pre_process(self, prompt): return 'mine'\n"
    )
    assert find("mine", str(file)) is find("mine", str(file))
    with pytest.raises(ConfigError, match="registers no such plugin"):
        find("yours", str(file))
    with pytest.raises(ConfigError, match="no such file"):
        find("mine", str(tmp_path / "absent.py"))


def made(kind: Any, **fields: Any) -> Any:
    register_plugin("it")(kind)
    return build(config("it", **fields), "plugins.0")


def test_params_are_the_constructors_arguments() -> None:
    class Takes(Shout):
        def __init__(self, api_key: str, *, size: int = 3) -> None:
            self.got = (api_key, size)

    assert made(Takes, params={"api_key": "k"}).instance.got == ("k", 3)
    for params, message in [
        ({}, r"params\.api_key: is missing"),
        ({"api_key": "k", "sise": 1}, r"params\.sise: there is no such parameter"),
    ]:
        with pytest.raises(ConfigError, match=message):
            build(config("it", params=params), "plugins.0")


def test_trigger_words_are_the_managers_unless_the_constructor_names_them() -> None:
    class Named(Shout):
        def __init__(self, trigger_words: list[str]) -> None:
            self.words = trigger_words

    plugin = made(Shout, params={"trigger_words": ["最新", "search"]})
    assert plugin.triggers.words == ("最新", "search")
    register_plugin("named")(Named)
    plugin = build(config("named", params={"trigger_words": ["a"]}), "plugins.0")
    assert plugin.triggers is None and plugin.instance.words == ["a"]


@pytest.mark.parametrize("words", ["search", [], [""], [1], {"a": 1}])
def test_trigger_words_of_another_form_are_refused(words: Any) -> None:
    with pytest.raises(ConfigError, match=r"trigger_words.*a list of words"):
        made(Shout, params={"trigger_words": words})


def test_a_hook_may_leave_arguments_out_and_invent_none() -> None:
    class Less:
        def pre_process(self, prompt: str) -> None: ...
        def on_token(self) -> None: ...
        async def on_error(self, **more: Any) -> None: ...
        def after_tool(self, result: str, context: Any = None) -> None: ...

    hooks = made(Less).hooks
    assert {name: set(hook.names) for name, hook in hooks.items()} == {
        "pre_process": {"prompt"},
        "on_token": set(),
        "on_error": {"error", "context"},
        "after_tool": {"result", "context"},
    }

    class More:
        def pre_process(self, prompt: str, temperature: float) -> None: ...

    register_plugin("more")(More)
    with pytest.raises(ConfigError, match=r"temperature"):
        build(config("more"), "plugins.0")


def test_a_constructor_that_fails_says_why_without_its_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fails(Shout):
        def __init__(self, key: str) -> None:
            raise RuntimeError(f"no such account: {key}")

    from deepseek.plugins.config import read_plugins

    register_plugin("fails")(Fails)
    monkeypatch.setenv("KEY", "hunter2-secret")
    (entry,) = read_plugins([{"name": "fails", "params": {"key": "${env:KEY}"}}], "p.yaml: plugins")
    with pytest.raises(ConfigError) as caught:
        build(entry, "p.yaml: plugins.0")
    assert "no such account: [hidden]" in str(caught.value) and "hunter2" not in str(caught.value)
