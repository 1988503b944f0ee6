"""How well a model does what the built-in curriculum teaches, family by family, on questions training never showed.

A single call is right when it is the only thing generated, names the right tool and its arguments are JSON equal to
the expected ones. A reading or plain answer is right when it makes no call and contains the fact; a number counts only
whole. A trajectory is right when each of its messages is: all calls of a message, in order, and the answer at the end.
Each is asked after the right ones before it, which makes no difference: one wrong message is a wrong trajectory.
Every share carries its 95 % Wilson interval (Wilson 1927; Brown, Cai and DasGupta 2001, section 3.1.1).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tokenizers import Tokenizer

from deepseek.core.errors import ConfigError
from deepseek.training.curriculum import FAMILIES, Sample, Turn, encode_segments, eval_draws
from deepseek.training.curriculum.mix import CALL_FAMILIES
from deepseek.training.curriculum.sample import (
    CALL_BEGIN,
    CALL_END,
    CALLS_BEGIN,
    CALLS_END,
    EOS,
    TOOL_SEP,
    dump_arguments,
    literal_id,
)

Generate = Callable[[list[list[int]]], list[list[int]]]
"""Prompts as token ids to greedy continuations as token ids, each stopped at the end-of-sentence id (kept or not)."""


@dataclass(frozen=True, slots=True)
class Score:
    """`correct` of `total` answers right in one family. `language` is ``en``, ``zh`` or ``both``."""

    family: str
    language: str
    phrasings: str
    correct: int
    total: int

    @property
    def share(self) -> float:
        return self.correct / self.total if self.total else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.correct, self.total)


@dataclass(frozen=True, slots=True)
class Failure:
    """One wrong answer, for reading: what was asked, what was expected, what came."""

    family: str
    language: str
    asked: str
    expected: str
    answered: str


@dataclass(frozen=True, slots=True)
class Report:
    """Scores of all families, and some failures of each."""

    scores: tuple[Score, ...]
    failures: tuple[Failure, ...]

    def single_call(self, phrasings: str = "seen") -> Score:
        """All families whose answer is one call, together."""
        asked = [s for s in self.scores if s.language == "both" and s.phrasings == phrasings]
        rows = [s for s in asked if s.family in CALL_FAMILIES]
        return Score("single call", "both", phrasings, sum(s.correct for s in rows), sum(s.total for s in rows))

    def to_json(self) -> dict[str, Any]:
        rows = [
            {**asdict(score), "share": round(score.share, 4), "interval": [round(end, 4) for end in score.interval]}
            for score in self.scores
        ]
        return {"scores": rows, "failures": [asdict(failure) for failure in self.failures]}

    def table(self) -> str:
        """The scores as a Markdown table, one row a family and kind of phrasing."""
        lines = ["| family | phrasings | right | 95 % interval | en | zh |", "|---|---|---|---|---|---|"]
        by_key = {(s.family, s.phrasings, s.language): s for s in self.scores}
        for score in self.scores:
            if score.language != "both":
                continue
            low, high = score.interval
            parts = [by_key.get((score.family, score.phrasings, language)) for language in ("en", "zh")]
            en, zh = (f"{part.share:.1%}" if part else "–" for part in parts)
            lines.append(
                f"| {score.family} | {score.phrasings} | {score.correct}/{score.total} = {score.share:.1%} "
                f"| {low:.1%} – {high:.1%} | {en} | {zh} |"
            )
        return "\n".join(lines)


def evaluate_families(
    generate: Generate,
    tokenizer: Tokenizer,
    families: Iterable[str] = FAMILIES,
    draws: int = 400,
    phrasings: Sequence[str] = ("seen", "withheld"),
    seed: int = 0,
    kept_failures: int = 5,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Report:
    """Score `generate` on `draws` held-out questions a family and kind of phrasing.

    `on_progress` is told after each family: its name, questions done, questions in all.

    Raises:
        ConfigError: a family is unknown, or `generate` returns another number of answers than it got prompts.
    """
    families = tuple(families)
    total = draws * len(families) * len(phrasings)
    scores: list[Score] = []
    failures: list[Failure] = []
    done = 0
    for family in families:
        for kind in phrasings:
            samples = eval_draws(family, None, draws, withheld_phrasings=kind == "withheld", seed=seed)
            turns = [(index, turn) for index, sample in enumerate(samples) for turn in sample.turns()]
            prompts = [encode_segments(turn.prompt, tokenizer)[0] for _, turn in turns]
            answers = generate(prompts)
            if len(answers) != len(prompts):
                raise ConfigError(
                    "generate must return one answer a prompt",
                    where=f"evaluate_families, {family}",
                    found=f"{len(answers)} answers",
                    expected=f"{len(prompts)}",
                )
            wrong: dict[int, tuple[Turn, Sequence[int]]] = {}  # of each sample its first wrong turn
            for (index, turn), answer in zip(turns, answers, strict=True):
                if not is_right_turn(turn, answer, tokenizer):
                    wrong.setdefault(index, (turn, answer))
            right = [index not in wrong for index in range(len(samples))]
            for language in ("both", "en", "zh"):
                counted = [r for r, s in zip(right, samples, strict=True) if language in ("both", s.language)]
                scores.append(Score(family, language, kind, sum(counted), len(counted)))
            shown = list(wrong.items())[:kept_failures]
            failures += [_failure(samples[index], turn, answer, tokenizer) for index, (turn, answer) in shown]
            done += draws
            if on_progress is not None:
                on_progress(family, done, total)
    return Report(tuple(scores), tuple(failures))


def is_right(sample: Sample, answer: Sequence[int], tokenizer: Tokenizer) -> bool:
    """Whether generated ids `answer` are what `sample` expects next."""
    return is_right_turn(sample.turns()[0], answer, tokenizer)


def is_right_turn(turn: Turn, answer: Sequence[int], tokenizer: Tokenizer) -> bool:
    """Whether generated ids `answer` are exactly the calls of `turn`, in order, or a text with its fact and no call."""
    if turn.calls:
        calls = parse_calls(answer, tokenizer)
        return len(calls) == len(turn.calls) and all(
            name == wanted and _same_json(arguments, dict(expected))
            for (name, arguments), (wanted, expected) in zip(calls, turn.calls, strict=True)
        )
    if {literal_id(tokenizer, CALLS_BEGIN), literal_id(tokenizer, CALL_BEGIN)} & set(answer):
        return False
    return contains(_text(answer, tokenizer), turn.fact)


def parse_single_call(answer: Sequence[int], tokenizer: Tokenizer) -> tuple[str, dict[str, Any]] | None:
    """Name and arguments if `answer` is one well-formed call and nothing else, otherwise None."""
    calls = parse_calls(answer, tokenizer)
    return calls[0] if len(calls) == 1 else None


def parse_calls(answer: Sequence[int], tokenizer: Tokenizer) -> list[tuple[str, dict[str, Any]]]:
    """Names and arguments if `answer` is well-formed calls and nothing else, otherwise none."""
    begin, call, separator, end, ends, eos = (
        literal_id(tokenizer, text) for text in (CALLS_BEGIN, CALL_BEGIN, TOOL_SEP, CALL_END, CALLS_END, EOS)
    )
    ids = list(answer)
    if ids and ids[-1] == eos:
        ids.pop()
    if len(ids) < 2 or ids[0] != begin or ids[-1] != ends:
        return []
    calls: list[tuple[str, dict[str, Any]]] = []
    rest = ids[1:-1]
    while rest:
        if rest[0] != call or end not in rest:
            return []
        cut = rest.index(end)
        body, rest = rest[1:cut], rest[cut + 1 :]
        if body.count(separator) != 1 or {begin, call, ends, eos} & set(body):
            return []
        place = body.index(separator)
        try:
            arguments = json.loads(_text(body[place + 1 :], tokenizer))
        except ValueError:
            return []
        if not isinstance(arguments, dict):
            return []
        calls.append((_text(body[:place], tokenizer), arguments))
    return calls


def contains(text: str, fact: str) -> bool:
    """Whether `fact` stands in `text`; a fact that begins or ends with a digit must not be part of a longer number."""
    before = r"(?<!\d)(?<!\d[.,])" if fact[:1].isdigit() else ""
    after = r"(?!\d|[.,]\d)" if fact[-1:].isdigit() else ""
    return bool(fact) and re.search(before + re.escape(fact) + after, text) is not None


def wilson(correct: int, total: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """The Wilson score interval of a share, 95 % by default; ``(0, 1)`` when nothing was counted."""
    if total == 0:
        return 0.0, 1.0
    share, z2 = correct / total, z * z
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = z / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)


def _failure(sample: Sample, turn: Turn, answer: Sequence[int], tokenizer: Tokenizer) -> Failure:
    wanted = " ".join(f"{name}{dump_arguments(arguments)}" for name, arguments in turn.calls) or turn.fact
    return Failure(sample.family, sample.language, sample.user_text, wanted, _text(answer, tokenizer))


def _text(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False))


def _same_json(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Equal with their types: ``3`` is not ``"3"`` and not ``3.0``."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
