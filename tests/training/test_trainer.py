"""A run learns, goes on where it stopped as if it never had, and says what is wrong with it."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import deepseek.training.trainer as trainer_module
from deepseek.core.errors import ConfigError, DeepSeekError
from deepseek.models.experts import Router
from deepseek.models.transformer import Model
from deepseek.training.export import export_run
from deepseek.training.losses import language_loss
from deepseek.training.recipe import OptimizerSection
from deepseek.training.state import Report, list_states
from deepseek.training.trainer import Trainer, balance_routers, build_adamw, resolve_compute_dtype
from tests.training import micro
from tests.training.micro import Counting

LOSSES = ("loss", "draft_loss", "grad_norm", "expert_imbalance", "lr", "tokens")


def train(output: Path, steps: int | None = None, **changes: Any) -> tuple[Trainer, list[Report]]:
    trainer = Trainer(micro.recipe(output, **changes), Counting())
    reports: list[Report] = []
    trainer.train(reports.append, steps)
    return trainer, reports


def told(reports: Iterable[Report]) -> list[list[float]]:
    return [[report[key] for key in LOSSES] for report in reports]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, list[Report]]:
    return train(tmp_path_factory.mktemp("whole"))


def test_the_loss_falls(whole_run: tuple[Trainer, list[Report]]) -> None:
    reports = whole_run[1]
    assert len(reports) == 50
    assert abs(reports[0]["loss"] - math.log(32)) < 0.3  # it begins knowing nothing
    for key in ("loss", "draft_loss"):
        assert sum(report[key] for report in reports[-5:]) / 5 < 0.5 * reports[0][key]


def test_a_resumed_run_repeats_losses_and_weights_bit_for_bit(tmp_path: Path) -> None:
    straight, reports = train(tmp_path / "straight", 6)
    _, first = train(tmp_path / "stopped", 3)
    resumed, second = train(tmp_path / "stopped", 3)
    assert told(first + second) == told(reports)
    assert resumed.progress == straight.progress
    for (name, own), other in zip(
        resumed.model.state_dict().items(), straight.model.state_dict().values(), strict=True
    ):
        assert torch.equal(own, other), name
    assert told(resumed.history) == told(reports)  # the history is kept over the stop


def test_the_order_in_which_threads_finish_changes_nothing(tmp_path: Path) -> None:
    class Backwards(ThreadPoolExecutor):
        """Does its work last item first, and hands the results out in order."""

        def map(self, fn: Callable[..., Any], *iterables: Any, **_: Any) -> Iterator[Any]:
            items = list(zip(*iterables, strict=True))
            return iter([fn(*item) for item in reversed(items)][::-1])

    trainer = Trainer(micro.recipe(tmp_path), Counting())
    trainer.threads = 4
    parts, _ = trainer._next_batch(0, 0)
    assert len(parts) == 4
    gradients = []
    for kind in (ThreadPoolExecutor, Backwards):
        with kind(4) as pool:
            trainer._gradients(parts, 0.3, pool)
        gradients.append([parameter.grad for parameter in trainer.model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_a_step_in_parts_has_the_gradients_of_the_step_in_one(tmp_path: Path) -> None:
    trainer = Trainer(micro.recipe(tmp_path), Counting())
    trainer.threads = 1
    ((whole,), _) = trainer._next_batch(0, 0)
    language_loss(trainer.model, whole, 0.3)[0].backward()
    expected = [parameter.grad for parameter in trainer.model.parameters()]
    trainer.threads = 3
    parts, _ = trainer._next_batch(0, 0)
    with ThreadPoolExecutor(3) as pool:
        trainer._gradients(parts, 0.3, pool)
    for parameter, one in zip(trainer.model.parameters(), expected, strict=True):
        assert (parameter.grad - one).norm() <= 1e-5 * one.norm() + 1e-9


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    train(tmp_path, tokens=256, optimizer={"warmup_steps": 0})
    before = [path.stat().st_mtime_ns for path in list_states(tmp_path / "micro")]
    trainer, reports = train(tmp_path, tokens=256, optimizer={"warmup_steps": 0})
    assert (reports, trainer.progress.step) == ([], 2)
    assert [path.stat().st_mtime_ns for path in list_states(tmp_path / "micro")] == before


def test_checkpoints_are_written_on_the_way_and_old_ones_dropped(tmp_path: Path) -> None:
    trainer, _ = train(tmp_path, 7, checkpoint_every_steps=2, keep_checkpoints=2)
    assert [path.name for path in list_states(trainer.run)] == ["step-00000006", "step-00000007"]


def test_stopping_ends_after_the_step_in_hand_with_a_checkpoint(tmp_path: Path) -> None:
    trainer = Trainer(micro.recipe(tmp_path), Counting())
    trainer.train(lambda report: trainer.stop() if report["step"] == 2 else None)
    assert trainer.interrupted and trainer.progress.step == 2
    assert [path.name for path in list_states(trainer.run)] == ["step-00000002"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_after_the_step_in_hand_and_the_old_handler_comes_back(
    tmp_path: Path, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    trainer = Trainer(micro.recipe(tmp_path), Counting())
    reports: list[Report] = []

    def on_report(report: Report) -> None:
        reports.append(report)
        os.kill(os.getpid(), number)

    trainer.train(on_report)
    assert len(reports) == 1 and trainer.interrupted
    assert [path.name for path in list_states(trainer.run)] == ["step-00000001"]
    assert signal.getsignal(number) is before


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    trainer = Trainer(micro.recipe(tmp_path), Counting())

    def twice(_report: Report) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trainer.train(twice)
    assert list_states(trainer.run) == []


def test_training_runs_in_any_thread(tmp_path: Path) -> None:
    reports: list[list[Report]] = []
    thread = threading.Thread(target=lambda: reports.append(train(tmp_path, 1)[1]))
    thread.start()
    thread.join(60)
    assert [report["step"] for report in reports[0]] == [1]


def test_the_assistants_tokens_alone_count_from_the_given_share_on(tmp_path: Path) -> None:
    trainer = Trainer(micro.recipe(tmp_path, data={"max_length": 32, "assistant_only_from": 0.5}), Counting())
    shares = [int(trainer._next_batch(0, step)[0][0].counted.sum()) for step in (0, 24, 25, 49)]
    assert shares[0] == shares[1] > shares[2] == shares[3] > 0


def test_the_source_is_told_how_far_the_run_is(tmp_path: Path) -> None:
    source = Counting()
    Trainer(micro.recipe(tmp_path), source).train(lambda report: None, 2)
    asked = [share for _, share in source.asked]
    assert sorted(set(asked)) == [0.0, 1 / 50, 2 / 50] and asked == sorted(asked)


def test_a_run_that_diverges_stops_with_advice_before_the_step_is_taken(tmp_path: Path) -> None:
    trainer, _ = train(tmp_path, 2)
    before = trainer.model.norm.weight.detach().clone()
    with torch.no_grad():
        trainer.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(DeepSeekError, match=r"step 3: training diverged; found loss nan.* Fix: lower optimizer\.lr"):
        trainer.train(lambda report: None)
    assert torch.equal(trainer.model.norm.weight, before)
    assert [path.name for path in list_states(trainer.run)] == ["step-00000002"]


def test_fresh_refuses_a_run_that_exists(tmp_path: Path) -> None:
    train(tmp_path, 1)
    with pytest.raises(ConfigError, match="the run exists already"):
        Trainer(micro.recipe(tmp_path), Counting(), fresh=True)


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    class Large(Counting):
        vocab_size = 33

    with pytest.raises(ConfigError, match=r"model\.vocab_size: .*found 32; expected at least 33"):
        Trainer(micro.recipe(tmp_path), Large())


def test_an_error_of_the_data_is_not_lost_in_its_thread(tmp_path: Path) -> None:
    class Broken(Counting):
        def sample(self, index: int, share: float) -> tuple[list[int], list[bool]]:
            return [], []

    with pytest.raises(ConfigError, match="does not fit a step"):
        Trainer(micro.recipe(tmp_path), Broken()).train(lambda report: None)


def test_a_model_without_a_draft_layer_trains_and_reports_no_draft_loss(tmp_path: Path) -> None:
    trainer, reports = train(tmp_path, 2, model={"num_nextn_predict_layers": 0})
    assert "draft_loss" not in reports[0] and all(map(math.isfinite, reports[0].values()))
    assert trainer.history == reports


def test_gradients_are_clipped_to_the_norm_given_and_the_norm_before_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    trainer = Trainer(micro.recipe(tmp_path, optimizer={"clip_norm": 0.01}), Counting())

    def step(*_: Any) -> None:
        squares = [float(p.grad.double().pow(2).sum()) for p in trainer.model.parameters() if p.grad is not None]
        seen.append(math.sqrt(sum(squares)))

    monkeypatch.setattr(trainer.optimizer, "step", step)
    reports: list[Report] = []
    trainer.train(reports.append, 1)
    assert seen[0] == pytest.approx(0.01, rel=1e-3) and reports[0]["grad_norm"] > 0.1


def test_the_rate_of_the_schedule_reaches_the_optimizer(whole_run: tuple[Trainer, list[Report]]) -> None:
    trainer, reports = whole_run
    assert [reports[0]["lr"], reports[1]["lr"]] == pytest.approx([0.005, 0.01])
    assert all(group["lr"] == reports[-1]["lr"] < 0.0011 for group in trainer.optimizer.param_groups)


def test_weight_decay_shrinks_matrices_only() -> None:
    model = Model(micro.recipe().model_config_of()).initialize(0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = build_adamw(model, OptimizerSection(lr=0.1, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 0.95 if parameter.ndim >= 2 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor, msg=name)


def test_a_routers_bias_moves_one_step_against_its_load() -> None:
    model = Model(micro.recipe().model_config_of()).initialize(0)
    routers = [module for module in model.modules() if isinstance(module, Router)]
    routers[0].counts = [torch.tensor([5, 1, 0, 2]), torch.tensor([5, 1, 4, 0])]  # 10, 2, 4, 2; mean 4.5
    worst = balance_routers(model, 0.25)
    assert routers[0].e_score_correction_bias.tolist() == [-0.25, 0.25, 0.25, 0.25]
    assert worst == pytest.approx(10 / 4.5)
    assert not routers[0].counts and not routers[1].e_score_correction_bias.any()


def test_a_rate_of_zero_leaves_the_bias_alone_and_counts_start_anew() -> None:
    model = Model(micro.recipe().model_config_of()).initialize(0)
    router = next(module for module in model.modules() if isinstance(module, Router))
    router.counts = [torch.tensor([8, 0, 0, 0])]
    assert balance_routers(model, 0.0) == 4.0
    assert not router.e_score_correction_bias.any() and not router.counts


def test_training_evens_out_the_load_of_a_lopsided_router(tmp_path: Path) -> None:
    trainer = Trainer(micro.recipe(tmp_path, optimizer={"balance_rate": 0.05, "lr": 1e-5}), Counting())
    bias = next(m for m in trainer.model.modules() if isinstance(m, Router)).e_score_correction_bias
    bias.copy_(torch.tensor([0.4, 0.0, 0.0, 0.0]))  # at first every token takes expert 0
    reports: list[Report] = []
    trainer.train(reports.append, 20)
    assert reports[0]["expert_imbalance"] == pytest.approx(2.0, abs=0.05)
    assert min(report["expert_imbalance"] for report in reports[-5:]) < 1.7


@pytest.mark.parametrize(
    ("native", "name", "expected"),
    [
        (True, "auto", torch.bfloat16),
        (True, "bfloat16", torch.bfloat16),
        (True, "float32", None),
        (False, "auto", None),
        (False, "float32", None),
    ],
)
def test_bfloat16_is_multiplied_only_where_the_processor_does(
    native: bool, name: str, expected: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module.torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(trainer_module.torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert resolve_compute_dtype(name) is expected


def test_bfloat16_on_a_processor_without_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module.torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(trainer_module.torch.cpu, "_is_amx_tile_supported", lambda: False)
    with pytest.raises(ConfigError, match="compute_dtype: this processor has no native bfloat16"):
        Trainer(micro.recipe(tmp_path, compute_dtype="bfloat16"), Counting())


def test_a_run_goes_on_from_another_models_weights(tmp_path: Path) -> None:
    earlier, _ = train(tmp_path / "earlier", 20)
    export_run(micro.recipe(tmp_path / "earlier"), tmp_path / "model", fp8=False)
    trainer = Trainer(micro.recipe(tmp_path / "later", init_from=str(tmp_path / "model")), Counting())
    for name, tensor in earlier.model.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], tensor), name
    assert trainer.progress.step == 0 and not trainer.optimizer.state
    reports: list[Report] = []
    trainer.train(reports.append, 1)
    assert reports[0]["loss"] < 0.8 * math.log(32)


def test_a_resumed_run_does_not_begin_again_from_the_other_model(tmp_path: Path) -> None:
    train(tmp_path / "earlier", 1)
    export_run(micro.recipe(tmp_path / "earlier"), tmp_path / "model", fp8=False)
    first, _ = train(tmp_path / "later", 3, init_from=str(tmp_path / "model"))
    again = Trainer(micro.recipe(tmp_path / "later", init_from=str(tmp_path / "model")), Counting())
    assert again.progress.step == 3
    for own, other in zip(again.model.state_dict().values(), first.model.state_dict().values(), strict=True):
        assert torch.equal(own, other)


def test_a_model_of_another_shape_is_no_place_to_begin(tmp_path: Path) -> None:
    train(tmp_path / "earlier", 1)
    export_run(micro.recipe(tmp_path / "earlier"), tmp_path / "model", fp8=False)
    changed = micro.recipe(tmp_path / "later", init_from=str(tmp_path / "model"), model={"num_hidden_layers": 3})
    with pytest.raises(ConfigError, match=r"init_from.*num_hidden_layers 2.*num_hidden_layers 3"):
        Trainer(changed, Counting())


def test_training_gives_the_threads_back(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    train(tmp_path, 1)
    assert torch.get_num_threads() == before
