"""What a model is, in numbers: one frozen record for all four architectures, read from Hugging Face `config.json`.

Both spellings of rotary embeddings are read: transformers 4 (`rope_theta` beside `rope_scaling`) and
transformers 5 (`rope_parameters`). Every field of the file is either used, known to have no influence on
the forward pass, or refused: a setting that would change the answer is never silently ignored.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deepseek.core.errors import ConfigError
from deepseek.models.rope import RopeConfig

Architecture = Literal["deepseek_v2", "deepseek_v3", "llama", "qwen2"]

CLASS_NAMES: dict[Architecture, str] = {
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
}

FP8_BLOCK = 128


@dataclass(frozen=True, slots=True)
class LatentConfig:
    """Multi-head latent attention (DeepSeek-V2, section 2.1). `q_lora_rank` None means queries are not compressed."""

    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    rope_interleave: bool = True

    @property
    def qk_head_dim(self) -> int:
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def cache_dim(self) -> int:
        """Floats kept per token and layer: the latent and the shared rotary key."""
        return self.kv_lora_rank + self.qk_rope_head_dim


@dataclass(frozen=True, slots=True)
class ExpertConfig:
    """Mixture of experts (DeepSeekMoE; V3 technical report, section 2.1.2)."""

    n_routed_experts: int
    n_shared_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    first_k_dense_replace: int
    topk_method: Literal["greedy", "group_limited_greedy", "noaux_tc"]
    scoring_func: Literal["softmax", "sigmoid"]
    n_group: int
    topk_group: int
    norm_topk_prob: bool
    routed_scaling_factor: float
    moe_layer_freq: int = 1


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Dimensions and choices of one model. Sizes are counts of elements; `max_position_embeddings` is in tokens."""

    architecture: Architecture
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope: RopeConfig
    max_position_embeddings: int
    tie_word_embeddings: bool
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    latent: LatentConfig | None = None
    experts: ExpertConfig | None = None
    num_nextn_predict_layers: int = 0
    fp8_blocks: bool = False
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    dtype: str = "float32"

    def is_expert_layer(self, index: int) -> bool:
        experts = self.experts
        return experts is not None and index >= experts.first_k_dense_replace and index % experts.moe_layer_freq == 0

    @classmethod
    def from_file(cls, path: str | Path) -> ModelConfig:
        """Read `config.json`: the file, or the directory that holds it. Raises ConfigError naming file and field."""
        file = Path(path)
        if file.is_dir():
            file = file / "config.json"
        try:
            raw = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(
                "no such file", where=file, fix="point at a directory with config.json and *.safetensors"
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(
                "cannot be read as JSON", where=file, found=error, expected="a JSON object", fix="download it again"
            ) from None
        if not isinstance(raw, dict):
            raise ConfigError("is not a JSON object", where=file, found=type(raw).__name__, expected="an object")
        return cls.from_hf(raw, where=str(file))

    @classmethod
    def from_hf(cls, raw: dict[str, Any], where: str = "config.json") -> ModelConfig:
        """Build from a parsed `config.json`. Raises ConfigError naming the field, what was found and expected."""
        from deepseek.models.config_hf import read

        return read(raw, where)

    def to_hf(self) -> dict[str, Any]:
        """The `config.json` of this model in the transformers 4 spelling, which both generations read."""
        from deepseek.models.config_hf import write

        return write(self)
