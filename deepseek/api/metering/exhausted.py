"""What a caller is told whose budget is used up."""

from __future__ import annotations

import math

from deepseek.api.metering.budgets import Budget
from deepseek.api.metering.counters import Refusal, Terms
from deepseek.api.metering.prices import decimal_of
from deepseek.api.problems import Problem

SOON_S = 1
"""When to ask again where a budget is only set aside for others that run."""
PATIENCE_S = 60
"""Clients that retry by themselves take no longer wait than this from Retry-After, and would come too early."""


def exhausted(refusal: Refusal, terms: Terms, now: float) -> Problem:
    """429, with the true time until the budget begins anew, if it does."""
    budget, least = refusal.budget, min(1, terms.most)
    tokens = terms.prompt_tokens + least
    money = terms.price.most(terms.prompt_tokens, least)
    if refusal.tokens_spent + refusal.tokens_reserved + tokens > budget.tokens:
        spent, left = refusal.tokens_spent, budget.tokens - refusal.tokens_spent
        what = f"{spent} of {budget.tokens} tokens are spent, {refusal.tokens_reserved} set aside for what runs"
        needs, waits = f"{tokens} tokens", left >= tokens
    else:
        left = budget.money - refusal.money_spent
        what = (
            f"{decimal_of(refusal.money_spent)} of {decimal_of(budget.money)} are spent, "
            f"{decimal_of(refusal.money_reserved)} set aside for what runs"
        )
        needs, waits = decimal_of(money), left >= money
    detail = f"{str(budget).capitalize()} is used up: {what}; this request needs {needs} at least."
    return Problem("budget-exhausted", detail, headers=_retry_headers(budget, waits, now))


def _retry_headers(budget: Budget, waits: bool, now: float) -> dict[str, str]:
    wait = SOON_S if waits else None if budget.until is None else max(1, math.ceil(budget.until - now))
    if wait is None:
        return {"x-should-retry": "false"}
    hint = {} if wait <= PATIENCE_S else {"x-should-retry": "false"}
    return {"Retry-After": str(wait), **hint}
