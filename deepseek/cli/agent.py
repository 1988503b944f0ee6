"""`deepseek agent`: an agent of a configuration file, asked once or talked to.

The answer goes to standard output, all else to standard error: what it does, what it asks, what became of the files.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from deepseek.agent.agent import Agent
from deepseek.agent.config import load_agent
from deepseek.agent.errors import AgentError
from deepseek.agent.events import ModelFailed, PlanMade, ToolFinished, ToolStarted
from deepseek.agent.execution.approval import Approval, ApprovalRequest
from deepseek.agent.perception.perceive import Attachment, Perception
from deepseek.agent.perception.perceivers import perceiver
from deepseek.agent.record import Recorded
from deepseek.agent.run import RunResult
from deepseek.agent.state import RunState
from deepseek.agent.steps import conversation as conversation_of
from deepseek.cli.screen import print_line
from deepseek.core.deltas import Delta, TextDelta
from deepseek.core.errors import AdmissionError, ModelError
from deepseek.core.messages import Message
from deepseek.tenancy.context import check_tenant

EXIT_CODES = {"finished": 0, "limited": 1, "suspended": 3}
_SHOWN_CHARS = 300

Pieces = AsyncIterator[Delta | Recorded | RunResult]


def run(
    config: Path,
    question: str,
    *,
    files: Sequence[Path],
    perceivers: Sequence[str],
    conversation: str | None,
    yes: bool,
    tenant: str,
    json_output: bool,
) -> int:
    """Print what became of one question; returns the exit code."""
    question = sys.stdin.read() if question == "-" else question
    session = _Session.open(config, tenant, yes=yes, quiet=json_output)
    with asyncio.Runner() as runner:
        try:
            prompt = runner.run(session.perceived(question, files, perceivers))
            result = runner.run(session.ask(prompt, conversation))
        finally:
            runner.run(session.close())
    return session.tell(result, json_output)


def resume(config: Path, run_id: str, *, yes: bool, tenant: str, json_output: bool) -> int:
    """The same for a run that was put away."""
    session = _Session.open(config, tenant, yes=yes, quiet=json_output)
    with asyncio.Runner() as runner:
        try:
            result = runner.run(session.resume(run_id))
        finally:
            runner.run(session.close())
    return session.tell(result, json_output)


def chat(config: Path, *, conversation: str | None, yes: bool, tenant: str) -> None:
    """Read lines, answer each, remembering those before. Ctrl-C ends an answer; at the prompt it ends the conversation."""
    session = _Session.open(config, tenant, yes=yes, quiet=False)
    session.begin(conversation)
    print_line(session.screen, f"{session.agent.name}. An empty line ends, /reset begins anew.", "dim")
    with asyncio.Runner() as runner:
        try:
            while True:
                try:
                    line = input("> " if sys.stdin.isatty() else "").strip()
                except (EOFError, KeyboardInterrupt):
                    print()
                    return
                if not line:
                    return
                if line == "/reset":
                    session.begin(None)
                    continue
                try:
                    session.tell(runner.run(session.say(line)), False)
                except KeyboardInterrupt:
                    print()
                except (ModelError, AdmissionError, AgentError) as error:
                    print_line(session.screen, str(error), "red")
        finally:
            runner.run(session.close())


@dataclass
class _Session:
    """history: what was said, where the agent itself remembers nothing."""

    agent: Agent
    tenant: str
    yes: bool
    quiet: bool
    screen: Console
    conversation: str | None = None
    history: list[Message] | None = None
    streamed: bool = False

    @classmethod
    def open(cls, config: Path, tenant: str, *, yes: bool, quiet: bool) -> _Session:
        check_tenant(tenant)
        screen = Console(stderr=True)
        with screen.status(Text(f"loading {config}")):
            agent = load_agent(config)
        return cls(agent, tenant, yes, quiet, screen)

    async def close(self) -> None:
        """End what the agent owns: its engine, its servers, its store, which has everything on disk then."""
        await self.agent.aclose()

    async def perceived(self, question: str, files: Sequence[Path], perceivers: Sequence[str]) -> str | Message:
        """The question, with the files that belong to it."""
        if not files:
            return question
        perception = Perception([perceiver(name) for name in perceivers])
        attached = [await Attachment.read(file) for file in files]
        perceived = await perception.message(question, attached, self.agent.model.takes)
        for note in perceived.notes:
            made = f", read by {note.by}" if note.by else ""
            self._note(f"{note.name}: {note.media_type}, {note.size_bytes} bytes, as {', '.join(note.became)}{made}")
        return perceived.message

    def begin(self, conversation: str | None) -> None:
        """A conversation, of this name or a new one."""
        if self.agent.memory is not None:
            self.conversation = conversation or f"chat-{secrets.token_hex(8)}"
        else:
            self.history = []

    async def say(self, line: str) -> RunResult:
        """The next thing said in a conversation."""
        if self.history is None:
            return await self.ask(line, self.conversation)
        result = await self._through(self.agent.run_stream(line, tenant=self.tenant, history=self.history))
        if result.status == "finished":
            self.history = conversation_of(result.steps)
        return result

    async def ask(self, prompt: str | Message, conversation: str | None) -> RunResult:
        return await self._through(self.agent.run_stream(prompt, tenant=self.tenant, conversation=conversation))

    async def resume(self, run_id: str) -> RunResult:
        """Raises AgentError where no such run waits."""
        store = self.agent.store
        written = None if store is None else await store.state(self.tenant, run_id)
        if written is None:
            raise AgentError("no such run waits for a person", where=run_id, fix="see the run_id that was printed")
        state = RunState.from_json(written)
        answers = await self._answers(state.approvals)
        if not answers:
            raise AgentError("nobody is there to ask", where=run_id, fix="run it in a terminal, or with --yes")
        return await self._through(self.agent.resume_stream(state, answers))

    async def _through(self, pieces: Pieces) -> RunResult:
        """To the end, asking whoever is there where a person has to be asked."""
        while True:
            result = await self._shown(pieces)
            if result.status != "suspended" or result.state is None:
                return result
            answers = await self._answers(result.approvals)
            if not answers:
                return result
            pieces = self.agent.resume_stream(result.state, answers)

    async def _shown(self, pieces: Pieces) -> RunResult:
        live = not self.quiet and sys.stdout.isatty()
        result: RunResult | None = None
        said = False
        async for piece in pieces:
            if isinstance(piece, RunResult):
                result = piece
            elif isinstance(piece, TextDelta) and live:
                print(piece.text, end="", flush=True)
                said = True
            elif isinstance(piece, Recorded):
                if said and isinstance(piece.event, ToolStarted):
                    print()
                    said = False
                self._event(piece)
        self.streamed = live
        if said:
            print()
        assert result is not None
        return result

    def _event(self, recorded: Recorded) -> None:
        match recorded.event:
            case ToolStarted(name=name, arguments=arguments):
                self._note(f"{name}({arguments if isinstance(arguments, str) else json.dumps(arguments)})")
            case ToolFinished(name=name, status=status, text=text):
                self._note(f"{name}: {'' if status == 'ok' else status + ': '}{text}")
            case PlanMade(again=again):
                self._note("a new plan" if again else "a plan")
            case ModelFailed(error=error, pause_s=pause_s):
                self._note(f"{error}; asking again in {pause_s:.1f} s" if pause_s is not None else error)
            case _:
                pass

    def _note(self, line: str) -> None:
        if not self.quiet:
            flat = " ".join(line.split())
            print_line(self.screen, flat if len(flat) <= _SHOWN_CHARS else flat[:_SHOWN_CHARS] + "…", "dim")

    async def _answers(self, requests: Sequence[ApprovalRequest]) -> list[Approval]:
        """What a person says to each; empty where nobody is there."""
        if self.yes:
            return [Approval(request.id, True, by="--yes") for request in requests]
        if self.quiet or not sys.stdin.isatty():
            return []
        answers = []
        for request in requests:
            reason = f" ({request.reason})" if request.reason else ""
            print_line(self.screen, f"{request.tool}({request.arguments}){reason}: allow it? [y/N]", "bold")
            said = await asyncio.to_thread(sys.stdin.readline)
            answers.append(Approval(request.id, said.strip().lower() in ("y", "yes"), by="terminal"))
        return answers

    def tell(self, result: RunResult, json_output: bool) -> int:
        """Print what came of a run; returns the exit code."""
        if json_output:
            print(json.dumps(report(result), ensure_ascii=False))
        else:
            if not self.streamed and result.status != "suspended":
                print(result.answer)
            if result.status == "limited":
                print_line(self.screen, f"stopped by a limit: {result.limit}", "yellow")
            for request in result.approvals:
                print_line(self.screen, f"a person has to allow {request.tool}({request.arguments})", "yellow")
            if result.status == "suspended":
                print_line(self.screen, f"it waits; go on with: deepseek agent resume CONFIG {result.run_id}", "yellow")
        return EXIT_CODES[result.status]


def report(result: RunResult) -> dict[str, Any]:
    """One object: answer, calls, steps (turns of the model), tokens (of prompts and answers), and how it ended."""
    written: dict[str, Any] = {
        "answer": result.answer if result.output is None or isinstance(result.output, str) else result.output,
        "calls": [
            {
                "name": call.name,
                "arguments": _parsed(call.arguments),
                "result": None if call.result is None else call.result.text,
            }
            for call in result.calls
        ],
        "steps": result.turns,
        "tokens": result.usage.total_tokens,
        "status": result.status,
        "run_id": result.run_id,
    }
    if result.limit is not None:
        written["limit"] = result.limit
    if result.approvals:
        written["approvals"] = [
            {"id": one.id, "tool": one.tool, "arguments": _parsed(one.arguments), "reason": one.reason}
            for one in result.approvals
        ]
    return written


def _parsed(arguments: str) -> Any:
    """As the object that they are; as the text that the model wrote where they are none."""
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments
