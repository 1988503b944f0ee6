"""Some tensors of a packed model replaced in a copy that shares the rest: the same bits as loading them anew."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from deepseek.core.errors import CheckpointError, LayoutError
from deepseek.models.adapters import AdapterBank
from deepseek.models.checkpoint import load_model, save_model
from deepseek.models.config import ExpertConfig, LatentConfig, ModelConfig
from deepseek.models.context import Packed
from deepseek.models.rope import RopeConfig
from deepseek.models.share import with_tensors, without_weights
from deepseek.models.tensors import hf_slots
from deepseek.models.transformer import Model

DENSE = ModelConfig(
    architecture="qwen2",
    vocab_size=96,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=12,
    rms_norm_eps=1e-6,
    rope=RopeConfig(theta=10000.0),
    max_position_embeddings=64,
    tie_word_embeddings=True,
    qkv_bias=True,
)
LATENT = replace(
    DENSE,
    architecture="deepseek_v3",
    num_key_value_heads=4,
    tie_word_embeddings=False,
    qkv_bias=False,
    latent=LatentConfig(16, kv_lora_rank=24, qk_nope_head_dim=12, qk_rope_head_dim=8, v_head_dim=12),
    experts=ExpertConfig(6, 1, 2, 20, 1, "noaux_tc", "sigmoid", 2, 1, True, 1.5),
    num_nextn_predict_layers=1,
)
CONFIGS = {"dense": DENSE, "latent": LATENT}
IDS = torch.arange(20)


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> ModelConfig:
    return CONFIGS[request.param]


@cache
def fresh(config: ModelConfig, seed: int) -> Model:
    """Never packed: `load_model` on its checkpoint is what the tests serve."""
    model = Model(config).initialize(seed, std=0.25)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():  # norms, biases and corrections must tell two models apart too
        for vector in [*model.parameters(), *model.buffers()]:
            if vector.dim() == 1:
                vector.add_(torch.randn(vector.shape, generator=generator) * 0.1)
    return model


def tensors_of(model: Model) -> dict[str, Tensor]:
    return {name: slot.stored()[0].clone() for name, slot in hf_slots(model).items()}


@torch.inference_mode()
def answers(model: Model) -> tuple[Tensor, ...]:
    hidden = model(IDS, Packed.of([len(IDS)]))
    drafts = [model.logits(model.draft(hidden, IDS, Packed.of([len(IDS)])))] if len(model.mtp) else []
    return (model.logits(hidden), *drafts)


def same(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


FORMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "float32": ({}, {}),
    "bfloat16": ({"dtype": torch.bfloat16}, {}),
    "fp8": ({"fp8_blocks": True}, {}),
    "int8": ({}, {"quantization": "int8"}),
    "int4": ({"dtype": torch.bfloat16}, {"quantization": "int4"}),
}


@pytest.mark.parametrize("form", FORMS)
def test_all_tensors_replaced_give_the_bits_of_their_own_checkpoint(
    config: ModelConfig, form: str, tmp_path: Path
) -> None:
    saved, loaded = FORMS[form]
    models: list[Model] = []
    for seed in (1, 2):
        save_model(fresh(config, seed), tmp_path / str(seed), **saved)
        models.append(load_model(tmp_path / str(seed), **loaded))
    old, new = models
    before = answers(old)
    given = tensors_of(fresh(config, 2))
    if form == "int4":  # quantised from what a checkpoint holds, not from more
        given = {name: tensor.bfloat16() if tensor.dim() > 1 else tensor for name, tensor in given.items()}
    mixed = with_tensors(old, given)
    # Vectors of a 16-bit checkpoint have been rounded to 16 bits, ours not: they are compared where they were not.
    if "dtype" in saved:
        rounded = {n: t.bfloat16() for n, t in given.items() if t.dim() == 1 and "correction" not in n}
        mixed = with_tensors(mixed, rounded)
    assert same(answers(mixed), answers(new))
    assert same(answers(old), before)
    assert not same(answers(mixed), before)


def test_one_expert_replaced_leaves_the_others_shared() -> None:
    old = fresh_packed(LATENT)
    name = "model.layers.1.mlp.experts.3.up_proj.weight"
    new = with_tensors(old, {name: torch.ones(20, 48)})
    for part in ("gate_proj", "up_proj", "down_proj"):
        for expert in range(6):
            before, after = (m.layers[1].mlp.experts.packed[part].weights[expert] for m in (old, new))  # type: ignore[union-attr]
            assert (before is after) == (part != "up_proj" or expert != 3)
    assert torch.equal(hf_slots(new)[name].stored()[0], torch.ones(20, 48))
    all_up = {name.replace(".3.", f".{expert}."): torch.ones(20, 48) for expert in range(6)}
    assert not same(answers(with_tensors(old, all_up)), answers(old))


def test_what_is_not_named_is_the_very_same_object(config: ModelConfig) -> None:
    old = fresh_packed(config)
    new = with_tensors(old, {"model.norm.weight": torch.ones(48)})
    assert [p is q for p, q in zip(old.parameters(), new.parameters(), strict=True)].count(False) == 1
    assert all(not parameter.requires_grad for parameter in new.parameters())
    for mine, other in zip(old.modules(), new.modules(), strict=True):
        assert mine is not other
        for attribute in ("packed", "rows", "query_heads", "value_heads"):
            kept = getattr(mine, attribute, None)
            if not isinstance(kept, dict):
                assert getattr(other, attribute, None) is kept


def test_the_given_tensors_may_change_afterwards(config: ModelConfig) -> None:
    given = tensors_of(fresh(config, 2))
    new = with_tensors(fresh_packed(config), given)
    before = answers(new)
    for tensor in given.values():
        tensor.fill_(7.0)
    assert same(answers(new), before)


def test_a_repeated_name_is_taken_if_it_is_a_copy() -> None:
    old, head, table = fresh_packed(DENSE), "lm_head.weight", "model.embed_tokens.weight"
    given = torch.ones(96, 48)
    assert same(answers(with_tensors(old, {head: given, table: given})), answers(with_tensors(old, {table: given})))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight: differs from the tensor it shares"):
        with_tensors(old, {head: given, table: 2 * given})
    with pytest.raises(CheckpointError, match=r"lm_head\.weight: is shared with a tensor that was not given"):
        with_tensors(old, {head: given})


def bad_given() -> dict[str, tuple[dict[str, Any], str]]:
    up = "model.layers.0.mlp.up_proj.weight"
    fp8 = torch.ones(80, 48).to(torch.float8_e4m3fn)
    return {
        "shape": (
            {up: torch.ones(48, 80)},
            r"has the wrong shape; found torch.float32 \[48, 80\]; expected \[80, 48\]",
        ),
        "name": ({"up": torch.ones(2)}, r"up: is a tensor the model has no place for"),
        "type": ({up: torch.ones(80, 48, dtype=torch.float64)}, "has a type that does not fit; found torch.float64"),
        "scales": ({up: fp8, f"{up}_scale_inv": torch.ones(2, 2)}, "has no fitting block scales"),
        "stray scales": ({f"{up}_scale_inv": torch.ones(1, 1)}, "are block scales without an FP8 weight"),
        "fp8 norm": ({"model.norm.weight": torch.ones(48).to(torch.float8_e4m3fn)}, "has a type that does not fit"),
        "sparse": ({up: torch.ones(80, 48).to_sparse()}, "is no dense tensor in memory"),
        "none": ({}, "no tensors were given"),
    }


@pytest.mark.parametrize("case", bad_given())
def test_what_does_not_fit_is_refused(case: str) -> None:
    given, message = bad_given()[case]
    old = fresh_packed(DENSE)
    before = answers(old)
    with pytest.raises(CheckpointError, match=message):
        with_tensors(old, {"model.layers.0.mlp.down_proj.weight": torch.ones(48, 80), **given} if given else given)
    assert same(answers(old), before)


def test_fp8_with_its_scales_is_kept_as_it_is() -> None:
    up = "model.layers.0.mlp.up_proj.weight"
    stored = torch.randn(80, 48).to(torch.float8_e4m3fn)
    new = with_tensors(fresh_packed(DENSE), {up: stored, f"{up}_scale_inv": torch.full((1, 1), 0.5)})
    found, scale = hf_slots(new)[up].stored()
    assert scale is not None and scale.item() == 0.5
    assert torch.equal(found.view(torch.uint8), stored.view(torch.uint8))


def test_a_model_being_trained_is_refused() -> None:
    with pytest.raises(LayoutError, match="only a packed model"):
        with_tensors(fresh(DENSE, 1), {"model.norm.weight": torch.ones(48)})


def test_the_old_model_goes_when_nobody_holds_it(config: ModelConfig) -> None:
    old = fresh_packed(config)
    answers(old)
    new = with_tensors(old, tensors_of(fresh(config, 2)))
    answers(new)
    gone = [weakref.ref(old), weakref.ref(old.layers[0].self_attn.o_proj.packed)]  # type: ignore[union-attr]
    del old
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


def test_without_weights_only_the_shapes_are_left(config: ModelConfig) -> None:
    model = fresh_packed(config)
    answers(model)
    AdapterBank(model)
    hollow = without_weights(model)
    shapes = {name: slot.shape for name, slot in hf_slots(model).items()}
    assert {name: slot.shape for name, slot in hf_slots(hollow).items()} == shapes
    held: Callable[[Model], int] = lambda m: sum(p.nbytes for p in m.parameters() if not p.is_meta)  # noqa: E731
    assert hollow.is_packed and held(hollow) == 0 and held(model) > 0
    before = answers(model)
    gone = [weakref.ref(model), *(weakref.ref(p) for p in model.parameters())]
    del model
    gc.collect()
    assert len(before) and not any(ref() is not None for ref in gone)


def fresh_packed(config: ModelConfig) -> Model:
    model = Model(config)
    model.load_state_dict(fresh(config, 1).state_dict())
    return model.pack()
