"""Reading and writing checkpoint directories: shards, memory, replacing an old checkpoint, a disk that fills up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hf_oracle import DENSE, V3, Checkpoint, Spec, make, oracle_logits, packed_logits, reload
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from deepseek.core.errors import CheckpointError
from deepseek.models import checkpoint as checkpoint_module
from deepseek.models.checkpoint import load_model, save_model
from deepseek.models.safetensors_files import INDEX_FILE, SINGLE_FILE


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return make(Spec("deepseek_v3", V3, 1), tmp_path_factory.mktemp("single"))


def test_shards_that_transformers_wrote_give_the_same_logits_as_one_file(saved: Checkpoint, tmp_path: Path) -> None:
    saved.oracle.save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    ids = saved.ids(30)
    assert torch.equal(packed_logits(load_model(tmp_path), ids), packed_logits(load_model(saved.path), ids))


def test_shards_that_we_wrote_are_read_by_transformers_and_by_us(
    saved: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "SHARD_BYTES", 100_000)
    model = load_model(saved.path)
    save_model(model, tmp_path)
    index = json.loads((tmp_path / INDEX_FILE).read_text())
    files = sorted(file.name for file in tmp_path.glob("*.safetensors"))
    assert len(files) > 2
    assert sorted(set(index["weight_map"].values())) == files
    assert all((tmp_path / file).stat().st_size < 110_000 for file in files)
    assert index["metadata"]["total_size"] == sum(t.nbytes for f in files for t in load_file(tmp_path / f).values())
    ids = saved.ids(30)
    assert torch.equal(packed_logits(load_model(tmp_path), ids), packed_logits(model, ids))
    assert torch.equal(oracle_logits(reload(saved, tmp_path), ids), saved.oracle_logits(ids))


def test_saving_over_shards_leaves_only_the_new_file(
    saved: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(saved.path)
    with monkeypatch.context() as small:
        small.setattr(checkpoint_module, "SHARD_BYTES", 100_000)
        save_model(model, tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    save_model(model, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", SINGLE_FILE, "tokenizer.json"]


def test_saving_over_the_checkpoint_a_model_came_from_is_safe(saved: Checkpoint, tmp_path: Path) -> None:
    save_model(load_model(saved.path), tmp_path)
    save_model(load_model(tmp_path), tmp_path)
    before, after = (load_file(path / SINGLE_FILE) for path in (saved.path, tmp_path))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_dtype_narrows_everything_but_the_correction_bias(saved: Checkpoint, tmp_path: Path) -> None:
    save_model(load_model(saved.path, packed=False), tmp_path, dtype=torch.bfloat16)
    kinds = {name.rpartition(".")[2]: tensor.dtype for name, tensor in load_file(tmp_path / SINGLE_FILE).items()}
    assert kinds == {"weight": torch.bfloat16, "e_score_correction_bias": torch.float32}
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "bfloat16"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left")])
def test_a_full_disk_is_one_clear_line_and_leaves_the_old_checkpoint(
    saved: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    model = load_model(saved.path)
    save_model(model, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def half_written(tensors: object, file: Path, metadata: object) -> None:
        file.write_bytes(b"half")
        raise error

    monkeypatch.setattr(checkpoint_module, "save_file", half_written)
    with pytest.raises(CheckpointError) as caught:
        save_model(model, tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert "No space left" in message
    assert "Fix: free space" in message
    assert "\n" not in message
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_place_that_cannot_be_a_directory_is_refused(saved: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_model(load_model(saved.path), tmp_path / "file" / "model")


def test_rotary_tables_of_old_exports_are_not_mistaken_for_weights(tmp_path: Path) -> None:
    checkpoint = make(Spec("llama", DENSE, 18), tmp_path)
    tensors = load_file(tmp_path / SINGLE_FILE)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.rand(6)
    save_file(tensors, tmp_path / SINGLE_FILE)
    ids = checkpoint.ids(20)
    assert (packed_logits(load_model(tmp_path), ids) - checkpoint.oracle_logits(ids)).abs().max().item() <= 1e-4


def test_a_tied_checkpoint_may_repeat_its_head(tmp_path: Path) -> None:
    make(Spec("qwen2", DENSE | {"tie_word_embeddings": True}, 22), tmp_path)
    tensors = load_file(tmp_path / SINGLE_FILE)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / SINGLE_FILE)
    assert load_model(tmp_path).lm_head is None
    tensors["lm_head.weight"][0, 0] += 1
    save_file(tensors, tmp_path / SINGLE_FILE)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight: differs from the tensor it shares"):
        load_model(tmp_path)


# Each case is loaded in its own fork, where no thread is: what it adds at its peak is the load's.
MEASURE = """
import json, os, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from deepseek import kernels
from deepseek.core.errors import DeepSeekError
from deepseek.models.checkpoint import load_model
from deepseek.models.config import ModelConfig
from deepseek.models.tensors import hf_slots
from deepseek.models.transformer import Model
from deepseek.precision.fp8 import scale_shape

kernels.describe()
torch.set_num_threads(1)

DENSE = dict(model_type="qwen2", hidden_size=512, intermediate_size=2048, num_hidden_layers=4, num_attention_heads=8,
             num_key_value_heads=2, max_position_embeddings=512)
TIED = DENSE | dict(vocab_size=130000, tie_word_embeddings=True, num_hidden_layers=2)
UNTIED = DENSE | dict(vocab_size=32000)
LATENT = dict(model_type="deepseek_v3", hidden_size=1024, intermediate_size=2048, num_hidden_layers=5, vocab_size=16000,
              num_attention_heads=8, num_key_value_heads=8, kv_lora_rank=128, q_lora_rank=256, qk_nope_head_dim=64,
              qk_rope_head_dim=32, v_head_dim=64, n_routed_experts=16, n_group=1, topk_group=1, num_experts_per_tok=2,
              n_shared_experts=1, moe_intermediate_size=768, first_k_dense_replace=1, max_position_embeddings=512)
FP8 = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
CASES = {
    "float32": (UNTIED, torch.float32, True),
    "float32 to train": (UNTIED, torch.float32, False),
    "float32 tied": (TIED, torch.float32, True),
    "bfloat16 tied": (TIED | dict(vocab_size=200000), torch.bfloat16, True),
    "fp8": (LATENT | FP8 | dict(num_hidden_layers=6), torch.bfloat16, True),
}

def write(path, raw, dtype):
    with torch.device("meta"):
        model = Model(ModelConfig.from_hf(raw))
    tensors = {}
    for name, slot in hf_slots(model).items():
        if slot.may_be_fp8 and "quantization_config" in raw:
            tensors[name] = torch.ones(slot.shape, dtype=torch.float8_e4m3fn)
            tensors[name + "_scale_inv"] = torch.ones(scale_shape(*slot.shape))
        else:
            tensors[name] = torch.ones(slot.shape, dtype=dtype)
    save_file(tensors, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(raw))
    return sum(tensor.nbytes for tensor in tensors.values())

def kilobytes(field):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])

def in_fork(work):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, str(work()).encode())
        os._exit(0)
    os.close(writer)
    answer = os.read(reader, 100)
    assert os.waitpid(child, 0)[1] == 0
    os.close(reader)
    return int(answer)

def peak(path, packed):
    load_model(tiny, packed=packed)  # a fork drops the pages of its code, and they are no part of what weights cost
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts here
    before = kilobytes("VmRSS")
    model = load_model(path, packed=packed)
    return (kilobytes("VmHWM") - before) * 1024

path, tiny = Path(sys.argv[1]), Path(sys.argv[2])
write(tiny, DENSE | dict(vocab_size=10, hidden_size=64, intermediate_size=64), torch.float32)
for name, (raw, dtype, packed) in CASES.items():
    stored = in_fork(lambda: write(path, raw, dtype))
    print(json.dumps([name, stored, in_fork(lambda: peak(path, packed))]), flush=True)
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's high-water mark of memory")
def test_loading_peaks_at_no_more_than_1_15_times_the_stored_form(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path), str(tmp_path / "tiny")],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "DEEPSEEK_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    cases = [json.loads(line) for line in run.stdout.splitlines()]
    print(
        *(f"{name}: {stored / 1e6:.0f} MB stored, peak {peak / stored:.3f}x" for name, stored, peak in cases), sep="\n"
    )
    assert [name for name, *_ in cases] == ["float32", "float32 to train", "float32 tied", "bfloat16 tied", "fp8"]
    for name, stored, peak in cases:
        assert stored > 80e6
        assert peak <= 1.15 * stored, name
