"""What a chat template may spend: the measure that keeps a stranger's program from running for ever.

One rendering has a fixed number of units. Every call, loop turn, filter and operator costs one, and the
values that pass through cost more the larger they are, so that every source of work is paid for.
Operations whose result can be far larger than their operands are priced before they run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from jinja2.exceptions import TemplateError

MAX_SOURCE_CHARS = 1 << 20
MAX_TEXT_CHARS = 1 << 24
MAX_COUNT = 10_000
MAX_INDENT = 64
MAX_INTEGER_BITS = 4096
BUDGET_UNITS = 1_000_000
CHARS_A_UNIT = 128


class BudgetExceeded(TemplateError):
    """The template asked for more work or text than any conversation needs."""


class Budget:
    """What is left for one rendering."""

    def __init__(self) -> None:
        self._units = BUDGET_UNITS

    def spend(self, value: object) -> None:
        """Pay one unit, and for the size of a value. Raises BudgetExceeded."""
        self.pay(_weight(value, self._units))

    def pay(self, units: int) -> None:
        self._units -= units
        if self._units < 0:
            raise BudgetExceeded(f"the template does more than {BUDGET_UNITS} units of work")


def _weight(value: object, limit: int) -> int:
    """Units for a value: one each for it and all it contains, and one for every 128 characters.

    Containers may share parts, so a small object can print as an enormous one: the walk stops at the limit.
    """
    units, waiting = 0, [value]
    while waiting:
        entry = waiting.pop()
        units += 1
        if isinstance(entry, str):
            if len(entry) > MAX_TEXT_CHARS:
                raise BudgetExceeded(f"the template makes a text longer than {MAX_TEXT_CHARS} characters")
            units += len(entry) // CHARS_A_UNIT
        elif isinstance(entry, int):
            if entry.bit_length() > MAX_INTEGER_BITS:
                raise BudgetExceeded(f"the template computes an integer of more than {MAX_INTEGER_BITS} bits")
        elif isinstance(entry, list | tuple):
            waiting += entry
        elif isinstance(entry, Mapping):
            waiting += entry.keys()
            waiting += entry.values()
        if units > limit:
            raise BudgetExceeded(f"the template does more than {BUDGET_UNITS} units of work")
    return units


def priced_join(separator: str, entries: Iterable[Any]) -> list[Any]:
    """The entries, if joining them makes no text that is too long; else BudgetExceeded."""
    entries = list(entries)
    if sum(len(entry) for entry in entries if isinstance(entry, str)) + len(separator) * len(entries) > MAX_TEXT_CHARS:
        raise BudgetExceeded(f"join makes a text longer than {MAX_TEXT_CHARS} characters")
    return entries


def price_replace(text: str, old: object, new: object) -> None:
    """Raise BudgetExceeded if replacing makes a text that is too long. The exact count is taken only near the limit."""
    if isinstance(old, str) and isinstance(new, str):
        times = len(text) // len(old) if old else len(text) + 1
        if len(text) + times * len(new) > MAX_TEXT_CHARS and len(text) + text.count(old) * len(new) > MAX_TEXT_CHARS:
            raise BudgetExceeded(f"replace makes a text longer than {MAX_TEXT_CHARS} characters")


def price_product(left: Any, right: Any) -> None:
    """Raise BudgetExceeded for a text or list repeated to more than MAX_COUNT entries."""
    for sized, times in ((left, right), (right, left)):
        if isinstance(sized, str | list | tuple) and isinstance(times, int) and len(sized) * times > MAX_COUNT:
            raise BudgetExceeded(f"a repetition makes more than {MAX_COUNT} entries")


def check_indent(width: object) -> None:
    """Raise BudgetExceeded for an indentation, given as a number or as text, of more than MAX_INDENT characters."""
    if (isinstance(width, int) and width > MAX_INDENT) or (isinstance(width, str) and len(width) > MAX_INDENT):
        raise BudgetExceeded(f"an indentation is wider than {MAX_INDENT} characters")
