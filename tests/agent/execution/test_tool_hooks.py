"""Plugins before and after a tool: they change, refuse and withhold, and the real manager is who asks them."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from execution_support import Run, call, registry_of

from deepseek.agent import ToolContext
from deepseek.agent.execution.approval import Approval
from deepseek.agent.execution.cache import ToolCache
from deepseek.plugins import PluginConfig, PluginContext, PluginManager, PluginRefusal, register_plugin


@register_plugin("tests-redactor")
class Redactor:
    """Caps a number on the way in, hides a word on the way out, refuses one value."""

    def before_tool(self, name: str, arguments: Mapping[str, Any], context: PluginContext) -> Mapping[str, Any] | None:
        if arguments.get("n") == 13:
            raise PluginRefusal("thirteen is unlucky")
        if isinstance(arguments.get("n"), int) and arguments["n"] > 100:
            return {**arguments, "n": 100}
        return None

    def after_tool(self, name: str, arguments: Mapping[str, Any], result: str, context: PluginContext) -> str | None:
        return result.replace("secret", f"[{context.tenant}]")


@register_plugin("tests-broken")
class Broken:
    def before_tool(self, name: str, arguments: Mapping[str, Any], context: PluginContext) -> None:
        raise ValueError("broken")


def tell(n: int, text: str = "secret") -> str:
    return f"{n} {text}"


def run_of(*names: str, on_failure: str = "open", **options: Any) -> Run:
    configs = [PluginConfig(name=name, on_failure=on_failure) for name in names]  # type: ignore[arg-type]
    return Run(registry_of(tell, **options), hooks=PluginManager(configs), cache=ToolCache())


def test_arguments_and_results_are_changed_on_their_way() -> None:
    run = run_of("tests-redactor")
    (result,) = run(call("tell", n=500), context=ToolContext(tenant="acme"))
    assert result.text == "100 [acme]"
    started = next(fields for kind, fields in run.events if kind == "tool_started")
    assert json.loads(started["arguments"]) == {"n": 100}


def test_a_refusal_keeps_the_tool_from_running() -> None:
    (result,) = run_of("tests-redactor")(call("tell", n=13))
    assert result.status == "refused" and "thirteen is unlucky" in result.text and result.attempts == 0


def test_a_hook_that_fails_refuses_or_is_left_out_as_its_policy_says() -> None:
    assert run_of("tests-broken")(call("tell", n=1))[0].status == "ok"
    (closed,) = run_of("tests-broken", on_failure="closed")(call("tell", n=1))
    assert closed.status == "refused" and closed.attempts == 0


def test_kept_results_are_kept_as_the_tool_gave_them_and_changed_each_time() -> None:
    run = run_of("tests-redactor", pure=True)
    first = run(call("tell", n=500))[0]
    second = run(call("tell", n=600))[0]  # both are capped to the same call
    assert (first.cached, second.cached) == (False, True)
    assert first.text == second.text == "100 [acme]"


def test_arguments_are_checked_after_the_hooks() -> None:
    class Mender:
        async def before_tool(self, name: str, arguments: Mapping[str, Any], context: Any) -> Mapping[str, Any]:
            return {"n": arguments["number"]}

        async def after_tool(self, name: str, arguments: Mapping[str, Any], result: str, context: Any) -> str:
            return result

    run = Run(registry_of(tell), hooks=Mender())
    good, bad = run(call("tell", "1", number=2), call("tell", "2", number="x"))
    assert good.text == "2 secret" and bad.kind == "arguments"


def test_a_person_is_shown_what_the_hooks_made_of_it_and_that_is_what_runs() -> None:
    run = run_of("tests-redactor", needs_approval=True)
    (first,) = run(call("tell", n=500))
    assert first.approval is not None and first.approval.arguments == '{"n":100}'
    answer = {first.approval.id: Approval(first.approval.id, True)}
    (second,) = run(call("tell", n=500), finished={"tell": first}, approvals=answer)
    assert second.text == "100 [acme]"


def test_what_hooks_make_of_an_approved_call_later_is_asked_about_anew() -> None:
    run = run_of(needs_approval=True)
    (first,) = run(call("tell", n=500))
    assert first.approval is not None
    capped = run_of("tests-redactor", needs_approval=True)
    answer = {first.approval.id: Approval(first.approval.id, True)}
    (second,) = capped(call("tell", n=500), finished={"tell": first}, approvals=answer)
    assert second.status == "suspended" and second.approval is not None
    assert second.approval.arguments == '{"n":100}' and second.approval.id != first.approval.id


def test_a_hook_that_withholds_a_result_leaves_no_trace_of_it() -> None:
    class Withholding:
        async def before_tool(self, name: str, arguments: Mapping[str, Any], context: Any) -> Mapping[str, Any]:
            return arguments

        async def after_tool(self, name: str, arguments: Mapping[str, Any], result: str, context: Any) -> str:
            raise PluginRefusal("not for you")

    run = Run(registry_of(tell), hooks=Withholding())
    (result,) = run(call("tell", n=1))
    assert result.status == "error" and "secret" not in result.text
    assert "secret" not in json.dumps(run.events)


@pytest.mark.parametrize("names", [(), ("tests-redactor",)])
def test_hooks_do_not_mix_the_order_of_results(names: tuple[str, ...]) -> None:
    results = run_of(*names)(*(call("tell", str(i), n=i) for i in range(8)))
    assert [result.text[0] for result in results] == [str(i) for i in range(8)]
