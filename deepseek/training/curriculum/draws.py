"""Held-out draws of every family: the basic ones of `mix`, and those of the agent's course."""

from __future__ import annotations

from random import Random

from deepseek.training.curriculum import course, mix
from deepseek.training.curriculum.sample import Language, Sample, text_of

AGENT_FAMILIES = ("single", "no_tool", *course.TRAJECTORIES)
"""Evaluated as whole trajectories: one call with its answer, no call, several steps, several calls, follow-ups, errors."""


def eval_draws(
    family: str, language: Language | None, n: int, withheld_phrasings: bool = False, seed: int = 0
) -> list[Sample]:
    """`mix.eval_draws`, for the families of the agent's course too.

    Raises:
        ConfigError: there is no such family.
    """
    if family not in AGENT_FAMILIES:
        return mix.eval_draws(family, language, n, withheld_phrasings, seed)
    rng = Random(f"eval/{seed}/{family}/{language}/{withheld_phrasings}")
    seen: set[str] = set()
    found: list[Sample] = []
    while len(found) < n:
        drawn: Language = language or ("en" if len(found) % 2 == 0 else "zh")
        sample = course.draw(rng, "no_call" if family == "no_tool" else family, drawn, withheld_phrasings)
        prompt = text_of(sample.prompt())
        if prompt in seen or not (withheld_phrasings or mix.is_held_out(sample.user_text)):
            continue
        seen.add(prompt)
        found.append(sample)
    return found
