"""What is read of a prompt: the log-probabilities of its own tokens, and its hidden states as one vector."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from engine_support import (
    KINDS,
    ByteTable,
    Inbox,
    Kind,
    ScriptedWorker,
    model_loop,
    random_ids,
    request,
    run,
    scheduler_config,
    scripted_loop,
    tiny_model,
)

from deepseek.core.engine import Embedding, Finish, PromptScores, Ready, Request, TokenLogprob, Tokens
from deepseek.core.errors import AdmissionError
from deepseek.engine import worker as worker_module
from deepseek.engine.loop import EngineLoop
from deepseek.engine.plan import StepPlan
from deepseek.engine.result import FAILED_ROW, StepResult
from deepseek.engine.worker import Worker
from deepseek.models.context import Packed

every_kind = pytest.mark.parametrize("kind", KINDS)
poolings = pytest.mark.parametrize("pooling", ["last", "mean"])
PROMPT = random_ids(45, 5)


def scored(name: str = "r", prompt: tuple[int, ...] = PROMPT, **sampling: Any) -> Request:
    return request(name, prompt, **({"max_tokens": 0, "prompt_logprobs": 2} | sampling))


def embedded(pooling: Any, name: str = "r", prompt: tuple[int, ...] = PROMPT) -> Request:
    return Request(name, prompt, task="embed", pooling=pooling)


def scores(inbox: Inbox) -> list[TokenLogprob | None]:
    """All pieces, checked to lie end to end from position 0."""
    found: list[TokenLogprob | None] = []
    for event in inbox.events:
        if isinstance(event, PromptScores):
            assert event.start == len(found)
            found += event.logprobs
    return found


def vector(inbox: Inbox) -> np.ndarray:
    (found,) = [event for event in inbox.events if isinstance(event, Embedding)]
    return found.values


def loop_of(kind: Kind, **changes: Any) -> EngineLoop:
    return model_loop(tiny_model(kind), scheduler_config(**changes))


def read(inbox: Inbox) -> bytes | list[TokenLogprob | None]:
    found = scores(inbox)
    return found or vector(inbox).tobytes()


@every_kind
def test_every_token_but_the_first_is_scored_as_the_model_scores_it(kind: Kind) -> None:
    found = run(loop_of(kind), [scored()])["r"]
    assert [type(event) for event in found.events] == [Ready, PromptScores, Finish]
    assert found.finish is not None
    assert (found.finish.reasons, found.finish.usage.completion_tokens) == (("length",), 0)
    logprobs = scores(found)
    ids = torch.tensor(PROMPT)
    model = tiny_model(kind)
    with torch.inference_mode():
        logits = model.logits(model(ids, Packed.of([len(ids)])))
    expected = logits.double().log_softmax(1)[torch.arange(len(ids) - 1), ids[1:]]
    assert logprobs[0] is None and len(logprobs) == len(PROMPT)
    known = [logprob for logprob in logprobs if logprob is not None]
    assert [logprob.token_id for logprob in known] == list(PROMPT[1:])
    assert all(len(logprob.top) == 2 for logprob in known)
    torch.testing.assert_close(torch.tensor([p.logprob for p in known]).double(), expected, rtol=0, atol=1e-6)


@every_kind
@poolings
def test_a_vector_is_the_pooled_hidden_state_at_length_one(kind: Kind, pooling: str) -> None:
    found = run(loop_of(kind), [embedded(pooling)])["r"]
    assert [type(event) for event in found.events] == [Ready, Embedding, Finish]
    assert found.finish is not None
    assert (found.finish.reasons, found.finish.usage.completion_tokens) == (("stop",), 0)
    model = tiny_model(kind)
    with torch.inference_mode():
        hidden = model(torch.tensor(PROMPT), Packed.of([len(PROMPT)])).double()
    pooled = hidden[-1] if pooling == "last" else hidden.mean(0)
    torch.testing.assert_close(torch.from_numpy(vector(found)).double(), pooled / pooled.norm(), rtol=0, atol=1e-6)
    assert vector(found).dtype == np.float32


ASKED = {"scores": scored(), "last": embedded("last"), "mean": embedded("mean")}
every_reading = pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED.keys())


@every_kind
@every_reading
@pytest.mark.parametrize("budget", [1, 7, 16])
def test_chunks_change_no_bit(kind: Kind, asked: Request, budget: int) -> None:
    loop = loop_of(kind, max_tokens_per_step=budget, max_sequences=1)
    assert read(run(loop, [asked])["r"]) == read(run(loop_of(kind), [asked])["r"])


@every_kind
@every_reading
def test_neighbours_and_what_they_left_in_the_cache_change_no_bit(kind: Kind, asked: Request) -> None:
    loop = loop_of(kind)
    run(loop, [request("before", PROMPT, max_tokens=3)])
    others = [request(f"n{i}", random_ids(9 + 7 * i, i), max_tokens=9) for i in range(6)]
    found = run(loop, [*others[:3], asked, *others[3:]])["r"]
    assert read(found) == read(run(loop_of(kind), [asked])["r"])


@every_kind
@every_reading
def test_a_preemption_in_the_middle_of_the_prompt_changes_no_bit(kind: Kind, asked: Request) -> None:
    loop = loop_of(kind, num_blocks=12, max_tokens_per_step=5, max_sequences=3)
    first = request("first", random_ids(14, 3), max_tokens=70)
    inboxes = {name: Inbox() for name in ("first", "r")}
    loop.add(first, inboxes["first"].receive)
    while len(inboxes["first"].ids()) < 25:  # 5 of 12 blocks
        loop.step()
    loop.add(asked, inboxes["r"].receive)
    while loop.has_work:
        loop.step()
        loop.scheduler.check()
    assert loop.scheduler.places.preemptions > 0
    assert read(inboxes["r"]) == read(run(loop_of(kind), [asked])["r"])


def test_a_scored_prompt_may_be_continued_by_several_choices() -> None:
    asked = scored(max_tokens=5, n=2, temperature=0.8, seed=4, logprobs=0)
    found = run(loop_of("grouped_query", max_tokens_per_step=8, max_sequences=2), [asked])["r"]
    plain = run(loop_of("grouped_query"), [request("r", PROMPT, max_tokens=5, n=2, temperature=0.8, seed=4)])["r"]
    assert scores(found) == scores(run(loop_of("grouped_query"), [scored()])["r"])
    assert [found.ids(choice) for choice in (0, 1)] == [plain.ids(choice) for choice in (0, 1)]
    assert isinstance(found.events[1], PromptScores)


def test_a_single_token_has_nothing_before_it() -> None:
    for max_tokens in (0, 2):
        found = run(loop_of("grouped_query"), [scored(prompt=(7,), max_tokens=max_tokens)])["r"]
        assert scores(found) == [None]
        assert len(found.ids()) == max_tokens


def test_a_prompt_as_long_as_the_model_can_be_read_but_not_continued() -> None:
    long = random_ids(64, 1)
    loop = scripted_loop(ScriptedWorker(), max_model_len=64)
    for asked in (scored(prompt=long), embedded("last", prompt=long)):
        loop.require_servable(asked)
    with pytest.raises(AdmissionError, match="at most 63"):
        loop.require_servable(scored(prompt=long, max_tokens=1))
    with pytest.raises(AdmissionError, match="at most 64"):
        loop.require_servable(scored(prompt=random_ids(65, 1)))


def test_never_more_than_a_slice_of_logits_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("grouped_query")
    sizes: list[int] = []
    whole = type(model).logits

    def logits(self: Any, hidden: torch.Tensor, adapted: Any = None) -> torch.Tensor:
        sizes.append(hidden.shape[0])
        return whole(self, hidden, adapted)

    expected = scores(run(loop_of("grouped_query"), [scored(prompt=random_ids(200, 2))])["r"])
    monkeypatch.setattr(worker_module, "LOGIT_ROWS", 16)
    monkeypatch.setattr(type(model), "logits", logits)
    asked = [scored(prompt=random_ids(200, 2)), *[request(f"n{i}", (i,), temperature=1.0, seed=i) for i in range(20)]]
    found = run(loop_of("grouped_query"), asked)
    assert max(sizes) == 16 and len(sizes) >= 13
    assert scores(found["r"]) == expected
    alone = run(loop_of("grouped_query"), [asked[7]])
    assert found[asked[7].id].ids() == alone[asked[7].id].ids()


def test_a_prompt_that_gives_no_numbers_ends_its_request_alone() -> None:
    class Failing(ScriptedWorker):
        def run(self, plan: StepPlan) -> StepResult:
            result = super().run(plan)
            ids = [FAILED_ROW if kind else token for kind, token in zip(plan.row_kind, result.token_ids, strict=True)]
            hidden = np.zeros((int((plan.row_kind == 2).sum()), 4), np.float32)
            return StepResult(ids, result.logprobs, hidden)

    loop = scripted_loop(Failing(), ByteTable())
    found = run(loop, [scored("score"), embedded("mean", "embed"), request("sound")])
    for name in ("score", "embed"):
        finish = found[name].finish
        assert finish is not None and finish.reasons == ("error",)
        assert finish.error == "the prompt gave values that are not numbers"
        assert [type(event) for event in found[name].events] == [Ready, Finish]
    sound = found["sound"].finish
    assert sound is not None and sound.reasons == ("length",)


def test_reading_counts_against_the_cache_as_any_prompt_does_and_fills_it() -> None:
    worker = Worker(tiny_model("grouped_query"), 64, 8)
    loop = scripted_loop(worker, num_blocks=64)
    run(loop, [scored()])
    found = run(loop, [request("next", PROMPT, max_tokens=1)])["next"]
    assert found.finish is not None and found.finish.usage.cached_tokens == 40
    assert isinstance(found.events[1], Tokens)


def test_new_weights_in_the_middle_of_a_prompt_read_it_again_from_the_start() -> None:
    loop = loop_of("grouped_query", max_tokens_per_step=16, max_sequences=1)
    inbox = Inbox()
    loop.add(scored(), inbox.receive)
    loop.step()
    loop.change_weights(lambda: None)
    while loop.step():
        loop.scheduler.check()
    pieces = [event for event in inbox.events if isinstance(event, PromptScores)]
    assert [(piece.start, piece.weights_version) for piece in pieces] == [(0, 0), (0, 1), (17, 1), (33, 1)]
