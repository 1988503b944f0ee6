"""Tools of servers by the official SDK, over real pipes and sockets: listed, called, bounded, and gone."""

import asyncio
import json
import os

import pytest
from mcp_support import at, free_port, names, odd, official, official_http, run

from deepseek.agent import Agent
from deepseek.agent.execution.errors import ToolFailed, ToolRetry, ToolTimeout, ToolTransient
from deepseek.agent.mcp.client import HttpServer, McpToolset, StdioServer, toolset_of
from deepseek.agent.mcp.owner import McpGone
from deepseek.agent.perception.perceive import Perception
from deepseek.agent.testing import ScriptedModel, calls
from deepseek.core.errors import ConfigError, ToolError
from deepseek.core.messages import MediaKind, MediaPart, TextPart

pytestmark = pytest.mark.anyio


async def test_a_servers_tools_are_listed_with_their_schemas_and_called() -> None:
    async with official() as server:
        (add,) = [tool for tool in await server.tools() if tool.name == "add"]
        assert add.description == "Add two numbers."
        assert add.parameters["required"] == ["a", "b"]
        assert (await run(server, "add", '{"a": 1, "b": 2}')).text == "3"
        assert server.instructions == "Adds."
        assert (server.status.state, server.status.connects) == ("up", 1)
    assert server.status.state == "closed"


async def test_an_agent_uses_them_like_its_own() -> None:
    async with official() as server:
        agent = Agent(ScriptedModel(calls(("add", {"a": 20, "b": 22})), "It is 42."), [server])
        result = await agent.run("What is 20 + 22?")
    assert [(call.name, call.result.text) for call in result.calls if call.result] == [("add", "42")]


async def test_arguments_are_checked_before_the_server_sees_them() -> None:
    async with official() as server:
        result = await run(server, "add", '{"a": 1, "b": "two"}')
    assert (result.status, result.kind) == ("error", "arguments")
    assert "b: must be" in result.text


async def test_a_tool_that_fails_says_why_and_may_be_tried_differently() -> None:
    async with official() as server:
        result = await run(server, "fail", '{"reason": "no such city"}')
        assert (result.status, result.kind) == ("error", "retry")
        assert "no such city" in result.text
        with pytest.raises(ToolRetry):
            await server.call("nonesuch", {})


async def test_an_answer_in_time_or_none_and_the_connection_stays() -> None:
    async with official(timeout_s=0.2) as server:
        with pytest.raises(ToolTimeout, match=r"0\.2 s"):
            await server.call("hang", {})
        assert await server.call("add", {"a": 1, "b": 1}, 30.0) == [TextPart("2")]
        assert server.status.connects == 1


async def test_a_call_that_is_cancelled_leaves_the_others_alone() -> None:
    async with official() as server:
        await server.tools()
        hanging = asyncio.create_task(server.call("hang", {}))
        assert await server.call("add", {"a": 1, "b": 1}) == [TextPart("2")]
        hanging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hanging
        assert await server.call("add", {"a": 2, "b": 1}) == [TextPart("3")]
        assert server.status.connects == 1


async def test_many_calls_go_on_at_once_over_one_connection() -> None:
    async with official() as server:
        answers = await asyncio.gather(*(server.call("add", {"a": at, "b": 1}) for at in range(50)))
        assert answers == [[TextPart(str(at + 1))] for at in range(50)]
        assert server.status.connects == 1


async def test_a_server_that_dies_fails_the_call_with_its_last_words_and_is_started_anew() -> None:
    async with official() as server:
        first = await server.call("process_id", {})
        with pytest.raises(McpGone, match="status 3: out of order"):
            await server.call("die", {"status": 3})
        assert server.status.state == "down"
        assert "out of order" in server.status.reason
        assert await server.call("process_id", {}) != first
        assert server.status.connects == 2


async def test_a_model_is_told_of_a_dead_server_and_the_run_goes_on() -> None:
    async with official() as server:
        agent = Agent(ScriptedModel(calls(("die", {"status": 1})), calls(("add", {"a": 1, "b": 2})), "3"), [server])
        result = await agent.run("Break it, then add.")
    died, added = (call.result for call in result.calls)
    assert died is not None and died.kind == "failed" and "went away" in died.text
    assert added is not None and added.text == "3"


async def test_a_server_that_cannot_be_started_is_reported_and_not_hammered() -> None:
    server = McpToolset(StdioServer(("/nonexistent/server",)), name="missing")
    async with server:
        with pytest.raises(ToolTransient, match=r"missing: the MCP server is not there: .*cannot be started"):
            await server.tools()
        with pytest.raises(ToolTransient) as second:
            await server.tools()
        assert second.value.retry_after_s is not None and 0 < second.value.retry_after_s <= 0.5
        assert server.status.state == "down"


async def test_a_server_that_is_not_required_takes_only_its_tools_with_it() -> None:
    async with McpToolset(StdioServer(("/nonexistent/server",)), required=False) as server:
        assert await server.tools() == ()


async def test_a_server_that_does_not_answer_is_given_up() -> None:
    async with odd("silent", connect_s=0.6) as server:
        with pytest.raises(ToolTransient, match=r"does not answer|timed out"):
            await server.tools()


@pytest.mark.parametrize("kind", ["noise", "wrong", "legacy"])
async def test_an_older_server_is_spoken_to_in_its_own_way(kind: str) -> None:
    async with odd(kind) as server:
        assert await names(server) == ["first"]


async def test_lines_that_are_no_messages_are_passed_over() -> None:
    async with odd("noise") as server:
        assert await server.call("first", {}) == [TextPart("done")]


async def test_an_answer_that_is_none_fails_the_call_alone() -> None:
    async with odd("wrong") as server:
        with pytest.raises(ToolFailed, match="not what the protocol says"):
            await server.call("first", {})
        assert server.status.state == "up"


async def test_a_message_without_end_ends_the_connection_at_its_bound() -> None:
    async with odd("flood", max_message_bytes=1 << 20) as server:
        with pytest.raises(McpGone, match="more than 1048576 bytes"):
            await server.call("first", {})


async def test_a_long_result_is_cut_for_the_model() -> None:
    async with official() as server:
        result = await run(server, "long_text", '{"length": 200000}')
    assert result.truncated and len(result.text) < 70_000


async def test_a_changed_list_is_listed_anew_when_an_older_server_says_so() -> None:
    async with odd("legacy") as server:
        before = await server.tools()
        assert await server.tools() is before
        await server.call("first", {})
        assert await names(server) == ["first", "second"]


async def test_a_changed_list_is_listed_anew_when_a_newer_server_says_so_to_those_who_listen() -> None:
    async with official() as server:
        assert "grown" not in await names(server)
        await server.call("grow", {})
        async with asyncio.timeout(10):
            while "grown" not in await names(server):
                await asyncio.sleep(0)
        assert await server.call("grown", {}) == [TextPart("bmV3")]


async def test_what_did_not_change_stays_the_same_object() -> None:
    async with odd("legacy") as server:
        (first,) = await server.tools()
        await server.call("first", {})
        assert (await server.tools())[0] is first


async def test_tools_that_cannot_be_used_are_left_out_and_named() -> None:
    async with odd("schemas") as server:
        assert await names(server) == ["first"]
        assert set(server.left_out) == {"no-schema", "x" * 128, "first"}


async def test_a_list_that_is_none_is_an_error_of_the_server() -> None:
    async with odd("list") as server:
        with pytest.raises(ToolFailed, match="as the protocol says"):
            await server.tools()
        assert server.status.state == "up"


async def test_a_list_without_end_is_ended() -> None:
    async with odd("many", max_tools=5) as server:
        assert await names(server) == ["first"]


async def test_a_server_that_will_not_end_is_killed() -> None:
    server = odd("stubborn")
    await server.tools()
    await server.aclose()
    assert server.status.state == "closed"


async def test_names_can_be_prefixed_chosen_and_asked_about() -> None:
    async with official(prefix="o_", only=["add", "fail"], needs_approval=["fail"]) as server:
        add, fail = await server.tools()
        assert (add.name, add.needs_approval) == ("o_add", False)
        assert (fail.name, fail.needs_approval) == ("o_fail", True)
        assert (await run(server, "o_add", '{"a": 1, "b": 1}')).text == "2"
        assert (await run(server, "o_fail", '{"reason": ""}')).status == "suspended"


async def test_a_picture_is_a_part_and_its_name_to_a_model() -> None:
    async with official() as server:
        (part,) = await server.call("picture", {})
        assert isinstance(part, MediaPart) and (part.kind, part.media_type) == ("image", "image/png")
        assert (await run(server, "picture")).text == f"[image: image/png, {len(part.data)} bytes]"


async def test_a_picture_is_read_where_something_reads_pictures() -> None:
    class Colours:
        name = "colours"
        kinds: frozenset[MediaKind] = frozenset({"image"})

        async def text_of(self, part: MediaPart) -> str:
            return "all red"

    async with official(perception=Perception([Colours()])) as server:
        assert "turned into text by colours]\nall red\n" in (await run(server, "picture")).text


async def test_a_server_gets_its_own_variables_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "hidden")
    async with official() as server:
        assert await server.call("variable", {"name": "GREETING"}) == [TextPart("hello")]
        assert await server.call("variable", {"name": "A_SECRET"}) == [TextPart("")]


async def test_a_server_at_an_address_is_used_the_same_way() -> None:
    port = free_port()
    async with official_http(port), at(port) as server:
        assert (await run(server, "add", '{"a": 1, "b": 2}')).text == "3"
        with pytest.raises(ToolTimeout):
            await server.call("hang", {}, 0.2)
        assert await server.call("add", {"a": 1, "b": 1}) == [TextPart("2")]


async def test_a_server_at_an_address_that_goes_away_comes_back() -> None:
    port = free_port()
    async with at(port, connect_s=10.0) as server:
        with pytest.raises(ToolTransient, match="not there"):
            await server.tools()
        async with official_http(port):
            async with asyncio.timeout(20):
                while True:
                    try:
                        await server.tools()
                        break
                    except ToolTransient as error:
                        await asyncio.sleep(error.retry_after_s or 0)
            assert await server.call("add", {"a": 1, "b": 1}) == [TextPart("2")]
        with pytest.raises(ToolError):
            await server.call("add", {"a": 1, "b": 1})
        async with official_http(port):
            async with asyncio.timeout(20):
                while True:
                    try:
                        assert await server.call("add", {"a": 2, "b": 1}) == [TextPart("3")]
                        break
                    except ToolTransient as error:
                        await asyncio.sleep(error.retry_after_s or 0)


async def test_an_answer_from_an_address_is_bounded() -> None:
    port = free_port()
    async with official_http(port), at(port, max_message_bytes=100_000) as server:
        await server.tools()
        with pytest.raises(ToolError):
            await server.call("long_text", {"length": 200_000})


def test_the_toolset_serves_one_event_loop_after_another() -> None:
    server = official()

    async def once() -> object:
        return await server.call("add", {"a": 1, "b": 1})

    assert asyncio.run(once()) == asyncio.run(once()) == [TextPart("2")]


def test_no_process_is_left_when_the_event_loop_ends_without_closing() -> None:
    server = official()

    async def once() -> int:
        (part,) = await server.call("process_id", {})
        assert isinstance(part, TextPart)
        return int(json.loads(part.text))

    process = asyncio.run(once())
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_server_is_named_by_address_or_command_and_nothing_else() -> None:
    assert isinstance(toolset_of("https://tools.example/mcp", headers={"authorization": "x"})._server, HttpServer)
    assert toolset_of("npx 'a server' --flag")._server == StdioServer(["npx", "a server", "--flag"])
    for wrong in ("", "'", []):
        with pytest.raises(ConfigError):
            toolset_of(wrong)
    with pytest.raises(ConfigError, match="headers"):
        toolset_of("server", headers={"a": "b"})
    assert "secret" not in repr(HttpServer("https://x", {"authorization": "secret"}))
