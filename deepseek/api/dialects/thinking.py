"""How clients ask a model to think first: several spellings of one switch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from deepseek.api.dialects.fields import StrictModel
from deepseek.api.problems import FieldError, Problem
from deepseek.api.state import ServerState

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class ThinkingSwitch(StrictModel):
    """As DeepSeek's API has it."""

    type: Literal["enabled", "disabled"]


class TemplateSwitches(StrictModel):
    """As vLLM's users set what a chat template knows."""

    thinking: bool | None = None
    enable_thinking: bool | None = Field(default=None, description="The same by another name.")


def thinking_of(
    state: ServerState, effort: Effort | None, switch: ThinkingSwitch | None, template: TemplateSwitches | None
) -> bool:
    """Whether to think. "none" and "minimal" are no effort; every other is the same.

    Raises Problem 422 where they disagree, or the model cannot think.
    """
    asked: dict[str, bool] = {}
    if effort is not None:
        asked["reasoning_effort"] = effort not in ("none", "minimal")
    if switch is not None:
        asked["thinking"] = switch.type == "enabled"
    for name in ("thinking", "enable_thinking"):
        value = getattr(template, name, None)
        if value is not None:
            asked[f"chat_template_kwargs.{name}"] = value
    if len(set(asked.values())) > 1:
        names = " and ".join(asked)
        raise Problem("invalid-request", f"{names} disagree", tuple(FieldError(name) for name in asked))
    thinking = any(asked.values())
    if thinking:
        require_thinking(state, next(iter(asked)))
    return thinking


def require_thinking(state: ServerState, field: str) -> None:
    """Raise Problem 422 if the model does not think."""
    if not state.text.thinks:
        expected = "nothing: this model's template has no thinking"
        raise Problem("invalid-request", f"{field}: expected {expected}", (FieldError(field, "thinking", expected),))
