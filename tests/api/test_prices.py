"""Prices: exact to the billionth, rounded up once a request, and never more than what was set aside."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from deepseek.api.metering.prices import NANO, Price, PriceConfig, PriceList, decimal_of, nano_of, require_prices
from deepseek.core.engine import Usage
from deepseek.core.errors import ConfigError

AMOUNTS = st.integers(0, 10**12)
COUNTS = st.integers(0, 10**7)


def price_of(**fields: object) -> Price:
    found = PriceList.of_config({"m": PriceConfig.model_validate(fields)}).of("m")
    assert found is not None
    return found


def test_a_request_costs_what_the_price_list_says() -> None:
    price = price_of(input="0.27", cached_input="0.07", output=1.10)
    # 1000 tokens at 0.27, 1000 at 0.07 and 1000 at 1.10, each for a million.
    assert decimal_of(price.cost(Usage(2000, 1000, 1000))) == "0.00144"


def test_a_fraction_of_a_billionth_is_rounded_up() -> None:
    assert price_of(input="0.000000001", output=0).cost(Usage(1, 0)) == 1


def test_cached_tokens_cost_as_much_as_others_where_nothing_else_is_said() -> None:
    assert price_of(input=2, output=0).cost(Usage(10, 0, 10)) == price_of(input=2, output=0).cost(Usage(10, 0))


@pytest.mark.parametrize("name", ["deepseek-7b", "anything"])
def test_the_star_is_the_price_of_every_other_model(name: str) -> None:
    prices = PriceList({"*": Price(1), "other": Price(2)})
    assert prices.of(name) == Price(1)
    assert prices.of("other") == Price(2)
    assert PriceList().of(name) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"input": -1, "output": 1},
        {"input": "NaN", "output": 1},
        {"input": "0.0000000001", "output": 1},
        {"input": 1},
        {"input": 1, "output": 1, "cached_input": 2},
        {"input": 1, "output": 1, "currency": "EUR"},
        {"input": 10**9, "output": 1},
    ],
)
def test_a_price_that_cannot_be_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PriceConfig.model_validate(fields)


@given(st.integers(0, 10**18 - 1))
def test_amounts_are_shown_exactly_and_without_an_exponent(nano: int) -> None:
    shown = decimal_of(nano)
    assert nano_of(Decimal(shown)) == nano
    assert Decimal(shown) == Decimal(nano) / NANO
    assert set(shown) <= set("0123456789.")
    assert not (("." in shown and shown.endswith("0")) or shown.endswith("."))


@given(AMOUNTS, AMOUNTS, AMOUNTS, COUNTS, COUNTS, st.data())
def test_a_request_never_costs_more_than_was_set_aside_for_it(
    dear: int, less: int, output: int, prompt: int, most: int, data: st.DataObject
) -> None:
    price = Price(dear + less, dear, output)
    used = Usage(prompt, data.draw(st.integers(0, most)), data.draw(st.integers(0, prompt)))
    assert price.cost(used) <= price.most(prompt, most)


@given(AMOUNTS, AMOUNTS, COUNTS, st.integers(0, 10**16))
def test_as_many_tokens_as_the_money_allows_and_not_one_more(input_: int, output: int, prompt: int, nano: int) -> None:
    price = Price(input_, input_, output)
    count = price.completion_within(prompt, nano)
    if count is None:
        assert output == 0 and price.most(prompt, 10**9) <= nano
    elif count < 0:
        assert price.most(prompt, 0) > nano
    else:
        assert price.most(prompt, count) <= nano < price.most(prompt, count + 1)


ONE = {"deepseek-7b": PriceConfig.model_validate({"input": 1, "output": 1})}


@pytest.mark.parametrize(("prices", "free"), [(ONE, ["poet"]), (ONE | {"*": ONE["deepseek-7b"]}, []), ({}, [])])
def test_a_start_names_what_is_served_for_nothing_where_others_have_a_price(
    prices: dict[str, PriceConfig], free: list[str]
) -> None:
    assert require_prices(prices, ["deepseek-7b", "poet"], for_money=False, where="platform.yaml") == free


def test_budgets_in_money_need_a_price_for_everything_that_is_served() -> None:
    with pytest.raises(ConfigError, match=r"platform\.yaml: prices: .*expected poet.*add poet: "):
        require_prices(ONE, ["deepseek-7b", "poet"], for_money=True, where="platform.yaml")
    assert require_prices(ONE, ["deepseek-7b"], for_money=True, where="platform.yaml") == []
