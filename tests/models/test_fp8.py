"""FP8 checkpoints: 128x128 blocks mean what DeepSeek says they mean, and survive a round trip byte for byte."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_oracle import (
    DENSE,
    V3,
    Checkpoint,
    Spec,
    edit_config,
    make,
    oracle_logits,
    packed_logits,
    paged_logits,
    reload,
)
from safetensors.torch import load_file, save_file
from torch import Tensor

from deepseek import kernels
from deepseek.core.errors import LayoutError
from deepseek.models import safetensors_files
from deepseek.models.checkpoint import load_model, save_model
from deepseek.models.safetensors_files import Reader, read_headers
from deepseek.precision.fp8 import dequantize_blocks, quantize_blocks

E4M3 = torch.float8_e4m3fn
QUANTIZATION = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
# Sides below, at, above and between multiples of 128.
WIDE_V3 = V3 | {
    "hidden_size": 160,
    "intermediate_size": 256,
    "moe_intermediate_size": 130,
    "kv_lora_rank": 136,
    "q_lora_rank": 129,
    "num_hidden_layers": 2,
}
WIDE_QWEN = DENSE | {"hidden_size": 192, "intermediate_size": 300, "num_hidden_layers": 2}


def plain_quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Block by block, in loops: what the V3 report describes."""
    rows, columns = weight.shape
    scale = torch.ones(-(-rows // 128), -(-columns // 128))
    out = torch.empty(rows, columns, dtype=E4M3)
    for i in range(scale.shape[0]):
        for j in range(scale.shape[1]):
            block = (slice(i * 128, (i + 1) * 128), slice(j * 128, (j + 1) * 128))
            scale[i, j] = weight[block].abs().max() / 448
            out[block] = (weight[block] / scale[i, j]).to(E4M3)
    return out, scale


def plain_dequantize(stored: Tensor, scale: Tensor) -> Tensor:
    rows, columns = stored.shape
    factors = scale[torch.arange(rows)[:, None] // 128, torch.arange(columns)[None, :] // 128]
    return stored.float() * factors


def quantize_checkpoint(path: Path) -> dict[str, Tensor]:
    """Rewrite a checkpoint's projections as FP8, the rest as bfloat16, like the released DeepSeek-V3."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in load_file(path / "model.safetensors").items():
        if "_proj" in name and tensor.dim() == 2:
            tensors[name], tensors[f"{name}_scale_inv"] = plain_quantize(tensor)
        else:
            tensors[name] = tensor if "e_score" in name else tensor.bfloat16()
    save_file(tensors, path / "model.safetensors")
    edit_config(path, quantization_config=QUANTIZATION, dtype="bfloat16")
    return tensors


@dataclass(frozen=True)
class Quantized:
    checkpoint: Checkpoint
    tensors: dict[str, Tensor]


@pytest.fixture(scope="module", params=["deepseek_v3", "qwen2"])
def quantized(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    config = WIDE_V3 if request.param == "deepseek_v3" else WIDE_QWEN
    checkpoint = make(Spec(request.param, config, 3), tmp_path_factory.mktemp("fp8"))
    return Quantized(checkpoint, quantize_checkpoint(checkpoint.path))


@pytest.fixture
def dequantized(quantized: Quantized, tmp_path: Path) -> Any:
    """transformers, reading the float32 weights that we made of the FP8 ones."""
    save_model(load_model(quantized.checkpoint.path, packed=False), tmp_path / "float32")
    return reload(quantized.checkpoint, tmp_path / "float32")


def test_logits_are_those_transformers_gives_our_float32_weights(quantized: Quantized, dequantized: Any) -> None:
    ids = quantized.checkpoint.ids(60)
    expected = oracle_logits(dequantized, ids)
    model = load_model(quantized.checkpoint.path)
    found = packed_logits(model, ids)
    assert expected.std().item() >= 1
    assert (found - expected).abs().max().item() <= 1e-4
    assert torch.equal(paged_logits(model, [ids], seed=4)[0], found)


def test_stored_values_are_multiplied_with_their_blocks_scale(quantized: Quantized, tmp_path: Path) -> None:
    save_model(load_model(quantized.checkpoint.path, packed=False), tmp_path)
    widened = load_file(tmp_path / "model.safetensors")
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    for name, tensor in widened.items():
        stored = quantized.tensors[name]
        scale = quantized.tensors.get(f"{name}_scale_inv")
        assert torch.equal(tensor, stored.float() if scale is None else plain_dequantize(stored, scale)), name


def test_saving_a_served_model_gives_the_same_bytes(quantized: Quantized, tmp_path: Path) -> None:
    save_model(load_model(quantized.checkpoint.path), tmp_path)
    again = load_file(tmp_path / "model.safetensors")
    assert again.keys() == quantized.tensors.keys()
    for name, tensor in quantized.tensors.items():
        assert again[name].dtype == tensor.dtype, name
        assert torch.equal(again[name].view(torch.uint8), tensor.view(torch.uint8)), name
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["quantization_config"] == QUANTIZATION
    assert written["torch_dtype"] == "bfloat16"


def test_a_trained_model_saved_in_fp8_loads_back_within_the_formats_step(tmp_path: Path) -> None:
    checkpoint = make(Spec("deepseek_v3", WIDE_V3, 5), tmp_path / "float32")
    trained = load_model(checkpoint.path, packed=False)
    save_model(trained, tmp_path / "fp8", fp8_blocks=True, dtype=torch.bfloat16)
    stored = load_file(tmp_path / "fp8" / "model.safetensors")
    before = load_file(checkpoint.path / "model.safetensors")
    assert stored["model.layers.1.mlp.experts.3.down_proj.weight"].dtype == E4M3
    assert stored["model.layers.1.mlp.gate.weight"].dtype == torch.bfloat16
    assert stored["model.layers.1.mlp.gate.e_score_correction_bias"].dtype == torch.float32
    for name, weight in before.items():
        scale = stored.get(f"{name}_scale_inv")
        if scale is not None:
            error = (plain_dequantize(stored[name], scale) - weight).abs()
            # Half of e4m3's step: 2^-4 of the value, and of its smallest normal number near zero.
            assert bool((error <= weight.abs() * 2**-4 + scale.max() * 2**-10).all()), name
    ids = checkpoint.ids(40)
    served = packed_logits(load_model(tmp_path / "fp8"), ids)
    training = packed_logits(load_model(tmp_path / "fp8", packed=False), ids)
    assert (served - training).abs().max().item() <= 1e-4
    assert torch.nn.functional.cosine_similarity(served, checkpoint.oracle_logits(ids)).min().item() > 0.5


@pytest.mark.parametrize("shape", [(1, 1), (128, 128), (127, 129), (256, 384), (300, 5)])
def test_quantising_agrees_with_loops_over_blocks(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    stored, scale = quantize_blocks(weight)
    plain, plain_scale = plain_quantize(weight)
    assert torch.equal(scale, plain_scale)
    assert torch.equal(stored.view(torch.uint8), plain.view(torch.uint8))
    assert torch.equal(dequantize_blocks(stored, scale), plain_dequantize(stored, scale))


def test_a_block_of_zeros_stays_zero() -> None:
    stored, scale = quantize_blocks(torch.zeros(130, 4))
    assert torch.equal(scale, torch.ones(2, 1))
    assert torch.equal(dequantize_blocks(stored, scale), torch.zeros(130, 4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", ["deepseek_v3", "llama"])
def test_half_precision_checkpoints_are_computed_in_float32_and_saved_as_they_were(
    architecture: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    checkpoint = make(Spec(architecture, V3 if architecture == "deepseek_v3" else DENSE, 6), tmp_path / "float32")
    checkpoint.oracle.to(dtype).save_pretrained(tmp_path / "half")
    ids = checkpoint.ids(50)
    model = load_model(tmp_path / "half")
    expected = oracle_logits(reload(checkpoint, tmp_path / "half"), ids)
    assert (packed_logits(model, ids) - expected).abs().max().item() <= 1e-4
    save_model(model, tmp_path / "again")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("half", "again"))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype, name
        assert torch.equal(after[name], tensor), name


def test_a_checkpoint_read_in_pieces_gives_the_same_bits(quantized: Quantized, monkeypatch: pytest.MonkeyPatch) -> None:
    path, ids = quantized.checkpoint.path, quantized.checkpoint.ids(30)
    whole = [load_model(path, packed=packed) for packed in (True, False)]
    monkeypatch.setattr(safetensors_files, "_SMALLEST_WINDOW_BYTES", 1)
    assert len(list(Reader(read_headers(path)).pieces("model.embed_tokens.weight"))) == 2
    pieces = [load_model(path, packed=packed) for packed in (True, False)]
    for one, other in zip(whole, pieces, strict=True):
        assert torch.equal(packed_logits(one, ids), packed_logits(other, ids))


@pytest.mark.parametrize("rows", [[100, 100], [128], [128, 128], []])
def test_pieces_that_are_not_the_weight_are_refused(rows: list[int]) -> None:
    with pytest.raises(LayoutError, match=r"piece"):
        kernels.pack_pieces((200, 4), [torch.ones(count, 4) for count in rows])
