"""What all commands have in common: help, version, and mistakes told in one line with exit code 2."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

import pytest

from deepseek.cli import spread_lists
from tests.cli.conftest import Run


def test_version_names_the_distribution(run: Run) -> None:
    assert run("--version").out == f"deepseek-stack {version('deepseek-stack')}\n"


@pytest.mark.parametrize("args", [(), ("--help",)])
def test_help_lists_the_commands(run: Run, args: tuple[str, ...]) -> None:
    outcome = run(*args)
    assert outcome.code == 0
    for command in ("serve", "generate", "chat", "train", "evaluate", "doctor"):
        assert f"\n  {command}" in outcome.out


@pytest.mark.parametrize("command", ["serve", "generate", "chat", "train", "evaluate", "doctor"])
def test_every_command_explains_itself(run: Run, command: str) -> None:
    outcome = run(command, "--help")
    assert outcome.code == 0 and outcome.out.startswith(f"Usage: deepseek {command}")


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("fly",), "No such command 'fly'. Fix: see deepseek --help"),
        (("generate", "--colour", "red"), "No such option"),
        (("generate", "--prompt", "a", "--max-tokens", "many"), "Invalid value for '--max-tokens'"),
        (("serve", "--port", "70000"), "Invalid value for '--port'"),
        (("serve", "--served-model-name"), "'--served-model-name' requires an argument"),
        (("serve", "--served-model-name", "--port", "0"), "'--served-model-name' requires an argument"),
        (("train",), "Missing argument 'recipe'"),
    ],
)
def test_a_mistake_of_usage_is_one_line(refused: Callable[..., str], args: tuple[str, ...], expected: str) -> None:
    assert expected in refused(*args)


@pytest.mark.parametrize(
    ("given", "spread"),
    [
        ("serve --served-model-name a b c", "serve --served-model-name a --served-model-name b --served-model-name c"),
        ("serve --served-model-name a b --port 1", "serve --served-model-name a --served-model-name b --port 1"),
        ("serve --served-model-name=a b", "serve --served-model-name=a --served-model-name b"),
        ("serve --model m --served-model-name a", "serve --model m --served-model-name a"),
        ("train file.yaml --steps 2", "train file.yaml --steps 2"),
    ],
)
def test_a_list_of_names_is_spread_over_one_option_each(given: str, spread: str) -> None:
    assert spread_lists(given.split()) == spread.split()
