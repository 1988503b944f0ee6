"""A run small enough to train in a test: its recipe, and a source of sequences that can be learnt."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from deepseek.training.recipe import Recipe

MODEL: dict[str, Any] = {
    "model_type": "deepseek_v3",
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "first_k_dense_replace": 1,
    "num_attention_heads": 2,
    "q_lora_rank": None,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.0,
    "num_nextn_predict_layers": 1,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}


def fields(output: Path | str = "runs", **changes: Any) -> dict[str, Any]:
    """The fields of a micro recipe; `model`, `data` and `optimizer` changes are merged into their section."""
    raw: dict[str, Any] = {
        "name": "micro",
        "output": str(output),
        "seed": 3,
        "tokens": 6400,
        "tokens_per_step": 128,
        "compute_dtype": "float32",
        "checkpoint_every_steps": 1000,
        "log_every_steps": 1,
        "model": dict(MODEL),
        "data": {"max_length": 32},
        "optimizer": {"lr": 0.01, "warmup_steps": 2},
    }
    for key, value in changes.items():
        raw[key] = {**raw[key], **value} if isinstance(raw.get(key), dict) else value
    return raw


def recipe(output: Path | str = "runs", **changes: Any) -> Recipe:
    return Recipe.model_validate(fields(output, **changes))


class Counting:
    """Sample `index` counts upwards from a random start, modulo 16; its second half counts as the assistant's."""

    vocab_size = 32

    def __init__(self) -> None:
        self.asked: list[tuple[int, float]] = []

    def sample(self, index: int, share: float) -> tuple[list[int], list[bool]]:
        self.asked.append((index, share))
        rng = random.Random(index)
        length, start = rng.randint(6, 32), rng.randrange(16)
        return [(start + place) % 16 for place in range(length)], [place >= length // 2 for place in range(length)]
