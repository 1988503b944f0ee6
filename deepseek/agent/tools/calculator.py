"""A calculator for models: exact where arithmetic is, bounded everywhere, and nothing of Python in reach.

The text is read by `expression` into a tree of numbers and names, and this module walks it. Integers, decimals and
their quotients are exact (`0.1 + 0.2` is 0.3); roots, logarithms and angles are floats. What could become large is
bounded *before* it is computed: 4096 bits for any number, 1024 for an exponent, so that `9**9**9` answers at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from decimal import Context, Decimal
from fractions import Fraction

from deepseek.agent.execution.errors import ToolRetry
from deepseek.agent.tools.expression import MAX_EXPONENT, Name, Node, Number, Value, parse

MAX_BITS = 4096
MAX_PLACES = 10
_MAX_DENOMINATOR_BITS = 2048
_SHOWN_DIGITS = 12
_FLOAT_DIGITS = 15

CONSTANTS: Mapping[str, float] = {"pi": math.pi, "e": math.e, "tau": math.tau}


def calculator(expression: str) -> str:
    """Evaluate an arithmetic expression"""
    return written(evaluate(expression))


def evaluate(expression: str) -> Value:
    """The value of an expression: an int, a Fraction where it is exact and not whole, else a float.

    Raises ToolRetry, with a sentence for the model, for what is no expression, has no value, or would be too large.
    """
    return _value(parse(expression))


def written(value: Value) -> str:
    """The value in decimals: at most `MAX_PLACES` behind the point, no trailing zeros, no exponent unless it is tiny."""
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Fraction):
        scaled = round(value * 10**MAX_PLACES)  # half to even, as the decimal module does
        if scaled or not value:
            return _plain(Decimal(scaled).scaleb(-MAX_PLACES, _EXACT))
        context = Context(prec=_SHOWN_DIGITS)
        return _tiny(context.divide(Decimal(value.numerator), Decimal(value.denominator)))
    shown = Decimal(repr(float(f"{value:.{_FLOAT_DIGITS}g}")))
    if value and abs(value) < 10**-MAX_PLACES:
        return _tiny(Context(prec=_SHOWN_DIGITS).plus(shown))
    if shown.is_zero():
        return "0"
    if shown.adjusted() >= _FLOAT_DIGITS:  # beyond what a float knows, digits would be made up
        return f"{shown.normalize(_EXACT):E}".replace("E+", "e")
    return _plain(shown.quantize(Decimal(1).scaleb(-MAX_PLACES), context=_EXACT))


_EXACT = Context(prec=MAX_BITS)


def _plain(value: Decimal) -> str:
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _tiny(value: Decimal) -> str:
    mantissa, _, exponent = f"{value:E}".partition("E")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}"


def _value(node: Node) -> Value:
    if isinstance(node, Number):
        return _bounded(node.value)
    if isinstance(node, Name):
        constant = CONSTANTS.get(node.name.lower())
        if constant is None:
            raise ToolRetry(f"unknown name {node.name[:40]!r}", expected=f"numbers, {', '.join(CONSTANTS)}")
        return constant
    function = _OPERATORS.get(node.function) or FUNCTIONS.get(node.function.lower())
    if function is None:
        raise ToolRetry(f"unknown function {node.function[:40]!r}", expected=f"one of {', '.join(sorted(FUNCTIONS))}")
    arguments = [_value(argument) for argument in node.arguments]
    try:
        return _bounded(function(*arguments))
    except ZeroDivisionError:
        raise ToolRetry("division by zero") from None
    except OverflowError:
        raise _too_large() from None
    except ValueError:
        shown = ", ".join(written(argument)[:40] for argument in arguments)
        raise ToolRetry(f"{node.function} has no value at {shown}") from None
    except TypeError:
        raise ToolRetry(f"{node.function} does not take {len(arguments)} arguments") from None


def _too_large() -> ToolRetry:
    return ToolRetry("the number is too large", expected=f"at most {MAX_BITS} bits")


def _bounded(value: Value | complex) -> Value:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _too_large() if math.isinf(value) else ValueError
        return value
    if isinstance(value, complex):
        raise ValueError
    if value.numerator.bit_length() > MAX_BITS:
        raise _too_large()
    if isinstance(value, int):
        return value
    if value.denominator == 1:
        return value.numerator
    # An exact quotient that has grown out of hand goes on as what it is near.
    return float(value) if value.denominator.bit_length() > _MAX_DENOMINATOR_BITS else value


def _bits(value: Value) -> int:
    return 0 if isinstance(value, float) else value.numerator.bit_length()


def _add(x: Value, y: Value) -> Value:
    return x + y


def _subtract(x: Value, y: Value) -> Value:
    return x - y


def _multiply(x: Value, y: Value) -> Value:
    if _bits(x) + _bits(y) > MAX_BITS + 1:
        raise _too_large()
    return x * y


def _divide(x: Value, y: Value) -> Value:
    if isinstance(x, float) or isinstance(y, float):
        return x / y
    return Fraction(x) / Fraction(y)


def _floor_divide(x: Value, y: Value) -> Value:
    return math.floor(_divide(x, y))


def _modulo(x: Value, y: Value) -> Value:
    return x % y


def _power(x: Value, y: Value) -> Value:
    if isinstance(y, Fraction) and not isinstance(x, float):
        root = _exact_root(x, y)
        if root is not None:
            return root
    if isinstance(x, float) or not isinstance(y, int):
        if x < 0 and y != math.floor(y):
            raise ValueError
        return math.pow(x, y)
    if x in (0, 1, -1):  # whatever the exponent
        if x == 0 and y < 0:
            raise ZeroDivisionError
        return 1 if y % 2 == 0 and x else (1 if y == 0 else x)
    if abs(y) > MAX_EXPONENT:
        raise ToolRetry("the exponent is too large", found=str(y)[:40], expected=f"at most {MAX_EXPONENT}")
    size = max(x.numerator.bit_length(), x.denominator.bit_length())
    if (size - 1) * abs(y) > MAX_BITS:
        raise _too_large()
    power: Value = Fraction(x) ** y if y < 0 else x**y
    return power


def _exact_root(x: int | Fraction, y: Fraction) -> Value | None:
    if y.denominator != 2 or x < 0:
        return None
    over, under = math.isqrt(x.numerator), math.isqrt(x.denominator)
    if over * over != x.numerator or under * under != x.denominator:
        return None
    return _power(_bounded(Fraction(over, under)), y.numerator)


def _sqrt(x: Value) -> Value:
    return math.sqrt(x) if isinstance(x, float) else _power(x, Fraction(1, 2))


def _cube_root(x: Value) -> Value:
    if not isinstance(x, float):
        near = round(math.cbrt(x))
        if near**3 == x:
            return near
    return math.cbrt(x)


def _whole(value: Value) -> int:
    if value != math.floor(value):
        raise ValueError
    return math.floor(value)


def _factorial(x: Value) -> Value:
    n = _whole(x)
    if n < 0:
        raise ValueError
    if n > MAX_BITS or math.lgamma(n + 1) / math.log(2) > MAX_BITS:
        raise _too_large()
    return math.factorial(n)


def _combinations(n: Value, k: Value) -> Value:
    whole, chosen = _whole(n), _whole(k)
    smaller = min(chosen, whole - chosen)
    if smaller > MAX_BITS or (smaller > 0 and smaller * whole.bit_length() > 2 * MAX_BITS):
        raise _too_large()
    return math.comb(whole, chosen)


def _permutations(n: Value, k: Value) -> Value:
    whole, chosen = _whole(n), _whole(k)
    if chosen > 0 and chosen * (whole.bit_length() - 1) > 2 * MAX_BITS:
        raise _too_large()
    return math.perm(whole, chosen)


def _round(x: Value, places: Value = 0) -> Value:
    """Half away from zero, as at school."""
    digits = _whole(places)
    if abs(digits) > 300:
        raise ValueError
    exact = Fraction(repr(x)) if isinstance(x, float) else Fraction(x)
    scaled = exact * Fraction(10) ** digits
    whole = math.floor(abs(scaled) + Fraction(1, 2))
    rounded = Fraction(whole if scaled >= 0 else -whole) / Fraction(10) ** digits
    return rounded


def _logarithm(x: Value, base: Value | None = None) -> Value:
    if base is None:
        return _log(x)
    if base == 1:
        raise ValueError
    return _log(x) / _log(base)


def _log(x: Value) -> float:
    if isinstance(x, Fraction):
        return math.log(x.numerator) - math.log(x.denominator)
    return math.log(x)


def _log10(x: Value) -> float:
    if isinstance(x, Fraction):
        return math.log10(x.numerator) - math.log10(x.denominator)
    return math.log10(x)


def _log2(x: Value) -> float:
    if isinstance(x, Fraction):
        return math.log2(x.numerator) - math.log2(x.denominator)
    return math.log2(x)


def _mean(*values: Value) -> Value:
    return _divide(_total(*values), len(values))


def _total(*values: Value) -> Value:
    total: Value = 0
    for value in values:
        total = _bounded(total + value)
    return total


def _gcd(*values: Value) -> Value:
    return math.gcd(*map(_whole, values))


def _lcm(*values: Value) -> Value:
    whole = [_whole(value) for value in values]
    if sum(value.bit_length() for value in whole) > MAX_BITS:
        raise _too_large()
    return math.lcm(*whole)


def _absolute(x: Value) -> Value:
    return -x if x < 0 else x


def _least(*values: Value) -> Value:
    least = values[0]
    for value in values[1:]:
        least = value if value < least else least
    return least


def _greatest(*values: Value) -> Value:
    greatest = values[0]
    for value in values[1:]:
        greatest = value if value > greatest else greatest
    return greatest


def _of_floats(function: Callable[..., float]) -> Callable[..., Value]:
    """Of the math module; what is zero but for rounding is zero (sin(pi))."""

    def call(*values: Value) -> Value:
        given = [float(value) for value in values]
        result = function(*given)
        return 0.0 if abs(result) < 1e-15 and any(abs(value) > 1e-15 for value in given) else result

    return call


_OPERATORS: Mapping[str, Callable[..., Value]] = {
    "+": _add,
    "-": _subtract,
    "*": _multiply,
    "/": _divide,
    "//": _floor_divide,
    "%": _modulo,
    "**": _power,
    "neg": lambda x: -x,
    "!": _factorial,
    "percent": lambda x: _divide(x, 100),
}
FUNCTIONS: Mapping[str, Callable[..., Value]] = {
    "abs": _absolute,
    "round": _round,
    "floor": lambda x: math.floor(x),
    "ceil": lambda x: math.ceil(x),
    "trunc": lambda x: math.trunc(x),
    "sqrt": _sqrt,
    "cbrt": _cube_root,
    "pow": _power,
    "mod": _modulo,
    "exp": lambda x: math.exp(x),
    "ln": _log,
    "log": _logarithm,
    "log2": _log2,
    "log10": _log10,
    "factorial": _factorial,
    "comb": _combinations,
    "perm": _permutations,
    "gcd": _gcd,
    "lcm": _lcm,
    "min": _least,
    "max": _greatest,
    "sum": _total,
    "mean": _mean,
    "avg": _mean,
    "hypot": lambda *values: math.hypot(*values),
    "degrees": _of_floats(math.degrees),
    "radians": _of_floats(math.radians),
    **{
        name: _of_floats(getattr(math, name))
        for name in ("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh")
    },
}
