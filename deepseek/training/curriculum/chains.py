"""One thing after another: calls whose arguments come from the result before them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from deepseek.training.curriculum import results, stored
from deepseek.training.curriculum.paraphrase.grammar import dress_up, say_or_none
from deepseek.training.curriculum.results import Made
from deepseek.training.curriculum.sample import Language
from deepseek.training.curriculum.trajectory import Trajectory


def chained(rng: Random, language: Language, withheld: bool) -> Trajectory:
    """Two or three calls in a row, each with something of the result before it."""
    template = ""
    while not template:  # not every kind has a reading on either side
        kind = rng.choices(tuple(_CHAINS), tuple(weight for weight, _ in _CHAINS.values()))[0]
        pattern, slots, rounds, answer = _CHAINS[kind][1](rng, language)
        template = say_or_none(rng, language, pattern, withheld)
    text = dress_up(rng, language, template, False, **slots)
    return Trajectory(text, f"wide/chained/{kind}", tuple(rounds), answer, answer)


_CHAINS: Mapping[str, tuple[float, Callable[[Random, Language], Made]]] = {
    "change": (3, results.number_then_change), "keep": (3, results.anything_then_keep), "change_keep": (1.2, results.number_change_keep), "weekday": (2.5, results.weekday_after), "stored_sum": (3, stored.stored_sum), "stored_sum_kept": (1, stored.stored_sum_kept),
    "stored_units": (1.5, stored.stored_converted), "stored_date": (2, stored.stored_date), "stored_search": (1, stored.stored_searched), "found_number": (1.5, results.searched_number), "days_in_hours": (0.7, results.days_in_hours),
}  # fmt: skip
