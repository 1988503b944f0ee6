"""A second look at an answer, by the model itself: is it right and whole? What it finds wrong is told to it, once or more.

After Reflexion (https://arxiv.org/abs/2303.11366), within one run.
"""

from __future__ import annotations

from pydantic import BaseModel, ValidationError

from deepseek.core.messages import Message, TextPart

REFLECT_PROMPT = (
    "Look at your answer again: is it right, and does it answer all that was asked? Say so as JSON: "
    '{"ok": true, "problem": ""}, or {"ok": false, "problem": "what is wrong"}.'
)

REFLECT_SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "problem": {"type": "string", "maxLength": 500}},
    "required": ["ok", "problem"],
    "additionalProperties": False,
}


class Verdict(BaseModel):
    ok: bool
    problem: str = ""


def read_verdict(text: str) -> Verdict:
    """What the model found. An answer that is no verdict counts as content: reflection must not undo what was right."""
    try:
        return Verdict.model_validate_json(text)
    except ValidationError:
        return Verdict(ok=True)


def reflect_message() -> Message:
    return Message("user", (TextPart(REFLECT_PROMPT),))


def problem_message(verdict: Verdict) -> Message:
    return Message("user", (TextPart(f"Your answer is not right yet: {verdict.problem}\nAnswer again."),))
