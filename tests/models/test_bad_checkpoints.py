"""Damaged and foreign checkpoints: one clear line each, naming file, tensor or field, found, expected and fix."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hf_oracle import DENSE, Spec, edit_config, make
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from deepseek.core.errors import CheckpointError, ConfigError
from deepseek.models.checkpoint import load_model
from deepseek.models.safetensors_files import INDEX_FILE, SINGLE_FILE

Q = "model.layers.1.self_attn.q_proj.weight"
NORM = "model.layers.0.input_layernorm.weight"
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
WHERE = "{dir}/" + SINGLE_FILE


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good")
    make(Spec("llama", DENSE | {"num_hidden_layers": 2}, 18), path)
    return path


@pytest.fixture
def directory(good: Path, tmp_path: Path) -> Path:
    path = tmp_path / "model"
    shutil.copytree(good, path)
    return path


def edit(path: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(path / SINGLE_FILE)
    change(tensors)
    save_file(tensors, path / SINGLE_FILE)


def refusal(path: Path, kind: type[Exception] = CheckpointError) -> str:
    messages = []
    for packed in (True, False):
        with pytest.raises(kind) as caught:
            load_model(path, packed=packed)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "\n" not in messages[0]
    return messages[0]


def to_fp8(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float8_e4m3fn)


def set_tensor(name: str, value: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.update({name: value(tensors[name])})


# What was done to the tensors, and the parts of the message: where, what, found, expected, fix.
DAMAGE: list[tuple[str, Callable[[dict[str, Tensor]], None], list[str]]] = [
    ("missing", lambda t: t.__delitem__(Q),
     ["1 of 21 tensors are missing", f"found no {Q}", "expected shape [48, 48]", "every file was downloaded"]),
    ("extra", lambda t: t.update({"model.layers.0.self_attn.q_norm.weight": torch.ones(12)}),
     [f"{WHERE}: model.layers.0.self_attn.q_norm.weight: is a tensor the model has no place for", "found F32 [12]",
      "check that config.json belongs to these weights"]),
    ("a layer too many", lambda t: t.update({"model.layers.2.input_layernorm.weight": torch.ones(48)}),
     ["model.layers.2.input_layernorm.weight: is a tensor the model has no place for"]),
    ("misshapen", set_tensor(Q, lambda w: w[:40].clone()),
     [f"{WHERE}: {Q}: has the wrong shape", "found [40, 48]", "expected [48, 48]", "Fix: "]),
    ("integers", set_tensor(Q, lambda w: w.to(torch.int8)),
     [f"{WHERE}: {Q}: has a type we do not read", "found I8", "expected BF16, F16, F32, F8_E4M3", "Fix: convert"]),
    ("double", set_tensor(NORM, lambda w: w.double()), [f"{NORM}: has a type we do not read", "found F64"]),
    ("fp8 without config", set_tensor(Q, to_fp8),
     [f"{WHERE}: {Q}: is FP8 without a description", "no quantization_config in config.json", '"weight_block_size"']),
]  # fmt: skip


@pytest.mark.parametrize(("change", "parts"), [case[1:] for case in DAMAGE], ids=[case[0] for case in DAMAGE])
def test_damaged_tensors_are_named(
    directory: Path, change: Callable[[dict[str, Tensor]], None], parts: list[str]
) -> None:
    edit(directory, change)
    message = refusal(directory)
    for part in parts:
        assert part.replace("{dir}", str(directory)) in message


def scaled(shape: tuple[int, int], value: float = 1.0) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[Q] = to_fp8(tensors[Q])
        tensors[f"{Q}_scale_inv"] = torch.full(shape, value)

    return change


FP8_DAMAGE: list[tuple[str, Callable[[dict[str, Tensor]], None], list[str]]] = [
    ("no scales", set_tensor(Q, to_fp8), [f"{Q}: has no fitting block scales", f"found no {Q}_scale_inv", "F32 [1, 1]"]),
    ("misshapen scales", scaled((1, 2)), [f"{Q}: has no fitting block scales", "found F32 [1, 2]", "F32 [1, 1]"]),
    ("a norm", set_tensor(NORM, to_fp8), [f"{NORM}: may not be FP8", "found F8_E4M3", "BF16, F16 or F32"]),
    ("an embedding", set_tensor("model.embed_tokens.weight", to_fp8), ["embed_tokens.weight: may not be FP8"]),
    ("scales of nothing", lambda t: t.update({f"{Q}_scale_inv": torch.ones(1, 1)}), [f"{Q}_scale_inv: is a tensor"]),
]  # fmt: skip


@pytest.mark.parametrize(("change", "parts"), [case[1:] for case in FP8_DAMAGE], ids=[case[0] for case in FP8_DAMAGE])
def test_damaged_fp8_is_named(directory: Path, change: Callable[[dict[str, Tensor]], None], parts: list[str]) -> None:
    edit_config(directory, quantization_config=FP8)
    edit(directory, change)
    message = refusal(directory)
    for part in parts:
        assert part in message


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_scales_that_are_no_numbers_are_refused_where_they_stand(directory: Path, value: float) -> None:
    edit_config(directory, quantization_config=FP8)
    edit(directory, scaled((1, 1), value))
    with pytest.raises(CheckpointError) as caught:
        load_model(directory)
    assert f"{SINGLE_FILE}: {Q}: " in str(caught.value)
    assert "scale_inv" in str(caught.value)


@pytest.mark.parametrize("keep", [0, 4, 8, 100, 5000, -1])
def test_a_truncated_file_is_named_with_its_size(directory: Path, keep: int) -> None:
    file = directory / SINGLE_FILE
    content = file.read_bytes()[:keep]
    file.write_bytes(content)
    message = refusal(directory)
    assert f"{file}: is not a whole safetensors file" in message
    assert f"found {len(content)} bytes" in message
    assert "download it again" in message


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"num_hidden_layers": 3}, ["9 of 30 tensors are missing", "found no model.layers.2.", "config.json belongs"]),
        ({"num_hidden_layers": 1}, ["model.layers.1.", "no place for"]),
        ({"num_hidden_layers": 1_000_000}, ["num_hidden_layers does not fit", "found 21 tensors", "at least 1000000"]),
        ({"vocab_size": 132}, ["model.embed_tokens.weight: has the wrong shape", "[131, 48]", "[132, 48]"]),
        ({"hidden_size": 2**20, "intermediate_size": 2**20}, ["has the wrong shape", "1048576"]),
        ({"attention_bias": True}, ["tensors are missing", "q_proj.bias"]),
        ({"tie_word_embeddings": True}, ["lm_head.weight: differs from the tensor it shares", "tie_word_embeddings"]),
    ],
)
def test_a_config_of_other_weights_is_refused_before_anything_is_made(
    directory: Path, change: dict[str, object], parts: list[str]
) -> None:
    edit_config(directory, **change)
    message = refusal(directory)
    for part in parts:
        assert part in message


def shard(path: Path) -> dict[str, str]:
    """Cut the single file in two, with an index."""
    tensors = load_file(path / SINGLE_FILE)
    (path / SINGLE_FILE).unlink()
    names = sorted(tensors)
    weight_map = {}
    for file, part in (("one.safetensors", names[:9]), ("two.safetensors", names[9:])):
        save_file({name: tensors[name] for name in part}, path / file)
        weight_map |= dict.fromkeys(part, file)
    (path / INDEX_FILE).write_text(json.dumps({"weight_map": weight_map}))
    return weight_map


def test_a_missing_shard_is_named(directory: Path) -> None:
    shard(directory)
    assert load_model(directory).is_packed
    (directory / "two.safetensors").unlink()
    message = refusal(directory)
    assert f"{directory / INDEX_FILE}: names a file that is not there" in message
    assert "found no two.safetensors" in message
    assert "finish the download" in message


def test_a_tensor_in_two_shards_is_named(directory: Path) -> None:
    weight_map = shard(directory)
    first, second = (load_file(directory / name) for name in ("one.safetensors", "two.safetensors"))
    name = next(name for name, file in weight_map.items() if file == "one.safetensors")
    save_file(second | {name: first[name]}, directory / "two.safetensors")
    message = refusal(directory)
    assert f"two.safetensors: {name}: stands in two files" in message
    assert "one.safetensors" in message


@pytest.mark.parametrize(
    "name", ["../one.safetensors", "/etc/passwd", "..", ".", "", "a/b.safetensors", "x\0", 7, None]
)
def test_an_index_that_leads_out_of_the_checkpoint_is_refused(directory: Path, name: object) -> None:
    weight_map = shard(directory)
    (directory / INDEX_FILE).write_text(json.dumps({"weight_map": weight_map | {Q: name}}))
    message = refusal(directory)
    assert f"{INDEX_FILE}: {Q}: names a file outside the checkpoint" in message
    assert f"found {name!r}" in message


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "[" * 100_000, "\0"])
def test_an_index_that_cannot_be_read_is_named(directory: Path, text: str) -> None:
    shard(directory)
    (directory / INDEX_FILE).write_text(text)
    message = refusal(directory)
    assert str(directory / INDEX_FILE) in message
    assert "expected" in message


@pytest.mark.parametrize("other", ["pytorch_model.bin", "consolidated.00.pth", "model.gguf"])
def test_pickled_and_foreign_weights_are_never_opened(directory: Path, other: str) -> None:
    (directory / SINGLE_FILE).rename(directory / other)
    message = refusal(directory)
    assert f"{directory}: has no weights we read; found {other}" in message
    assert "convert the checkpoint to safetensors" in message


def test_no_weights_at_all_says_so(directory: Path) -> None:
    (directory / SINGLE_FILE).unlink()
    assert "finish the download" in refusal(directory)


def test_a_directory_that_is_not_there_is_a_config_error(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "nowhere", ConfigError)


@given(data=st.data())
def test_no_flipped_or_cut_header_gives_anything_but_a_clear_error(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, good: Path
) -> None:
    content = bytearray((good / SINGLE_FILE).read_bytes())
    header = 8 + struct.unpack("<Q", content[:8])[0]
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.mkdir(exist_ok=True)
    shutil.copy(good / "config.json", path)
    (path / SINGLE_FILE).write_bytes(content)
    try:
        load_model(path)
    except CheckpointError as error:
        assert str(path) in str(error)
