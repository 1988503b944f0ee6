r"""Holds prompts and answers to rules; an answer while it streams, wherever its tokens are cut:

plugins:
  - name: moderation
    on_failure: closed
    params:
      rules:
        - {name: project, terms: [Project Falcon, 猎鹰计划], action: refuse, message: Ask the press office.}
        - {name: personal, kinds: [email, phone, identity_card], action: mask, on: [answer], mask: "[removed]"}
        - {name: tickets, patterns: ['\bTICKET-\d{1,6}\b'], action: note}

refuse ends the request; mask puts something else instead; note lets it pass and leaves the rule's name in the request's
metadata, as `moderation.notes`. Words are found in any case and width, in Chinese and English, with invisible characters in
them or not.
"""

from __future__ import annotations

from typing import Any

from deepseek.plugins.errors import PluginRefusal
from deepseek.plugins.hooks import PluginContext
from deepseek.plugins.moderation.rules import MAX_NOTES, Found, Reading, RuleBook
from deepseek.plugins.quoting import is_chinese
from deepseek.plugins.registry import register_plugin

NOTES = "moderation.notes"
READING = "moderation.reading"
REFUSALS = {True: "该内容不符合本服务的规则。", False: "This is against the rules of this service."}


@register_plugin("moderation")
class ModerationPlugin:
    """rules: see the module."""

    def __init__(self, rules: list[dict[str, Any]]) -> None:
        self._rules = RuleBook(rules)
        # A hook that has nothing to do is none: no answer is held up by it.
        if not self._rules.has("prompt"):
            vars(self)["pre_process"] = None
        if not self._rules.has("answer"):
            vars(self)["on_token"] = None

    def pre_process(self, prompt: str, context: PluginContext) -> str:
        return _passed(self._rules.reading("prompt").feed(prompt, last=True), prompt, context)

    async def on_token(self, text: str, context: PluginContext, last: bool) -> str:
        reading = context.metadata.setdefault(f"{READING}.{context.choice}", None)
        if reading is None:
            reading = context.metadata[f"{READING}.{context.choice}"] = self._rules.reading("answer")
        assert isinstance(reading, Reading)
        return _passed(reading.feed(text, last=last), text, context)


def _passed(found: Found, text: str, context: PluginContext) -> str:
    notes: list[str] = context.metadata.setdefault(NOTES, []) if found.noted else []
    notes.extend(found.noted[: MAX_NOTES - len(notes)])
    if found.refused is not None:
        raise PluginRefusal(found.refused.message or REFUSALS[is_chinese(text)])
    return found.text
