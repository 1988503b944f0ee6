"""Contexts: how flat tokens find their sequences, and what a model refuses before it computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hf_oracle import DENSE, V3, Sequences, Spec, make
from hypothesis import given
from hypothesis import strategies as st

from deepseek.core.errors import LayoutError
from deepseek.models.checkpoint import load_model
from deepseek.models.config import ModelConfig
from deepseek.models.context import KVCache, Packed, Paged
from deepseek.models.transformer import Model


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12))
def test_padding_a_group_and_back_loses_nothing(lengths: list[int]) -> None:
    context = Packed.of(lengths)
    total = sum(lengths)
    x = torch.arange(2.0 * total).view(total, 2) + 1
    parts = x.split([group.tokens for group in context.groups])
    assert torch.equal(torch.cat([g.unpad(g.pad(part)) for g, part in zip(context.groups, parts, strict=True)]), x)
    for group, part in zip(context.groups, parts, strict=True):
        padded = group.pad(part)
        assert padded.shape == (group.count, group.length, 2)
        assert padded.count_nonzero() == part.numel()
        assert group.count * group.length * 0.8 <= group.tokens


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12))
def test_the_paged_form_gives_every_token_a_slot_of_its_own_that_its_table_leads_to(lengths: list[int]) -> None:
    packed = Packed.of(lengths)
    paged = packed.paged()
    assert len(set(paged.slots.tolist())) == sum(lengths)
    assert int(paged.slots.max()) < paged.num_slots
    assert packed.positions.tolist() == [position for length in lengths for position in range(length)]
    for slot, position, row in zip(
        paged.slots.tolist(), paged.positions.tolist(), paged.seq_of_token.tolist(), strict=True
    ):
        block = int(paged.block_tables[row, position // paged.block_size])
        assert slot == block * paged.block_size + position % paged.block_size


@pytest.mark.parametrize("lengths", [[], [3, 0], [-1]])
def test_empty_sequences_cannot_be_packed(lengths: list[int]) -> None:
    with pytest.raises(LayoutError, match="at least one token"):
        Packed.of(lengths)


@pytest.mark.parametrize("architecture", ["llama", "deepseek_v3"])
def test_the_cache_takes_the_bytes_it_says(architecture: str) -> None:
    config = ModelConfig.from_hf({"model_type": architecture} | (V3 if architecture == "deepseek_v3" else DENSE))
    cache = KVCache(config, num_slots=10)
    pools = [pool.untyped_storage() for pair in cache.pools for pool in pair]
    unique = {pool.data_ptr(): pool.nbytes() for pool in pools}
    assert sum(unique.values()) == 10 * KVCache.bytes_per_token(config)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path: Path = tmp_path_factory.mktemp("model")
    make(Spec("deepseek_v3", V3, 1), path)
    return load_model(path)


@pytest.mark.parametrize("bad", [-1, 131, 2**40])
@pytest.mark.parametrize("paged", [True, False])
def test_an_id_outside_the_vocabulary_is_refused_by_its_number(model: Model, bad: int, paged: bool) -> None:
    tokens = torch.tensor([5, bad, 7])
    context = Sequences(model, 1, 8, 4).context([(0, 0, 3)]) if paged else Packed.of([3])
    with torch.no_grad(), pytest.raises(LayoutError) as caught:
        model(tokens, context)
    assert f"found {bad}" in str(caught.value)
    assert "expected 0 to 130" in str(caught.value)


def test_an_untrained_form_refuses_foreign_ids_too() -> None:
    config = ModelConfig.from_hf({"model_type": "llama"} | DENSE)
    with pytest.raises(LayoutError, match="found 131"):
        Model(config).initialize()(torch.tensor([131]), Packed.of([1]))


@pytest.mark.parametrize(
    "tokens", [torch.zeros(2, dtype=torch.int64), torch.zeros(3), torch.zeros(1, 3, dtype=torch.int64)]
)
def test_tokens_that_do_not_fit_their_context_are_refused(model: Model, tokens: torch.Tensor) -> None:
    with torch.no_grad(), pytest.raises(LayoutError, match="do not fit their context"):
        model(tokens, Packed.of([3]))


def test_a_step_without_tokens_has_no_hidden_states(model: Model) -> None:
    none = torch.zeros(0, dtype=torch.int64)
    context = Paged(KVCache(model.config, 16), none, none, none.int(), torch.zeros(1, 1, dtype=torch.int32), 16)
    with torch.no_grad():
        hidden = model(none, context)
        assert hidden.shape == (0, V3["hidden_size"])
        assert model.logits(hidden).shape == (0, V3["vocab_size"])


def test_a_model_to_train_does_not_serve_from_a_cache() -> None:
    config = ModelConfig.from_hf({"model_type": "llama"} | DENSE)
    training = Model(config).initialize()
    with pytest.raises(LayoutError, match="pack the model"):
        training(torch.tensor([1, 2]), Packed.of([2]).paged())
