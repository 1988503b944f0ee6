"""Calls that wait for a person: their siblings finish, and nothing that finished runs again."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from execution_support import Run, call, registry_of
from pydantic import TypeAdapter

from deepseek.agent import ToolContext
from deepseek.agent.execution.approval import Approval
from deepseek.agent.execution.errors import ApprovalNeeded
from deepseek.agent.execution.results import ToolResult


class Ledger:
    """Notes what really ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    async def look(self, what: str) -> str:
        self.ran.append(f"look {what}")
        return what

    async def pay(self, amount: int) -> str:
        self.ran.append(f"pay {amount}")
        return f"paid {amount}"


def ledger(**options: Any) -> tuple[Ledger, Run]:
    book = Ledger()
    registry = registry_of(book.look)
    registry.register("pay", book.pay, **{"needs_approval": True, **options})
    return book, Run(registry)


def yes(result: ToolResult, **changes: Any) -> dict[str, Approval]:
    assert result.approval is not None
    return {result.approval.id: Approval(result.approval.id, True, **changes)}


def stored(results: list[ToolResult]) -> dict[str, ToolResult]:
    """By call id, after a night in a database."""
    adapter = TypeAdapter(list[ToolResult])
    return {result.call_id: result for result in adapter.validate_json(adapter.dump_json(results))}


def test_the_siblings_of_a_waiting_call_finish() -> None:
    book, run = ledger()
    results = run(call("look", "1", what="a"), call("pay", "2", amount=5), call("look", "3", what="b"))
    assert [result.status for result in results] == ["ok", "suspended", "ok"]
    assert book.ran == ["look a", "look b"]
    request = results[1].approval
    assert request is not None and (request.tool, request.arguments, request.call_id) == ("pay", '{"amount":5}', "2")
    assert run.kinds("2") == ["tool_finished"]


def test_resuming_runs_the_approved_call_and_nothing_else() -> None:
    book, run = ledger()
    calls = [call("look", "1", what="a"), call("pay", "2", amount=5)]
    first = run(*calls)
    before = len(run.events)
    second = run(*calls, finished=stored(first), approvals=yes(first[1]))
    assert [result.text for result in second] == ["a", "paid 5"]
    assert book.ran == ["look a", "pay 5"]
    assert {fields["call_id"] for _, fields in run.events[before:]} == {"2"}


def test_resuming_without_an_answer_waits_on_under_the_same_id() -> None:
    book, run = ledger()
    first = run(call("pay", amount=5))
    second = run(call("pay", amount=5), finished=stored(first))
    assert second == first and book.ran == []


def test_a_no_is_a_refusal_with_its_reason() -> None:
    book, run = ledger()
    (first,) = run(call("pay", amount=5))
    assert first.approval is not None
    no = {first.approval.id: Approval(first.approval.id, False, reason="too much")}
    (second,) = run(call("pay", amount=5), finished={"pay": first}, approvals=no)
    assert (second.status, second.text) == ("refused", "not run: a person said no: too much") and book.ran == []


def test_two_calls_have_two_requests_even_with_the_same_arguments() -> None:
    book, run = ledger()
    calls = [call("pay", "1", amount=5), call("pay", "2", amount=5)]
    first = run(*calls)
    assert first[0].approval and first[1].approval and first[0].approval.id != first[1].approval.id
    second = run(*calls, finished=stored(first), approvals=yes(first[1]))
    assert [result.status for result in second] == ["suspended", "ok"] and book.ran == ["pay 5"]


def test_an_answer_to_one_turn_is_none_to_the_next_though_the_model_uses_its_ids_again() -> None:
    book, run = ledger()
    (first,) = run(call("pay", "call_1", amount=5))
    (again,) = run(call("pay", "call_1", amount=5), approvals=yes(first))
    assert again.status == "suspended" and again.approval != first.approval and book.ran == []


def test_an_answer_is_for_the_arguments_that_were_shown() -> None:
    book, run = ledger()
    (first,) = run(call("pay", amount=5))
    (second,) = run(call("pay", amount=5000), finished={"pay": first}, approvals=yes(first))
    assert second.status == "suspended" and second.approval is not None and first.approval is not None
    assert second.approval.id != first.approval.id and "5000" in second.approval.arguments and book.ran == []


def test_a_person_may_change_the_arguments() -> None:
    book, run = ledger()
    (first,) = run(call("pay", amount=5))
    (second,) = run(call("pay", amount=5), finished={"pay": first}, approvals=yes(first, arguments='{"amount": 3}'))
    assert second.text == "paid 3" and book.ran == ["pay 3"]
    started = next(fields for kind, fields in run.events if kind == "tool_started")
    assert started["arguments"] == '{"amount":3}'
    (third,) = run(call("pay", amount=5), finished={"pay": first}, approvals=yes(first, arguments='{"amount": "x"}'))
    assert third.kind == "arguments" and book.ran == ["pay 3"]


def test_what_depends_on_a_waiting_call_waits_too_and_runs_after_it() -> None:
    book, run = ledger()
    calls = [call("pay", "1", amount=5), call("look", "2", what="receipt"), call("look", "3", what="b")]
    depends = {"2": ["1"]}
    first = run(*calls, depends=depends)
    assert [result.status for result in first] == ["suspended", "suspended", "ok"] and first[1].approval is None
    assert run(*calls, depends=depends, finished=stored(first)) == first
    second = run(*calls, depends=depends, finished=stored(first), approvals=yes(first[0]))
    assert [result.status for result in second] == ["ok", "ok", "ok"]
    assert book.ran == ["look b", "pay 5", "look receipt"]


def test_whether_to_ask_may_depend_on_the_arguments() -> None:
    def large(arguments: Mapping[str, Any], context: ToolContext) -> bool:
        return bool(arguments["amount"] > 10)

    async def large_too(arguments: Mapping[str, Any], context: ToolContext) -> bool:
        return large(arguments, context)

    for predicate in (large, large_too):
        _, run = ledger(needs_approval=predicate)
        small, big = run(call("pay", "1", amount=5), call("pay", "2", amount=50))
        assert (small.status, big.status) == ("ok", "suspended")


def test_where_it_cannot_be_found_out_a_person_is_asked() -> None:
    def broken(arguments: Mapping[str, Any], context: ToolContext) -> bool:
        raise KeyError("amount")

    book, run = ledger(needs_approval=broken)
    assert run(call("pay", amount=5))[0].status == "suspended" and book.ran == []


def test_arguments_that_do_not_fit_are_not_shown_to_a_person() -> None:
    _, run = ledger()
    assert run(call("pay", amount="much"))[0].kind == "arguments"


def test_a_tool_may_ask_by_itself() -> None:
    async def book(nights: int, context: ToolContext) -> str:
        if nights > 3 and context.approval is None:
            raise ApprovalNeeded(f"{nights} nights cost a lot")
        return f"booked by {context.approval.by}" if context.approval else "booked"

    run = Run(registry_of(book))
    short, long = run(call("book", "1", nights=2), call("book", "2", nights=9))
    assert short.text == "booked" and long.status == "suspended" and long.approval is not None
    assert long.approval.reason == "9 nights cost a lot"
    (resumed,) = run(call("book", "2", nights=9), finished={"2": long}, approvals=yes(long, by="ann"))
    assert resumed.text == "booked by ann"


def test_an_answer_with_a_foreign_id_counts_for_nothing() -> None:
    book, run = ledger()
    (first,) = run(call("pay", amount=5))
    forged = {"approval_x": Approval("approval_x", True), "pay": Approval("pay", True)}
    assert run(call("pay", amount=5), finished={"pay": first}, approvals=forged) == [first] and book.ran == []


@pytest.mark.parametrize("status", ["ok", "error", "refused"])
def test_a_final_result_is_returned_as_it_is(status: Any) -> None:
    book, run = ledger()
    (first,) = run(call("look", what="a"))
    earlier = replace(first, status=status, text="as it was")
    assert run(call("look", what="a"), finished={"look": earlier}) == [earlier]
    assert book.ran == ["look a"]


def test_the_request_shows_what_will_run_not_how_it_was_written() -> None:
    _, run = ledger()
    hidden = replace(call("pay"), arguments='{"amount": 1, "amount": 1000000}')
    (result,) = run(hidden)
    assert result.approval is not None and json.loads(result.approval.arguments) == {"amount": 1000000}
