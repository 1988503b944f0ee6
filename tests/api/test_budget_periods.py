"""Which budgets bound a caller, and where a day or a month begins and ends."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from metering_support import NOON, budget, caller
from pydantic import ValidationError

from deepseek.api.metering.budgets import Budgets, period_of
from deepseek.core.errors import ConfigError

TIMES = st.floats(0, 32503680000, allow_nan=False).map(lambda at: round(at, 3))


@given(TIMES)
def test_a_day_holds_its_time_and_begins_at_midnight_utc(now: float) -> None:
    since, until = period_of("day", now)
    assert until is not None and since <= now < until
    assert datetime.fromtimestamp(since, UTC).date() == datetime.fromtimestamp(now, UTC).date()
    assert until - since == 86400


@given(TIMES)
def test_a_month_holds_its_time_and_begins_on_the_first(now: float) -> None:
    since, until = period_of("month", now)
    assert until is not None and since <= now < until
    first, following = datetime.fromtimestamp(since, UTC), datetime.fromtimestamp(until, UTC)
    assert (first.day, first.hour, first.minute, first.second) == (1, 0, 0, 0)
    assert (following.day, (following.month - first.month) % 12) == (1, 1)


def test_a_total_never_ends() -> None:
    assert period_of("total", NOON) == (0.0, None)


def test_everybody_has_a_budget_of_its_own_under_the_star() -> None:
    budgets = Budgets([budget("key", tokens=5)])
    ids = {budgets.of(caller(tenant, key), NOON)[0].id for tenant in ("a", "b") for key in ("k", "l")}
    assert len(ids) == 4


def test_a_budget_by_name_stands_in_for_the_one_for_everybody() -> None:
    budgets = Budgets([budget("key", tokens=5), budget("key", name="k2", tokens=50), budget("key", "month", tokens=9)])
    assert [each.tokens for each in budgets.of(caller(key="k2"), NOON)] == [50, 9]
    assert [each.tokens for each in budgets.of(caller(key="k1"), NOON)] == [5, 9]


def test_all_keys_of_a_tenant_share_the_tenants_budget() -> None:
    budgets = Budgets([budget("tenant", name="acme", tokens=5)])
    first, second = budgets.of(caller(key="k1"), NOON), budgets.of(caller(key="k2"), NOON)
    assert first == second
    assert budgets.of(caller("other"), NOON) == ()


@given(st.text(min_size=1), st.text(min_size=1), st.text(min_size=1), st.text(min_size=1))
def test_no_two_holders_share_a_row(tenant: str, key: str, other_tenant: str, other_key: str) -> None:
    budgets = Budgets([budget("key", tokens=5)])
    one, other = (budgets.of(caller(*who), NOON)[0] for who in ((tenant, key), (other_tenant, other_key)))
    assert (one.id == other.id) == ((tenant, key) == (other_tenant, other_key))


def test_a_budget_says_in_words_whose_and_when() -> None:
    budgets = Budgets([budget("key", period, tokens=5) for period in ("day", "month", "total")])
    assert {str(each) for each in budgets.of(caller(), NOON)} == {
        "the budget of key k1 for 2025-11-25",
        "the budget of key k1 for 2025-11",
        "the budget of key k1",
    }


def test_two_budgets_for_the_same_are_refused() -> None:
    with pytest.raises(ConfigError, match="two budgets for the same"):
        Budgets([budget(tokens=5), budget(money=1)])


@pytest.mark.parametrize(
    "fields", [{}, {"tokens": -1}, {"period": "week", "tokens": 1}, {"scope": "city", "tokens": 1}]
)
def test_a_budget_that_cannot_be_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        budget(**{"scope": "key", "period": "day", **fields})  # type: ignore[arg-type]
