"""The registry as the article writes it, and what it adds."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator

import pytest
from execution_support import bounded, registry_of

from deepseek.agent import Tool, ToolContext, ToolRegistry
from deepseek.agent.execution.errors import ApprovalNeeded, ArgumentsError
from deepseek.core.errors import ToolError


def test_a_function_is_registered_by_a_decorator_and_called_by_name() -> None:
    registry = ToolRegistry()

    @registry.register("calculator")
    def calculate(expression):  # type: ignore[no-untyped-def]  # as the article writes it
        return len(expression)

    assert registry.execute("calculator", expression="1 + 1") == 5
    assert calculate("1") == 1


def test_a_function_is_registered_directly() -> None:
    registry = ToolRegistry()
    assert registry.register("upper", str.upper, parameters={"type": "object"}) is str.upper
    registry.register("double", lambda number: 2 * number)
    assert registry.execute("double", number=4) == 8


def test_a_tool_that_is_not_there_is_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"^Tool not found$"):
        ToolRegistry().execute("nothing")
    with pytest.raises(ValueError, match=r"^Tool not found$"):
        bounded(ToolRegistry().aexecute("nothing"))


def test_a_tool_may_have_parameters_called_name_and_tool_name() -> None:
    registry = ToolRegistry()

    @registry.register("greet")
    def greet(name: str, tool_name: str, self: str) -> str:
        return f"{name} {tool_name} {self}"

    assert registry.execute("greet", name="a", tool_name="b", self="c") == "a b c"


def test_what_a_tool_raises_is_raised() -> None:
    registry = ToolRegistry()

    @registry.register("fail")
    def fail() -> None:
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        registry.execute("fail")


def test_arguments_are_checked_and_made_what_the_hints_say() -> None:
    def half(number: int) -> float:
        return number / 2

    registry = registry_of(half)
    assert registry.execute("half", number="5") == 2.5
    with pytest.raises(ArgumentsError, match="number: Input should be a valid integer"):
        registry.execute("half", number="five")
    with pytest.raises(ArgumentsError, match=r"numbr: there is no such argument .did you mean 'number'"):
        registry.execute("half", numbr=5)


def test_asynchronous_tools_are_run_by_both() -> None:
    async def later(text: str) -> str:
        await asyncio.sleep(0)
        return text

    registry = registry_of(later)
    assert registry.execute("later", text="a") == "a"
    assert bounded(registry.aexecute("later", text="b")) == "b"


def test_a_synchronous_tool_does_not_block_the_event_loop() -> None:
    release = threading.Event()

    def wait() -> str:
        return "came" if release.wait(10) else "gave up"

    async def both() -> str:
        waiting = asyncio.ensure_future(registry_of(wait).aexecute("wait"))
        await asyncio.sleep(0)
        release.set()  # only a loop that goes on comes here
        return await waiting

    assert bounded(both()) == "came"


def test_execute_refuses_to_block_a_running_loop() -> None:
    async def within() -> None:
        with pytest.raises(ToolError, match="aexecute"):
            registry_of(abs_of).execute("abs_of", number=1)
        assert registry_of(abs_of, inline=True).execute("abs_of", number=-1) == 1

    bounded(within())


def abs_of(number: int) -> int:
    return abs(number)


def test_a_tool_that_needs_a_person_is_not_run_by_the_registry_alone() -> None:
    with pytest.raises(ApprovalNeeded):
        registry_of(abs_of, needs_approval=True).execute("abs_of", number=1)


def test_a_name_is_registered_once_until_it_is_removed() -> None:
    registry = registry_of(abs_of)
    with pytest.raises(ToolError, match="registered already"):
        registry.register("abs_of", abs_of)
    registry.remove("abs_of")
    assert "abs_of" not in registry and len(registry) == 0
    registry.register("abs_of", abs_of)
    with pytest.raises(ValueError, match="Tool not found"):
        registry.remove("other")


def test_names_with_dots_are_found_by_either_spelling() -> None:
    registry = ToolRegistry([Tool.of(abs_of, name="math.abs")])
    assert registry.specs()[0].name == "math_dot_abs"
    assert registry.execute("math.abs", number=-2) == registry.execute("math_dot_abs", number=-2) == 2


def test_the_context_is_handed_over_and_hidden_from_the_model() -> None:
    def who(context: ToolContext) -> bool:
        return isinstance(context, ToolContext)

    registry = registry_of(who)
    assert registry.execute("who") is True
    assert registry.specs()[0].parameters["properties"] == {}


@contextlib.contextmanager
def refused(text: str) -> Iterator[None]:
    with pytest.raises(ToolError, match=text):
        yield


def test_what_cannot_be_a_tool_is_refused_when_it_is_registered() -> None:
    def many(*values: int) -> None: ...
    def odd(other: asyncio.AbstractEventLoop) -> None: ...

    async def later() -> None: ...

    with refused("without a name.*\\*values"):
        registry_of(many)
    with refused("type that JSON cannot carry"):
        registry_of(odd)
    with refused("timeout_s must be positive"):
        registry_of(abs_of, timeout_s=0)
    with refused("another process could not find it"):
        registry_of(later, isolate=True)
    with refused("never inline"):
        registry_of(later, inline=True)
    with refused("printable"):
        Tool.of(abs_of, name="a\nb")
    with refused("no valid JSON schema"):
        Tool.of(abs_of, parameters={"type": "object", "properties": {"a": {"type": "dict"}}})
    with refused("must be an object"):
        Tool.of(abs_of, parameters={"type": "array"})
