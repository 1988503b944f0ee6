"""Bounds of numbers, made safe for a grammar that compares digits.

The grammar compares the *text* of a number with the text of a bound; a validator compares the parsed number, rounded to
a double, with the bound. Three steps keep what the first accepts within what the second accepts:

* an exclusive bound becomes an inclusive one, a little further in: 0.00…01 with enough zeros is above 0 as text and
  equal to it once parsed;
* a bound that no double represents is rounded inwards;
* bounds beyond the integers that the grammar can count in (64 bits) are drawn in to `LARGEST`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

LARGEST = 10**17  # room below 2**63 for the next power of ten
# How far an exclusive bound moves where the next double would have hundreds of digits.
_SMALLEST_STEP = 1e-15
LARGEST_MULTIPLE = 2**16 - 1  # its square has 32 bits


class EmptyRange(Exception):
    """No number within the bounds can be written."""


def bounds(
    schema: Mapping[str, Any], low: float | None, high: float | None, *, integer: bool
) -> dict[str, int | float]:
    """`minimum` and `maximum` for the schema's bounds and for `low` to `high` (of its format), as far as there are any.

    Raises EmptyRange.
    """
    lower = [_lowest(low, False, integer)] if low is not None else []
    upper = [-_lowest(-high, False, integer)] if high is not None else []
    minimum, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    maximum, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    # Draft 4 writes exclusiveness as a flag beside the bound, later drafts as a bound of its own.
    if minimum is not None:
        lower.append(_lowest(minimum, above is True, integer))
    if maximum is not None:
        upper.append(-_lowest(-maximum, below is True, integer))
    if above is not None and not isinstance(above, bool):
        lower.append(_lowest(above, True, integer))
    if below is not None and not isinstance(below, bool):
        upper.append(-_lowest(-below, True, integer))
    found: dict[str, int | float] = {}
    if lower:
        found["minimum"] = max(lower)
    if upper:
        found["maximum"] = min(upper)
    if found.get("minimum", -math.inf) > found.get("maximum", math.inf):
        raise EmptyRange
    return found


def _lowest(bound: float, exclusive: bool, integer: bool) -> int | float:
    """The least number that can be a bound of the grammar and is not below `bound` (or is above, if exclusive)."""
    if bound > LARGEST:
        raise EmptyRange
    if bound < -LARGEST:
        return -LARGEST
    if integer:
        least = math.floor(bound) + 1 if exclusive else math.ceil(bound)
        rounded = float(least)
        return least if int(rounded) == least else int(_double_from(Fraction(least)))
    double = _double_from(Fraction(bound))
    if exclusive and Fraction(double) == Fraction(bound):
        double = max(math.nextafter(double, math.inf), double + _SMALLEST_STEP)
    return int(double) if double.is_integer() else double


def _double_from(value: Fraction) -> float:
    """The least double that is not below `value`."""
    double = float(value)
    return double if Fraction(double) >= value else math.nextafter(double, math.inf)


def exact_multiple(divisor: int | float) -> bool:
    """Whether validators, which divide in doubles unless both are integers, agree with the digits on multiples of it."""
    if divisor > LARGEST_MULTIPLE:
        return False
    return isinstance(divisor, int) or math.frexp(divisor)[0] == 0.5  # a power of two


def combinable(divisors: Collection[float]) -> bool:
    """Whether the least common multiple of any of them, taken in any order, is: that is done in 32 bits, unchecked."""
    places = max((-Decimal(str(d)).normalize().as_tuple().exponent for d in divisors), default=0)  # type: ignore[operator]
    scaled = [int(Decimal(str(d)).scaleb(max(places, 0))) for d in divisors]
    return math.prod(scaled) * max(scaled, default=1) < 2**32


def exact_constant(value: int | float) -> bool:
    """Whether the grammar writes exactly this number."""
    if isinstance(value, int):
        return abs(value) <= LARGEST and int(float(value)) == value
    return math.isfinite(value) and abs(value) <= LARGEST
