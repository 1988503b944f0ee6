"""Who takes part, in which order, and what a failing plugin does to a request: what its policy says and nothing else."""

import asyncio
import logging
import threading
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plugin_support import CONTEXT, config, managed, run

import deepseek.plugins.registry as registry
from deepseek.core.errors import ConfigError
from deepseek.plugins.breaker import THRESHOLD
from deepseek.plugins.errors import PluginFailure, PluginRefusal
from deepseek.plugins.hooks import PluginContext
from deepseek.plugins.manager import PluginManager


def adding(letter: str, *, is_async: bool = False) -> type:
    """A plugin that adds a letter to everything."""

    class Adds:
        def pre_process(self, prompt: str) -> str:
            return prompt + letter

        def post_process(self, text: str) -> str:
            return text + letter

    class AddsLater:
        async def pre_process(self, prompt: str) -> str:
            await asyncio.sleep(0)
            return prompt + letter

        async def post_process(self, text: str) -> str:
            return text + letter

    return AddsLater if is_async else Adds


def doing(function: Any) -> type:
    return type("Does", (), {"pre_process": lambda self, prompt: function()})


async def pre(manager: PluginManager, prompt: str, context: PluginContext = CONTEXT) -> str:
    session = manager.begin(prompt, context)
    return prompt if session is None else await session.pre_process(prompt)


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=6))
def test_plugins_are_called_by_order_then_as_they_are_listed(listed: list[tuple[int, bool]]) -> None:
    plugins = [(adding(chr(97 + at), is_async=late), {"order": order}) for at, (order, late) in enumerate(listed)]
    expected = "".join(chr(97 + at) for at in sorted(range(len(listed)), key=lambda at: listed[at][0]))
    manager, _ = managed(*plugins)
    assert run(pre(manager, ">")) == f">{expected}"


def test_nobody_takes_part_where_none_is_configured_allowed_or_triggered() -> None:
    assert PluginManager().begin("x", CONTEXT) is None
    manager, _ = managed(
        (adding("a"), {"tenants": ["other"]}),
        (adding("b"), {"trigger_words": ["search"]}),
        (adding("c"), {"enabled": False}),
    )
    assert manager.begin("research", CONTEXT) is None
    assert manager.begin(None, CONTEXT) is None
    assert run(pre(manager, "search", PluginContext("other"))) == "searchab"


def raising() -> None:
    raise RuntimeError("broken")


FAULTS: dict[str, Any] = {
    "raised": raising,
    "wrong_type": lambda: 42,
    "timeout": threading.Event().wait,
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_plugin_that_fails_open_is_left_out(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    manager, seen = managed((adding("a"), {}), (doing(FAULTS[kind]), {"deadline_ms": 20}), (adding("b"), {}))
    with caplog.at_level(logging.WARNING):
        assert run(pre(manager, ">")) == ">ab"
    assert [outcome for _, _, outcome in seen] == ["changed", kind, "changed"]
    assert f"plugin p1: pre_process failed ({kind})" in caplog.text


@pytest.mark.parametrize("kind", FAULTS)
def test_a_plugin_that_fails_closed_ends_the_request(kind: str) -> None:
    manager, _ = managed((doing(FAULTS[kind]), {"deadline_ms": 20, "on_failure": "closed"}))
    with pytest.raises(PluginFailure, match="p0"):
        run(pre(manager, ">"))


@pytest.mark.parametrize(
    "value", [b"bytes", 1.5, ["a"], "half \ud800", type("S", (), {})(), True, {"prompt": "x"}], ids=repr
)
def test_a_result_of_a_wrong_type_is_none(value: Any) -> None:
    manager, seen = managed((doing(lambda: value), {}))
    assert run(pre(manager, "as it was")) == "as it was"
    assert seen == [("p0", "pre_process", "wrong_type")]


class Odd(str):
    """A text with a mind of its own."""

    def __str__(self) -> Any:
        return 7

    def __len__(self) -> int:
        raise RuntimeError

    def encode(self, *args: Any) -> Any:
        raise RuntimeError


def test_a_text_of_a_class_of_its_own_becomes_an_ordinary_one() -> None:
    manager, seen = managed((doing(lambda: Odd("odd")), {}))
    found = run(pre(manager, "x"))
    assert type(found) is str and found == "odd"
    assert seen == [("p0", "pre_process", "changed")]


def test_arguments_that_cannot_be_read_are_left_out() -> None:
    class Cursed(dict[str, Any]):
        def keys(self) -> Any:
            raise RuntimeError("no keys")

        def __iter__(self) -> Any:
            raise RuntimeError("no keys")

    kind = type("Bad", (), {"before_tool": lambda self: Cursed(a=1)})
    manager, seen = managed((kind, {}))
    assert run(manager.before_tool("t", {"a": 1}, CONTEXT)) == {"a": 1}
    assert seen == [("p0", "before_tool", "wrong_type")]


def behaving(how: str, letter: str, is_async: bool, release: threading.Event) -> type:
    """A plugin that does well or ill in one way, at every hook of a text."""

    def act(text: str) -> Any:
        if how == "raises":
            raise KeyError(letter)
        if how == "exits":
            raise SystemExit(letter)
        if how == "refuses":
            raise PluginRefusal(letter)
        return {"adds": text + letter, "leaves": None, "gives a number": 1, "gives bytes": b"x", "hangs": text}[how]

    def plain(self: Any, prompt: str) -> Any:
        if how == "hangs":
            release.wait(30)
        return act(prompt)

    async def late(self: Any, prompt: str) -> Any:
        if how == "hangs":
            await asyncio.Event().wait()
        return act(prompt)

    return type("Behaves", (), {"pre_process": late if is_async else plain})


WAYS = ["adds", "leaves", "raises", "exits", "refuses", "gives a number", "gives bytes", "hangs"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(WAYS), st.booleans(), st.sampled_from(["open", "closed"])), min_size=1, max_size=5
    )
)
def test_no_plugin_does_more_to_a_request_than_its_policy_allows(plugins: list[tuple[str, bool, str]]) -> None:
    release = threading.Event()
    expected: Any = ">"
    for at, (how, _, policy) in enumerate(plugins):
        if how == "adds":
            expected += str(at)
        elif how == "refuses":
            expected = PluginRefusal
            break
        elif how != "leaves" and policy == "closed":
            expected = PluginFailure
            break
    manager, _ = managed(
        *(
            (
                behaving(how, str(at), late, release),
                {"on_failure": policy, "deadline_ms": 20 if how == "hangs" else 9000},
            )
            for at, (how, late, policy) in enumerate(plugins)
        )
    )
    try:
        if isinstance(expected, str):
            assert run(pre(manager, ">")) == expected
        else:
            with pytest.raises(expected):
                run(pre(manager, ">"))
    finally:
        release.set()


def test_a_refusal_ends_the_request_whatever_the_policy() -> None:
    def refuse() -> None:
        raise PluginRefusal("not about cats")

    manager, seen = managed((doing(refuse), {"on_failure": "open"}))
    with pytest.raises(PluginRefusal, match="not about cats"):
        run(pre(manager, "cats"))
    assert seen == [("p0", "pre_process", "refused")]


def test_one_that_hangs_is_left_alone_after_some_time_outs() -> None:
    release = threading.Event()
    manager, seen = managed((doing(lambda: release.wait(30)), {"deadline_ms": 5}), (adding("a"), {}))

    async def work() -> None:
        for _ in range(THRESHOLD + 2):
            assert await pre(manager, ">") == ">a"
        release.set()

    run(work())
    outcomes = [outcome for plugin, _, outcome in seen if plugin == "p0"]
    assert outcomes == ["timeout"] * THRESHOLD + ["unavailable"] * 2


def test_a_failure_is_logged_now_and_then_and_not_each_time(caplog: pytest.LogCaptureFixture) -> None:
    manager, seen = managed((doing(raising), {}))

    async def work() -> None:
        for _ in range(20):
            await pre(manager, ">")

    with caplog.at_level(logging.WARNING):
        run(work())
    assert len(seen) == 20 and caplog.text.count("broken") == 1


class Pieces:
    """Keeps the last character back."""

    def __init__(self) -> None:
        self.kept = ""

    def on_token(self, text: str, last: bool) -> str:
        if last:
            return self.kept
        text = self.kept + text
        self.kept = text[-1:]
        return text[:-1]


def test_a_plugin_that_keeps_text_back_gives_it_at_the_end() -> None:
    manager, _ = managed((Pieces, {}))

    async def work() -> str:
        session = manager.begin("x", CONTEXT)
        assert session is not None and session.wants_last and not session.holds
        said = [await session.on_piece(piece, 0) for piece in ("He", "llo", "!")]
        return "".join([*said, await session.on_piece("", 0, last=True)])

    assert run(work()) == "Hello!"


def test_what_one_keeps_back_the_next_still_sees() -> None:
    class Upper:
        def on_token(self, text: str) -> str:
            return text.upper()

    manager, _ = managed((Pieces, {}), (Upper, {}))

    async def work() -> str:
        session = manager.begin("x", CONTEXT)
        assert session is not None
        return await session.on_piece("ab", 0) + await session.on_piece("", 0, last=True)

    assert run(work()) == "AB"


def test_arguments_and_results_of_tools_go_through_plugins() -> None:
    class Tools:
        def before_tool(self, name: str, arguments: dict[str, Any]) -> Mapping[str, Any] | None:
            arguments["secret"] = "changed in place, and nobody's"
            return {"city": arguments["city"].title()} if name == "weather" else None

        async def after_tool(self, name: str, arguments: Any, result: str, context: PluginContext) -> str:
            return f"{context.tenant}: {name}({arguments['city']}) = {result}"

    manager, _ = managed((Tools, {"trigger_words": ["never in a tool"]}))

    async def work() -> None:
        given = {"city": "rome"}
        assert await manager.before_tool("weather", given, CONTEXT) == {"city": "Rome"}
        assert await manager.before_tool("other", given, CONTEXT) == given == {"city": "rome"}
        assert await manager.after_tool("weather", given, "sunny", CONTEXT) == "acme: weather(rome) = sunny"

    run(work())


@pytest.mark.parametrize("value", ["text", 3, [("a", 1)], {1: 2}])
def test_arguments_of_a_wrong_type_are_left_out(value: Any) -> None:
    kind = type("Bad", (), {"before_tool": lambda self: value, "after_tool": lambda self: 3})
    manager, seen = managed((kind, {}))
    assert run(manager.before_tool("t", {"a": 1}, CONTEXT)) == {"a": 1}
    assert run(manager.after_tool("t", {"a": 1}, "r", CONTEXT)) == "r"
    assert [outcome for _, _, outcome in seen] == ["wrong_type", "wrong_type"]


def test_a_tool_may_be_refused() -> None:
    class No:
        def before_tool(self, name: str) -> None:
            raise PluginRefusal(f"{name} is not for you")

    manager, _ = managed((No, {}))
    with pytest.raises(PluginRefusal, match="shell is not for you"):
        run(manager.before_tool("shell", {}, CONTEXT))


def test_those_who_take_part_are_told_of_a_failed_request_and_their_own_failure_is_counted() -> None:
    told: list[tuple[str, str]] = []

    class Told:
        def on_error(self, error: Exception, context: PluginContext) -> None:
            told.append((str(error), context.request_id))
            raise RuntimeError

    manager, seen = managed((Told, {}))

    async def work() -> None:
        session = manager.begin(None, CONTEXT)
        assert session is not None
        session.failed(ValueError("why"))
        async with asyncio.timeout(10):
            while not seen:
                await asyncio.sleep(0)

    run(work())
    assert told == [("why", "req-1")] and seen == [("p0", "on_error", "raised")]


def test_a_secret_in_what_a_plugin_raises_is_not_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from deepseek.plugins.config import read_plugins

    class Leaks:
        def __init__(self, api_key: str) -> None:
            self.api_key = api_key

        def pre_process(self, prompt: str) -> None:
            if prompt == "refuse":
                raise PluginRefusal(f"key {self.api_key}")
            raise ValueError(f"GET https://search.example/?key={self.api_key}")

    registry._REGISTERED["leaks"] = Leaks
    monkeypatch.setenv("KEY", "s3cret-value")
    configs = read_plugins([{"name": "leaks", "params": {"api_key": "${env:KEY}"}}], "plugins")
    manager = PluginManager(configs)
    with caplog.at_level(logging.DEBUG):
        assert run(pre(manager, "x")) == "x"
    assert "key=[hidden]" in caplog.text and "s3cret" not in caplog.text + repr(configs)
    with pytest.raises(PluginRefusal) as caught:
        run(pre(manager, "refuse"))
    assert "s3cret" not in str(caught.value)


def test_a_name_given_twice_is_refused() -> None:
    registry._REGISTERED["a"] = adding("a")
    with pytest.raises(ConfigError, match=r"plugins\.1\.name: is given twice"):
        PluginManager([config("a"), config("a", order=2)])


def test_closing_closes_what_can_be_closed() -> None:
    closed = []

    class Plain:
        def pre_process(self) -> None: ...
        def close(self) -> None:
            closed.append("plain")

    class Later:
        def pre_process(self) -> None: ...
        async def aclose(self) -> None:
            closed.append("later")

    class Broken:
        def pre_process(self) -> None: ...
        def close(self) -> None:
            raise RuntimeError

    manager, _ = managed((Plain, {}), (Later, {}), (Broken, {}))
    run(manager.close())
    assert sorted(closed) == ["later", "plain"]
