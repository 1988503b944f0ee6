"""config.json in both spellings, as the releases write it; every field used, known to be inert, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hf_oracle import CLASSES, DENSE, LLAMA3, V2_LITE, V3, yarn
from hypothesis import given
from hypothesis import strategies as st

from deepseek.core.errors import ConfigError
from deepseek.models.config import ModelConfig
from deepseek.models.rope import RopeConfig

# The released files, shortened by nothing but the lists of layers to be left alone.
DEEPSEEK_V3 = json.loads("""{
  "architectures": ["DeepseekV3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
  "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"}, "aux_loss_alpha": 0.001, "bos_token_id": 0,
  "eos_token_id": 1, "ep_size": 1, "first_k_dense_replace": 3, "hidden_act": "silu", "hidden_size": 7168,
  "initializer_range": 0.02, "intermediate_size": 18432, "kv_lora_rank": 512, "max_position_embeddings": 163840,
  "model_type": "deepseek_v3", "moe_intermediate_size": 2048, "moe_layer_freq": 1, "n_group": 8,
  "n_routed_experts": 256, "n_shared_experts": 1, "norm_topk_prob": true, "num_attention_heads": 128,
  "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 128, "num_nextn_predict_layers": 1,
  "pretraining_tp": 1, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
  "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                          "weight_block_size": [128, 128]},
  "rms_norm_eps": 1e-06,
  "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
                   "original_max_position_embeddings": 4096, "type": "yarn"},
  "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "seq_aux": true,
  "tie_word_embeddings": false, "topk_group": 4, "topk_method": "noaux_tc", "torch_dtype": "bfloat16",
  "transformers_version": "4.33.1", "use_cache": true, "v_head_dim": 128, "vocab_size": 129280}""")
DISTILL_QWEN = json.loads("""{
  "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151643,
  "hidden_act": "silu", "hidden_size": 1536, "initializer_range": 0.02, "intermediate_size": 8960,
  "max_position_embeddings": 131072, "max_window_layers": 21, "model_type": "qwen2", "num_attention_heads": 12,
  "num_hidden_layers": 28, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 10000,
  "sliding_window": 4096, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.44.0",
  "use_cache": true, "use_mrope": false, "use_sliding_window": false, "vocab_size": 151936}""")
LLAMA = {"model_type": "llama"} | DENSE


def test_the_released_deepseek_v3_is_read_whole() -> None:
    config = ModelConfig.from_hf(DEEPSEEK_V3)
    assert config.latent is not None
    assert config.experts is not None
    assert (config.latent.qk_head_dim, config.latent.cache_dim) == (192, 576)
    assert (config.experts.n_group, config.experts.topk_group, config.experts.num_experts_per_tok) == (8, 4, 8)
    assert [config.is_expert_layer(index) for index in (0, 2, 3, 61)] == [False, False, True, True]
    assert config.rope == RopeConfig(10000.0, "yarn", 40, 4096, mscale=1.0, mscale_all_dim=1.0, beta_fast=32)
    assert config.fp8_blocks
    assert config.num_nextn_predict_layers == 1
    assert config.eos_token_ids == (1,)


def test_a_released_distill_on_qwen_is_read_whole() -> None:
    config = ModelConfig.from_hf(DISTILL_QWEN)
    assert (config.head_dim, config.num_key_value_heads) == (128, 2)
    assert (config.qkv_bias, config.o_bias, config.mlp_bias) == (True, False, False)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "default", "rope_theta": 50000.0},
        {"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0},
        LLAMA3,
        yarn(),
        yarn(mscale=0.707, mscale_all_dim=0.5),
        yarn(attention_factor=1.2, truncate=False),
    ],
    ids=lambda rope: "-".join(rope),
)
@pytest.mark.parametrize("type_key", ["type", "rope_type"])
def test_both_spellings_give_the_same_model(rope: dict[str, Any], type_key: str) -> None:
    scaling = {key: value for key, value in rope.items() if key not in ("rope_theta", "rope_type")}
    old = LLAMA | {"rope_theta": rope["rope_theta"], "rope_scaling": scaling | {type_key: rope["rope_type"]}}
    new = LLAMA | {"rope_parameters": rope}
    assert ModelConfig.from_hf(old) == ModelConfig.from_hf(new) == ModelConfig.from_hf(old | new)


@pytest.mark.parametrize(
    ("name", "base"), [("deepseek_v3", V3), ("deepseek_v2", V2_LITE), ("llama", DENSE), ("qwen2", DENSE)]
)
def test_what_transformers_writes_is_read_and_what_we_write_reads_back(
    name: str, base: dict[str, Any], tmp_path: Path
) -> None:
    CLASSES[name][0](**base | {"rope_parameters": yarn(), "eos_token_id": [1, 2]}).save_pretrained(tmp_path)
    config = ModelConfig.from_file(tmp_path)
    assert config.eos_token_ids == (1, 2)
    (tmp_path / "config.json").write_text(json.dumps(config.to_hf()))
    assert ModelConfig.from_file(tmp_path / "config.json") == config


def test_the_draft_layers_may_be_counted_under_their_newer_name() -> None:
    raw = {"model_type": "deepseek_v3"} | V3 | {"num_nextn_predict_layers": None, "num_mtp_layers": 2}
    assert ModelConfig.from_hf(raw).num_nextn_predict_layers == 2


REFUSED: list[tuple[dict[str, Any], str, str, str]] = [
    ({"model_type": "mixtral"}, "model_type", "'mixtral'", "deepseek_v2, deepseek_v3, llama, qwen2"),
    ({"model_type": ["llama"]}, "model_type", "['llama']", "deepseek_v2"),
    ({"attention_sink": 4}, "attention_sink", "4", "a field of this architecture"),
    ({"hidden_act": "gelu"}, "hidden_act", "'gelu'", "'silu'"),
    ({"sliding_window": 4096}, "sliding_window", "4096", "false"),
    ({"use_sliding_window": True}, "use_sliding_window", "True", "false"),
    ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types", "sliding_attention", "full_attention only"),
    ({"layer_types": 3}, "layer_types", "3", "full_attention only"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor", "0.5", "1.0"),
    ({"add_cross_attention": True}, "add_cross_attention", "True", "false"),
    ({"use_mrope": True}, "use_mrope", "True", "false"),
    ({"hidden_size": None}, "hidden_size", "is missing", "an integer from 1 to 1048576"),
    ({"hidden_size": 48.0}, "hidden_size", "48.0", "an integer from 1"),
    ({"hidden_size": True}, "hidden_size", "True", "an integer from 1"),
    ({"num_hidden_layers": 0}, "num_hidden_layers", "0", "an integer from 1"),
    ({"vocab_size": 10**5000}, "vocab_size", "an integer of more than 60 digits", "an integer from 1"),
    ({"rms_norm_eps": float("nan")}, "rms_norm_eps", "nan", "a number > 0"),
    ({"rms_norm_eps": 10**400}, "rms_norm_eps", "more than 60 digits", "a number > 0"),
    ({"tie_word_embeddings": "yes"}, "tie_word_embeddings", "'yes'", "true or false"),
    ({"num_key_value_heads": 3}, "num_key_value_heads", "3", "a divisor of 4"),
    ({"head_dim": 7}, "head_dim", "7", "an even number"),
    ({"eos_token_id": "</s>"}, "eos_token_id", "'</s>'", "a token id or a list of them"),
    ({"rope_theta": 0}, "rope_theta", "0", "a number > 1"),
    ({"rope_scaling": "linear"}, "rope_scaling", "'linear'", "an object"),
    ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling.rope_type", "'dynamic'", "default, linear, llama3, yarn"),
    ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor", "is missing", "a number > 0"),
    ({"rope_scaling": {"type": "linear", "factor": 0}}, "rope_scaling.factor", "0", "a number > 0"),
    ({"rope_scaling": {"type": "linear", "factor": "2"}}, "rope_scaling.factor", "'2'", "a number > 0"),
    ({"rope_scaling": {"type": "linear", "factor": 2, "beta_fast": 3}}, "rope_scaling.beta_fast", "3", "factor"),
    ({"rope_parameters": {"rope_type": "default", "factor": 2}}, "rope_parameters.factor", "2", "no further field"),
    ({"rope_parameters": {"partial_rotary_factor": 0.25}}, "rope_parameters.partial_rotary_factor", "0.25", "1.0"),
    ({"rope_parameters": LLAMA3 | {"low_freq_factor": None}}, "rope_parameters.low_freq_factor", "is missing", "a number > 0"),
    ({"rope_parameters": LLAMA3 | {"low_freq_factor": 4.0}}, "rope_parameters.high_freq_factor", "4.0", "a larger number"),
    ({"rope_parameters": LLAMA3, "rope_theta": 10000.0}, "rope_parameters.rope_theta", "500000.0", "10000.0"),
    ({"rope_parameters": LLAMA3, "rope_scaling": {"type": "linear", "factor": 2}}, "rope_scaling", "contradicts rope_parameters", ""),
    ({"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2}}, "rope_scaling.type", "'linear'", "yarn"),
    ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantization_config.quant_method", "'gptq'", "'fp8'"),
    ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config.weight_block_size", "None", "[128, 128]"),
    ({"quantization_config": {"quant_method": "fp8", "fmt": "e5m2"}}, "quantization_config.fmt", "'e5m2'", "'e4m3'"),
    ({"quantization_config": "fp8"}, "quantization_config", "'fp8'", "an object"),
]  # fmt: skip
REFUSED_V3: list[tuple[dict[str, Any], str, str, str]] = [
    ({"topk_method": "greedy"}, "topk_method", "'greedy'", "'noaux_tc'"),
    ({"scoring_func": "softmax"}, "scoring_func", "'softmax'", "'sigmoid'"),
    ({"n_group": 3}, "n_group", "3", "a divisor of 8"),
    ({"topk_group": 5}, "topk_group", "5", "at most 4"),
    ({"num_experts_per_tok": 5}, "num_experts_per_tok", "5", "at most 4"),
    ({"n_group": 8, "topk_group": 4}, "n_group", "8", "at least two experts a group"),
    ({"num_key_value_heads": 2}, "num_key_value_heads", "2", "4"),
    ({"qk_rope_head_dim": 7}, "qk_rope_head_dim", "7", "an even number"),
    ({"mlp_bias": True}, "mlp_bias", "True", "False"),
    ({"num_attention_heads": 2**20, "num_key_value_heads": 2**20}, "num_attention_heads", "too wide", "16777216"),
]


@pytest.mark.parametrize(
    ("raw", "change", "field", "found", "expected"),
    [(LLAMA, *case) for case in REFUSED] + [({"model_type": "deepseek_v3"} | V3, *case) for case in REFUSED_V3],
)
def test_what_we_do_not_compute_is_refused_by_name(
    raw: dict[str, Any], change: dict[str, Any], field: str, found: str, expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_hf(raw | change, where="dir/config.json")
    message = str(caught.value)
    assert message.startswith(f"dir/config.json: {field}: ")
    assert found in message
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '"llama"', "[" * 100_000, '{"hidden_size": ' + "9" * 5000 + "}", "\xff"]
)
def test_a_file_that_is_not_a_json_object_is_one_clear_line(text: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_file(tmp_path)
    assert str(file) in str(caught.value)
    assert "expected" in str(caught.value)


def test_a_directory_without_config_says_what_to_point_at(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json: no such file.*Fix: point at a directory"):
        ModelConfig.from_file(tmp_path)


WRONG = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=2),
    st.dictionaries(st.sampled_from(["type", "rope_type", "factor", "mscale", "beta_fast"]), st.integers() | st.text(max_size=6)),
)  # fmt: skip


@given(base=st.sampled_from([LLAMA, DEEPSEEK_V3, DISTILL_QWEN]), data=st.data())
def test_a_wrong_value_anywhere_is_a_config_error_or_a_config(base: dict[str, Any], data: st.DataObject) -> None:
    field = data.draw(st.sampled_from([*sorted(base), "rope_parameters", "rope_scaling", "layer_types"]))
    try:
        ModelConfig.from_hf(base | {field: data.draw(WRONG)})
    except ConfigError as error:
        assert error.where is not None
