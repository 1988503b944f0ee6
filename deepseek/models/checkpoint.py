"""Hugging Face checkpoints, in and out: `config.json` beside one or many safetensors files.

Loading looks at every file's header first, so that a missing, extra, misshapen or truncated tensor is reported before
any work is done. Then weights are read through a memory map and packed one by one, the largest first: the map is let go
as soon as a tensor has been taken, so the peak stays close to what the weights themselves need.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from deepseek.core.errors import CheckpointError, ConfigError, LayoutError
from deepseek.core.memory import available_bytes, return_free_memory
from deepseek.models.config import ModelConfig
from deepseek.models.config_hf import fp8_quantization
from deepseek.models.layers import join_rows
from deepseek.models.quantize import RULES_VERSION, QuantizationChoice, cache_plan, choose, pack_tensor
from deepseek.models.quantize_cache import CacheReader, CacheWriter, DamagedCacheError, cache_key
from deepseek.models.safetensors_files import INDEX_FILE, SINGLE_FILE, Entry, Reader, read_headers
from deepseek.models.tensors import Slot, hf_slots, shared_copies
from deepseek.models.transformer import Model, Quantization
from deepseek.precision.fp8 import BLOCK, dequantize_blocks, quantize_blocks, scale_shape

SHARD_BYTES = 5 * 2**30
_SCALE_SUFFIX = "_scale_inv"
_DERIVED = "rotary_emb.inv_freq"  # old exports carry tables that follow from the config
_FLOATS = ("BF16", "F16", "F32", "F8_E4M3")
_WRONG_CONFIG = "check that config.json belongs to these weights"


def load_model(
    path: str | Path,
    *,
    packed: bool = True,
    quantization: QuantizationChoice = "none",
    quantization_cache: str | Path | None = None,
) -> Model:
    """Load a checkpoint directory.

    packed: for serving, in the kernels' layout; else float32 parameters, to train.
    quantization: of a packed model's matrices; "none" keeps them in their stored form, "int8" and "int4" make integer
    weights, tensor by tensor, as `quantize.py` says; "auto" is the first of these that fits, and is said on stderr.
    quantization_cache: a directory where the quantised form is kept (`quantize_cache.py`), and read from next time.
    A multi-token-prediction layer that the config names but the files lack (many exports strip it) is left out.
    Raises ConfigError or CheckpointError naming file, tensor, found and expected.
    """
    directory = Path(path)
    config = ModelConfig.from_file(directory)
    entries = read_headers(directory)
    config = _without_stripped_draft_layers(config, entries)
    _check_counts(directory, config, entries)
    with torch.device("meta"):
        model = Model(config)
    slots = hf_slots(model)
    copies = shared_copies(config)
    _check(directory, config, entries, slots, copies)
    model.quantization, reason = choose(quantization, entries, slots, available_bytes())
    if not packed and quantization != "none":
        raise ConfigError(
            "a quantised model cannot be trained", where="quantization", found=quantization, expected="none"
        )
    if quantization == "auto":
        _say(f"quantization {reason}")
    with Reader(entries) as reader:
        _check_copies(reader, copies)
        names = sorted(slots, key=lambda name: -entries[name].nbytes)
        if quantization_cache is not None and model.quantization != "none":
            _take_through_cache(reader, names, slots, model.quantization, Path(quantization_cache))
        else:
            for name in names if model.quantization == "none" else _tidily(names, entries):
                _take(reader, name, slots[name], packed, model.quantization)
    return model.requires_grad_(False).eval() if packed else model


def _take_through_cache(
    reader: Reader, names: list[str], slots: dict[str, Slot], quantization: Quantization, directory: Path
) -> None:
    """Every tensor of a packed model: from the cache where there is one, and into a new one where there is none."""
    plan = cache_plan(names, slots, quantization)
    files = {reader.entries[name].file for name in names}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        key = cache_key(files, f"{quantization} {RULES_VERSION}", directory)
    except OSError as error:
        raise ConfigError(
            "cannot be used", where=f"quantization_cache {directory}", found=error, expected="a directory to write to"
        ) from error
    if (directory / key).exists():
        try:
            cache = CacheReader(directory / key, plan)
            for name in _tidily(names, reader.entries):
                if name in plan:
                    slots[name].pack(cache.pieces(name), None)
                else:
                    _take(reader, name, slots[name], True, quantization)
            return
        except DamagedCacheError as error:
            _say(f"quantised weights: {error}; making them anew")
    writer = CacheWriter(directory, key, plan)
    try:
        for name in _tidily(names, reader.entries):
            _take(reader, name, slots[name], True, quantization, writer)
        writer.finish()
    finally:
        writer.close()
    if writer.error is not None:
        _say(f"quantised weights could not be kept in {directory}: {writer.error}")


def _tidily(names: list[str], entries: dict[str, Entry]) -> Iterator[str]:
    """The names, and after each sixteenth of the bytes freed memory goes back: what quantising a tensor takes lies between
    the weights that stay, where the C library would keep it."""
    step = sum(entries[name].nbytes for name in names) // 16
    since = 0
    for name in names:
        yield name
        since += entries[name].nbytes
        if since >= step:
            return_free_memory()
            since = 0


def _say(line: str) -> None:
    print(f"deepseek: {line}", file=sys.stderr, flush=True)


def _take(
    reader: Reader, name: str, slot: Slot, packed: bool, quantization: Quantization, keep: CacheWriter | None = None
) -> None:
    scale_name = name + _SCALE_SUFFIX
    # The scales are copied: the map they stand in may be dropped before the weight is read.
    scale = reader.read(scale_name).clone() if scale_name in reader.entries else None
    pieces = reader.pieces(name)
    try:
        if packed:
            pack_tensor(name, slot, pieces, scale, quantization, keep)
        else:
            slot.fill(join_rows(slot.shape, _widened(pieces, scale)))
    except LayoutError as error:
        raise CheckpointError(
            error.what,
            where=f"{reader.entries[name].file}: {name}" + (f", {error.where}" if error.where else ""),
            found=error.found,
            expected=error.expected,
            fix=error.fix or "download the file again",
        ) from error


def _widened(pieces: Iterable[Tensor], scale: Tensor | None) -> Iterator[Tensor]:
    """Pieces of whole rows in float32."""
    row = 0
    for piece in pieces:
        last = row + piece.shape[0]
        yield piece.float() if scale is None else dequantize_blocks(piece, scale[row // BLOCK : -(-last // BLOCK)])
        row = last
        del piece


def save_model(model: Model, path: str | Path, *, dtype: torch.dtype | None = None, fp8_blocks: bool = False) -> None:
    """Write `config.json` and safetensors in Hugging Face form; a packed model is written in its stored form.

    dtype: of everything that is not FP8 (None keeps each tensor's own). fp8_blocks: store projection matrices as e4m3
    in 128x128 blocks. Written aside and renamed file by file, so a failure leaves the old checkpoint. Raises
    CheckpointError; for a quantised model too, whose checkpoint would pass for the one it was made from.
    """
    if model.quantization != "none":
        raise CheckpointError(
            "a quantised model is not written as a checkpoint",
            where=path,
            found=f"a model loaded with quantization {model.quantization}",
            expected="one in its stored form",
            fix='load it with quantization="none", or keep its quantised form with quantization_cache',
        )
    directory = Path(path)
    aside = directory / ".writing"
    try:
        aside.mkdir(parents=True, exist_ok=True)
        for left_over in aside.iterdir():
            left_over.unlink()
        dtypes = _write_shards(_stored_tensors(model, dtype, fp8_blocks), aside)
        raw = model.config.to_hf()
        raw["torch_dtype"] = str(dtypes["model.embed_tokens.weight"]).removeprefix("torch.")
        raw.pop("quantization_config", None)
        if torch.float8_e4m3fn in dtypes.values():
            raw["quantization_config"] = fp8_quantization()
        (aside / "config.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
        written = sorted(aside.iterdir())
        for file in written:
            os.replace(file, directory / file.name)
        for old in directory.glob("model*.safetensors*"):
            if old.name not in {file.name for file in written}:
                old.unlink()
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            "cannot be written",
            where=directory,
            found=error,
            expected="a directory we may write to, with room for the weights",
            fix="free space or choose another place",
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _check_counts(directory: Path, config: ModelConfig, entries: dict[str, Entry]) -> None:
    """Refuse a config whose layers or experts outnumber the tensors, before a model of that size is made."""
    layers = config.num_hidden_layers + config.num_nextn_predict_layers
    has_experts = config.experts is not None and config.experts.first_k_dense_replace < layers
    experts = config.experts.n_routed_experts if config.experts and has_experts else 0
    for field, count in (("num_hidden_layers", layers), ("n_routed_experts", experts)):
        if count > len(entries):
            raise CheckpointError(
                f"{field} does not fit the weights",
                where=directory,
                found=f"{len(entries)} tensors",
                expected=f"at least {count}",
                fix=_WRONG_CONFIG,
            )


def _check(
    directory: Path, config: ModelConfig, entries: dict[str, Entry], slots: dict[str, Slot], copies: dict[str, str]
) -> None:
    """Raise on the first tensor that is missing, misshapen, of a type we do not read, or that nothing asks for."""
    for name, slot in slots.items():
        if name not in entries:
            missing = sum(other not in entries for other in slots)
            raise CheckpointError(
                f"{missing} of {len(slots)} tensors are missing",
                where=directory,
                found=f"no {name}",
                expected=f"shape {list(slot.shape)}",
                fix=f"{_WRONG_CONFIG} and that every file was downloaded",
            )
        _check_entry(config, entries, slot, name)
    for name, entry in entries.items():
        if not _is_known(name, entry, entries, slots, copies):
            is_draft = name.startswith(f"model.layers.{config.num_hidden_layers}.")
            raise CheckpointError(
                "is a tensor the model has no place for",
                where=f"{entry.file}: {name}",
                found=f"{entry.dtype} {list(entry.shape)}",
                expected="only tensors that config.json asks for",
                fix="set num_nextn_predict_layers in config.json" if is_draft else _WRONG_CONFIG,
            )


def _check_entry(config: ModelConfig, entries: dict[str, Entry], slot: Slot, name: str) -> None:
    entry = entries[name]
    where = f"{entry.file}: {name}"
    if entry.shape != slot.shape:
        raise CheckpointError(
            "has the wrong shape", where=where, found=list(entry.shape), expected=list(slot.shape), fix=_WRONG_CONFIG
        )
    if entry.dtype not in _FLOATS:
        expected = ", ".join(_FLOATS)
        fix = "convert the tensor to one of these"
        raise CheckpointError("has a type we do not read", where=where, found=entry.dtype, expected=expected, fix=fix)
    if entry.dtype != "F8_E4M3":
        return
    if not slot.may_be_fp8:
        raise CheckpointError(
            "may not be FP8", where=where, found=entry.dtype, expected="BF16, F16 or F32", fix="keep it unquantised"
        )
    if not config.fp8_blocks:
        raise CheckpointError(
            "is FP8 without a description",
            where=where,
            found="no quantization_config in config.json",
            expected=f'"quantization_config": {json.dumps(fp8_quantization())}',
            fix="take config.json from where the weights are from",
        )
    expected = f"F32 {list(scale_shape(*slot.shape))}"
    scale = entries.get(name + _SCALE_SUFFIX)
    found = f"no {name}{_SCALE_SUFFIX}" if scale is None else f"{scale.dtype} {list(scale.shape)}"
    if found != expected:
        raise CheckpointError(
            "has no fitting block scales",
            where=where,
            found=found,
            expected=f"{name}{_SCALE_SUFFIX} {expected}",
            fix="one float32 scale for each block of 128 x 128 must stand beside the weight",
        )


def _is_known(
    name: str, entry: Entry, entries: dict[str, Entry], slots: dict[str, Slot], copies: dict[str, str]
) -> bool:
    if name in slots or name in copies or name.endswith(_DERIVED):
        return True
    if name.endswith(_SCALE_SUFFIX):
        weight = entries.get(name.removesuffix(_SCALE_SUFFIX))
        return weight is not None and weight.dtype == "F8_E4M3"
    # Exports of models without shared experts write them with no rows.
    return ".shared_experts." in name and 0 in entry.shape


def _check_copies(reader: Reader, copies: dict[str, str]) -> None:
    for copy, original in copies.items():
        if copy not in reader.entries:
            continue
        entry, kept = reader.entries[copy], reader.entries[original]
        same = entry.shape == kept.shape and entry.dtype == kept.dtype
        # Bytes, not numbers: they are the same tensor, NaN included.
        if not same or not torch.equal(_bytes(reader, copy), _bytes(reader, original)):
            raise CheckpointError(
                "differs from the tensor it shares",
                where=f"{entry.file}: {copy}",
                found=f"{entry.dtype} {list(entry.shape)}" + (" of other values" if same else ""),
                expected=f"a copy of {original}",
                fix="remove it, or set tie_word_embeddings to false if the two are meant to differ",
            )


def _bytes(reader: Reader, name: str) -> Tensor:
    return reader.read(name).view(torch.uint8)


def _without_stripped_draft_layers(config: ModelConfig, entries: dict[str, Entry]) -> ModelConfig:
    first = f"model.layers.{config.num_hidden_layers}."
    if config.num_nextn_predict_layers and not any(name.startswith(first) for name in entries):
        return replace(config, num_nextn_predict_layers=0)
    return config


def _stored_tensors(model: Model, dtype: torch.dtype | None, fp8_blocks: bool) -> Iterator[tuple[str, Tensor]]:
    for name, slot in hf_slots(model).items():
        tensor, scale = slot.stored()
        if scale is not None:
            yield name, tensor
            yield name + _SCALE_SUFFIX, scale
        elif fp8_blocks and slot.may_be_fp8:
            quantized, scales = quantize_blocks(tensor)
            yield name, quantized
            yield name + _SCALE_SUFFIX, scales
        else:
            keep = dtype is None or slot.keep_float32
            yield name, (_as_loaded(model, tensor) if keep else tensor.to(dtype)).contiguous()


def _as_loaded(model: Model, tensor: Tensor) -> Tensor:
    """Packed models hold norms and biases widened; those go back to the checkpoint's type where nothing is lost."""
    stored = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(model.config.dtype)
    if stored is None or not model.is_packed or tensor.dim() != 1:
        return tensor
    narrow = tensor.to(stored)
    return narrow if torch.equal(narrow.float(), tensor) else tensor


def _write_shards(tensors: Iterator[tuple[str, Tensor]], directory: Path) -> dict[str, torch.dtype]:
    """Write shards of at most SHARD_BYTES; a single one is called model.safetensors. Returns every tensor's type."""
    shards: list[list[str]] = []
    dtypes: dict[str, torch.dtype] = {}
    pending: dict[str, Tensor] = {}
    size = total = 0

    def flush() -> None:
        nonlocal size
        save_file(pending, directory / f"part-{len(shards)}", metadata={"format": "pt"})
        shards.append(list(pending))
        pending.clear()
        size = 0

    for name, tensor in tensors:
        if pending and size + tensor.nbytes > SHARD_BYTES:
            flush()
        pending[name] = tensor
        dtypes[name] = tensor.dtype
        size, total = size + tensor.nbytes, total + tensor.nbytes
    flush()
    if len(shards) == 1:
        os.replace(directory / "part-0", directory / SINGLE_FILE)
        return dtypes
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards):
        file = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        os.replace(directory / f"part-{number}", directory / file)
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return dtypes
