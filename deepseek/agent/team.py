"""An agent as a tool of another: it is given a task in words, and its answer is the result.

    writer = Agent(model, [search_agent.as_tool(description="Looks things up.")])

What it spends counts for the one that asked, it ends at that one's deadline at the latest, and its run is recorded beside
the other's, with the call it came from. Where it has to wait for a person, so does the call, and the state of its run is in
the other's: the person's answer to the call is the answer to all that it asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepseek.agent.execution.approval import Approval
from deepseek.agent.execution.context import ToolContext
from deepseek.agent.execution.errors import ApprovalNeeded, ToolFailed
from deepseek.agent.execution.tool import Tool
from deepseek.agent.run import CURRENT, RunResult
from deepseek.agent.state import RunState

if TYPE_CHECKING:
    from deepseek.agent.agent import Agent

MAX_DEPTH = 8
_NO_LIMIT_S = 86_400.0


def agent_tool(agent: Agent, name: str | None, description: str, **options: Any) -> Tool:
    """See `Agent.as_tool`."""

    async def ask(task: str, context: ToolContext) -> Any:
        run = CURRENT.get()
        if run is not None and run.depth >= MAX_DEPTH:
            raise ToolFailed(
                "agents ask each other too deep", found=f"{run.depth} agents", expected=f"at most {MAX_DEPTH}"
            )
        put_away = None if run is None else run.children.pop(context.call_id, None)
        if put_away is None:
            result = await agent.run(task, tenant=context.tenant, call_id=context.call_id)
        else:
            state = RunState.from_json(put_away)
            result = await agent.resume(state, _answers(state, context.approval))
        return _value(result, context.call_id)

    def _value(result: RunResult, call_id: str) -> Any:
        if result.status == "finished":
            return result.output
        if result.status == "limited":
            raise ToolFailed(f"the agent was stopped by its limit of {result.limit}", found=result.answer[:500] or None)
        run = CURRENT.get()
        assert result.state is not None
        if run is None:
            raise ToolFailed("the agent has to wait for a person, which it can only within another's run")
        run.children[call_id] = result.state.to_json()
        asked = "; ".join(f"{one.tool} with {one.arguments}: {one.reason}" for one in result.state.approvals)
        raise ApprovalNeeded(f"the agent {agent.name} asks for {asked}"[:1000])

    options.setdefault("timeout_s", agent.limits.seconds or _NO_LIMIT_S)
    return Tool.of(ask, name=name or agent.name, description=description, **options)


def _answers(state: RunState, given: Approval | None) -> list[Approval]:
    if given is None:
        return []
    return [Approval(request.id, given.approved, given.reason, given.by) for request in state.approvals]
