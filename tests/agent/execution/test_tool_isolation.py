"""Tools in processes of their own: whatever they do, the caller goes on, and nothing is left behind."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import isolated_tools
import pytest
from execution_support import Run, bounded, call, registry_of

from deepseek.agent import Executor, ToolContext
from deepseek.agent.execution.errors import ToolTransient
from deepseek.core.messages import ToolCallPart


def run_of(*functions: Any, **options: Any) -> Run:
    return Run(registry_of(*functions, isolate=True, **options))


def test_a_value_goes_there_and_back_as_json() -> None:
    value = {"é": [1, 2.5, None, True, "</tool>"], "n": 2**60}
    assert registry_of(isolated_tools.echo, isolate=True).execute("echo", value=value) == value
    (result,) = run_of(isolated_tools.echo)(call("echo", value="plain"))
    assert result.text == "plain"
    (other,) = run_of(isolated_tools.echo)(call("echo", value=None, process=True))
    assert int(other.text) != os.getpid()


def test_types_that_json_does_not_carry_are_made_again_there() -> None:
    arguments = '{"when": "2024-02-03", "point": {"x": 1, "y": 2}, "number": 5}'
    (result,) = run_of(isolated_tools.typed)(ToolCallPart("1", "typed", arguments))
    assert result.text == "03.02.2024 3 5"


def test_asynchronous_functions_run_there_too() -> None:
    assert run_of(isolated_tools.later)(call("later", text="a"))[0].text == "a"


def test_the_context_is_made_again_there() -> None:
    context = ToolContext(run_id="r", deadline=None)
    assert run_of(isolated_tools.whose)(call("whose", "c"), context=context)[0].text == "r c False"


@pytest.mark.parametrize(
    ("function", "arguments", "said"),
    [
        (isolated_tools.leave, {"status": 7}, "ended without an answer; found exit status 7"),
        (isolated_tools.leave, {"status": 0}, "ended without an answer; found exit status 0"),
        (isolated_tools.crash, {}, "found signal SIGSEGV"),
        (isolated_tools.flood, {}, "more memory than it may have"),
        (isolated_tools.grow, {}, "more memory than it may have"),
        (isolated_tools.complain, {}, "ValueError: no such thing"),
        (isolated_tools.last_words, {}, "exit status 1: I am out of cheese"),
        (isolated_tools.unwritable, {}, "cannot be written as JSON"),
    ],
)
def test_whatever_becomes_of_the_process_is_an_error_of_the_call(
    function: Any, arguments: dict[str, Any], said: str
) -> None:
    (result,) = run_of(function, memory_bytes=128 << 20)(call(function.__name__, **arguments))
    assert result.status == "error" and said in result.text


def test_what_a_tool_asks_of_its_caller_comes_across() -> None:
    (again,) = run_of(isolated_tools.again)(call("again"))
    assert again.kind == "retry" and "with other words" in again.text
    with pytest.raises(ToolTransient) as caught:
        registry_of(isolated_tools.busy, isolate=True).execute("busy")
    assert caught.value.retry_after_s == 7.0


def test_a_tool_that_hangs_is_killed_with_all_it_started(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    run = run_of(isolated_tools.spin_with_child, timeout_s=2.0)
    (result,) = run(call("spin_with_child", path=str(note)))
    assert result.kind == "timeout" and "was killed" in result.text
    assert is_gone(int(note.read_text()))
    assert run.executor.stuck == 0


def is_gone(process: int) -> bool:
    """Whether there is no such process, or only its remains, which nobody here can collect."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True).stdout.strip()
    return state == "" or state.startswith("Z")


def test_cancelling_kills_it_at_once(tmp_path: Path) -> None:
    note = tmp_path / "pid"

    async def cancelled() -> None:
        executor = Executor(registry_of(isolated_tools.spin_with_child, isolate=True, timeout_s=60))
        step = asyncio.ensure_future(executor.run([call("spin_with_child", path=str(note))]))
        while not note.exists() or not note.read_text():
            await asyncio.sleep(0.01)
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step
        while executor.stuck:
            await asyncio.sleep(0.01)

    bounded(cancelled())
    assert is_gone(int(note.read_text()))


def test_output_of_any_length_does_not_stop_it() -> None:
    assert run_of(isolated_tools.chatter)(call("chatter"))[0].text == "done"


def test_threads_it_left_do_not_keep_it() -> None:
    assert run_of(isolated_tools.leave_a_thread)(call("leave_a_thread"))[0].text == "done"


def test_results_are_bounded_there_already() -> None:
    value = "x" * 100_000
    (result,) = run_of(isolated_tools.echo, max_result_bytes=10)(call("echo", value=value))
    assert result.truncated and result.text == "x" * 10 + "\n[cut: 10 of 100000 characters]"


def test_no_file_descriptor_is_left_open() -> None:
    run = run_of(isolated_tools.echo, isolated_tools.leave)
    run(call("echo", value=1))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        run(call("echo", value=1), call("leave", status=1))
    assert len(os.listdir("/proc/self/fd")) <= before


SCRIPT = """
from deepseek.agent import ToolRegistry
registry = ToolRegistry()

@registry.register("double", isolate=True)
def double(number: int) -> int:
    return 2 * number

if __name__ == "__main__":
    print(registry.execute("double", number=21))
"""


def test_a_function_of_a_script_is_found_without_running_the_script_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
        timeout=60,
    )
    assert done.stdout == "42\n", done.stderr
