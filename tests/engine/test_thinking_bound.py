"""Thinking that is bounded: its end comes by itself, or where so many tokens have come before it, and nothing else changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from engine_support import VOCABULARY, Inbox, model_loop, random_ids, request, scheduler_config, tiny_model
from grammar_support import allowed, builtin_vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng

from deepseek.core.constraint import Constraint
from deepseek.core.engine import ThinkingBound
from deepseek.core.errors import AdmissionError
from deepseek.engine.grammar.matcher import Matcher
from deepseek.engine.grammar.thinking import BoundedThinking
from deepseek.engine.loop import EngineLoop

END = 7
SIZE = 40


def followed(bound: int, said: Sequence[int], inner: Matcher | None = None, size: int = SIZE) -> BoundedThinking:
    matcher = BoundedThinking(ThinkingBound(bound, END), inner, size)
    for token in said:
        matcher.accept(token)
    return matcher


def may_follow(bound: int, said: Sequence[int]) -> set[int]:
    """By the words of the contract."""
    open_ = END not in said
    return {END} if open_ and len(said) >= bound else set(range(SIZE))


TOKENS = st.lists(st.sampled_from([1, 2, END, 39]), max_size=6)


@given(st.integers(0, 5), TOKENS, TOKENS)
def test_only_the_end_may_come_once_so_many_tokens_have_come_before_it(
    bound: int, said: list[int], draft: list[int]
) -> None:
    matcher = followed(bound, said)
    masks = matcher.masks(draft)
    good = 0
    for index in range(len(draft) + 1):
        wanted = may_follow(bound, said + draft[:index])
        found = set(range(SIZE)) if masks is None else set(allowed(masks[index]))
        assert found == wanted
        if index < len(draft) and good == index and draft[index] in wanted:
            good += 1
    assert matcher.valid_prefix(draft) == good
    now = may_follow(bound, said)
    assert matcher.forced(3) == (list(now) if len(now) == 1 else []) and not matcher.done


def test_where_nothing_is_ruled_out_there_is_no_mask() -> None:
    assert followed(5, [1, 2]).masks([1]) is None
    assert followed(1, [END]).masks([1, 2]) is None


def said_by(loop: EngineLoop, bound: int | None, **sampling: Any) -> list[list[int]]:
    wanted = request("r", random_ids(9, seed=1), max_tokens=24, temperature=1.0, seed=5, **sampling)
    inbox = Inbox()
    thinking = None if bound is None else ThinkingBound(bound, END)
    loop.add(replace(wanted, thinking=thinking), inbox.receive)
    while loop.has_work:
        loop.step()
        loop.scheduler.check()
    return [
        [token for event in inbox.tokens(choice) for token in event.token_ids] for choice in range(wanted.sampling.n)
    ]


@pytest.mark.parametrize("speculation", ["off", "ngram"])
def test_a_model_is_cut_off_at_the_bound_and_says_before_it_what_it_would_have_said(speculation: str) -> None:
    loop = model_loop(tiny_model("latent_experts"), scheduler_config(speculation=speculation))  # type: ignore[arg-type]
    free = said_by(loop, None, n=2)
    assert all(END not in ids[:10] for ids in free), "the seed is no use: it ends by itself"
    bound = said_by(loop, 10, n=2)
    for one, other in zip(bound, free, strict=True):
        assert one[:10] == other[:10] and one[10] == END and len(one) == 24
    assert said_by(loop, 24, n=2) == free


def test_a_bound_needs_a_token_of_the_model() -> None:
    loop = model_loop(tiny_model("latent_experts"), scheduler_config())
    with pytest.raises(AdmissionError, match="thinking"):
        loop.add(replace(request(), thinking=ThinkingBound(1, VOCABULARY)), Inbox().receive)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 12), st.integers(0, 2**32))
def test_around_a_grammar_the_end_comes_as_soon_as_the_grammar_takes_it(bound: int, seed: int) -> None:
    vocabulary = builtin_vocabulary()
    end = vocabulary.end - 1
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    grammar = vocabulary.compile(Constraint.markup(["all", ["free"], ["token", end], ["json", schema]]))
    matcher = BoundedThinking(ThinkingBound(bound, end), grammar.matcher(), len(vocabulary.tokens))
    random, ids = default_rng(seed), list[int]()
    while end not in ids:
        masks = matcher.masks([])
        assert masks is not None
        choices = np.array(allowed(masks[0]))
        ids.append(int(random.choice(choices)))
        matcher.accept(ids[-1])
        assert len(ids) <= bound + 5, "at most a character is completed after the bound"
    assert matcher.valid_prefix([vocabulary.tokens.index(b"{")]) == 1
