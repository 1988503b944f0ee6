"""Tiny random checkpoints that transformers made, and how it and we compute with them: shared by the model tests.

Weights are scaled so that logits spread and greedy decoding wanders: comparing near-constant outputs proves nothing.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from deepseek.models.context import KVCache, Packed, Paged
from deepseek.models.transformer import Model

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

CLASSES = {
    "deepseek_v2": (transformers.DeepseekV2Config, transformers.DeepseekV2ForCausalLM),
    "deepseek_v3": (transformers.DeepseekV3Config, transformers.DeepseekV3ForCausalLM),
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
}
NO_SPECIAL_IDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}

V3 = {
    "vocab_size": 131,
    "hidden_size": 48,
    "intermediate_size": 72,
    "moe_intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "q_lora_rank": 40,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "qk_nope_head_dim": 12,
    "n_routed_experts": 8,
    "n_group": 4,
    "topk_group": 2,
    "num_experts_per_tok": 3,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "max_position_embeddings": 512,
    "num_nextn_predict_layers": 0,
}
V2_LITE = {key: value for key, value in V3.items() if key != "num_nextn_predict_layers"} | {
    "q_lora_rank": None,
    "topk_method": "greedy",
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 2,
}
DENSE = {
    "vocab_size": 131,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def yarn(factor: float = 8.0, **fields: float) -> dict[str, Any]:
    return {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": factor,
        "original_max_position_embeddings": 64,
        "beta_fast": 32,
        "beta_slow": 1,
    } | fields


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@dataclass(frozen=True)
class Spec:
    """A checkpoint to make: a transformers config, and the seed of its weights."""

    architecture: str
    config: dict[str, Any] = field(repr=False)
    seed: int = 0


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    oracle: Any
    spec: Spec

    @property
    def vocab_size(self) -> int:
        return int(self.spec.config["vocab_size"])

    def ids(self, count: int, seed: int = 0) -> Tensor:
        return torch.randint(0, self.vocab_size, (count,), generator=torch.Generator().manual_seed(seed))

    def oracle_logits(self, ids: Tensor) -> Tensor:
        return oracle_logits(self.oracle, ids)


def make(spec: Spec, path: Path, **save: Any) -> Checkpoint:
    """Let transformers make, fill and save a checkpoint."""
    config_class, model_class = CLASSES[spec.architecture]
    torch.manual_seed(spec.seed)
    oracle = plain_experts(model_class(config_class(**spec.config | NO_SPECIAL_IDS)).eval().float())
    fill(oracle, spec.seed)
    oracle.save_pretrained(path, **save)
    return Checkpoint(path, oracle, spec)


def fill(oracle: Any, seed: int) -> None:
    """Weights that keep activations near one, logits spread, and routers decided."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*oracle.named_parameters(), *oracle.named_buffers()):
            if "norm" in name:
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif "e_score_correction_bias" in name:
                tensor.normal_(0, 0.1, generator=generator)
            elif name.endswith("bias"):
                tensor.normal_(0, 0.3, generator=generator)
            elif "embed_tokens" in name or "lm_head" in name:
                tensor.normal_(0, 0.35, generator=generator)
            elif "inv_freq" not in name:
                tensor.normal_(0, 1.3 / max(1, tensor.shape[-1]) ** 0.5, generator=generator)


def oracle_logits(oracle: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = oracle(ids[None]).logits[0]
    return logits


def oracle_greedy(oracle: Any, prompt: Tensor, count: int) -> list[int]:
    out = oracle.generate(
        prompt[None],
        attention_mask=torch.ones_like(prompt[None]),
        max_new_tokens=count,
        do_sample=False,
        pad_token_id=0,
    )
    return [int(token) for token in out[0, prompt.shape[0] :]]


def reload(checkpoint: Checkpoint, path: Path) -> Any:
    """What transformers makes of a directory we wrote."""
    model_class = CLASSES[checkpoint.spec.architecture][1]
    return plain_experts(model_class.from_pretrained(path, dtype=torch.float32).eval())


def plain_experts(oracle: Any) -> Any:
    """transformers' default, one grouped product, wants sides that are multiples of 16 bytes."""
    if hasattr(oracle.config, "n_routed_experts"):
        oracle.set_experts_implementation("eager")
    return oracle


def packed_logits(model: Model, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model.logits(model(ids, Packed.of([ids.shape[0]])))


class Sequences:
    """The least a worker does: several sequences in one cache, whose blocks lie scattered."""

    def __init__(self, model: Model, count: int, longest: int, block_size: int, seed: int = 0) -> None:
        self.model, self.block_size = model, block_size
        blocks = -(-longest // block_size)
        order = list(range(count * blocks + 3))
        random.Random(seed).shuffle(order)
        self.tables = torch.tensor(order[: count * blocks], dtype=torch.int32).view(count, blocks)
        config = model.config
        layers = config.num_hidden_layers + config.num_nextn_predict_layers
        self.cache = KVCache(config, len(order) * block_size, layers=layers)
        for pool in {id(keys): keys for pair in self.cache.pools for keys in pair}.values():
            pool.fill_(1e30)  # what was never written must never be read

    def context(self, spans: list[tuple[int, int, int]]) -> Paged:
        """For tokens first .. last of some sequences: (sequence, first, last)."""
        positions = torch.cat([torch.arange(first, last) for _, first, last in spans])
        sequence = torch.cat([torch.full((last - first,), row, dtype=torch.int32) for row, first, last in spans])
        blocks = self.tables[sequence.long(), positions // self.block_size].long()
        slots = blocks * self.block_size + positions % self.block_size
        return Paged(self.cache, positions, slots, sequence, self.tables, self.block_size)

    def step(self, ids: Tensor, spans: list[tuple[int, int, int]]) -> Tensor:
        with torch.no_grad():
            hidden: Tensor = self.model(ids, self.context(spans))
        return hidden


def paged_logits(model: Model, sequences: list[Tensor], seed: int = 0, block_size: int = 4) -> list[Tensor]:
    """Logits of every token, computed in steps of random pieces of random sequences."""
    rng = random.Random(seed)
    worker = Sequences(model, len(sequences), max(map(len, sequences)), block_size, seed)
    done = [0] * len(sequences)
    pieces: list[list[Tensor]] = [[] for _ in sequences]
    while any(count < len(ids) for count, ids in zip(done, sequences, strict=True)):
        spans = []
        for row in rng.sample(range(len(sequences)), rng.randint(1, len(sequences))):
            left = len(sequences[row]) - done[row]
            if left:
                taken = min(left, rng.choice((1, 1, 2, 3, 7, 20, 60)))
                spans.append((row, done[row], done[row] + taken))
        if not spans:
            continue
        hidden = worker.step(torch.cat([sequences[row][first:last] for row, first, last in spans]), spans)
        with torch.no_grad():
            logits = model.logits(hidden)
        for (row, _, last), part in zip(spans, logits.split([last - first for _, first, last in spans]), strict=True):
            pieces[row].append(part)
            done[row] = last
    return [torch.cat(parts) for parts in pieces]


def greedy(model: Model, prompt: Tensor, count: int) -> list[int]:
    """Greedy decoding through the paged cache."""
    worker = Sequences(model, 1, len(prompt) + count, block_size=16)
    tokens, first = prompt, 0
    out: list[int] = []
    for _ in range(count):
        hidden = worker.step(tokens, [(0, first, first + len(tokens))])
        with torch.no_grad():
            out.append(int(model.logits(hidden[-1:]).argmax()))
        first += len(tokens)
        tokens = torch.tensor(out[-1:])
    return out


def edit_config(path: Path, **changes: Any) -> None:
    """Change fields of a directory's config.json; None removes one."""
    file = path / "config.json"
    raw = json.loads(file.read_text())
    for key, value in changes.items():
        if value is None:
            raw.pop(key, None)
        else:
            raw[key] = value
    file.write_text(json.dumps(raw))


def random_spec(seed: int) -> Spec:
    """A config of odd sides that nobody chose."""
    rng = random.Random(seed)
    architecture = rng.choice(sorted(CLASSES))
    heads = rng.choice((1, 2, 3, 5, 6))
    layers = rng.randint(1, 4)
    config: dict[str, Any] = {
        "vocab_size": rng.choice((33, 97, 131, 256)),
        "hidden_size": heads * rng.choice((2, 6, 10, 14, 34)) if architecture != "deepseek_v3" else rng.randint(5, 90),
        "intermediate_size": rng.randint(3, 90),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": 512,
        "rms_norm_eps": rng.choice((1e-6, 1e-5)),
        "tie_word_embeddings": rng.random() < 0.3,
        "rope_parameters": rng.choice(
            (
                {"rope_type": "default", "rope_theta": rng.choice((10000.0, 1e6))},
                {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5},
                LLAMA3,
                yarn(rng.choice((1.5, 8.0, 40.0))),
                yarn(4.0, mscale=0.707, mscale_all_dim=0.707),
                yarn(4.0, mscale=1.0, mscale_all_dim=0.5),
                yarn(4.0, mscale_all_dim=0.8),
                yarn(4.0, attention_factor=1.3, truncate=False),
            )
        ),
    }
    if architecture in ("llama", "qwen2"):
        config["num_key_value_heads"] = rng.choice([n for n in range(1, heads + 1) if heads % n == 0])
    if architecture == "llama":
        config |= {
            "attention_bias": rng.random() < 0.5,
            "mlp_bias": rng.random() < 0.5,
            "head_dim": rng.choice((2, 8, 18, 32)),
        }
    if architecture.startswith("deepseek"):
        groups = rng.choice((1, 2, 4))
        per_group = rng.choice((2, 3, 4))
        topk_group = rng.randint(1, groups)
        config |= {
            "attention_bias": rng.random() < 0.3,
            "q_lora_rank": rng.choice((None, rng.randint(3, 50))),
            "kv_lora_rank": rng.randint(3, 50),
            "qk_nope_head_dim": rng.randint(1, 30),
            "qk_rope_head_dim": 2 * rng.randint(1, 12),
            "v_head_dim": rng.randint(1, 40),
            "moe_intermediate_size": rng.randint(3, 40),
            "n_routed_experts": groups * per_group,
            "n_shared_experts": rng.randint(0, 2),
            "num_experts_per_tok": rng.randint(1, topk_group * per_group),
            "first_k_dense_replace": rng.choice((0, 0, 1, layers)),
            "routed_scaling_factor": rng.choice((1.0, 2.5)),
            "n_group": groups,
            "topk_group": topk_group,
        }
    if architecture == "deepseek_v3":
        config |= {
            "rope_interleave": rng.random() < 0.7,
            "norm_topk_prob": rng.random() < 0.7,
            "num_nextn_predict_layers": 0,
        }
    if architecture == "deepseek_v2":  # transformers views these as complex numbers
        config |= {name: config[name] + config[name] % 2 for name in ("kv_lora_rank", "qk_nope_head_dim")}
        config["topk_method"] = rng.choice(("greedy", "group_limited_greedy"))
    return Spec(architecture, config, seed)
