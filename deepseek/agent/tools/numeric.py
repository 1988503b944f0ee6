"""Numbers as models pass them, and as tools write them."""

from __future__ import annotations

import re
from decimal import Context, Decimal, InvalidOperation
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

_PLACES = 4
_SMALL_DIGITS = 4
_EXACT = Context(prec=400)
_GROUPED = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")
_MOST_DIGITS = 300


def _read(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise ValueError("must be a number")
    text = str(value).strip()
    if len(text) > _MOST_DIGITS:
        raise ValueError("has too many digits")
    try:
        number = Decimal(text.replace(",", "") if _GROUPED.fullmatch(text) else text)
    except InvalidOperation:
        raise ValueError("must be a number") from None
    if not number.is_finite() or abs(number.adjusted()) > _MOST_DIGITS:
        raise ValueError("must be a finite number of moderate size")
    return number


Number = Annotated[Decimal, BeforeValidator(_read), WithJsonSchema({"type": "number"})]
"""A parameter that is a number to the model, and exact here: 0.1 is a tenth, and "12,500" is understood too."""


def rounded(value: Decimal) -> str:
    """At most 4 decimals, but of what is below 1 at least 4 digits: no quantity becomes nothing. No exponent."""
    small = value and abs(value) < 1
    places = max(_PLACES, _SMALL_DIGITS - 1 - value.adjusted()) if small else _PLACES
    text = format(value.quantize(Decimal(1).scaleb(-places), context=_EXACT), "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
