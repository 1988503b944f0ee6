"""Quantised models in the engine: every architecture serves, as it scores, near what the stored form says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_support import model_loop, random_ids, request, run, scheduler_config, tiny_config

from deepseek.engine.build import EngineOptions, build_loop
from deepseek.models.checkpoint import load_model, save_model
from deepseek.models.config import ModelConfig
from deepseek.models.context import Packed
from deepseek.models.locate import builtin_dir
from deepseek.models.transformer import Model, Quantization


def configs() -> dict[str, ModelConfig]:
    dense, latent = tiny_config("grouped_query"), tiny_config("latent_experts")
    assert latent.experts is not None
    softmax = {"topk_method": "greedy", "scoring_func": "softmax", "n_group": 1, "topk_group": 1}
    greedy = replace(latent.experts, norm_topk_prob=False, **softmax)
    return {
        "llama": dense,
        "qwen2": replace(dense, architecture="qwen2", qkv_bias=True, tie_word_embeddings=True),
        "deepseek_v2": replace(latent, architecture="deepseek_v2", experts=greedy, tie_word_embeddings=False),
        "deepseek_v3": latent,
    }


@pytest.mark.parametrize("mode", ["int8", "int4"])
@pytest.mark.parametrize("architecture", configs())
def test_a_quantised_model_serves_what_it_scores_and_stays_near_the_stored_form(
    tmp_path: Path, architecture: str, mode: Quantization
) -> None:
    config = configs()[architecture]
    assert config.architecture == architecture
    save_model(Model(config).initialize(seed=1, std=0.15), tmp_path)
    exact, quantised = load_model(tmp_path), load_model(tmp_path, quantization=mode)
    prompt = random_ids(23, 3)
    asked = [request("r", prompt, max_tokens=12, temperature=0.0, logprobs=1, ignore_eos=True)]
    asked += [request(f"n{i}", random_ids(5 + 11 * i, i), max_tokens=6 + i, ignore_eos=True) for i in range(3)]
    inbox = run(model_loop(quantised, scheduler_config(max_tokens_per_step=16, max_sequences=8)), asked)["r"]
    ids = torch.tensor([*prompt, *inbox.ids()])
    with torch.inference_mode():
        scored, near = (model.logits(model(ids, Packed.of([len(ids)])))[22:-1] for model in (quantised, exact))
    assert scored.argmax(-1).tolist() == inbox.ids()
    served = [entry.logprob for event in inbox.tokens() for entry in event.logprobs or ()]
    assert served == pytest.approx(scored.log_softmax(-1).amax(-1).tolist(), abs=1e-6)
    spread, noise = float(near.std()), float((scored - near).std())
    assert spread > 0.3 and noise < spread * {"int8": 0.1, "int4": 0.5}[mode]


def test_the_options_reach_the_weights_and_their_size_is_told(tmp_path: Path) -> None:
    options = EngineOptions(quantization="int8", quantization_cache=tmp_path, max_sequences=1)
    loaded = build_loop("builtin", options)
    assert loaded.quantization == "int8" and loaded.size is not None
    assert loaded.size.weights == 11_465_712
    assert 8.1 < loaded.size.bits_per_weight < 8.4
    assert (tmp_path / "sources.json").exists() or any(tmp_path.iterdir())
    stored = build_loop("builtin", EngineOptions(max_sequences=1))
    assert stored.quantization == "none" and stored.size is not None and stored.size.nbytes > loaded.size.nbytes


def test_weights_read_anew_are_quantised_as_the_model_in_use_was(tmp_path: Path) -> None:
    loaded = build_loop("builtin", EngineOptions(quantization="int4", max_sequences=1))
    assert loaded.weights is not None
    assert loaded.weights.read(builtin_dir()).model.quantization == "int4"
