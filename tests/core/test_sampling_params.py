"""Sampling parameters: what is taken in which form, and that every bad value is refused by the name of its field."""

from __future__ import annotations

import math
from typing import Any

import pytest

from deepseek.core.errors import AdmissionError
from deepseek.core.sampling import (
    MAX_BAD_WORD_LENGTH,
    MAX_BAD_WORDS,
    MAX_LOGIT_BIAS,
    MAX_SEED,
    MAX_STOP_STRINGS,
    SamplingParams,
    require_known_ids,
    with_bad_words_as_ids,
)


@pytest.mark.parametrize("name", ["stop", "stop_token_ids", "logit_bias", "bad_words", "bad_word_ids"])
def test_none_means_none(name: str) -> None:
    assert SamplingParams(**{name: None}) == SamplingParams()


@pytest.mark.parametrize("name", ["stop", "bad_words"])
def test_one_text_stands_for_a_list_of_one(name: str) -> None:
    for given in ("word", ["word"], ("word",)):
        assert getattr(SamplingParams(**{name: given}), name) == ("word",)


def test_a_logit_bias_is_taken_as_a_mapping_or_as_pairs() -> None:
    for given in ({5: 1, 2: -math.inf}, [(5, 1.0), [2, -math.inf]], ((2, -math.inf), (5, 1))):
        params = SamplingParams(logit_bias=given)  # type: ignore[arg-type]
        assert params.logit_bias == ((2, -math.inf), (5, 1.0))
        assert hash(params) == hash(SamplingParams(logit_bias={2: -math.inf, 5: 1.0}))  # type: ignore[arg-type]


def test_sets_and_generators_of_ids_are_taken() -> None:
    assert sorted(SamplingParams(stop_token_ids={4, 2}).stop_token_ids) == [2, 4]  # type: ignore[arg-type]
    assert SamplingParams(bad_word_ids=([i] for i in (1, 2))).bad_word_ids == ((1,), (2,))  # type: ignore[arg-type]


GOOD: list[dict[str, Any]] = [
    {"max_tokens": 0, "prompt_logprobs": 0},
    {"frequency_penalty": -2, "presence_penalty": 2.0, "repetition_penalty": 0.01},
    {"repetition_penalty": 100, "min_p": 1, "top_p": 1},
    {"logit_bias": {0: -100, 1: 100, 2: -math.inf}},
    {"min_tokens": 5, "max_tokens": 5},
    {"prompt_logprobs": 20, "logprobs": 20, "seed": MAX_SEED, "n": 64},
    {"bad_word_ids": [[1] * MAX_BAD_WORD_LENGTH] * MAX_BAD_WORDS},
    {"logit_bias": dict.fromkeys(range(MAX_LOGIT_BIAS), 1)},
]


@pytest.mark.parametrize("given", GOOD, ids=lambda given: "-".join(given))
def test_the_ends_of_every_range_are_inside(given: dict[str, Any]) -> None:
    SamplingParams(**given)


BAD: list[tuple[str, Any]] = [
    ("max_tokens", 0),
    ("max_tokens", -1),
    ("max_tokens", 1.0),
    ("max_tokens", True),
    ("temperature", math.nan),
    ("temperature", "1"),
    ("temperature", None),
    ("top_p", 0.0),
    ("top_k", -1),
    ("min_p", -0.1),
    ("min_p", 1.1),
    ("min_p", math.inf),
    ("frequency_penalty", 2.1),
    ("frequency_penalty", math.nan),
    ("presence_penalty", -2.1),
    ("presence_penalty", None),
    ("repetition_penalty", 0.0),
    ("repetition_penalty", -1.0),
    ("repetition_penalty", 101),
    ("seed", -1),
    ("seed", 2**63),
    ("stop", b""),
    ("stop", b"stop"),
    ("stop", bytearray(b"x")),
    ("stop", {"a": 1}),
    ("stop", 5),
    ("stop", ""),
    ("stop", ["a", ""]),
    ("stop", ["a", b"b"]),
    ("stop", [None]),
    ("stop", ["x"] * (MAX_STOP_STRINGS + 1)),
    ("stop_token_ids", "12"),
    ("stop_token_ids", b"\x01"),
    ("stop_token_ids", 3),
    ("stop_token_ids", [-1]),
    ("stop_token_ids", [2**31]),
    ("stop_token_ids", [True]),
    ("stop_token_ids", {1, "a"}),
    ("logit_bias", 5),
    ("logit_bias", "text"),
    ("logit_bias", [5]),
    ("logit_bias", [(5,)]),
    ("logit_bias", ["ab"]),
    ("logit_bias", {"5": 1.0}),
    ("logit_bias", {-1: 1.0}),
    ("logit_bias", {5: 100.5}),
    ("logit_bias", {5: math.inf}),
    ("logit_bias", {5: math.nan}),
    ("logit_bias", {5: "1"}),
    ("logit_bias", {5: None}),
    ("logit_bias", [(5, 1.0), (5, 2.0)]),
    ("logit_bias", dict.fromkeys(range(MAX_LOGIT_BIAS + 1), 1.0)),
    ("bad_words", b"word"),
    ("bad_words", [""]),
    ("bad_words", ["x"] * (MAX_BAD_WORDS + 1)),
    ("bad_word_ids", [5]),
    ("bad_word_ids", ["5"]),
    ("bad_word_ids", [[]]),
    ("bad_word_ids", [[-1]]),
    ("bad_word_ids", [[1] * (MAX_BAD_WORD_LENGTH + 1)]),
    ("bad_word_ids", [[1]] * (2 * MAX_BAD_WORDS + 1)),
    ("bad_words", ["x" * 1024] * 33),
    ("min_tokens", -1),
    ("min_tokens", 257),
    ("logprobs", 21),
    ("prompt_logprobs", -1),
    ("prompt_logprobs", 21),
    ("prompt_logprobs", True),
    ("n", 0),
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=lambda value: repr(value)[:30])
def test_a_bad_value_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(AdmissionError) as caught:
        SamplingParams(**{name: value})
    assert caught.value.where == name
    assert caught.value.reason == "invalid"
    assert caught.value.expected or caught.value.found or caught.value.what


def test_a_prompt_that_is_only_scored_is_scored_once() -> None:
    with pytest.raises(AdmissionError, match="n: the prompt is scored once; found 2"):
        SamplingParams(max_tokens=0, prompt_logprobs=0, n=2)


def test_the_message_says_what_was_found_and_what_is_expected() -> None:
    with pytest.raises(AdmissionError) as caught:
        SamplingParams(repetition_penalty=-1.0)
    assert str(caught.value) == "repetition_penalty: out of range; found -1.0; expected a number in [0.01, 100]"
    with pytest.raises(AdmissionError, match="Fix: set prompt_logprobs to score the prompt alone"):
        SamplingParams(max_tokens=0)


def test_penalties_are_known_from_their_values() -> None:
    assert not SamplingParams(min_p=0.5, min_tokens=1).has_penalties
    for name, value in (("frequency_penalty", 0.1), ("presence_penalty", -0.1), ("repetition_penalty", 0.9)):
        assert SamplingParams(**{name: value}).has_penalties  # type: ignore[arg-type]


VOCABULARY = {"du": 1, "mb": 2, " dumb": 3, " ": 4, "\n": 5, "a": 6, "b": 7}


def encode(text: str) -> list[int]:
    """Longest match first, as a tokenizer that has a token of its own for one spaced word."""
    ids: list[int] = []
    while text:
        piece = max((piece for piece in VOCABULARY if text.startswith(piece)), key=len)
        ids.append(VOCABULARY[piece])
        text = text.removeprefix(piece)
    return ids


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("dumb", ((1, 2), (3,))),
        (" dumb", ((1, 2), (3,))),
        ("ab", ((6, 7),)),  # after a space it is the same, and so banned already
        ("\n", ((5,),)),
        (" ", ((4,),)),
    ],
)
def test_a_bad_word_is_banned_as_it_is_and_after_a_space(word: str, expected: tuple[tuple[int, ...], ...]) -> None:
    params = with_bad_words_as_ids(SamplingParams(bad_words=(word,), top_k=3), encode)
    assert params == SamplingParams(bad_word_ids=expected, top_k=3)


def test_bad_words_join_the_ids_given_once_each() -> None:
    params = SamplingParams(bad_words=("ab", "a", "ab"), bad_word_ids=((9,), (6,)))
    assert with_bad_words_as_ids(params, encode).bad_word_ids == ((9,), (6,), (6, 7))


def test_without_bad_words_nothing_is_encoded() -> None:
    params = SamplingParams(bad_word_ids=((9,),))
    assert with_bad_words_as_ids(params, lambda text: pytest.fail(text)) is params


def test_a_bad_word_without_tokens_is_refused() -> None:
    with pytest.raises(AdmissionError, match="bad_words: this text has no tokens; found 'x'"):
        with_bad_words_as_ids(SamplingParams(bad_words=("x",)), lambda text: [])


@pytest.mark.parametrize(("name", "value"), [("logit_bias", {10: 1.0}), ("bad_word_ids", [[1, 10]])])
def test_ids_beyond_the_vocabulary_are_refused_by_name(name: str, value: Any) -> None:
    params = SamplingParams(**{name: value})
    require_known_ids(params, 11)
    with pytest.raises(AdmissionError, match=f"{name}: not a token id of this model; found 10; expected 0 to 9"):
        require_known_ids(params, 10)
