"""Between Hugging Face's `config.json` and `ModelConfig`, both ways, refusing what this model code does not compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from deepseek.models.config import (
    CLASS_NAMES,
    FP8_BLOCK,
    Architecture,
    ExpertConfig,
    LatentConfig,
    ModelConfig,
)
from deepseek.models.config_fields import LARGEST_LENGTH_TOKENS, LARGEST_WIDTH, OFF_FIELDS, Fields, is_number, shorten
from deepseek.models.rope import RopeConfig, RopeKind

# fmt: off
EXPERT_FIELDS = (
    "n_shared_experts", "num_experts_per_tok", "moe_intermediate_size", "first_k_dense_replace", "moe_layer_freq",
    "n_group", "topk_group", "norm_topk_prob", "routed_scaling_factor",
)
ROPE_FIELDS: dict[RopeKind, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": (
        "factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale", "mscale_all_dim",
        "attention_factor", "truncate",
    ),
}
# fmt: on
_REQUIRED_ROPE_FIELDS: dict[RopeKind, tuple[str, ...]] = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}


def read(raw: Mapping[str, Any], where: str) -> ModelConfig:
    """See `ModelConfig.from_hf`."""
    fields = Fields(raw, where)
    architecture = _architecture(fields)
    is_latent = architecture in ("deepseek_v2", "deepseek_v3")
    fields.must_be("hidden_act", "silu")
    fields.must_be("partial_rotary_factor", 1.0)
    for name in OFF_FIELDS:
        fields.must_be_off(name)
    max_positions = fields.integer("max_position_embeddings", 2048, high=LARGEST_LENGTH_TOKENS)
    heads, kv_heads, head_dim = _heads(fields, is_latent)
    latent = _latent(fields, architecture, heads) if is_latent else None
    qkv_bias, o_bias, mlp_bias = _biases(fields, architecture)
    _layer_types(fields)
    config = ModelConfig(
        architecture=architecture,
        vocab_size=fields.integer("vocab_size", high=LARGEST_WIDTH),
        hidden_size=fields.integer("hidden_size"),
        intermediate_size=fields.integer("intermediate_size"),
        num_hidden_layers=fields.integer("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope=_rope(fields, max_positions),
        max_position_embeddings=max_positions,
        tie_word_embeddings=fields.flag("tie_word_embeddings"),
        qkv_bias=qkv_bias,
        o_bias=o_bias,
        mlp_bias=mlp_bias,
        latent=latent,
        experts=_experts(fields, architecture) if is_latent else None,
        num_nextn_predict_layers=_draft_layers(fields, architecture),
        fp8_blocks=_fp8_blocks(fields),
        bos_token_id=next(iter(_token_ids(fields, "bos_token_id")), None),
        eos_token_ids=_token_ids(fields, "eos_token_id"),
        dtype=str(fields.get("dtype", fields.get("torch_dtype", "float32"))),
    )
    fields.finish()
    return config


def _architecture(fields: Fields) -> Architecture:
    name = fields.get("model_type")
    if not isinstance(name, str) or name not in CLASS_NAMES:
        raise fields.error(
            "model_type",
            "is an architecture we do not have",
            shorten(name),
            ", ".join(CLASS_NAMES),
            "use a checkpoint of one of these",
        )
    architecture: Architecture = name
    return architecture


def _heads(fields: Fields, is_latent: bool) -> tuple[int, int, int]:
    """Heads, key and value heads, and a head's width (0 with latent attention, which has widths of its own)."""
    heads = fields.integer("num_attention_heads")
    kv_heads = fields.integer("num_key_value_heads", heads)
    if is_latent:
        fields.must_be("num_key_value_heads", heads)
        fields.ignore("head_dim")
        return heads, heads, 0
    head_dim = fields.integer("head_dim", fields.integer("hidden_size") // heads)
    if heads % kv_heads:
        raise fields.error(
            "num_key_value_heads", "does not divide num_attention_heads", kv_heads, f"a divisor of {heads}"
        )
    if head_dim % 2:
        raise fields.error("head_dim", "cannot be rotated in pairs", head_dim, "an even number")
    return heads, kv_heads, head_dim


def _latent(fields: Fields, architecture: Architecture, heads: int) -> LatentConfig:
    latent = LatentConfig(
        q_lora_rank=fields.optional_integer("q_lora_rank"),
        kv_lora_rank=fields.integer("kv_lora_rank"),
        qk_nope_head_dim=fields.integer("qk_nope_head_dim"),
        qk_rope_head_dim=fields.integer("qk_rope_head_dim"),
        v_head_dim=fields.integer("v_head_dim"),
        rope_interleave=fields.flag("rope_interleave", True) if architecture == "deepseek_v3" else True,
    )
    if latent.qk_rope_head_dim % 2:
        raise fields.error("qk_rope_head_dim", "cannot be rotated in pairs", latent.qk_rope_head_dim, "an even number")
    if heads * (latent.qk_head_dim + latent.v_head_dim) > LARGEST_WIDTH:
        raise fields.error("num_attention_heads", "makes projections too wide", heads, f"a width up to {LARGEST_WIDTH}")
    return latent


def _biases(fields: Fields, architecture: Architecture) -> tuple[bool, bool, bool]:
    """Whether queries, keys and values, the attention's output, and the MLP have biases."""
    if architecture == "qwen2":
        return True, False, False
    attention = fields.flag("attention_bias")
    if architecture == "llama":
        return attention, attention, fields.flag("mlp_bias")
    fields.must_be("mlp_bias", False)
    return attention, attention, False


def _layer_types(fields: Fields) -> None:
    fields.must_be_off("use_sliding_window")
    if fields.raw.get("use_sliding_window") is not None or fields.raw.get("model_type") == "qwen2":
        fields.ignore("sliding_window")  # Qwen's configs give the width even where the switch is off
    else:
        fields.must_be_off("sliding_window")
    kinds = fields.get("layer_types", [])
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        raise fields.error("layer_types", "has layers we do not compute", shorten(kinds), "full_attention only")


def _draft_layers(fields: Fields, architecture: Architecture) -> int:
    if architecture != "deepseek_v3":
        return 0
    name = "num_nextn_predict_layers"
    if fields.get(name) is None and fields.get("num_mtp_layers") is not None:
        name = "num_mtp_layers"
    fields.ignore("num_mtp_layers")
    return fields.integer(name, 0, low=0)


def _token_ids(fields: Fields, name: str) -> tuple[int, ...]:
    value = fields.get(name, [])
    ids = value if isinstance(value, list) else [value]
    if any(isinstance(token, bool) or not isinstance(token, int) for token in ids):
        raise fields.error(name, "is not usable", shorten(value), "a token id or a list of them")
    return tuple(ids)


def _experts(fields: Fields, architecture: Architecture) -> ExpertConfig | None:
    is_v3 = architecture == "deepseek_v3"
    method = _topk_method(fields, is_v3)
    scoring: Literal["softmax", "sigmoid"] = "sigmoid" if is_v3 else "softmax"
    fields.must_be("scoring_func", scoring)
    if fields.get("n_routed_experts") is None:
        fields.ignore(*EXPERT_FIELDS)
        return None
    if not is_v3:
        fields.must_be("norm_topk_prob", False)  # releases disagree on whether the scaling factor then applies
    count, per_token = fields.integer("n_routed_experts"), fields.integer("num_experts_per_tok")
    grouped = method != "greedy"
    groups = fields.integer("n_group", 1) if grouped else 1
    topk_group = fields.integer("topk_group", 1) if grouped else 1
    fields.ignore("n_group", "topk_group")
    if count % groups:
        raise fields.error("n_group", "does not divide n_routed_experts", groups, f"a divisor of {count}")
    if topk_group > groups:
        raise fields.error("topk_group", "exceeds n_group", topk_group, f"at most {groups}")
    if per_token > topk_group * (count // groups):
        raise fields.error(
            "num_experts_per_tok",
            "exceeds the experts a token may choose from",
            per_token,
            f"at most {topk_group * (count // groups)}",
        )
    if is_v3 and topk_group < groups and count // groups < 2:
        raise fields.error("n_group", "leaves groups of one expert", groups, "at least two experts a group")
    return ExpertConfig(
        n_routed_experts=count,
        n_shared_experts=fields.integer("n_shared_experts", 0, low=0),
        num_experts_per_tok=per_token,
        moe_intermediate_size=fields.integer("moe_intermediate_size"),
        first_k_dense_replace=fields.integer("first_k_dense_replace", 0, low=0),
        topk_method=method,
        scoring_func=scoring,
        n_group=groups,
        topk_group=topk_group,
        norm_topk_prob=fields.flag("norm_topk_prob", is_v3),
        routed_scaling_factor=fields.number("routed_scaling_factor", 1.0),
        moe_layer_freq=fields.integer("moe_layer_freq", 1),
    )


def _topk_method(fields: Fields, is_v3: bool) -> Literal["greedy", "group_limited_greedy", "noaux_tc"]:
    if is_v3:
        fields.must_be("topk_method", "noaux_tc")
        return "noaux_tc"
    name = fields.choice("topk_method", "greedy", ("greedy", "group_limited_greedy"))
    return "greedy" if name == "greedy" else "group_limited_greedy"


def _rope(fields: Fields, max_positions: int) -> RopeConfig:
    """Rotary embeddings in either spelling; both may stand there if they say the same."""
    theta = fields.get("rope_theta")
    found = [
        _rope_spelling(fields, name, theta, max_positions)
        for name in ("rope_parameters", "rope_scaling")
        if fields.get(name) is not None
    ]
    if not found:
        return RopeConfig(theta=_theta(fields, "rope_theta", theta))
    if found[0] != found[-1]:
        raise fields.error(
            "rope_scaling", "contradicts rope_parameters", shorten(fields.raw["rope_scaling"]), fix="keep one of them"
        )
    return found[0]


def _rope_spelling(fields: Fields, name: str, theta: object, max_positions: int) -> RopeConfig:
    given = fields.get(name)
    if not isinstance(given, dict):
        raise fields.error(name, "is not an object", shorten(given), "an object with rope_type")
    found = given.get("rope_type", given.get("type", "default"))
    if not isinstance(found, str) or found not in ROPE_FIELDS:
        raise fields.error(f"{name}.rope_type", "is not supported", shorten(found), ", ".join(ROPE_FIELDS))
    kind: RopeKind = found
    if given.get("type", kind) != kind:
        raise fields.error(f"{name}.type", "contradicts rope_type", shorten(given["type"]), kind, "keep one of them")
    if given.get("partial_rotary_factor", 1.0) != 1.0:
        factor = shorten(given["partial_rotary_factor"])
        raise fields.error(f"{name}.partial_rotary_factor", "is not supported", factor, "1.0")
    own_theta = given.get("rope_theta")
    if own_theta is not None and theta is not None and own_theta != theta:
        raise fields.error(
            f"{name}.rope_theta", "contradicts rope_theta", shorten(own_theta), shorten(theta), "keep one of them"
        )
    values = _rope_values(fields, name, kind, given)
    if kind in ("llama3", "yarn"):
        values.setdefault("original_max_position_embeddings", max_positions)
    if kind == "yarn":
        values.setdefault("factor", max_positions / values["original_max_position_embeddings"])
    base = _theta(fields, "rope_theta" if own_theta is None else f"{name}.rope_theta", own_theta or theta)
    return RopeConfig(theta=base, kind=kind, **values)


def _rope_values(fields: Fields, name: str, kind: RopeKind, given: Mapping[str, Any]) -> dict[str, Any]:
    own = ROPE_FIELDS[kind]
    known = {*own, "rope_type", "type", "rope_theta", "partial_rotary_factor"}
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key not in known:
            expected = ", ".join(own) or "no further field"
            raise fields.error(f"{name}.{key}", f"is unknown for rope_type {kind!r}", shorten(value), expected)
        if key not in own or value is None:
            continue
        if key == "truncate":
            if not isinstance(value, bool):
                raise fields.error(f"{name}.{key}", "is not usable", shorten(value), "true or false")
        elif not is_number(value) or value < 0 or (value == 0 and key not in ("mscale", "mscale_all_dim")):
            raise fields.error(f"{name}.{key}", "is not usable", shorten(value), "a number > 0")
        values[key] = value
    for key in _REQUIRED_ROPE_FIELDS.get(kind, ()):
        if key not in values:
            raise fields.error(f"{name}.{key}", "is missing", expected="a number > 0")
    if kind == "llama3" and values["low_freq_factor"] == values["high_freq_factor"]:
        found = values["high_freq_factor"]
        raise fields.error(f"{name}.high_freq_factor", "equals low_freq_factor", found, "a larger number")
    return values


def _theta(fields: Fields, name: str, value: Any) -> float:
    base = 10000.0 if value is None else value
    if not is_number(base) or base <= 1:
        raise fields.error(name, "is not usable", shorten(base), "a number > 1")
    return float(base)


def _fp8_blocks(fields: Fields) -> bool:
    quantization = fields.get("quantization_config")
    if quantization is None:
        return False
    name = "quantization_config"
    if not isinstance(quantization, dict):
        raise fields.error(name, "is not an object", shorten(quantization), "an object with quant_method")
    size = [FP8_BLOCK, FP8_BLOCK]
    for key, only in (("quant_method", "fp8"), ("fmt", "e4m3"), ("weight_block_size", size)):
        found = quantization.get(key, "e4m3" if key == "fmt" else None)
        if found != only:
            fix = "use the original checkpoint, or one in FP8 with 128x128 blocks"
            raise fields.error(f"{name}.{key}", "is not supported", shorten(found), repr(only), fix)
    return True


def write(config: ModelConfig) -> dict[str, Any]:
    """See `ModelConfig.to_hf`."""
    out: dict[str, Any] = {
        "architectures": [CLASS_NAMES[config.architecture]],
        "model_type": config.architecture,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
        "max_position_embeddings": config.max_position_embeddings,
        "tie_word_embeddings": config.tie_word_embeddings,
        "rope_theta": config.rope.theta,
        "rope_scaling": _rope_dict(config.rope),
        "bos_token_id": config.bos_token_id,
        "eos_token_id": _one_or_list(config.eos_token_ids),
        "torch_dtype": config.dtype,
    }
    if config.architecture == "llama":
        out |= {"head_dim": config.head_dim, "attention_bias": config.qkv_bias, "mlp_bias": config.mlp_bias}
    elif config.architecture == "qwen2":
        out |= {"head_dim": config.head_dim, "use_sliding_window": False}
    if config.latent:
        latent = config.latent
        out |= {
            "attention_bias": config.qkv_bias,
            "q_lora_rank": latent.q_lora_rank,
            "kv_lora_rank": latent.kv_lora_rank,
            "qk_nope_head_dim": latent.qk_nope_head_dim,
            "qk_rope_head_dim": latent.qk_rope_head_dim,
            "v_head_dim": latent.v_head_dim,
        }
        if config.architecture == "deepseek_v3":
            out |= {
                "rope_interleave": latent.rope_interleave,
                "num_nextn_predict_layers": config.num_nextn_predict_layers,
            }
    if config.experts:
        experts = config.experts
        for name in experts.__dataclass_fields__:
            out[name] = getattr(experts, name)
    if config.fp8_blocks:
        out["quantization_config"] = fp8_quantization()
    return out


def fp8_quantization() -> dict[str, Any]:
    """The `quantization_config` of DeepSeek-V3's own checkpoints."""
    return {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": [FP8_BLOCK, FP8_BLOCK],
    }


def _rope_dict(rope: RopeConfig) -> dict[str, Any] | None:
    if rope.kind == "default":
        return None
    values = {key: getattr(rope, key) for key in ROPE_FIELDS[rope.kind]}
    given = {key: value for key, value in values.items() if value is not None}
    return {"rope_type": rope.kind, "type": rope.kind} | given


def _one_or_list(ids: tuple[int, ...]) -> int | list[int] | None:
    if not ids:
        return None
    return ids[0] if len(ids) == 1 else list(ids)
