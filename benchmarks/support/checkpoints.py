"""The checkpoints benchmarks run on, and what one step of a model has to read and multiply."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import decoders, models, pre_tokenizers
from torch import nn

from deepseek.models.checkpoint import load_model, save_model
from deepseek.models.config import ModelConfig
from deepseek.models.locate import locate
from deepseek.models.quantize import bits_of
from deepseek.models.safetensors_files import read_headers
from deepseek.models.tensors import hf_slots
from deepseek.models.transformer import Model, Quantization
from deepseek.precision.integer import bits_per_weight

QWEN2_0_4B: dict[str, Any] = {
    "model_type": "qwen2",
    "vocab_size": 32000,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
}
"""The shape of Qwen2-0.5B with a vocabulary of 32,000: 386 M parameters."""

MIXTURE_1B: dict[str, Any] = {
    "model_type": "deepseek_v3",
    "vocab_size": 32000,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "max_position_embeddings": 2048,
    "rope_theta": 10000.0,
    "q_lora_rank": 512,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 32,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
    "moe_intermediate_size": 768,
    "first_k_dense_replace": 1,
    "norm_topk_prob": True,
    "tie_word_embeddings": False,
}
"""DeepSeek-V2-Lite at half its width with V3's router: 1.04 B parameters, of which a token computes 0.33 B."""

END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True, slots=True)
class Work:
    """What one decode step of some streams must do at least: weight bytes read once, operations for each token."""

    bytes_per_step: int
    flop_per_token: int
    model_bytes: int


def work_of(directory: Path, streams: int = 1, quantization: Quantization = "none") -> Work:
    """Read off the headers of a checkpoint. Draft layers and keys and values are left out.

    Of the routed experts a token computes its top k; a step of several streams reads at most all of them, and is
    counted as reading as many as it may choose. quantization: what the engine makes of the weights while it loads them.
    """
    config = ModelConfig.from_file(directory)
    chosen = read = 1.0
    if config.experts is not None:
        chosen = config.experts.num_experts_per_tok / config.experts.n_routed_experts
        read = min(1.0, streams * chosen)
    with torch.device("meta"):
        slots = hf_slots(Model(config))
    bytes_per_step = flop = total = 0.0
    for name, entry in read_headers(directory).items():
        layer = name.split(".")[2] if name.startswith("model.layers.") else ""
        only_looked_up = name == "model.embed_tokens.weight" and not config.tie_word_embeddings
        if only_looked_up or (layer and int(layer) >= config.num_hidden_layers):
            continue
        bits = bits_of(name, slots[name], quantization) if name in slots else None
        nbytes = entry.nbytes if bits is None else math.prod(entry.shape) * bits_per_weight(bits) / 8
        is_routed = ".mlp.experts." in name
        total += nbytes
        bytes_per_step += nbytes * (read if is_routed else 1.0)
        if len(entry.shape) == 2 and not name.endswith("_scale_inv"):
            flop += 2 * entry.shape[0] * entry.shape[1] * (chosen if is_routed else 1.0)
    return Work(int(bytes_per_step), int(flop), int(total))


def float32_copy(model: str, directory: Path) -> Path:
    """The same weights, dequantised to float32 and without draft layers, in Hugging Face form."""
    source = load_model(locate(model), packed=False)
    source.mtp = nn.ModuleList()
    source.config = replace(source.config, num_nextn_predict_layers=0)
    save_model(source, directory, dtype=torch.float32)
    return directory


def random_checkpoint(shape: dict[str, Any], cache: Path, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """A checkpoint with seeded random weights and a byte-level tokenizer that fills its vocabulary.

    Written once: found again by its shape, seed and dtype. Weights keep activations near one, so that greedy output
    wanders.
    """
    name = "-".join(str(value) for key, value in shape.items() if isinstance(value, str | int) and key != "rope_theta")
    precision = "" if dtype == torch.float32 else "-" + str(dtype).removeprefix("torch.")
    directory = cache / f"{name}{precision}-seed{seed}"
    if (directory / "complete").exists():
        return directory
    shutil.rmtree(directory, ignore_errors=True)
    model = Model(ModelConfig.from_hf(shape))
    _fill(model, seed)
    save_model(model, directory, dtype=dtype)
    _write_tokenizer(directory, int(shape["vocab_size"]))
    (directory / "complete").touch()
    return directory


def available_gib() -> float:
    """Memory that can be taken without swapping."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) / 2**20
    except OSError:
        pass  # not Linux: all there is
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _fill(model: Model, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1, generator=generator)
            else:
                # Tied: the embedding is the head too, so its rows are kept short enough for logits near one.
                parameter.normal_(0, 1.5 / parameter.shape[-1] ** 0.5, generator=generator)


def _write_tokenizer(directory: Path, vocab_size: int) -> None:
    """Every byte, then made-up words, so that any id stands for some text and detokenising costs what it costs.

    The last word is the one that transformers adds to a Qwen2 vocabulary which lacks it, past its end.
    """
    words = sorted(pre_tokenizers.ByteLevel.alphabet())
    made_up = (f"Ġ{number:x}" for number in range(vocab_size))
    vocabulary = (words + [word for word in made_up if word not in words])[: vocab_size - 1]
    merges = [(word[:-1], word[-1]) for word in vocabulary[len(words) :]]
    tokenizer = HFTokenizer(models.BPE({word: index for index, word in enumerate(vocabulary)}, merges))
    tokenizer.add_special_tokens([END_OF_TEXT])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
