"""The promise: the same request gets the same ids and logprobs, bit for bit, whatever goes on around it.

One property, asked of every form a model can have (stored in float32 and bfloat16, quantised to 8 and 4 bits; grouped-query
and latent attention; dense and experts; widths that are multiples of nothing): a request alone in an idle engine, computed
whole and without guesses, against the same request in any circumstances. And scoring outside the engine gives the engine's
logprobs, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from engine_support import ByteTable, Inbox, random_ids, request, scheduler_config, tiny_config
from grammar_support import Vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st
from lease_support import GivenLease, SlicedLease

from deepseek import kernels
from deepseek.core.constraint import Constraint
from deepseek.core.engine import Embedding, PromptScores, Request, TokenLogprob
from deepseek.engine.loop import EngineLoop
from deepseek.engine.reading import join_scores
from deepseek.engine.sampling.sampler import describe
from deepseek.engine.scheduler_config import SchedulerConfig
from deepseek.engine.worker import Worker
from deepseek.models.adapters import Adapter, adaptable
from deepseek.models.attention import LatentUpProjection
from deepseek.models.config import ModelConfig
from deepseek.models.context import Packed
from deepseek.models.low_rank import LowRank
from deepseek.models.quantize import pack_tensor
from deepseek.models.tensors import hf_slots
from deepseek.models.transformer import Model

TEXT_IDS = 256
END = 256
SIZE = 270
SHAPES = ("grouped-query dense", "grouped-query experts", "latent dense", "latent experts")
FORMS = ("float32", "bfloat16", "int8", "int4")
MODELS = [(shape, form) for shape in SHAPES for form in FORMS]
NAMES = ("first", "second")

every_model = pytest.mark.parametrize(("shape", "form"), MODELS, ids=[f"{shape}, {form}" for shape, form in MODELS])


class PaddedTable(ByteTable):
    """Bytes, an end, and ids that only pad the vocabulary."""

    def shown_token(self, token_id: int, skip_special: bool) -> str | None:
        return super().shown_token(token_id, skip_special) if token_id < TEXT_IDS else None


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = kernels.num_threads()
    yield
    kernels.set_num_threads(before)


# The models.


def config_of(shape: str) -> ModelConfig:
    attention, _, mlp = shape.partition(" ")
    latent = tiny_config("latent_experts", SIZE, draft_layers=1)
    base = latent if attention == "latent" else tiny_config("grouped_query", SIZE, draft_layers=1)
    experts = latent.experts if mlp == "experts" else None
    # One block of 128 and a piece; outputs that fill no panel.
    sizes = {"hidden_size": 148, "intermediate_size": 202, "rms_norm_eps": 1e-6, "tie_word_embeddings": mlp == "dense"}
    return replace(base, experts=experts, eos_token_ids=(END,), **sizes)  # type: ignore[arg-type]


@cache
def model_of(shape: str, form: str) -> Model:
    """Tensor by tensor, as a checkpoint is loaded; not from one, because not every shape has a public form."""
    config = config_of(shape)
    stored = {name: slot.stored()[0] for name, slot in hf_slots(Model(config).initialize(seed=3, std=0.12)).items()}
    with torch.device("meta"):
        model = Model(config)
    model.quantization = form if form in ("int8", "int4") else "none"  # type: ignore[assignment]
    for name, slot in hf_slots(model).items():
        tensor = stored[name].bfloat16() if form == "bfloat16" and not slot.keep_float32 else stored[name]
        pack_tensor(name, slot, [tensor], None, model.quantization)
    return model.requires_grad_(False).eval()


@cache
def adapters_of(shape: str, form: str) -> list[Adapter]:
    found = []
    for seed in range(len(NAMES)):
        generator = torch.Generator().manual_seed(seed)
        matrices = {}
        for name, layer in adaptable(model_of(shape, form)).items():
            if not isinstance(layer, LatentUpProjection):
                a = torch.randn((3 + seed, layer.in_features), generator=generator) * 0.1
                matrices[name] = LowRank.of(a, torch.randn((layer.out_features, 3 + seed), generator=generator) * 0.1)
        found.append(Adapter(matrices, {}))
    return found


def loop_of(shape: str, form: str, config: SchedulerConfig) -> EngineLoop:
    model = model_of(shape, form)
    worker = Worker(model, config.num_blocks, config.block_size, drafts=config.speculation in ("mtp", "auto"))
    for pool, _ in worker.cache.pools:
        pool.fill_(math.nan)  # what was never written must never be read
    loop = EngineLoop(worker, PaddedTable(), config, vocab_size=SIZE)
    for name, adapter in zip(NAMES, adapters_of(shape, form), strict=True):
        handle = loop.new_adapter_handle()
        worker.adapters.install(handle, adapter)
        loop.publish_adapter(name, handle)
    return loop


@cache
def vocabulary() -> Vocabulary:
    return Vocabulary([bytes([i]) for i in range(TEXT_IDS)])


@cache
def grammar_of(constraint: Constraint) -> Any:
    return vocabulary().compile(constraint)


CONSTRAINTS = (
    Constraint.regex(r"(yes|no|maybe)( and (yes|no))*"),
    Constraint.json_schema({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}),
)
# Of such a bias a text repeats itself, and guesses are right.
REPEATING = {"logit_bias": {65: 14.0, 66: 13.0}, "temperature": 1.0}
RULES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 0.9, "top_p": 0.9, "top_k": 40, "min_p": 0.01},
    "repeating": REPEATING,
    "penalised": REPEATING | {"repetition_penalty": 1.2, "frequency_penalty": 0.4, "bad_word_ids": ((65, 65, 66),)},
    "stopping": REPEATING | {"stop": ("ABA", "BBB"), "min_tokens": 3, "stop_token_ids": (70, 80)},
}


class Case(NamedTuple):
    """What is asked, and in what circumstances."""

    length: int
    tokens: int
    rules: str
    n: int
    seed: int
    scores: bool
    adapter: str | None
    constraint: Constraint | None
    embeds: bool
    # The circumstances.
    budget: int
    spare_blocks: int
    others: int
    warm: float
    speculation: str
    most: int
    threads: int
    slice: int = 0
    late: int = 0

    @property
    def request(self) -> Request:
        fields: dict[str, Any] = {"max_tokens": self.tokens, "logprobs": 3, "seed": self.seed, "n": self.n}
        fields |= RULES[self.rules] | ({"prompt_logprobs": 1} if self.scores else {})
        fields["min_tokens"] = min(self.tokens, fields.get("min_tokens", 0))
        if self.constraint is not None:
            fields = {name: value for name, value in fields.items() if name not in ("stop", "stop_token_ids")}
        asked = request("target", random_ids(self.length, self.seed, TEXT_IDS), **fields)
        if self.embeds:
            return replace(asked, task="embed", pooling="mean" if self.seed % 2 else "last", adapter=self.adapter)
        return replace(asked, adapter=self.adapter, constraint=self.constraint)


cases = st.builds(
    Case,
    length=st.integers(1, 90),
    tokens=st.integers(1, 16),
    rules=st.sampled_from(list(RULES)),
    n=st.sampled_from([1, 1, 1, 2]),
    seed=st.integers(0, 500),
    scores=st.booleans(),
    adapter=st.sampled_from([None, None, *NAMES]),
    constraint=st.sampled_from([None, None, *CONSTRAINTS]),
    embeds=st.sampled_from([False] * 7 + [True]),
    budget=st.sampled_from([1, 2, 3, 7, 13, 16, 33, 64, 128, 512]),
    spare_blocks=st.sampled_from([0, 1, 2, 4, 9, 200]),
    others=st.sampled_from([0, 1, 3, 7, 12, 31]),
    warm=st.sampled_from([0.0, 0.4, 1.0]),
    speculation=st.sampled_from(["off", "ngram", "mtp", "auto"]),
    most=st.integers(1, 5),
    threads=st.integers(1, 2),
    slice=st.sampled_from([0, 1, 2, 3, 7]),
    late=st.integers(0, 4),
)


def neighbours(count: int, seed: int) -> list[Request]:
    """Others of all lengths and kinds."""
    found = []
    for index in range(count):
        fields = RULES[list(RULES)[index % len(RULES)]] | {"max_tokens": 3 + (index * 5) % 14, "seed": index}
        one = request(f"n{index}", random_ids(1 + (index * 13 + seed) % 60, seed + index, TEXT_IDS), **fields)
        if index % 4 == 1:
            one = replace(one, adapter=NAMES[index % 2])
        elif index % 6 == 2:
            one = replace(one, constraint=CONSTRAINTS[index % 2], sampling=replace(one.sampling, stop_token_ids=()))
        elif index % 9 == 3:
            one = replace(one, task="embed")
        elif index % 7 == 4:
            one = replace(one, lease=GivenLease(2 + index % 3, True))
        found.append(one)
    return found


def serve(loop: EngineLoop, requests: Sequence[Request]) -> dict[str, Inbox]:
    inboxes = {asked.id: Inbox() for asked in requests}
    for asked in requests:
        matcher = None if asked.constraint is None else grammar_of(asked.constraint).matcher
        loop.add(asked, inboxes[asked.id].receive, matcher)
    idle = 0
    while loop.has_work and idle < 10:  # a lease that is late may leave nothing to do
        idle = 0 if loop.step() else idle + 1
        loop.scheduler.check()
    assert all(inbox.finish for inbox in inboxes.values())
    return inboxes


def told(inbox: Inbox) -> list[Any]:
    """Everything but how it was cut into events. repr tells -0.0 from 0.0, and rounds nothing."""
    assert inbox.finish is not None
    choices = range(len(inbox.finish.reasons))
    scores = [event for event in inbox.events if isinstance(event, PromptScores)]
    return [
        inbox.finish.reasons,
        inbox.finish.usage.completion_tokens,
        [(inbox.ids(choice), inbox.text(choice), repr(inbox.logprobs(choice))) for choice in choices],
        repr(join_scores(scores).logprobs) if scores else "",
        [event.values.tobytes() for event in inbox.events if isinstance(event, Embedding)],
    ]


def alone(shape: str, form: str, asked: Request) -> list[Any]:
    kernels.set_num_threads(1)
    config = scheduler_config(
        max_model_len=256, max_tokens_per_step=512, prefix_cache=False, eos_token_ids=frozenset({END})
    )
    return told(serve(loop_of(shape, form, config), [asked])[asked.id])


def hold(shape: str, form: str, case: Case, before: Sequence[Request] = ()) -> EngineLoop:
    """The property. Returns the loop, for what happened on the way."""
    asked = case.request
    expected = alone(shape, form, asked)
    kernels.set_num_threads(case.threads)
    config = scheduler_config(
        num_blocks=-(-(case.length + case.tokens) // 8) + case.spare_blocks,
        max_model_len=256,
        max_tokens_per_step=case.budget,
        max_sequences=min(case.budget, 33),
        eos_token_ids=frozenset({END}),
        speculation=case.speculation,
        max_draft_tokens=case.most,
    )
    loop = loop_of(shape, form, config)
    if case.warm:
        beginning = asked.prompt_ids[: max(1, int(case.length * case.warm))]
        serve(loop, [replace(request("warm", beginning, max_tokens=1), adapter=case.adapter)])
    longest = loop.scheduler.max_length - 16
    crowd = [one for one in neighbours(case.others, case.seed) if len(one.prompt_ids) < longest]
    if case.slice:
        asked = replace(asked, lease=SlicedLease(case.slice, case.late))
    found = serve(loop, [*before, *crowd[::2], asked, *crowd[1::2]])["target"]
    assert told(found) == expected
    return loop


@every_model
@settings(max_examples=4)
@given(case=cases)
def test_nothing_around_a_request_changes_it(shape: str, form: str, case: Case) -> None:
    hold(shape, form, case)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@every_model
@settings(max_examples=120)
@given(case=cases)
def test_nothing_around_a_request_changes_it_in_many_more_cases(shape: str, form: str, case: Case) -> None:
    hold(shape, form, case)


PLAIN = Case(70, 12, "repeating", 1, 4, True, None, None, False, 512, 200, 0, 0.0, "off", 3, 1)


@every_model
def test_each_thing_that_must_change_nothing_does_happen(shape: str, form: str) -> None:
    """A batch of 32, a prefix hit, chunks of one token, a preemption, right and wrong guesses, a lease that comes late:
    all at their worst."""
    hold(shape, form, PLAIN._replace(others=31, threads=2))
    hold(shape, form, PLAIN._replace(length=20, tokens=6, budget=1))
    hit = hold(shape, form, PLAIN._replace(warm=1.0, scores=False))
    assert hit.load().prefix_hit_tokens >= 64
    first = [request("first", random_ids(30, 8, TEXT_IDS), max_tokens=60, ignore_eos=True)]
    full = hold(shape, form, PLAIN._replace(length=37, tokens=24, spare_blocks=6, scores=False), first)
    assert full.load().preemptions > 0
    for mode in ("ngram", "mtp"):
        guessing = hold(
            shape, form, PLAIN._replace(tokens=40, speculation=mode, slice=0 if mode == "mtp" else 5, late=1)
        )
        assert 0 < guessing.load().accepted_tokens < guessing.load().drafted_tokens


@every_model
@pytest.mark.parametrize("budget", [5, 512])
def test_scoring_outside_the_engine_gives_its_logprobs(shape: str, form: str, budget: int) -> None:
    asked = PLAIN._replace(rules="greedy", tokens=10).request
    config = scheduler_config(max_tokens_per_step=budget, max_sequences=min(budget, 8), speculation="mtp")
    inbox = serve(loop_of(shape, form, config), [*neighbours(3, 9), asked])["target"]
    scores = join_scores([event for event in inbox.events if isinstance(event, PromptScores)]).logprobs
    whole = [*asked.prompt_ids, *inbox.ids()]
    served: list[TokenLogprob | None] = [*scores, *inbox.logprobs()]
    assert len(served) == len(whole) and len(set(inbox.ids())) > 1
    # Laid end to end with others, as a trainer scores its batch.
    batch = [list(random_ids(19, 1, TEXT_IDS)), whole, list(random_ids(44, 2, TEXT_IDS))]
    model = model_of(shape, form)
    with torch.inference_mode():
        hidden = model(torch.tensor([token for ids in batch for token in ids]), Packed.of([len(ids) for ids in batch]))
        logits = model.logits(hidden[19 : 19 + len(whole)]).numpy()
    for position in range(1, len(whole)):
        entry = served[position]
        assert entry is not None
        assert repr(describe(logits[position - 1], whole[position], len(entry.top))) == repr(entry)
