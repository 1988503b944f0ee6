"""A request's ids and logprobs, bit for bit, whatever goes on around it; and the ids that transformers gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from engine_support import (
    KINDS,
    VOCABULARY,
    Inbox,
    Kind,
    model_loop,
    random_ids,
    request,
    run,
    scheduler_config,
    tiny_model,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek import kernels
from deepseek.core.engine import Request, TokenLogprob
from deepseek.models.checkpoint import load_model
from deepseek.models.context import Packed

SAMPLED = {"temperature": 0.9, "top_p": 0.9, "top_k": 40, "seed": 11}
GREEDY: dict[str, object] = {"temperature": 0.0}

every_kind = pytest.mark.parametrize("kind", KINDS)
both_ways = pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = kernels.num_threads()
    kernels.set_num_threads(1)
    yield
    kernels.set_num_threads(before)


def target(length: int = 37, which: int = 5, tokens: int = 24, **sampling: object) -> Request:
    return request("target", random_ids(length, which), max_tokens=tokens, logprobs=3, ignore_eos=True, **sampling)


def neighbours(count: int, seed: int = 100) -> list[Request]:
    """Others of all lengths, greedy and sampled."""
    return [
        request(
            f"n{i}",
            random_ids(1 + (i * 7) % 50, seed + i),
            max_tokens=1 + (i * 5) % 30,
            temperature=(i % 3) * 0.7,
            seed=i,
        )
        for i in range(count)
    ]


def alone(kind: Kind, asked: Request) -> Inbox:
    return run(model_loop(tiny_model(kind), scheduler_config()), [asked])[asked.id]


def bits(inbox: Inbox, choice: int = 0) -> tuple[list[int], list[TokenLogprob]]:
    """Floats compare bit for bit here: none of them is a zero or not a number."""
    ids, logprobs = inbox.ids(choice), inbox.logprobs(choice)
    assert len(ids) == len(logprobs)
    return ids, logprobs


@every_kind
def test_the_tiny_models_say_something(kind: Kind) -> None:
    model = tiny_model(kind)
    ids = torch.tensor(random_ids(64, 3))
    with torch.inference_mode():
        logits = model.logits(model(ids, Packed.of([64])))
    assert logits.std() >= 1.0
    assert len(set(alone(kind, target(tokens=64)).ids())) >= 20


@every_kind
@both_ways
def test_a_batch_of_32_others_changes_nothing(kind: Kind, sampling: dict[str, object]) -> None:
    asked = target(**sampling)
    loop = model_loop(tiny_model(kind), scheduler_config(num_blocks=512))
    others = neighbours(32)
    assert bits(run(loop, [*others[:16], asked, *others[16:]])["target"]) == bits(alone(kind, asked))


@every_kind
@both_ways
def test_a_prefix_hit_changes_nothing(kind: Kind, sampling: dict[str, object]) -> None:
    asked = target(**sampling)
    loop = model_loop(tiny_model(kind), scheduler_config())
    run(loop, [request("earlier", asked.prompt_ids[:30], max_tokens=2)])
    found = run(loop, [asked])["target"]
    assert found.finish is not None and found.finish.usage.cached_tokens == 24
    assert bits(found) == bits(alone(kind, asked))
    again = run(loop, [asked])["target"]
    assert again.finish is not None and again.finish.usage.cached_tokens == 32
    assert bits(again) == bits(found)


@every_kind
@pytest.mark.parametrize("budget", [1, 3, 8, 17, 64])
def test_chunking_changes_nothing(kind: Kind, budget: int) -> None:
    asked = target(length=90, **SAMPLED)
    loop = model_loop(tiny_model(kind), scheduler_config(max_tokens_per_step=budget, max_sequences=1))
    assert bits(run(loop, [asked])["target"]) == bits(alone(kind, asked))


@every_kind
@both_ways
def test_preemption_changes_nothing(kind: Kind, sampling: dict[str, object]) -> None:
    asked = target(**sampling)
    first = request("first", random_ids(30, 8), max_tokens=60)
    loop = model_loop(tiny_model(kind), scheduler_config(num_blocks=14, prefix_cache=False))
    found = run(loop, [first, asked])["target"]
    assert loop.scheduler.places.preemptions > 0
    assert bits(found) == bits(alone(kind, asked))


@every_kind
def test_two_kernel_threads_change_nothing(kind: Kind) -> None:
    asked = target(length=200, tokens=8, **SAMPLED)
    expected = bits(alone(kind, asked))
    kernels.set_num_threads(2)
    loop = model_loop(tiny_model(kind), scheduler_config(num_blocks=512))
    assert bits(run(loop, [*neighbours(8), asked])["target"]) == expected


@every_kind
def test_choices_differ_from_each_other_and_not_from_those_of_a_smaller_n(kind: Kind) -> None:
    three = alone(kind, target(n=3, **SAMPLED))
    two = run(model_loop(tiny_model(kind), scheduler_config(max_sequences=1)), [target(n=2, **SAMPLED)])["target"]
    assert [bits(two, choice) for choice in (0, 1)] == [bits(three, choice) for choice in (0, 1)]
    assert bits(three, 0) == bits(alone(kind, target(**SAMPLED)))
    assert len({tuple(three.ids(choice)) for choice in range(3)}) == 3


@every_kind
def test_greedy_choices_are_equal(kind: Kind) -> None:
    found = alone(kind, target(n=3, **GREEDY))
    assert bits(found, 0) == bits(found, 1) == bits(found, 2)


@every_kind
def test_serving_gives_the_logprobs_that_scoring_gives(kind: Kind) -> None:
    asked = target()
    ids, logprobs = bits(alone(kind, asked))
    whole = torch.tensor([*asked.prompt_ids, *ids])
    model = tiny_model(kind)
    with torch.inference_mode():
        scores = model.logits(model(whole, Packed.of([len(whole)])))[len(asked.prompt_ids) - 1 : -1]
    assert scores.argmax(1).tolist() == ids
    expected = scores.double().log_softmax(1)[torch.arange(len(ids)), torch.tensor(ids)]
    torch.testing.assert_close(torch.tensor([p.logprob for p in logprobs]).double(), expected, rtol=0, atol=1e-6)


@every_kind
@settings(max_examples=12)
@given(
    length=st.integers(1, 70),
    tokens=st.integers(1, 20),
    temperature=st.sampled_from([0.0, 0.5, 1.3]),
    budget=st.integers(12, 80),
    blocks=st.integers(13, 40),
    others=st.integers(0, 12),
    threads=st.integers(1, 2),
    warm=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_nothing_changes_anything(
    kind: Kind,
    length: int,
    tokens: int,
    temperature: float,
    budget: int,
    blocks: int,
    others: int,
    threads: int,
    warm: bool,
    seed: int,
) -> None:
    asked = target(length, seed, tokens, temperature=temperature, seed=seed, n=1 + seed % 2)
    kernels.set_num_threads(1)
    expected = alone(kind, asked)
    kernels.set_num_threads(threads)
    config = scheduler_config(num_blocks=blocks, max_tokens_per_step=budget, max_sequences=12)
    loop = model_loop(tiny_model(kind), config)
    if warm:
        run(loop, [request("warm", (*asked.prompt_ids[: length // 2], 7), max_tokens=3)])
    crowd = neighbours(others, seed)
    found = run(loop, [*crowd[::2], asked, *crowd[1::2]])["target"]
    for choice in range(asked.sampling.n):
        assert bits(found, choice) == bits(expected, choice)


def test_greedy_ids_are_those_of_transformers(tmp_path: Path) -> None:
    transformers.logging.set_verbosity_error()
    torch.manual_seed(3)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=72,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        initializer_range=0.25,
    )
    oracle = transformers.LlamaForCausalLM(config).eval().float()
    oracle.save_pretrained(tmp_path)
    loop = model_loop(load_model(tmp_path), scheduler_config())
    prompts = [random_ids(length, length) for length in (1, 5, 23, 64)]
    found = run(loop, [request(f"r{i}", prompt, max_tokens=48) for i, prompt in enumerate(prompts)])
    for index, prompt in enumerate(prompts):
        ids = torch.tensor([prompt])
        out = oracle.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=48, do_sample=False, pad_token_id=0
        )
        expected = out[0, len(prompt) :].tolist()
        assert len(set(expected)) >= 10
        assert found[f"r{index}"].ids() == expected
