"""Scoring by family: what counts as right, and how sure the share is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

import deepseek.models
from deepseek.evaluation.families import Report, Score, contains, evaluate_families, is_right, parse_single_call, wilson
from deepseek.training.curriculum import FAMILIES, encode_segments, eval_draws
from deepseek.training.curriculum.sample import Segment, text_of


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    folder = Path(deepseek.models.__path__[0]) / "builtin"
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def answer_of(sample, tokenizer: Tokenizer) -> list[int]:
    """The ids a perfect model would generate after the sample's prompt."""
    return encode_segments(sample.segments()[len(sample.prompt()) :], tokenizer)[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_curriculums_own_answer_is_right_in_every_family(family: str, tokenizer: Tokenizer) -> None:
    for sample in eval_draws(family, None, 20):
        assert is_right(sample, answer_of(sample, tokenizer), tokenizer), text_of(sample.segments())


def test_one_wrong_digit_in_an_argument_is_wrong(tokenizer: Tokenizer) -> None:
    sample = eval_draws("arithmetic", "en", 1)[0]
    one, two = tokenizer.token_to_id("1"), tokenizer.token_to_id("2")
    answer = answer_of(sample, tokenizer)
    digits = [tokenizer.token_to_id(d) for d in "0123456789"]
    place = max(i for i, token in enumerate(answer) if token in digits)
    answer[place] = two if answer[place] == one else one
    assert not is_right(sample, answer, tokenizer)


def test_a_call_followed_by_more_text_is_wrong(tokenizer: Tokenizer) -> None:
    sample = eval_draws("search", "en", 1)[0]
    assert parse_single_call(answer_of(sample, tokenizer), tokenizer) is not None
    assert parse_single_call([*answer_of(sample, tokenizer)[:-1], tokenizer.token_to_id("a")], tokenizer) is None


def test_a_call_where_none_belongs_is_wrong(tokenizer: Tokenizer) -> None:
    call = answer_of(eval_draws("search", "en", 1)[0], tokenizer)
    assert not is_right(eval_draws("no_call", "en", 1)[0], call, tokenizer)


def test_a_call_spelt_in_plain_text_is_no_call(tokenizer: Tokenizer) -> None:
    sample = eval_draws("search", "en", 1)[0]
    text = text_of(sample.segments()[len(sample.prompt()) :])
    spelt = encode_segments([Segment(text, False, True)], tokenizer)[0]
    assert parse_single_call(spelt, tokenizer) is None


def test_a_number_inside_a_longer_number_is_not_contained() -> None:
    assert contains("12 * 3 = 36", "36")
    assert contains("The result is 36.", "36")
    assert not contains("The result is 361.", "36")
    assert not contains("The result is 36.5.", "36")
    assert not contains("The result is 1.36", "36")


def test_wilson_interval_matches_published_values() -> None:
    # Newcombe 1998, table I: 81 of 263, and 0 of 20.
    low, high = wilson(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    low, high = wilson(0, 20)
    assert (round(low, 4), round(high, 4)) == (0.0, 0.1611)


def test_a_perfect_model_scores_all_and_a_silent_one_nothing(tokenizer: Tokenizer) -> None:
    families = ("arithmetic", "platform")
    answers = {
        tuple(encode_segments(sample.prompt(), tokenizer)[0]): answer_of(sample, tokenizer)
        for family in families
        for sample in eval_draws(family, None, 10)
    }
    perfect = evaluate_families(lambda ps: [answers[tuple(p)] for p in ps], tokenizer, families, 10, ("seen",))
    silent = evaluate_families(lambda ps: [[] for _ in ps], tokenizer, families, 10, ("seen",))
    assert [s.share for s in perfect.scores] == [1.0] * 6 and not perfect.failures
    assert [s.share for s in silent.scores] == [0.0] * 6 and len(silent.failures) == 10
    assert perfect.single_call() == Score("single call", "both", "seen", 10, 10)


def test_the_report_is_json_and_a_table() -> None:
    report = Report((Score("units", "both", "seen", 9, 10), Score("units", "en", "seen", 4, 5)), ())
    assert json.loads(json.dumps(report.to_json()))["scores"][0]["interval"] == [0.5958, 0.9821]
    assert "| units | seen | 9/10 = 90.0% | 59.6% – 98.2% | 80.0% | – |" in report.table()
