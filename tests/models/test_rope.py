"""Rotary tables and their scalings: against transformers, and the same whatever they have grown to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from hf_oracle import DENSE, LLAMA3, yarn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from deepseek.models.config import ModelConfig
from deepseek.models.rope import (
    RopeConfig,
    RotaryTables,
    inverse_frequencies,
    latent_softmax_scale,
    rotation_scale,
    yarn_mscale,
)

SCALINGS = [
    {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5},
    LLAMA3,
    LLAMA3 | {"low_freq_factor": 2.0, "high_freq_factor": 3.0, "factor": 32.0},
    yarn(),
    yarn(1.0),
    yarn(40.0, mscale=0.707, mscale_all_dim=0.707),
    yarn(40.0, mscale=1.0, mscale_all_dim=0.4),
    yarn(attention_factor=0.9, truncate=False),
    yarn(beta_fast=4, beta_slow=2),
]


@pytest.mark.parametrize("dim", [2, 8, 18, 64])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_frequencies_and_scale_are_those_of_transformers(scaling: dict[str, Any], dim: int) -> None:
    raw = DENSE | {"head_dim": dim, "rope_parameters": scaling}
    oracle = transformers.LlamaConfig(**raw)
    expected, scale = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](oracle, "cpu")
    rope = ModelConfig.from_hf({"model_type": "llama"} | raw).rope
    assert torch.equal(inverse_frequencies(rope, dim), expected)
    assert rotation_scale(rope) == pytest.approx(scale, rel=1e-12)


def test_a_missing_yarn_factor_follows_from_the_two_lengths() -> None:
    scaling = {"rope_type": "yarn", "rope_theta": 10000.0, "original_max_position_embeddings": 64}
    raw = {"model_type": "llama"} | DENSE | {"rope_parameters": scaling}
    assert ModelConfig.from_hf(raw).rope.factor == DENSE["max_position_embeddings"] / 64


def test_the_yarn_magnitude_grows_with_the_logarithm_and_never_shrinks_below_one() -> None:
    assert yarn_mscale(1.0) == yarn_mscale(0.5) == 1.0
    assert yarn_mscale(40.0, 0.5) == pytest.approx(1.18444, abs=1e-5)


def test_the_latent_softmax_scale_takes_the_magnitude_squared_only_with_mscale_all_dim() -> None:
    plain = RopeConfig(10000.0, "yarn", factor=40.0, original_max_position_embeddings=4096)
    scaled = RopeConfig(10000.0, "yarn", 40.0, 4096, mscale=1.0, mscale_all_dim=1.0)
    assert latent_softmax_scale(plain, 192) == pytest.approx(192**-0.5)
    assert latent_softmax_scale(scaled, 192) == pytest.approx(192**-0.5 * 1.3689**2, rel=1e-4)


@pytest.mark.parametrize("dim", [2, 6, 10, 64])
def test_tables_are_the_same_bits_whatever_they_have_grown_to(dim: int) -> None:
    rope = RopeConfig(10000.0)
    grown = RotaryTables(rope, dim, limit=5000)
    whole = RotaryTables(rope, dim, limit=5000).upto(4097)
    for length in (1, 7, 256, 257, 300, 1000, 1025, 4097):
        for found, expected in zip(grown.upto(length), whole, strict=True):
            rows = min(len(found), len(expected))
            assert length <= len(found)
            assert torch.equal(found[:rows], expected[:rows])


def test_tables_stop_growing_ahead_at_the_models_length() -> None:
    tables = RotaryTables(RopeConfig(10000.0), 8, limit=300)
    assert len(tables.upto(1)[0]) == 256
    assert len(tables.upto(257)[0]) == 300
