"""Moderation through the plugin manager: prompts, and answers as they stream."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from plugin_support import config, run

from deepseek.core.errors import ConfigError
from deepseek.plugins import PluginContext, PluginManager, PluginRefusal

RULES: list[dict[str, Any]] = [
    {"name": "secret", "terms": ["Project Falcon", "猎鹰计划"], "action": "refuse", "message": "Ask the press office."},
    {"name": "personal", "kinds": ["email", "phone"], "action": "mask", "mask": "[removed]"},
    {"name": "tickets", "patterns": [r"\bTICKET-\d{1,6}\b"], "action": "note"},
]


def manager(rules: Any) -> PluginManager:
    return PluginManager([config("moderation", params={"rules": rules}, on_failure="closed", deadline_ms=20_000)])


def asked(rules: Any, prompt: str, context: PluginContext | None = None) -> str:
    session = manager(rules).begin(prompt, context or PluginContext())
    assert session is not None
    return run(session.pre_process(prompt))


def answered(rules: Any, pieces: Sequence[str], context: PluginContext | None = None) -> str:
    """What a client gets, piece by piece, until it is refused."""
    session = manager(rules).begin("hello", context or PluginContext())
    assert session is not None

    async def stream() -> str:
        said = ""
        try:
            for at, piece in enumerate(pieces):
                said += await session.on_piece(piece, 0, last=at == len(pieces) - 1)
        except PluginRefusal as refusal:
            return f"{said}|{refusal.what}"
        return said

    return run(stream())


@pytest.mark.parametrize("prompt", ["Tell me of project  FALCON.", "请介绍猎鹰计划", "猎\u200b鹰计划"])
def test_a_prompt_with_a_refused_term_is_refused(prompt: str) -> None:
    with pytest.raises(PluginRefusal, match="Ask the press office"):
        asked(RULES, prompt)


def test_a_prompt_is_masked_and_the_rest_of_it_left_as_it_was() -> None:
    assert asked(RULES, "Write to ann@example.org or 138-1234 5678。\n好") == "Write to [removed] or [removed]。\n好"


def test_a_prompt_without_anything_is_unchanged() -> None:
    assert asked(RULES, "How are falcons?") == "How are falcons?"


def test_what_is_noted_passes_and_is_told_to_others() -> None:
    context = PluginContext()
    assert asked(RULES, "See TICKET-12 and TICKET-13.", context) == "See TICKET-12 and TICKET-13."
    assert context.metadata["moderation.notes"] == ["tickets", "tickets"]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_an_answer_is_masked_wherever_its_tokens_are_cut(size: int) -> None:
    text = "Ask ann@example.org, 电话13812345678。"
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    assert answered(RULES, pieces) == "Ask [removed], 电话[removed]。"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_an_answer_ends_before_a_refused_term_wherever_its_tokens_are_cut(size: int) -> None:
    text = "这是猎鹰计划的内容"
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    said, _, why = answered(RULES, pieces).partition("|")
    assert why == "Ask the press office."
    assert "这是".startswith(said)


def test_nothing_that_is_refused_goes_by_under_a_mask() -> None:
    rules = [
        {"name": "a", "patterns": ["x[^z]*z"], "action": "mask"},
        {"name": "b", "terms": ["坏词"], "action": "refuse", "message": "no"},
    ]
    assert answered(rules, ["x坏", "词z"]).endswith("|no")


def test_what_is_kept_back_at_the_end_is_said() -> None:
    assert answered(RULES, ["about 猎", "鹰"]) == "about 猎鹰"


def test_a_rule_of_prompts_alone_holds_no_answer_up() -> None:
    rules = [{"name": "a", "terms": ["x"], "on": ["prompt"]}]
    session = manager(rules).begin("hello", PluginContext())
    assert session is not None and not session.changes_answers


def test_choices_of_one_request_are_read_apart() -> None:
    session = manager([{"name": "a", "terms": ["坏词"], "action": "mask"}]).begin("hello", PluginContext())
    assert session is not None

    async def stream() -> list[str]:
        said = [await session.on_piece("坏", 0), await session.on_piece("词", 1, last=True)]
        return [*said, await session.on_piece("词", 0, last=True)]

    assert run(stream()) == ["", "词", "***"]


def test_a_refusal_without_a_message_speaks_the_language_of_the_text() -> None:
    rules = [{"name": "a", "terms": ["坏词", "badword"]}]
    with pytest.raises(PluginRefusal, match="规则"):
        asked(rules, "坏词")
    with pytest.raises(PluginRefusal, match="rules of this service"):
        asked(rules, "badword")


def test_terms_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "terms.txt"
    file.write_text("# words\n坏词\n\nbad word\n", "utf-8")
    rules = [{"name": "a", "terms_file": str(file), "action": "mask"}]
    assert asked(rules, "Bad Word, 坏词, # words") == "***, ***, # words"


@pytest.mark.parametrize(
    "rules",
    [[], "x", [{}], [{"terms": []}], [{"terms": ["a"], "action": "eat"}], [{"patterns": ["(a"]}], [{"terms": ["a"], "x": 1}],
     [{"name": "a", "terms": ["a"]}, {"name": "a", "terms": ["b"]}], [{"terms_file": "/no/such/file"}], [{"kinds": ["soul"]}]],
)  # fmt: skip
def test_rules_that_are_none_are_refused_when_they_are_configured(rules: Any) -> None:
    with pytest.raises(ConfigError):
        manager(rules)


@pytest.mark.parametrize(
    ("kind", "text", "found"),
    [
        ("email", "a.b+c@mail.example.co.uk", True),
        ("email", "not@an", False),
        ("phone", "+49 (0)30 1234567", True),
        ("phone", "13812345678", True),
        ("phone", "1381234567890123", False),
        ("identity_card", "11010519491231002X", True),
        ("identity_card", "110105194913310021", False),
        ("bank_card", "6222 0200 1234 5678 901", True),
        ("secret_key", "sk-abcdefghijklmnop1234", True),
        ("secret_key", "risk-averse", False),
    ],
)
def test_what_is_known_by_name_is_found(kind: str, text: str, found: bool) -> None:
    masked = asked([{"name": "a", "kinds": [kind], "action": "mask"}], f"它是{text}。")
    assert (masked == "它是***。") is found
