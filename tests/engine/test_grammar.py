import itertools
import re
from collections.abc import Iterable, Sequence
from functools import cache

import pytest
from grammar_support import Vocabulary, allowed, builtin_vocabulary, random_text, spanning_vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek.core.constraint import Constraint
from deepseek.core.errors import DeepSeekError
from deepseek.engine.grammar.matcher import CompiledGrammar, GrammarError, Matcher

LETTERS = Vocabulary([b"a", b"b", b"ab", b"ba", b"aa", b"abb", b"c"])
LONGEST = 9


@cache
def letters(pattern: str) -> CompiledGrammar:
    return LETTERS.compile(Constraint.regex(pattern))


def all_texts(pattern: str) -> set[str]:
    """Every text of a's and b's up to a length that the expression matches, by Python's judgement."""
    texts = ("".join(letters) for n in range(LONGEST + 1) for letters in itertools.product("ab", repeat=n))
    return {text for text in texts if re.fullmatch(pattern, text)}


def completing(texts: Iterable[str], begun: str) -> set[int]:
    """The tokens after which `begun` can still become one of the texts, and the end where it is one."""
    rest = [text[len(begun) :] for text in texts if text.startswith(begun)]
    found = {i for i, token in enumerate(LETTERS.tokens) if token and any(r.startswith(token.decode()) for r in rest)}
    return found | ({LETTERS.end} if "" in rest else set())


def walked(grammar: CompiledGrammar, tokens: Sequence[int]) -> Matcher:
    matcher = grammar.matcher()
    for token in tokens:
        matcher.accept(token)
    return matcher


@pytest.mark.parametrize(
    "pattern",
    ["a*b", "(a|b){1,4}", "a(ba)*", "abba|abab|b", "(ab|ba)*a?", "a{2,3}b{0,2}", "(aab|abb|bba){0,2}", "b*a{3}"],
)
def test_a_token_is_allowed_exactly_if_the_text_can_still_be_completed(pattern: str) -> None:
    grammar, texts = letters(pattern), all_texts(pattern)
    waiting: list[tuple[list[int], str]] = [([], "")]
    while waiting:
        tokens, begun = waiting.pop()
        matcher = walked(grammar, tokens)
        mask, expected = set(allowed(matcher.masks([])[0])), completing(texts, begun)
        # Of the spellings of a forced text only the usual one is allowed.
        forced = matcher.forced(1)
        assert mask == (set(forced) if forced else expected), begun
        assert mask <= expected, begun
        for token in mask - {LETTERS.end}:
            text = begun + LETTERS.text([token])
            if len(text) <= LONGEST // 2:
                waiting.append(([*tokens, token], text))


@given(st.lists(st.integers(0, LETTERS.end), max_size=6), st.sampled_from(["(ab|ba)*a?", "a*b{1,3}", "(a|b|c){2,5}"]))
def test_masks_of_a_draft_are_those_of_going_there_step_by_step(draft: list[int], pattern: str) -> None:
    grammar = letters(pattern)
    rows = grammar.matcher().masks(draft)
    assert rows.shape[0] == len(draft) + 1
    matcher = grammar.matcher()
    for index, token in enumerate(draft):
        before = matcher.masks([])[0]
        assert (rows[index] == before).all()
        if token not in allowed(before):
            break
        matcher.accept(token)
    else:
        assert (rows[-1] == matcher.masks([])[0]).all()


def test_rows_behind_a_refused_draft_repeat_the_row_that_refuses_it() -> None:
    rows = letters("a[bc]").matcher().masks([0, 0, 1])
    assert (rows[2] == rows[1]).all()
    assert (rows[3] == rows[1]).all()


def test_rows_behind_the_end_allow_only_the_end() -> None:
    rows = letters("c+").matcher().masks([6, LETTERS.end, 6])
    assert [allowed(row) for row in rows] == [[6], [6, LETTERS.end], [LETTERS.end], [LETTERS.end]]


@given(st.lists(st.integers(-3, LETTERS.end + 40), max_size=5))
def test_asking_changes_nothing(tokens: list[int]) -> None:
    matcher = letters("(a|b){3,8}").matcher()
    matcher.accept(0)
    before = matcher.masks([])
    matcher.valid_prefix(tokens)
    matcher.masks(tokens)
    matcher.forced(4)
    assert (matcher.masks([]) == before).all()
    assert not matcher.done


@given(st.lists(st.integers(-3, LETTERS.end + 40), max_size=6))
def test_the_valid_prefix_is_what_can_be_accepted(tokens: list[int]) -> None:
    grammar = letters("(a|b){1,3}c?")
    matcher, taken = grammar.matcher(), 0
    for token in tokens:
        try:
            matcher.accept(token)
        except GrammarError:
            break
        taken += 1
    assert grammar.matcher().valid_prefix(tokens) == taken


def test_a_refused_token_leaves_the_state_as_it_was() -> None:
    matcher = letters("a[bc]").matcher()
    for wrong in (1, LETTERS.end, -1, 10**9):
        with pytest.raises(GrammarError):
            matcher.accept(wrong)
    matcher.accept(0)
    assert allowed(matcher.masks([])[0]) == [1, 6]


def test_nothing_but_the_end_follows_the_end() -> None:
    matcher = letters("a+").matcher()
    matcher.accept(0)
    assert not matcher.done
    matcher.accept(LETTERS.end)
    assert matcher.done
    assert allowed(matcher.masks([])[0]) == [LETTERS.end]
    assert matcher.forced(5) == []
    with pytest.raises(GrammarError):
        matcher.accept(0)


def test_a_text_that_cannot_go_on_is_done() -> None:
    matcher = letters("ab").matcher()
    matcher.accept(2)
    assert matcher.done
    assert allowed(matcher.masks([0])[0]) == [LETTERS.end]


def test_forced_tokens_are_the_only_allowed_ones() -> None:
    schema = {
        "type": "object",
        "properties": {"answer": {"enum": ["quite certain", "quite wrong"]}},
        "required": ["answer"],
    }
    matcher = builtin_vocabulary().compile(Constraint.json_schema({**schema, "additionalProperties": False})).matcher()
    seen = 0
    while not matcher.done:
        for token in matcher.forced(3):
            assert allowed(matcher.masks([])[0]) == [token]
            matcher.accept(token)
            seen += 1
        if not matcher.done:
            matcher.accept(allowed(matcher.masks([])[0])[0])
    assert seen > 3


def test_forced_tokens_are_those_the_tokenizer_would_choose() -> None:
    matcher = builtin_vocabulary().compile(Constraint.choice(["the answer is certain."])).matcher()
    ids = []
    while not matcher.done:
        (token,) = allowed(matcher.masks([])[0])
        matcher.accept(token)
        ids.append(token)
    assert "".join(builtin_vocabulary().text(ids)) == "the answer is certain."
    assert len(ids) < len("the answer is certain.")


def test_matchers_of_one_grammar_do_not_know_of_each_other() -> None:
    grammar = letters("ac|bc")
    first, second = grammar.matcher(), grammar.matcher()
    first.accept(0)
    second.accept(1)
    assert allowed(first.masks([])[0]) == allowed(second.masks([])[0]) == [6]
    assert allowed(grammar.matcher().masks([])[0]) == [0, 1]


@settings(max_examples=40)
@given(st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=6), st.integers(0, 99))
def test_a_choice_yields_exactly_one_of_the_texts(choices: list[str], seed: int) -> None:
    grammar = LETTERS.compile(Constraint.choice(choices))
    assert random_text(LETTERS, grammar, [seed]) in choices
    reachable = set()
    waiting: list[list[int]] = [[]]
    while waiting:
        tokens = waiting.pop()
        for token in allowed(walked(grammar, tokens).masks([])[0]):
            if token == LETTERS.end:
                reachable.add(LETTERS.text(tokens))
            else:
                waiting.append([*tokens, token])
    assert reachable == set(choices)


@pytest.mark.parametrize("choice", ['say "hi"', "a/b\\c", "[x]{2}", "multi\nline", "日本語 ü", "<think>", "#", "'\t"])
def test_a_choice_may_hold_any_character(choice: str) -> None:
    vocabulary = spanning_vocabulary()
    assert random_text(vocabulary, vocabulary.compile(Constraint.choice([choice])), [0]) == choice


def test_control_tokens_and_padding_are_never_allowed() -> None:
    vocabulary = builtin_vocabulary()
    silent = {i for i, token in enumerate(vocabulary.tokens) if not token} - {vocabulary.end}
    assert silent
    matcher = vocabulary.compile(Constraint.regex("(?s).*")).matcher()
    assert not silent & set(allowed(matcher.masks([])[0]))


@settings(max_examples=20)
@given(st.integers(0, 999))
def test_texts_of_a_lark_grammar_are_derived_by_it(seed: int) -> None:
    vocabulary = spanning_vocabulary()
    grammar = vocabulary.compile(
        Constraint.lark('start: NAME "=" sum\nsum: NUMBER ("+" NUMBER)*\nNAME: /[a-z]{1,5}/\nNUMBER: /[0-9]{1,3}/')
    )
    text = random_text(vocabulary, grammar, [seed])
    assert text is None or re.fullmatch(r"[a-z]{1,5}=[0-9]{1,3}(\+[0-9]{1,3})*", text)


def test_errors_of_a_grammar_are_of_the_family_users_meet() -> None:
    assert issubclass(GrammarError, DeepSeekError)
