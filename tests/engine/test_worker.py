"""The worker: plans to tokens on one packed model."""

from __future__ import annotations

import pytest
import torch
from engine_support import (
    KINDS,
    VOCABULARY,
    Kind,
    random_ids,
    request,
    run,
    scheduler_config,
    scripted_loop,
    tiny_config,
    tiny_model,
)

from deepseek.core.errors import ConfigError
from deepseek.engine.plan import DRAFT_LATER, DRAFT_NOW, StepPlan
from deepseek.engine.result import StepResult
from deepseek.engine.speculation.policy import confirmed
from deepseek.engine.worker import Worker
from deepseek.models.context import Packed
from deepseek.models.transformer import Model


def test_an_unpacked_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be packed"):
        Worker(Model(tiny_config("grouped_query")).initialize(), 4, 8)


def test_a_cache_beyond_memory_is_refused_with_its_size() -> None:
    with pytest.raises(ConfigError, match=r"kv_bytes: the key-value cache does not fit.*found \d+ bytes"):
        Worker(tiny_model("grouped_query"), 2**46, 8)


def test_a_plan_that_crossed_a_process_border_gives_the_same_tokens() -> None:
    class Both:
        """Every plan twice, as it is and through bytes, on caches of their own."""

        def __init__(self) -> None:
            self.here, self.there = (Worker(tiny_model("latent_experts"), 64, 8) for _ in range(2))
            self.rows = 0

        def run(self, plan: StepPlan) -> StepResult:
            sampled = self.here.run(plan)
            assert self.there.run(StepPlan.from_bytes(plan.to_bytes())) == sampled
            self.rows += plan.num_rows
            return sampled

    worker = Both()
    asked = [request(f"r{i}", random_ids(5 + 9 * i, i), temperature=i / 2, seed=i, logprobs=1) for i in range(3)]
    run(scripted_loop(worker, num_blocks=64), asked)
    assert worker.rows == 24


def test_a_chunk_without_sampled_rows_gives_no_tokens() -> None:
    worker = Worker(tiny_model("grouped_query"), 64, 8)
    loop = scripted_loop(worker, num_blocks=64, max_tokens_per_step=4, max_sequences=1)
    found = run(loop, [request(prompt=random_ids(30, 1), max_tokens=3)])["r"]
    assert len(found.ids()) == 3


def test_a_row_of_logits_that_are_not_numbers_ends_its_request_alone() -> None:
    model = Model(tiny_config("grouped_query")).initialize(seed=2, std=0.25)
    assert model.embed_tokens.weight is not None
    with torch.no_grad():
        model.embed_tokens.weight[9] = torch.nan
    config = scheduler_config(num_blocks=64)
    loop = scripted_loop(Worker(model.pack(), config.num_blocks, config.block_size), num_blocks=64)
    sound, broken = request("sound", (1, 2, 3)), request("broken", (1, 9, 3))
    found = run(loop, [sound, broken])
    assert found["broken"].finish is not None and found["broken"].finish.reasons == ("error",)
    assert found["broken"].ids() == []
    if 9 not in found["sound"].ids():
        assert found["sound"].finish is not None and found["sound"].finish.reasons == ("length",)
    assert VOCABULARY > 9


class Recording:
    """A worker's plans and what it drafted after them."""

    def __init__(self, inner: Worker) -> None:
        self.inner = inner
        self.seen: list[tuple[StepPlan, StepResult]] = []

    def run(self, plan: StepPlan) -> StepResult:
        result = self.inner.run(plan)
        self.seen.append((plan, result))
        return result


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("budget", [5, 64])
@pytest.mark.parametrize("bias", [{}, {65: 9.0, 66: 9.0}], ids=["wandering", "repeating"])
@pytest.mark.parametrize("in_turn", [False, True], ids=["always", "now and then"])
def test_a_draft_begins_with_what_the_head_says_of_the_whole_text(
    kind: Kind, budget: int, bias: dict[int, float], in_turn: bool
) -> None:
    """Whatever was chunked, drafted before, put off, confirmed or not: its cache has no hole and nothing stale."""
    model = tiny_model(kind, draft_layers=1)
    worker = Recording(Worker(model, 64, 8, drafts=True))
    loop = scripted_loop(worker, num_blocks=64, max_tokens_per_step=budget, max_sequences=1, speculation="mtp")
    if in_turn:  # 20 steps of 24 are put off: more than are kept
        loop.scheduler.planner.speculation._what_of_the_layer = (  # type: ignore[method-assign]
            lambda _: DRAFT_NOW if 2 <= len(worker.seen) % 24 < 6 else DRAFT_LATER
        )
    asked = request(prompt=random_ids(21, 4), max_tokens=60 if in_turn else 30, logit_bias=bias)
    text = torch.tensor([*asked.prompt_ids, *run(loop, [asked])["r"].ids()])
    whole = Packed.of([len(text) - 1])
    with torch.inference_mode():
        logits = model.logits(model.draft(model(text[:-1], whole), text[1:], whole))
        for token, value in bias.items():
            logits[:, token] += value
    expected = logits.argmax(1).tolist()
    position, checked = 0, 0
    confirmed_drafts = 0
    for plan, result in worker.seen:
        assert result.drafts is not None
        position = int(plan.positions[0])
        if not plan.num_rows or plan.draft_layer == DRAFT_LATER:
            assert result.drafts == [[]]
            continue
        draft = plan.token_ids[len(plan.token_ids) - int(plan.drafted[0]) :].tolist()
        right = confirmed(draft, result.token_ids)
        confirmed_drafts += right
        last = int(plan.positions[plan.rows[right]])
        assert 1 <= len(result.drafts[0]) <= plan.propose[0] == 3
        if last < len(expected):
            assert result.drafts[0][0] == expected[last]
            checked += 1
    assert checked >= 7 and position > 20
    assert not bias or confirmed_drafts > 0


def test_weights_and_caches_that_change_leave_nothing_put_off_behind() -> None:
    model = tiny_model("grouped_query", draft_layers=1)
    worker = Worker(model, 64, 8, drafts=True)
    loop = scripted_loop(worker, num_blocks=64, speculation="mtp")
    loop.scheduler.planner.speculation._what_of_the_layer = lambda _: DRAFT_LATER  # type: ignore[method-assign]
    for forget in (lambda: worker.use(model), worker.drop_cache):
        loop.add(request(), lambda events: None)
        loop.step()
        assert len(worker._put_off) == 1
        forget()
        assert not worker._put_off
        loop.end_all("cancelled")
