"""What the losses count, against transformers' loss and gradients on the same weights and a float64 formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deepseek.models.checkpoint import load_model
from deepseek.models.context import Packed
from deepseek.models.transformer import Model
from deepseek.training.losses import Batch, language_loss, shifted_rows, target_counts
from tests.models.hf_oracle import V3, Checkpoint, Spec, make
from tests.training import micro

LENGTHS = (5, 9, 17, 2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return make(Spec("deepseek_v3", V3, seed=5), tmp_path_factory.mktemp("v3"))


def batch_of(sequences: list[Tensor], counted: list[Tensor] | None = None) -> Batch:
    tokens = torch.cat(sequences)
    flags = torch.ones_like(tokens, dtype=torch.bool) if counted is None else torch.cat(counted)
    return Batch(tokens, flags, Packed.of([len(sequence) for sequence in sequences]))


def sequences_of(vocab: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, vocab, (length,), generator=generator) for length in LENGTHS]


def transformers_loss(checkpoint: Checkpoint, sequences: list[Tensor]) -> Tensor:
    """Mean over all next tokens, every sequence computed by itself."""
    sums = [checkpoint.oracle(ids[None], labels=ids[None]).loss * (len(ids) - 1) for ids in sequences]
    return torch.stack(sums).sum() / sum(len(ids) - 1 for ids in sequences)


def test_the_loss_of_packed_sequences_is_transformers_of_each_by_itself(checkpoint: Checkpoint) -> None:
    sequences = sequences_of(checkpoint.vocab_size)
    model = load_model(checkpoint.path, packed=False)
    total, main, draft = language_loss(model, batch_of(sequences), 0.3)
    with torch.no_grad():
        expected = transformers_loss(checkpoint, sequences)
    assert draft is None and total is main
    assert float(main.detach()) == pytest.approx(float(expected), rel=1e-5)


def test_gradients_of_every_parameter_are_transformers(checkpoint: Checkpoint) -> None:
    sequences = sequences_of(checkpoint.vocab_size)
    model = load_model(checkpoint.path, packed=False)
    language_loss(model, batch_of(sequences), 0.0)[0].backward()
    checkpoint.oracle.zero_grad()
    transformers_loss(checkpoint, sequences).backward()
    expected = {name: p.grad for name, p in checkpoint.oracle.named_parameters()}
    own = {("" if name == "lm_head.weight" else "model.") + name: p.grad for name, p in model.named_parameters()}
    for name in [name for name in own if name.endswith("experts.gate_proj")]:
        stem = name.removesuffix("gate_proj")
        own[f"{stem}gate_up_proj"] = torch.cat([own.pop(f"{stem}{part}_proj") for part in ("gate", "up")], dim=1)
    assert own.keys() == expected.keys()
    for name, gradient in own.items():
        difference = (gradient - expected[name]).norm() / expected[name].norm()
        assert difference < 1e-4, f"{name}: {difference}"


def test_another_sequence_in_the_batch_changes_nothing(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint.path, packed=False)
    one, two = sequences_of(checkpoint.vocab_size)[:2]
    other = torch.full((9,), 7)
    silent = torch.zeros(9, dtype=torch.bool)
    with torch.no_grad():
        beside = [
            language_loss(model, batch_of([one, extra], [torch.ones(5, dtype=torch.bool), silent]), 0)[1]
            for extra in (two, other)
        ]
        alone = language_loss(model, batch_of([one]), 0)[1]
    assert float(beside[0]) == float(beside[1]) == pytest.approx(float(alone), rel=1e-6)


def test_rows_predict_counted_tokens_of_their_own_sequence_only() -> None:
    counted = torch.tensor([1, 1, 0, 1, 1, 1, 0, 1, 1], dtype=torch.bool)
    batch = Batch(torch.arange(10, 19), counted, Packed.of([4, 1, 4]))
    rows, targets = shifted_rows(batch, 1)
    assert rows.tolist() == [0, 2, 6, 7] and targets.tolist() == [11, 13, 17, 18]
    rows, targets = shifted_rows(batch, 2)
    assert rows.tolist() == [1, 5, 6] and targets.tolist() == [13, 17, 18]
    assert target_counts([batch]) == (4, 3)


def test_a_batch_without_targets_counts_as_one_and_loses_nothing() -> None:
    model = Model(micro.recipe().model_config_of()).initialize(0)
    batch = batch_of([torch.tensor([3]), torch.tensor([4])])
    assert target_counts([batch]) == (1, 1)
    total, _, _ = language_loss(model, batch, 0.3)
    total.backward()
    assert float(total.detach()) == 0


def softmax_loss(logits: Tensor, target: int) -> float:
    return float(torch.logsumexp(logits, 0) - logits[target])


def test_the_draft_loss_is_that_of_the_token_after_next() -> None:
    model = Model(micro.recipe().model_config_of()).initialize(1, std=0.3)
    sequences = sequences_of(32)
    total, main, draft = language_loss(model, batch_of(sequences), 0.25)
    assert draft is not None
    losses: list[float] = []
    with torch.no_grad():
        for ids in sequences:
            length = len(ids)
            hidden = model(ids, Packed.of([length]))
            if length < 3:
                continue
            context = Packed.of([length - 1])
            drafted = model.draft(hidden[:-1], ids[1:], context)
            logits = drafted.double() @ model.head_weight.double().T
            losses += [softmax_loss(logits[row], int(ids[row + 2])) for row in range(length - 2)]
    assert float(draft.detach()) == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert float(total.detach()) == pytest.approx(float((main + 0.25 * draft).detach()), rel=1e-6)


def test_parts_of_a_batch_add_up_to_the_whole_in_loss_and_gradient() -> None:
    model = Model(micro.recipe().model_config_of()).initialize(1, std=0.1)
    sequences = sequences_of(32)
    whole = batch_of(sequences)
    parts = [batch_of(sequences[:1] + sequences[3:]), batch_of(sequences[1:3])]
    parameters = list(model.parameters())

    def losses(batch: Batch) -> tuple[float, list[Tensor]]:
        total = language_loss(model, batch, 0.3, target_counts([whole]))[0]
        return float(total.detach()), list(torch.autograd.grad(total, parameters))

    total, gradients = losses(whole)
    (first, first_gradients), (second, second_gradients) = map(losses, parts)
    assert first + second == pytest.approx(total, rel=1e-6)
    for index, one in enumerate(gradients):
        assert (first_gradients[index] + second_gradients[index] - one).norm() <= 1e-5 * one.norm() + 1e-9


def test_a_router_with_its_experts_in_another_order_is_noticed(checkpoint: Checkpoint) -> None:
    sequences = sequences_of(checkpoint.vocab_size)
    model = load_model(checkpoint.path, packed=False)
    with torch.no_grad():
        model.layers[1].mlp.gate.weight.copy_(model.layers[1].mlp.gate.weight.flip(0))
        wrong = float(language_loss(model, batch_of(sequences), 0)[1])
        right = float(transformers_loss(checkpoint, sequences))
    assert wrong != pytest.approx(right, rel=1e-3)
