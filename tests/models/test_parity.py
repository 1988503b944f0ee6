"""Every architecture computes what transformers computes, in all its forms, on shapes the tests did not choose too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hf_oracle import (
    DENSE,
    LLAMA3,
    V2_LITE,
    V3,
    Checkpoint,
    Spec,
    edit_config,
    greedy,
    make,
    oracle_greedy,
    oracle_logits,
    packed_logits,
    paged_logits,
    random_spec,
    reload,
    yarn,
)
from torch import Tensor

from deepseek import kernels
from deepseek.models.attention import LatentAttention
from deepseek.models.checkpoint import load_model, save_model
from deepseek.models.experts import RoutedExperts
from deepseek.models.transformer import Model

LARGEST_DIFFERENCE = 1e-4
GREEDY_TOKENS = 64

SPECS = {
    "v3": Spec("deepseek_v3", V3, seed=1),
    "v3-plain-queries-tied-yarn": Spec(
        "deepseek_v3",
        V3
        | {
            "q_lora_rank": None,
            "tie_word_embeddings": True,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "rope_parameters": yarn(mscale=1.0, mscale_all_dim=1.0),
        },
        seed=2,
    ),
    "v3-yarn-of-two-scales": Spec(
        "deepseek_v3", V3 | {"n_group": 2, "topk_group": 1, "rope_parameters": yarn(mscale=1.0, mscale_all_dim=0.6)}, 3
    ),
    "v3-halves-and-biases": Spec("deepseek_v3", V3 | {"rope_interleave": False, "attention_bias": True}, 4),
    "v2-lite": Spec("deepseek_v2", V2_LITE | {"rope_parameters": yarn(40.0, mscale=0.707, mscale_all_dim=0.707)}, 5),
    "v2-group-limited": Spec(
        "deepseek_v2",
        V2_LITE
        | {
            "q_lora_rank": 40,
            "topk_method": "group_limited_greedy",
            "n_group": 4,
            "topk_group": 2,
            "routed_scaling_factor": 4.0,
        },
        seed=6,
    ),
    "llama": Spec("llama", DENSE, 18),
    "llama-linear-one-head": Spec(
        "llama",
        DENSE
        | {
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
        },
        seed=19,
    ),
    "llama3-biases-wide-heads": Spec(
        "llama", DENSE | {"attention_bias": True, "mlp_bias": True, "head_dim": 20, "rope_parameters": LLAMA3}, 31
    ),
    "qwen2": Spec("qwen2", DENSE | {"num_attention_heads": 6, "num_key_value_heads": 1}, 10),
    "qwen2-tied": Spec("qwen2", DENSE | {"tie_word_embeddings": True, "num_key_value_heads": 4}, 22),
}


@dataclass(frozen=True)
class Pair:
    """A checkpoint with transformers' model in it, and ours for serving and for training."""

    checkpoint: Checkpoint
    serving: Model
    training: Model
    ids: Tensor
    expected: Tensor


def open_pair(spec: Spec, path: Path, tokens: int) -> Pair:
    checkpoint = make(spec, path)
    ids = checkpoint.ids(tokens, spec.seed)
    models = load_model(path), load_model(path, packed=False)
    return Pair(checkpoint, *models, ids, checkpoint.oracle_logits(ids))


def assert_same_logits(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max().item() <= LARGEST_DIFFERENCE


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    made: dict[str, Pair] = {}

    def pair(name: str) -> Pair:
        if name not in made:
            made[name] = open_pair(SPECS[name], tmp_path_factory.mktemp(name), 90)
        return made[name]

    return pair


@pytest.fixture(params=SPECS)
def pair(request: pytest.FixtureRequest, pairs: Callable[[str], Pair]) -> Pair:
    return pairs(request.param)


def test_logits_are_those_of_transformers_and_spread_enough_to_tell(pair: Pair) -> None:
    assert pair.expected.std().item() >= 1
    assert_same_logits(packed_logits(pair.serving, pair.ids), pair.expected)


def test_the_training_form_computes_the_same_logits(pair: Pair) -> None:
    assert_same_logits(packed_logits(pair.training, pair.ids), pair.expected)


def test_greedy_generation_is_identical_over_64_tokens_that_vary(pair: Pair) -> None:
    prompt = pair.ids[:9]
    found = greedy(pair.serving, prompt, GREEDY_TOKENS)
    assert len(set(found)) >= 20
    # After every prefix of ours, transformers would go on as we did: that is its greedy generation, in one pass.
    whole = torch.cat([prompt, torch.tensor(found)])
    assert pair.checkpoint.oracle_logits(whole[:-1])[len(prompt) - 1 :].argmax(-1).tolist() == found


@pytest.mark.parametrize("name", ["v3", "v2-lite", "llama3-biases-wide-heads", "qwen2-tied"])
def test_greedy_generation_is_what_generate_returns(name: str, pairs: Callable[[str], Pair]) -> None:
    pair = pairs(name)
    prompt = pair.ids[:9]
    assert greedy(pair.serving, prompt, GREEDY_TOKENS) == oracle_greedy(pair.checkpoint.oracle, prompt, GREEDY_TOKENS)


@pytest.mark.parametrize(("seed", "block_size"), [(0, 1), (1, 16), (2, 5)])
def test_paged_is_packed_bit_for_bit_in_any_pieces_and_blocks(pair: Pair, seed: int, block_size: int) -> None:
    sequences = [pair.ids, pair.ids[:33].clone(), pair.ids[40:41].clone()]
    for ids, logits in zip(sequences, paged_logits(pair.serving, sequences, seed, block_size), strict=True):
        assert torch.equal(logits, packed_logits(pair.serving, ids))


def test_transformers_reads_what_we_save_to_the_same_logits(pair: Pair, tmp_path: Path) -> None:
    save_model(pair.serving, tmp_path / "serving")
    save_model(pair.training, tmp_path / "training")
    for name in ("serving", "training"):
        again = reload(pair.checkpoint, tmp_path / name)
        assert torch.equal(oracle_logits(again, pair.ids), pair.expected)


def test_packing_a_training_model_gives_the_loaded_one_bit_for_bit(pairs: Callable[[str], Pair]) -> None:
    pair = pairs("v3")
    trained = load_model(pair.checkpoint.path, packed=False).pack()
    assert torch.equal(packed_logits(trained, pair.ids), packed_logits(pair.serving, pair.ids))


# 3, 12 and 27 run over 300 tokens; between them: no shared expert, all layers dense or none, one head, biases, every rope.
@pytest.mark.parametrize("seed", [3, 4, 5, 7, 9, 10, 15, 27])
def test_parity_holds_on_shapes_nobody_chose(seed: int, tmp_path: Path) -> None:
    pair = open_pair(random_spec(seed), tmp_path / "oracle", 300 if seed % 3 == 0 else 50)
    found = packed_logits(pair.serving, pair.ids)
    assert_same_logits(found, pair.expected)
    assert_same_logits(packed_logits(pair.training, pair.ids), pair.expected)
    assert torch.equal(paged_logits(pair.serving, [pair.ids], seed)[0], found)
    save_model(pair.serving, tmp_path / "ours")
    assert torch.equal(oracle_logits(reload(pair.checkpoint, tmp_path / "ours"), pair.ids), pair.expected)


@pytest.mark.parametrize("name", ["v3-plain-queries-tied-yarn", "v2-lite", "llama-linear-one-head", "qwen2"])
def test_the_transformers_4_spelling_gives_the_same_logits(
    name: str, pairs: Callable[[str], Pair], tmp_path: Path
) -> None:
    pair = pairs(name)
    again = make(pair.checkpoint.spec, tmp_path)
    parameters = again.spec.config.get("rope_parameters", {"rope_type": "default", "rope_theta": 10000.0})
    scaling = {key: value for key, value in parameters.items() if key not in ("rope_type", "rope_theta")}
    if parameters["rope_type"] != "default":
        scaling["type"] = parameters["rope_type"]
    edit_config(
        tmp_path, rope_parameters=None, rope_theta=parameters["rope_theta"], rope_scaling=scaling or None, dtype=None
    )
    model = load_model(tmp_path)
    assert model.config == pair.serving.config
    assert torch.equal(packed_logits(model, pair.ids), packed_logits(pair.serving, pair.ids))


def without_rotation(model: Model) -> None:
    tables = model._tables
    cos, sin = tables.upto(512)
    tables._tables = torch.ones_like(cos), torch.zeros_like(sin)


def without_yarn_scale(model: Model) -> None:
    for module in model.modules():
        if isinstance(module, LatentAttention):
            module.scale = module.latent.qk_head_dim**-0.5


def with_two_experts_swapped(model: Model) -> None:
    experts = next(module for module in model.modules() if isinstance(module, RoutedExperts))
    for name, packed in experts.packed.items():
        first, second, *others = packed.weights
        experts.packed[name] = kernels.pack_experts([second, first, *others])


@pytest.mark.parametrize("mutate", [without_rotation, without_yarn_scale, with_two_experts_swapped])
def test_the_comparison_fails_for_a_model_that_is_wrong(
    mutate: Callable[[Model], None], pairs: Callable[[str], Pair]
) -> None:
    pair = pairs("v3-plain-queries-tied-yarn")
    model = load_model(pair.checkpoint.path)
    assert_same_logits(packed_logits(model, pair.ids), pair.expected)
    mutate(model)
    model._stacks.clear()  # made of the layers as they were
    with pytest.raises(AssertionError):
        assert_same_logits(packed_logits(model, pair.ids), pair.expected)
