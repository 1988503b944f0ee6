"""One request cannot kill the engine: whatever fails for one, it ends alone, with a reason, and the rest go on.

Each fault is put where only one request meets it, in the middle of a batch. That request has to end with "error" and a
text, every other one with the very bits it has alone; the books are checked after every step, all blocks come back, and
the same engine then serves as if nothing had been.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from engine_support import (
    PATIENCE_S,
    VOCABULARY,
    ByteTable,
    Inbox,
    Kind,
    random_ids,
    request,
    scheduler_config,
    tiny_config,
)
from numpy.typing import NDArray

from deepseek import kernels
from deepseek.core.constraint import Constraint
from deepseek.core.engine import Embedding, Event, Finish, PromptScores, Ready, Request, Tokens
from deepseek.core.errors import AdmissionError, EngineError, LayoutError
from deepseek.engine.engine import Engine
from deepseek.engine.grammar.compiler import GrammarStats
from deepseek.engine.loop import EngineLoop
from deepseek.engine.plan import StepPlan
from deepseek.engine.reading import join_scores
from deepseek.engine.result import StepResult
from deepseek.engine.sampling import sampler
from deepseek.engine.sampling.history import History
from deepseek.engine.scheduler import Scheduler
from deepseek.engine.speculation.ngram import NgramIndex
from deepseek.engine.worker import StepWorker, Worker
from deepseek.models.adapters import Adapter, adaptable
from deepseek.models.attention import LatentUpProjection
from deepseek.models.low_rank import LowRank
from deepseek.models.transformer import Model

MARKED_SEED = 777  # the broken request's; nobody else has it
MARKED_ID = 250


class PanicException(BaseException):
    """What a panic of Rust code looks like from Python: no Exception."""


class OpenMatcher:
    """Allows every token. Its methods are what faults replace."""

    def __init__(self) -> None:
        self.accepted = 0

    def masks(self, draft: Sequence[int]) -> NDArray[np.int32]:
        return np.full((len(draft) + 1, VOCABULARY // 32), -1, np.int32)

    def accept(self, token: int) -> None:
        self.accepted += 1

    def forced(self, limit: int) -> list[int]:
        return []

    def valid_prefix(self, tokens: Sequence[int]) -> int:
        return len(tokens)

    @property
    def done(self) -> bool:
        return False


class Lab:
    """Where a fault is put: it may change the request, its grammar, the weights, the tokenizer, the way of a step."""

    def __init__(self, patch: pytest.MonkeyPatch, broken: Request) -> None:
        self.patch, self.broken = patch, broken
        self.grammar: Callable[[], Any] | None = None
        self.table = ByteTable()
        self.inbox: Inbox = Inbox()
        self.is_marked_nan = False
        self.adapter: Callable[[Model], Adapter] | None = None
        self.before_step: Callable[[StepPlan], None] = lambda plan: None
        self.after_step: Callable[[StepPlan, StepResult], StepResult] = lambda plan, result: result

    def ask(self, **changes: Any) -> None:
        self.broken = replace(self.broken, **changes)

    def sample(self, **changes: Any) -> None:
        self.ask(sampling=replace(self.broken.sampling, **changes))

    def force(self, **changes: Any) -> None:
        """Parameters that no constructor would let through."""
        for name, value in changes.items():
            object.__setattr__(self.broken.sampling, name, value)

    def match(self, **methods: Callable[..., Any]) -> None:
        """A grammar that is sound for five tokens and then has these methods."""
        sound = OpenMatcher

        def until_then(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
            return lambda self, *rest: (method if self.accepted >= 5 else getattr(sound, name))(self, *rest)

        self.grammar = type("Broken", (sound,), {name: until_then(name, one) for name, one in methods.items()})

    def fail(self, owner: Any, name: str, when: Callable[..., bool], error: BaseException | None = None) -> None:
        """From the sixth call on that `when` is true for, a function raises."""
        original, calls = getattr(owner, name), [0]

        def failing(*arguments: Any, **named: Any) -> Any:
            if when(*arguments):
                calls[0] += 1
                if calls[0] > 5:
                    raise error or RuntimeError("as drawn")
            return original(*arguments, **named)

        self.patch.setattr(owner, name, failing)

    def say_marked(self) -> None:
        """The broken request's sixth token is MARKED_ID."""
        self.grammar = MarkedMatcher


class MarkedMatcher(OpenMatcher):
    def masks(self, draft: Sequence[int]) -> NDArray[np.int32]:
        rows = super().masks(draft)
        for index in range(len(rows)):
            if self.accepted + index == 5:
                rows[index] = 0
                rows[index].view(np.uint32)[MARKED_ID // 32] = 1 << MARKED_ID % 32
        return rows


Fault = Callable[[Lab], None]
FAULTS: dict[str, Fault] = {}


def fault(make: Fault) -> Fault:
    FAULTS[make.__name__.replace("_", " ")] = make
    return make


# Sampling.


@fault
def a_history_that_raises(lab: Lab) -> None:
    lab.sample(frequency_penalty=0.5)
    lab.fail(History, "seen", lambda history, *_: history._params.seed == MARKED_SEED)


@fault
def a_bias_that_raises(lab: Lab) -> None:
    lab.sample(logit_bias={5: 1.0})
    lab.fail(History, "bias", lambda history, *_: history._params.seed == MARKED_SEED)


@fault
def a_draw_that_raises(lab: Lab) -> None:
    lab.fail(sampler, "draw_uniform", lambda seed, *_: seed == MARKED_SEED)


@fault
def a_temperature_that_is_no_number(lab: Lab) -> None:
    lab.force(temperature="hot")


@fault
def a_seed_too_large(lab: Lab) -> None:
    lab.force(seed=2**64)


@fault
def a_bias_beyond_float32(lab: Lab) -> None:
    lab.force(logit_bias=((5, 1e39),))


@fault
def a_ban_on_every_token(lab: Lab) -> None:
    lab.sample(logit_bias={token: float("-inf") for token in range(VOCABULARY)})


@fault
def stop_ids_that_are_no_list(lab: Lab) -> None:
    lab.force(stop_token_ids=7)


# Grammar.


def _raise(error: BaseException) -> Callable[..., Any]:
    def method(*_: object) -> Any:
        raise error

    return method


def _breaks(method: str, error: BaseException) -> Fault:
    return lambda lab: lab.match(**{method: _raise(error)})


for _method in ("masks", "accept", "forced", "valid_prefix"):
    FAULTS[f"{_method} raises".replace("_", " ")] = _breaks(_method, RuntimeError("as drawn"))
    FAULTS[f"{_method} panics".replace("_", " ")] = _breaks(_method, PanicException("unreachable"))


@fault
def a_mask_of_no_token(lab: Lab) -> None:
    lab.match(masks=lambda self, draft: np.zeros((len(draft) + 1, VOCABULARY // 32), np.int32))


@fault
def a_mask_of_another_width(lab: Lab) -> None:
    lab.match(masks=lambda self, draft: np.full((len(draft) + 1, 3), -1, np.int32))


@fault
def too_few_masks(lab: Lab) -> None:
    lab.match(masks=lambda self, draft: np.zeros((0, VOCABULARY // 32), np.int32))


@fault
def a_mask_of_text(lab: Lab) -> None:
    lab.match(masks=lambda self, draft: [["x"] * (VOCABULARY // 32)] * (len(draft) + 1))


@fault
def a_matcher_that_cannot_say_whether_it_is_done(lab: Lab) -> None:
    class Undecided(OpenMatcher):
        @property
        def done(self) -> bool:
            if self.accepted >= 5:
                raise RuntimeError("who knows")
            return False

    lab.grammar = Undecided


# Text.


@fault
def a_token_without_text(lab: Lab) -> None:
    lab.say_marked()
    lab.table = ByteTable(broken={MARKED_ID})


@fault
def a_tokenizer_that_panics(lab: Lab) -> None:
    class Panicking(ByteTable):
        def shown_token(self, token_id: int, skip_special: bool) -> str | None:
            if token_id == MARKED_ID:
                raise PanicException("called `Option::unwrap()` on a `None` value")
            return super().shown_token(token_id, skip_special)

    lab.say_marked()
    lab.table = Panicking()


@fault
def a_token_whose_text_is_no_text(lab: Lab) -> None:
    class Wrong(ByteTable):
        def shown_token(self, token_id: int, skip_special: bool) -> Any:
            return 5 if token_id == MARKED_ID else super().shown_token(token_id, skip_special)

    lab.say_marked()
    lab.table = Wrong()


# What a step is given to compute.


@fault
def an_id_outside_the_vocabulary(lab: Lab) -> None:
    lab.ask(prompt_ids=(*lab.broken.prompt_ids, VOCABULARY + 5))


@fault
def a_negative_id(lab: Lab) -> None:
    lab.ask(prompt_ids=(-3, *lab.broken.prompt_ids))


@fault
def a_sequence_that_cannot_be_computed(lab: Lab) -> None:
    def before(plan: StepPlan) -> None:
        sampling = plan.sampling
        if ((sampling.seed == MARKED_SEED) & (sampling.position >= len(lab.broken.prompt_ids) + 5)).any():
            raise LayoutError("as drawn")

    lab.before_step = before


@fault
def a_prompt_that_cannot_be_computed(lab: Lab) -> None:
    """In a chunk that nothing is sampled of yet."""
    lab.ask(prompt_ids=(*lab.broken.prompt_ids[:10], MARKED_ID, *(5,) * 90))

    def before(plan: StepPlan) -> None:
        if ((plan.token_ids == MARKED_ID) & (plan.positions == 10)).any():
            raise MemoryError("as drawn")

    lab.before_step = before


@fault
def an_embedding_that_is_not_a_number(lab: Lab) -> None:
    lab.ask(prompt_ids=(*lab.broken.prompt_ids[:9], MARKED_ID, *lab.broken.prompt_ids[9:]))
    lab.is_marked_nan = True


@fault
def a_scored_prompt_that_is_not_a_number(lab: Lab) -> None:
    an_embedding_that_is_not_a_number(lab)
    lab.sample(prompt_logprobs=2)


@fault
def a_pooled_prompt_that_is_not_a_number(lab: Lab) -> None:
    an_embedding_that_is_not_a_number(lab)
    lab.ask(task="embed", pooling="mean")


@fault
def an_output_that_turns_into_no_numbers(lab: Lab) -> None:
    lab.say_marked()
    lab.is_marked_nan = True


# Adapters.


@fault
def an_adapter_that_is_gone(lab: Lab) -> None:
    lab.ask(adapter="broken")


@fault
def an_adapter_of_values_that_are_not_numbers(lab: Lab) -> None:
    lab.ask(adapter="broken")
    lab.adapter = lambda model: adapter_of(model, torch.nan)


@fault
def an_adapter_that_does_not_fit(lab: Lab) -> None:
    lab.ask(adapter="broken")
    lab.adapter = lambda model: adapter_of(model, 0.1, extra=3)


# Drafts.


@fault
def forced_ids_outside_the_vocabulary(lab: Lab) -> None:
    lab.match(forced=lambda self, limit: [VOCABULARY + 1, -7][: max(0, limit)])


@fault
def forced_ids_that_are_no_numbers(lab: Lab) -> None:
    lab.match(forced=lambda self, limit: ["a"])


@fault
def an_index_of_ngrams_that_raises(lab: Lab) -> None:
    lab.fail(NgramIndex, "follow", lambda index, ids: ids[:20] == list(lab.broken.prompt_ids[:20]))


@fault
def drafts_of_the_worker_outside_the_vocabulary(lab: Lab) -> None:
    def after(plan: StepPlan, result: StepResult) -> StepResult:
        if result.drafts is None:
            return result
        marked = set(plan.row_sequence[plan.sampling.seed == MARKED_SEED].tolist())
        drafts = [[VOCABULARY * 9] if index in marked else own for index, own in enumerate(result.drafts)]
        return replace(result, drafts=drafts)

    lab.after_step = after


# Faults that are met only where tokens are guessed.
SPECULATIVE = {
    "forced raises": ("ngram", "mtp"),
    "forced panics": ("ngram", "mtp"),
    "valid prefix raises": ("ngram", "mtp"),
    "valid prefix panics": ("ngram", "mtp"),
    "forced ids outside the vocabulary": ("ngram", "mtp"),
    "forced ids that are no numbers": ("ngram", "mtp"),
    "an index of ngrams that raises": ("ngram",),
    "drafts of the worker outside the vocabulary": ("mtp",),
}
# A guess can be given up without anybody noticing.
MAY_BE_SURVIVED = {
    "an index of ngrams that raises",
    "drafts of the worker outside the vocabulary",
    "a mask of another width",
}
CASES = [(name, mode) for name in FAULTS for mode in SPECULATIVE.get(name, ("off", "mtp"))]


class FaultyWorker:
    def __init__(self, inner: StepWorker, lab: Lab) -> None:
        self.inner, self.lab = inner, lab

    def run(self, plan: StepPlan) -> StepResult:
        self.lab.before_step(plan)
        return self.lab.after_step(plan, self.inner.run(plan))


def adapter_of(model: Model, scale: float, *, extra: int = 0) -> Adapter:
    """One for every linear layer. extra: its input is so much too wide."""
    generator = torch.Generator().manual_seed(4)
    matrices = {}
    for name, layer in adaptable(model).items():
        if not isinstance(layer, LatentUpProjection):
            a = torch.randn((3, layer.in_features + extra), generator=generator) * scale
            matrices[name] = LowRank.of(a, torch.randn((layer.out_features, 3), generator=generator))
    return Adapter(matrices, {})


def model_of(mode: str, nan_id: int | None = None) -> Model:
    kind: Kind = "latent_experts" if mode == "mtp" else "grouped_query"
    # With a head of its own, so that a row of the embedding is nobody's logit.
    config = replace(tiny_config(kind, draft_layers=int(mode == "mtp")), tie_word_embeddings=False)
    model = Model(config).initialize(seed=1, std=0.25)
    if nan_id is not None:
        assert model.embed_tokens.weight is not None
        with torch.no_grad():
            model.embed_tokens.weight[nan_id] = torch.nan
    return model.pack()


def loop_of(mode: str, lab: Lab | None = None) -> EngineLoop:
    model = model_of(mode, MARKED_ID if lab is not None and lab.is_marked_nan else None)
    config = scheduler_config(speculation=mode, max_tokens_per_step=48, max_sequences=16)
    worker = Worker(model, config.num_blocks, config.block_size, drafts=mode == "mtp")
    table = ByteTable() if lab is None else lab.table
    loop = EngineLoop(worker if lab is None else FaultyWorker(worker, lab), table, config)
    for name, make in (("sound", lambda model: adapter_of(model, 0.1)), ("broken", lab and lab.adapter)):
        handle = loop.new_adapter_handle()
        if make is not None:
            worker.adapters.install(handle, make(model))
        loop.publish_adapter(name, handle)
    return loop


def broken_request() -> Request:
    # Of such a bias the text repeats itself, so that guesses are made, and are right.
    bias = {65: 60.0, 66: 58.0}
    fields: dict[str, Any] = {"temperature": 1.5, "seed": MARKED_SEED, "max_tokens": 20, "logit_bias": bias}
    return request("broken", random_ids(20, 31, MARKED_ID), **fields)


def neighbours() -> list[Request]:
    """Everybody whom a fault must not touch: one of each kind."""

    def one(name: str, length: int, **sampling: Any) -> Request:
        fields = {"max_tokens": 16, "logprobs": 2, "seed": 5, "temperature": 0.8} | sampling
        return request(name, random_ids(length, length, MARKED_ID), **fields)

    return [
        one("greedy", 11, temperature=0.0),
        one("sampled", 70, top_p=0.9, top_k=30),
        one("penalised", 23, repetition_penalty=1.2, presence_penalty=0.4, min_tokens=5, stop_token_ids=(65,)),
        one("ruled", 9, n=2),
        one("scored", 30, prompt_logprobs=1),
        replace(one("adapted", 17), adapter="sound"),
        replace(one("embedded", 40), task="embed", pooling="mean"),
    ]


def matcher_of(asked: Request, lab: Lab | None = None) -> Callable[[], Any] | None:
    if asked.id == "ruled":
        return OpenMatcher
    return lab.grammar if lab is not None and asked.id == "broken" else None


def serve(loop: EngineLoop, requests: Sequence[Request], lab: Lab | None = None) -> dict[str, Inbox]:
    """All together, to the end, with the books checked after every step."""
    inboxes = {asked.id: Inbox() for asked in requests}
    for asked in requests:
        loop.add(asked, inboxes[asked.id].receive, matcher_of(asked, lab))
    for _ in range(1000):
        going = loop.step()
        loop.scheduler.check()
        if not going:
            break
    assert not loop.has_work and loop.load().blocks_used == 0
    return inboxes


def told(inbox: Inbox) -> list[Any]:
    """All that the request's reader can tell, bit for bit."""
    assert inbox.finish is not None
    choices = range(len(inbox.finish.reasons))
    scores = [event for event in inbox.events if isinstance(event, PromptScores)]
    values = [event.values.tobytes() for event in inbox.events if isinstance(event, Embedding)]
    read = join_scores(scores).logprobs if scores else ()
    texts = [(inbox.ids(c), inbox.logprobs(c), inbox.text(c)) for c in choices]
    return [inbox.finish.reasons, inbox.finish.usage.completion_tokens, texts, read, values]


@cache
def expected(mode: str) -> dict[str, list[Any]]:
    """What each neighbour says alone, without any guessing: in an engine of its own."""
    found = {}
    for asked in neighbours():
        loop = loop_of(mode)
        loop.scheduler = Scheduler(replace(loop.scheduler.config, speculation="off"))
        found[asked.id] = told(serve(loop, [asked])[asked.id])
    return found


@pytest.fixture(autouse=True)
def quietly(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.CRITICAL)
    before = kernels.num_threads()
    kernels.set_num_threads(1)
    yield
    kernels.set_num_threads(before)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
@pytest.mark.parametrize(("name", "mode"), CASES, ids=[f"{name}, {mode}" for name, mode in CASES])
def test_a_fault_ends_its_request_alone(name: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(monkeypatch, broken_request())
    FAULTS[name](lab)
    loop = loop_of(mode, lab)
    others = neighbours()
    found = serve(loop, [*others[:3], lab.broken, *others[3:]], lab)
    finish = found["broken"].finish
    assert finish is not None
    if name not in MAY_BE_SURVIVED:
        assert finish.reasons == ("error",)
    if "error" in finish.reasons:
        assert finish.error
    assert {asked.id: told(found[asked.id]) for asked in others} == expected(mode)
    monkeypatch.undo()
    again = serve(loop, others)
    assert {asked.id: told(again[asked.id]) for asked in others} == expected(mode)


@pytest.mark.parametrize("mode", ["off", "ngram", "mtp"])
def test_without_a_fault_the_broken_request_is_served_like_any(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else nothing here would prove anything."""
    lab = Lab(monkeypatch, broken_request())
    loop = loop_of(mode, lab)
    found = serve(loop, [*neighbours(), lab.broken], lab)
    assert found["broken"].finish is not None and found["broken"].finish.reasons == ("length",)
    assert {name: told(inbox) for name, inbox in found.items() if name != "broken"} == expected(mode)
    assert mode == "off" or loop.load().accepted_tokens > 5
    for texts in (told(inbox)[2] for inbox in found.values()):
        assert all(MARKED_ID not in ids for ids, _, _ in texts)


@pytest.mark.parametrize("mode", ["off", "mtp"])
def test_a_step_that_fails_for_no_request_s_sake_costs_nobody_anything(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(monkeypatch, broken_request())
    failures = iter([False] * 4 + [True] + [False] * 3 + [True])

    def before(plan: StepPlan) -> None:
        if plan.num_sequences > 1 and next(failures, False):
            raise RuntimeError("could not allocate")

    lab.before_step = before
    found = serve(loop_of(mode, lab), neighbours(), lab)
    assert {name: told(inbox) for name, inbox in found.items()} == expected(mode)


# Readers.


@pytest.mark.parametrize("at", [Ready, Tokens, Finish], ids=["its beginning", "a token", "its end"])
@pytest.mark.parametrize("error", [OSError("gone"), PanicException("gone")], ids=["raises", "panics"])
def test_a_reader_that_fails_is_left_and_nobody_else_notices(at: type[Any], error: BaseException) -> None:
    seen: list[Event] = []

    def sink(events: list[Event]) -> None:
        seen.extend(events)
        if any(isinstance(event, at) for event in events):
            raise error

    loop, inboxes = loop_of("off"), {asked.id: Inbox() for asked in neighbours()}
    loop.add(broken_request(), sink)
    for asked in neighbours():
        loop.add(asked, inboxes[asked.id].receive, matcher_of(asked))
    while loop.step():
        loop.scheduler.check()
    assert [type(event) for event in seen].count(Finish) == 1 and isinstance(seen[-1], Finish)
    assert {name: told(inbox) for name, inbox in inboxes.items()} == expected("off")
    assert not loop.has_work and loop.load().blocks_used == 0


# Before a request is queued: whoever asks is told, and nothing is left behind.


def nothing_is_left(loop: EngineLoop) -> None:
    loop.scheduler.check()
    assert not loop.has_work and loop.load().waiting == 0
    loop.withdraw_adapter("sound", lambda handle: None)
    served = [asked for asked in neighbours() if asked.adapter is None]
    found = serve(loop, [*served, replace(served[0], id="broken")])
    assert {asked.id: told(found[asked.id]) for asked in served} == {
        name: said for name, said in expected("off").items() if name != "adapted"
    }


@pytest.mark.parametrize("error", [RuntimeError("no merge"), PanicException("no merge")], ids=["raises", "panics"])
def test_bad_words_that_cannot_be_tokenised_are_refused(error: BaseException) -> None:
    loop = loop_of("off")
    loop._encode = _raise(error)
    with pytest.raises(AdmissionError, match="bad_words"):
        loop.add(request("broken", bad_words=("x",)), Inbox().receive)
    nothing_is_left(loop)


@pytest.mark.parametrize("error", [RuntimeError("no merge"), PanicException("no merge")], ids=["raises", "panics"])
def test_a_tokenizer_that_cannot_begin_a_text_leaves_nothing_behind(error: BaseException) -> None:
    class NoBeginning(ByteTable):
        @property
        def decoder_kind(self) -> Any:  # type: ignore[override]
            raise error

    loop = loop_of("off")
    whole, loop._tokenizer = loop._tokenizer, NoBeginning()
    with pytest.raises((RuntimeError, PanicException)):
        loop.add(replace(broken_request(), adapter="sound"), Inbox().receive)
    loop._tokenizer = whole
    nothing_is_left(loop)


@pytest.mark.parametrize("error", [RuntimeError("no copy"), PanicException("no copy")], ids=["raises", "panics"])
def test_a_matcher_that_cannot_be_made_leaves_nothing_behind(error: BaseException) -> None:
    loop = loop_of("off")
    with pytest.raises((RuntimeError, PanicException)):
        loop.add(replace(broken_request(), adapter="sound"), Inbox().receive, _raise(error))
    nothing_is_left(loop)


HOSTILE: dict[str, dict[str, Any]] = {
    "a deadline that is not a number": {"deadline": float("nan")},
    "a deadline of text": {"deadline": "soon"},
    "a priority that is not a number": {"priority": float("nan")},
    "a priority beyond all floats": {"priority": 10**400},
    "a priority of text": {"priority": "high"},
    "ids that are fractions": {"prompt_ids": (1.5,) * 20},
    "ids of text": {"prompt_ids": ("a",) * 20},
    "ids that are truth values": {"prompt_ids": (True,) * 20},
    "ids too large for any array": {"prompt_ids": (2**80,) * 20},
    "no ids at all": {"prompt_ids": ()},
    "a tenant that is no name": {"tenant": ["local"]},
    "a salt that is no text": {"cache_salt": {1, 2}},
    "an id that is no text": {"id": ["r"]},
    "an adapter that is no name": {"adapter": ["sound"]},
}


def test_hostile_requests_are_refused_at_once() -> None:
    """Each would break a queue, a sort or a hash that all requests share."""
    loop = loop_of("off")
    loop._vocab_size = VOCABULARY
    for name, fields in HOSTILE.items():
        with pytest.raises(AdmissionError):
            loop.add(replace(broken_request(), **fields), Inbox().receive)
            pytest.fail(name)
    nothing_is_left(loop)


# The engine on its thread.


class HeldCompiler:
    """Compiles nothing until `error` is raised, or for ever."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.stats = GrammarStats()

    async def compile_async(self, constraint: Constraint) -> Any:
        if self.error is not None:
            raise self.error
        await asyncio.Event().wait()

    def close(self) -> None:
        pass


def asked_with_constraint() -> Request:
    return replace(broken_request(), constraint=Constraint.choice(["a", "b"]))


def serves_on(engine: Engine) -> None:
    """It still answers, holds nothing, and can be closed."""

    async def main() -> None:
        asked = neighbours()[0]
        events = [event async for event in engine.generate(asked)]
        inbox = Inbox(events)
        assert told(inbox) == expected("off")[asked.id]
        assert not engine._preparing and not engine.loop.has_work
        await engine.close()

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))


def test_a_reader_whose_event_loop_goes_away_while_its_constraint_compiles_is_forgotten() -> None:
    engine = Engine(loop_of("off"), grammars=HeldCompiler())  # type: ignore[arg-type]
    kept: list[Any] = []

    async def leave() -> None:
        kept.append(engine.generate(asked_with_constraint()))
        await asyncio.sleep(0)

    asyncio.run(leave())
    kept.clear()
    gc.collect()
    serves_on(engine)


def test_a_reader_that_is_gone_while_its_constraint_compiles_keeps_nobody_from_closing() -> None:
    engine = Engine(loop_of("off"), grammars=HeldCompiler())  # type: ignore[arg-type]
    loop = asyncio.new_event_loop()
    kept: list[Any] = []

    async def ask() -> None:
        kept.append(engine.generate(asked_with_constraint()))

    loop.run_until_complete(ask())
    loop.close()  # without an end to its tasks, as a thread that dies leaves it
    asyncio.run(asyncio.wait_for(engine.close(), PATIENCE_S))
    assert not engine._preparing and not engine._thread.is_alive()
    kept.clear()


@pytest.mark.parametrize("error", [RuntimeError("as drawn"), PanicException("unreachable")], ids=["raises", "panics"])
def test_a_compiler_that_fails_is_told_to_the_reader(error: BaseException) -> None:
    engine = Engine(loop_of("off"), grammars=HeldCompiler(error))  # type: ignore[arg-type]

    async def main() -> None:
        with pytest.raises((RuntimeError, EngineError)):
            await asyncio.wait_for(anext(engine.generate(asked_with_constraint())), PATIENCE_S)

    asyncio.run(main())
    serves_on(engine)


def test_a_scheduler_that_fails_while_a_reader_leaves_ends_what_is_alive_and_serves_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = loop_of("off")
    engine = Engine(loop)
    scheduler = loop.scheduler

    def broken(*_: object) -> None:
        raise RuntimeError("as drawn")

    async def main() -> None:
        left, stays = (engine.generate(replace(broken_request(), id=name)) for name in ("left", "stays"))
        monkeypatch.setattr(scheduler, "end", broken)
        await left.aclose()  # type: ignore[attr-defined]
        last = [event async for event in stays][-1]
        assert isinstance(last, Finish) and set(last.reasons) == {"error"}
        assert last.error is not None and "the scheduler failed" in last.error

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))
    serves_on(engine)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the thread is meant to die
def test_whatever_fails_when_the_thread_dies_everybody_who_waits_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = loop_of("off")
    engine = Engine(loop, grammars=HeldCompiler())  # type: ignore[arg-type]

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("as drawn")

    async def main() -> None:
        compiling = engine.generate(asked_with_constraint())
        await asyncio.sleep(0)
        command = engine._between_steps
        monkeypatch.setattr(loop, "end_all", broken)
        monkeypatch.setattr(loop, "step", broken)
        engine._mail.put(None)
        await asyncio.to_thread(engine._thread.join)
        last = [event async for event in compiling][-1]
        assert isinstance(last, Finish) and last.reasons == ("cancelled",)
        with pytest.raises(EngineError, match="the engine is closed"):
            command(lambda: None)
        with pytest.raises(EngineError, match="the engine is closed"):
            engine.generate(replace(asked_with_constraint(), id="late"))

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))


def test_a_deadline_holds_while_a_constraint_compiles() -> None:
    engine = Engine(loop_of("off"), grammars=HeldCompiler())  # type: ignore[arg-type]

    async def main() -> None:
        asked = replace(asked_with_constraint(), deadline=time.monotonic() + 0.05)
        (only,) = [event async for event in engine.generate(asked)]
        assert isinstance(only, Finish) and set(only.reasons) == {"deadline"}

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))
    serves_on(engine)
