"""Speculation changes no bit: ids and logprobs of real models, with drafts that are wrong, right, or both in turn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from engine_support import KINDS, Inbox, Kind, model_loop, random_ids, request, run, scheduler_config, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek import kernels
from deepseek.core.engine import Request
from deepseek.engine.loop import EngineLoop

SAMPLED: dict[str, Any] = {"temperature": 0.9, "top_p": 0.9, "top_k": 40, "seed": 11}
GREEDY: dict[str, Any] = {"temperature": 0.0}
# 200 tokens of bias: the model says the same again and again, so that whatever repeats is right.
REPEATING: dict[str, Any] = {"temperature": 1.5, "seed": 3, "logit_bias": {65: 60.0, 66: 58.0}}

every_kind = pytest.mark.parametrize("kind", KINDS)
drafters = pytest.mark.parametrize("drafter", ["ngram", "mtp"])
ways = pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, REPEATING], ids=["greedy", "sampled", "repeating"])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = kernels.num_threads()
    kernels.set_num_threads(1)
    yield
    kernels.set_num_threads(before)


def loop_of(kind: Kind, drafter: str, **changes: Any) -> EngineLoop:
    model = tiny_model(kind, draft_layers=0 if drafter == "ngram" else 1)
    return model_loop(model, scheduler_config(speculation=drafter, **changes))


def target(length: int = 37, which: int = 5, tokens: int = 24, **sampling: Any) -> Request:
    return request("target", random_ids(length, which), max_tokens=tokens, logprobs=3, ignore_eos=True, **sampling)


def neighbours(count: int, seed: int = 100) -> list[Request]:
    return [
        request(
            f"n{i}",
            random_ids(1 + (i * 7) % 50, seed + i),
            max_tokens=1 + (i * 5) % 30,
            temperature=(i % 3) * 0.7,
            seed=i,
            logit_bias={7: 50.0} if i % 2 else {},
        )
        for i in range(count)
    ]


def plain(kind: Kind, asked: Request) -> Inbox:
    return run(model_loop(tiny_model(kind), scheduler_config()), [asked])[asked.id]


def told(inbox: Inbox) -> tuple[Any, ...]:
    assert inbox.finish is not None
    return inbox.ids(), inbox.logprobs(), inbox.text(), inbox.finish.reasons, inbox.finish.usage.completion_tokens


def steps_of(inbox: Inbox) -> int:
    return len(inbox.tokens())


@every_kind
@drafters
@ways
def test_alone_the_output_is_the_same(kind: Kind, drafter: str, sampling: dict[str, Any]) -> None:
    asked = target(**sampling)
    found = run(loop_of(kind, drafter), [asked])["target"]
    assert told(found) == told(plain(kind, asked))


@every_kind
@drafters
def test_right_drafts_save_steps(kind: Kind, drafter: str) -> None:
    asked = target(tokens=40, **GREEDY, logit_bias={65: 100.0})
    found = run(loop_of(kind, drafter), [asked])["target"]
    assert told(found) == told(plain(kind, asked))
    assert steps_of(found) <= 40 / 4 + 4


@every_kind
@drafters
@ways
def test_in_a_batch_the_output_is_the_same(kind: Kind, drafter: str, sampling: dict[str, Any]) -> None:
    asked = target(**sampling)
    others = neighbours(12)
    loop = loop_of(kind, drafter, num_blocks=512)
    assert told(run(loop, [*others[:6], asked, *others[6:]])["target"]) == told(plain(kind, asked))


@every_kind
@drafters
@pytest.mark.parametrize("budget", [1, 3, 8, 17])
def test_in_chunks_the_output_is_the_same(kind: Kind, drafter: str, budget: int) -> None:
    asked = target(length=60, **REPEATING)
    loop = loop_of(kind, drafter, max_tokens_per_step=budget, max_sequences=1)
    assert told(run(loop, [asked])["target"]) == told(plain(kind, asked))


@every_kind
@drafters
def test_preempted_the_output_is_the_same(kind: Kind, drafter: str) -> None:
    asked = target(**REPEATING)
    first = request("first", random_ids(30, 8), max_tokens=60, logit_bias={65: 100.0})
    loop = loop_of(kind, drafter, num_blocks=14, prefix_cache=False)
    found = run(loop, [first, asked])["target"]
    assert loop.scheduler.places.preemptions > 0
    assert told(found) == told(plain(kind, asked))


@every_kind
@drafters
@ways
def test_after_a_prefix_hit_the_output_is_the_same(kind: Kind, drafter: str, sampling: dict[str, Any]) -> None:
    asked = target(**sampling)
    loop = loop_of(kind, drafter)
    run(loop, [request("earlier", asked.prompt_ids[:30], max_tokens=2)])
    found = run(loop, [asked])["target"]
    assert found.finish is not None and found.finish.usage.cached_tokens == 24
    assert told(found) == told(plain(kind, asked))


@every_kind
@drafters
@pytest.mark.parametrize(
    "rest",
    [
        {"repetition_penalty": 1.3, "frequency_penalty": 0.5},
        {"bad_word_ids": ((65, 65, 65), (66, 66))},
        {"min_p": 0.05, "min_tokens": 10, "stop_token_ids": (65,)},
        {"stop": ("AAB",)},
        {"n": 2},
    ],
    ids=["penalties", "bad words", "min tokens", "stop string", "two choices"],
)
def test_whatever_looks_at_the_output_so_far_sees_the_same(kind: Kind, drafter: str, rest: dict[str, Any]) -> None:
    asked = target(**REPEATING | rest)
    found, expected = run(loop_of(kind, drafter), [asked])["target"], plain(kind, asked)
    for choice in range(asked.sampling.n):
        assert found.ids(choice) == expected.ids(choice)
        assert found.logprobs(choice) == expected.logprobs(choice)
        assert found.text(choice) == expected.text(choice)
    assert told(found) == told(expected)


@every_kind
@settings(max_examples=15)
@given(
    drafter=st.sampled_from(["ngram", "mtp", "auto"]),
    most=st.integers(1, 6),
    length=st.integers(1, 60),
    tokens=st.integers(1, 24),
    sampling=st.sampled_from([GREEDY, SAMPLED, REPEATING]),
    budget=st.integers(12, 80),
    blocks=st.integers(13, 40),
    others=st.integers(0, 8),
    warm=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_nothing_changes_anything(
    kind: Kind,
    drafter: str,
    most: int,
    length: int,
    tokens: int,
    sampling: dict[str, Any],
    budget: int,
    blocks: int,
    others: int,
    warm: bool,
    seed: int,
) -> None:
    asked = target(length, seed, tokens, **sampling)
    changes = {"num_blocks": blocks, "max_tokens_per_step": budget, "max_sequences": 12, "max_draft_tokens": most}
    loop = loop_of(kind, drafter, **changes)
    if warm:
        run(loop, [request("warm", (*asked.prompt_ids[: length // 2], 7), max_tokens=3)])
    crowd = neighbours(others, seed)
    found = run(loop, [*crowd[::2], asked, *crowd[1::2]])["target"]
    assert told(found) == told(plain(kind, asked))
