"""`deepseek chat`: lines in, answers out, also through a pipe."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deepseek.models.tokenizer import Tokenizer
from tests.cli.conftest import Outcome, Run


@pytest.fixture
def chat(run: Run, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    def talk(text: str, *args: object) -> Outcome:
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        return run("chat", "--model", model_dir, "--temperature", 0, "--max-tokens", 4, *args)

    return talk


def test_every_line_is_answered_until_the_input_ends(chat: Callable[..., Outcome]) -> None:
    outcome = chat("Hello\nAgain\n")
    assert outcome.code == 0
    assert outcome.out.count("\n") >= 3  # two answers, and the end of the input
    assert "small-model" in outcome.err and ">" not in outcome.out.splitlines()[0][:2]


def test_an_empty_line_ends(chat: Callable[..., Outcome]) -> None:
    once, more = chat("Hello\n\nAgain\n"), chat("Hello\n\n")
    assert once.code == 0 and once.out == more.out


def test_reset_forgets_the_conversation(chat: Callable[..., Outcome]) -> None:
    first = chat("Hello\n\n").out
    assert chat("Hello\n/reset\nHello\n\n").out == first * 2
    assert chat("Hello\nHello\n\n").out != first * 2


def test_a_conversation_that_outgrows_the_context_forgets_its_oldest_turn(chat: Callable[..., Outcome]) -> None:
    outcome = chat("one two three\n" * 12)
    assert outcome.code == 0
    assert "the oldest turn no longer fits and is forgotten" in outcome.err


def test_a_line_longer_than_the_context_is_said_and_the_conversation_goes_on(
    chat: Callable[..., Outcome], model_dir: Path
) -> None:
    line = "0123456789" * 8
    assert len(Tokenizer.from_dir(model_dir).encode(line)) > 64
    outcome = chat(f"{line}\nHello\n\n")
    assert outcome.code == 0
    assert outcome.err.count("\n") == 2 and "at most 63" in outcome.err.splitlines()[1]
    assert outcome.out == chat("Hello\n\n").out


def test_a_system_message_changes_the_answer(chat: Callable[..., Outcome]) -> None:
    assert chat("Hello\n\n", "--system", "Be brief").out != chat("Hello\n\n").out
