"""Quantising while a checkpoint loads: what becomes of each tensor, how close the model stays, what it takes of memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hf_oracle import CLASSES, DENSE, V2_LITE, V3, Checkpoint, Spec, edit_config, make, packed_logits, paged_logits
from safetensors.torch import load_file, save_file
from test_checkpoint import MEASURE

from deepseek import kernels
from deepseek.core.errors import CheckpointError, ConfigError
from deepseek.models import checkpoint as checkpoint_module
from deepseek.models.checkpoint import load_model, save_model
from deepseek.models.quantize import MODES, bits_of, choose, expected_bytes, weight_size
from deepseek.models.safetensors_files import SINGLE_FILE, read_headers
from deepseek.models.tensors import hf_slots
from deepseek.models.transformer import Model, Quantization
from deepseek.precision.fp8 import quantize_blocks
from deepseek.precision.integer import Bits, quantize_integer

# Sides around the blocks of 32 and 128 inputs, so that each mode quantises in several.
WIDE = {"hidden_size": 160, "intermediate_size": 300, "num_hidden_layers": 2}
WIDE_LATENT = WIDE | {"moe_intermediate_size": 130, "kv_lora_rank": 136, "qk_nope_head_dim": 40, "v_head_dim": 36}
SPECS = {
    "llama": Spec("llama", DENSE | WIDE, 1),
    "qwen2 tied": Spec("qwen2", DENSE | WIDE | {"tie_word_embeddings": True}, 2),
    "deepseek_v2": Spec("deepseek_v2", V2_LITE | WIDE_LATENT, 3),
    "deepseek_v3": Spec("deepseek_v3", V3 | WIDE_LATENT | {"q_lora_rank": 129}, 4),
}
INTEGER: tuple[Quantization, ...] = ("int8", "int4")


@pytest.fixture(scope="module", params=SPECS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    assert {spec.architecture for spec in SPECS.values()} == set(CLASSES)
    return make(SPECS[request.param], tmp_path_factory.mktemp(request.param.replace(" ", "-")))


@pytest.mark.parametrize("mode", INTEGER)
def test_logits_stay_near_those_of_the_stored_form(saved: Checkpoint, mode: Quantization) -> None:
    ids = saved.ids(60)
    exact = packed_logits(load_model(saved.path), ids)
    error = packed_logits(load_model(saved.path, quantization=mode), ids) - exact
    # Random weights amplify every error, and experts change hands: this is the noise of codes, not a measure of quality.
    relative = float(error.norm() / exact.norm())
    assert 1e-4 < relative < {"int8": 0.15, "int4": 0.6}[mode]


@pytest.mark.parametrize("mode", INTEGER)
def test_a_quantised_model_scores_the_same_in_any_steps(saved: Checkpoint, mode: Quantization) -> None:
    model = load_model(saved.path, quantization=mode)
    sequences = [saved.ids(30, 1), saved.ids(17, 2)]
    for stepped, ids in zip(paged_logits(model, sequences), sequences, strict=True):
        assert torch.equal(stepped, packed_logits(model, ids))


@pytest.mark.parametrize("mode", INTEGER)
def test_every_matrix_is_the_quantised_one_of_the_checkpoint_and_the_rest_as_it_was(
    saved: Checkpoint, mode: Quantization
) -> None:
    tensors = load_file(saved.path / SINGLE_FILE)
    model = load_model(saved.path, quantization=mode)
    kept = set()
    for name, slot in hf_slots(model).items():
        if slot.quantize_heads is not None:
            continue
        found, scales = slot.stored()
        bits = bits_of(name, slot, mode)
        if bits is None:
            kept.add(name.rpartition("layers.")[2].partition(".")[2] or name)
            assert torch.equal(found, tensors[name].float()) and scales is None, name
        else:
            expected = quantize_integer(tensors[name], bits)
            assert scales is not None and torch.equal(found, expected[0]) and torch.equal(scales, expected[1]), name
    assert all("norm" in name or name.endswith("bias") or name == "mlp.gate.weight" for name in kept), kept


def test_the_absorbed_halves_are_quantised_along_their_own_inputs(tmp_path: Path) -> None:
    checkpoint = make(SPECS["deepseek_v3"], tmp_path)
    tensors = load_file(checkpoint.path / SINGLE_FILE)
    attention = load_model(tmp_path, quantization="int8").layers[1].self_attn
    weight = tensors["model.layers.1.self_attn.kv_b_proj.weight"].view(4, 40 + 36, 136)
    for head in range(4):
        for packed, stored in (
            (attention.kv_b_proj.query_heads.weights[head], weight[head, :40].T),
            (attention.kv_b_proj.value_heads.weights[head], weight[head, 40:]),
        ):
            found, scales = kernels.unpack_weight(packed)
            expected = quantize_integer(stored, 8)
            assert scales is not None and torch.equal(found, expected[0]) and torch.equal(scales, expected[1])


def test_int4_keeps_8_bits_where_every_token_passes_or_where_it_measured_as_sensitive() -> None:
    def bits(name: str) -> Bits | None:
        return bits_of(name, slots[name], "int4")

    with torch.device("meta"):
        slots = hf_slots(Model(checkpoint_config(V3 | {"model_type": "deepseek_v3", "q_lora_rank": 40})))
    layer = "model.layers.1."
    assert bits("lm_head.weight") == bits("model.embed_tokens.weight") == 8
    assert bits(layer + "self_attn.kv_a_proj_with_mqa.weight") == bits(layer + "self_attn.kv_b_proj.weight") == 8
    assert bits("model.layers.0.mlp.down_proj.weight") == 8
    assert bits(layer + "mlp.experts.3.down_proj.weight") == bits(layer + "self_attn.q_b_proj.weight") == 4
    assert bits(layer + "mlp.gate.weight") is bits("model.norm.weight") is None


def checkpoint_config(raw: dict[str, object]) -> checkpoint_module.ModelConfig:
    return checkpoint_module.ModelConfig.from_hf(raw)


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16", "fp8"])
def test_every_stored_form_is_quantised_from_its_own_values(tmp_path: Path, stored: str) -> None:
    make(Spec("qwen2", DENSE | WIDE, 5), tmp_path)
    tensors = load_file(tmp_path / SINGLE_FILE)
    name = "model.layers.1.mlp.up_proj.weight"
    if stored == "fp8":
        edit_config(tmp_path, quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})
        tensors[name], tensors[name + "_scale_inv"] = quantize_blocks(tensors[name])
    else:
        tensors = {key: tensor.to(getattr(torch, stored)) for key, tensor in tensors.items()}
    save_file(tensors, tmp_path / SINGLE_FILE)
    expected = quantize_integer(tensors[name], 4, tensors.get(name + "_scale_inv"))
    packed = load_model(tmp_path, quantization="int4").layers[1].mlp.up_proj.packed
    found = kernels.unpack_weight(packed)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True) if other is not None)


def test_a_weight_that_is_not_finite_is_refused_by_its_name(tmp_path: Path) -> None:
    make(Spec("llama", DENSE, 6), tmp_path)
    tensors = load_file(tmp_path / SINGLE_FILE)
    name = "model.layers.2.self_attn.v_proj.weight"
    tensors[name][5, 7] = float("nan")
    save_file(tensors, tmp_path / SINGLE_FILE)
    with pytest.raises(CheckpointError, match=rf"{name}: holds a value that is not finite.*found nan at \[5, 7\]"):
        load_model(tmp_path, quantization="int8")


def test_a_quantised_model_is_neither_saved_nor_trained(tmp_path: Path) -> None:
    make(Spec("llama", DENSE, 7), tmp_path)
    with pytest.raises(CheckpointError, match=r"not written as a checkpoint; found .*int8.*Fix: load it with quant"):
        save_model(load_model(tmp_path, quantization="int8"), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    with pytest.raises(ConfigError, match="quantised model cannot be trained"):
        load_model(tmp_path, packed=False, quantization="int4")
    with pytest.raises(ConfigError, match="quantization: no such quantization; found int3; expected none or int8"):
        load_model(tmp_path, quantization="int3")  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", MODES)
def test_bytes_and_bits_are_those_of_the_packed_weights(saved: Checkpoint, mode: Quantization) -> None:
    model = load_model(saved.path, quantization=mode)
    entries = read_headers(saved.path)
    expected = expected_bytes(entries, hf_slots(model), mode)
    size = weight_size(model)
    assert size.weights == sum(parameter.numel() for parameter in saved.oracle.state_dict().values()) - sum(
        saved.oracle.state_dict()["lm_head.weight"].numel() for _ in range(saved.oracle.config.tie_word_embeddings)
    )
    # Sides that are no multiples of a panel or a block are padded, and these are small.
    assert expected <= size.nbytes * 1.01 and size.nbytes <= 1.5 * expected


def test_auto_takes_the_first_form_that_fits_into_60_percent_of_the_free_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(Spec("llama", DENSE | WIDE, 8), tmp_path)
    entries = read_headers(tmp_path)
    slots = hf_slots(load_model(tmp_path))
    sizes = {mode: expected_bytes(entries, slots, mode) for mode in MODES}
    assert sizes["none"] > sizes["int8"] > sizes["int4"]
    for mode in MODES:
        chosen, reason = choose("auto", entries, slots, int(sizes[mode] / 0.6) + 2)
        assert chosen == mode and f"auto: {mode} fits into 60% of" in reason
    assert choose("auto", entries, slots, 1) == ("int4", choose("auto", entries, slots, 1)[1])
    assert "is the smallest, and may not fit" in choose("auto", entries, slots, 1)[1]
    monkeypatch.setattr(checkpoint_module, "available_bytes", lambda: int(sizes["int8"] / 0.6) + 2)
    assert load_model(tmp_path, quantization="auto").quantization == "int8"
    assert "deepseek: quantization auto: int8 fits" in capsys.readouterr().err


PEAK = """
def peak(path, mode):
    load_model(tiny, quantization=mode)
    Path("/proc/self/clear_refs").write_text("5")
    before = kilobytes("VmRSS")
    model = load_model(path, quantization=mode)
    return (kilobytes("VmHWM") - before) * 1024

path, tiny = Path(sys.argv[1]), Path(sys.argv[2])
write(tiny, DENSE | dict(vocab_size=10, hidden_size=64, intermediate_size=64), torch.float32)
for name in ("float32 tied", "fp8"):
    raw, dtype, _ = CASES[name]
    raw = raw | ({"vocab_size": 60000} if "tie_word_embeddings" in raw else {"num_hidden_layers": 3})
    stored = in_fork(lambda: write(path, raw, dtype))
    with torch.device("meta"):
        slots = hf_slots(Model(ModelConfig.from_hf(raw)))
    for mode in ("int8", "int4"):
        quantised = expected_bytes(read_headers(path), slots, mode)
        print(json.dumps([name, mode, stored, quantised, in_fork(lambda: peak(path, mode))]), flush=True)
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's high-water mark of memory")
def test_loading_peaks_near_the_quantised_size_and_far_from_the_stored_one(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    imports = "from deepseek.models.quantize import expected_bytes\n"
    imports += "from deepseek.models.safetensors_files import read_headers\n"
    script = imports + MEASURE.partition("\ndef peak(")[0] + PEAK
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), str(tmp_path / "tiny")],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "DEEPSEEK_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    cases = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(cases) == 4
    for name, mode, stored, quantised, peak in cases:
        print(f"{name} {mode}: {stored / 1e6:.0f} MB stored, {quantised / 1e6:.0f} MB quantised, peak {peak / 1e6:.0f}")
        assert stored > 80e6
        # One piece of the checkpoint and its codes, the chunk that is being quantised, and what the C library keeps.
        assert peak <= 1.1 * quantised + 24e6, (name, mode)
