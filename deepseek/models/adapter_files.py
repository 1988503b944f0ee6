"""LoRA adapters in the form PEFT saves them, read and checked against the model they are for.

An adapter is `adapter_config.json` beside `adapter_model.safetensors`, whose tensors are called
`base_model.model.<module>.lora_A.weight` [r, in] and `...lora_B.weight` [out, r], with the module's name in the
Hugging Face model. Every tensor finds its place or the adapter is refused; so is every adapter that would need more
than matrices added to linear layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file
from torch import Tensor

from deepseek.core.errors import CheckpointError
from deepseek.models.adapter_config import CONFIG_FILE, AdapterConfig, read_config
from deepseek.models.adapters import HEAD, Adapter, adaptable, require_packed
from deepseek.models.attention import LatentUpProjection
from deepseek.models.layers import Linear
from deepseek.models.low_rank import LatentLowRank, LowRank
from deepseek.models.quantize import bits_of
from deepseek.models.tensors import Slot, hf_slots, shared_copies
from deepseek.models.transformer import Model
from deepseek.precision.integer import Bits, quantize_integer

WEIGHTS_FILE = "adapter_model.safetensors"
AdapterSource = str | Path | Mapping[str, bytes]
"""A directory, or the contents of its two files by their names."""

_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_EMBEDDING = "model.embed_tokens"


def read_adapter(source: AdapterSource, model: Model) -> Adapter:
    """Read an adapter and lay it out for serving with `model`, which is not changed: any thread may do this.

    Raises ConfigError for settings we do not support and CheckpointError for tensors that do not fit, naming file,
    field or tensor, what was found and what was expected.
    """
    require_packed(model)
    files = _Files.of(source)
    config = read_config(files.config, f"{files.where}{CONFIG_FILE}")
    where = f"{files.where}{WEIGHTS_FILE}"
    modules = adaptable(model)
    pairs = _pairs(files.tensors, model, modules, config, where)
    matrices: dict[str, LowRank] = {}
    latent: dict[str, LatentLowRank] = {}
    for name, (a, b) in pairs.items():
        module = modules[name]
        a, b = a.float(), b.float() * config.scaling(name)
        if isinstance(module, LatentUpProjection):
            latent[name] = LatentLowRank.of(a, b, module.heads, module.latent.qk_nope_head_dim)
        else:
            matrices[name] = LowRank.of(a, b)
    return Adapter(matrices, latent)


@dataclass(frozen=True)
class _Files:
    """The bytes of the two files, and what their names are preceded by in messages."""

    config: bytes
    tensors: dict[str, Tensor]
    where: str

    @classmethod
    def of(cls, source: AdapterSource) -> _Files:
        where = "" if isinstance(source, Mapping) else f"{Path(source)}/"
        try:
            if isinstance(source, Mapping):
                return cls(source[CONFIG_FILE], load(source[WEIGHTS_FILE]), where)
            directory = Path(source)
            return cls((directory / CONFIG_FILE).read_bytes(), load_file(directory / WEIGHTS_FILE), where)
        except (KeyError, FileNotFoundError, NotADirectoryError):
            names = list(source) if isinstance(source, Mapping) else _listing(Path(source))
            other = next((name for name in names if name.endswith((".bin", ".pt", ".pth"))), None)
            raise CheckpointError(
                "is not a PEFT adapter",
                where=where.rstrip("/") or "adapter",
                found=other or ", ".join(sorted(names)[:5]) or "nothing",
                expected=f"{CONFIG_FILE} and {WEIGHTS_FILE}",
                fix="save it with safe_serialization=True" if other else "give the directory PEFT saved",
            ) from None
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                "cannot be read",
                where=f"{where}{WEIGHTS_FILE}",
                found=error,
                expected="a whole safetensors file",
                fix="download it again",
            ) from error


def _listing(directory: Path) -> list[str]:
    return [file.name for file in directory.iterdir()] if directory.is_dir() else []


def _pairs(
    tensors: Mapping[str, Tensor], model: Model, modules: Mapping[str, Linear], config: AdapterConfig, where: str
) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of each adapted module, checked to be what the config and the model ask for, no less and no more."""
    for name, tensor in tensors.items():
        if _is_base(name):
            _check_base(name, tensor, model, where)
            continue
        module = name.removeprefix(_PREFIX).removesuffix(_A).removesuffix(_B)
        is_pair = name in (_PREFIX + module + _A, _PREFIX + module + _B)
        if not is_pair or module not in modules or config.adapts(module) is False:
            raise _no_place(name, tensor, is_pair, module in modules, where)
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for module, layer in modules.items():
        names = _PREFIX + module + _A, _PREFIX + module + _B
        if config.adapts(module) or any(name in tensors for name in names):
            rank = config.rank(module)
            shapes = (rank, layer.in_features), (layer.out_features, rank)
            a, b = (_checked(tensors, name, shape, where) for name, shape in zip(names, shapes, strict=True))
            pairs[module] = a, b
    if not pairs:
        raise CheckpointError(
            "adapts nothing", where=where, found=f"{len(tensors)} tensors", expected=f"{_PREFIX}<module>{_A}"
        )
    return pairs


def _checked(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, int], where: str) -> Tensor:
    tensor = tensors.get(name)
    found = "no such tensor" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"
    if tensor is None or tuple(tensor.shape) != shape or tensor.dtype not in _FLOATS:
        raise CheckpointError(
            "does not fit",
            where=f"{where}: {name}",
            found=found,
            expected=f"{list(shape)} in float32, bfloat16 or float16",
            fix=f"check that {CONFIG_FILE} belongs to these weights, and that they were trained on this model",
        )
    if not bool(torch.isfinite(tensor).all()):
        raise CheckpointError("has values that are not finite", where=f"{where}: {name}", fix="train it again")
    return tensor


def _no_place(name: str, tensor: Tensor, is_pair: bool, in_model: bool, where: str) -> CheckpointError:
    if ".mlp.experts." in name:
        what = "adapts routed experts, which is not supported"
    elif "lora_embedding" in name or ".modules_to_save." in name:
        what = "adapts an embedding or a whole module, which is not supported"
    elif is_pair and in_model:
        what = f"is not among the target_modules of {CONFIG_FILE}"
    else:
        what = "is a tensor we have no place for"
    return CheckpointError(
        what,
        where=f"{where}: {name}",
        found=f"{tensor.dtype} {list(tensor.shape)}",
        expected="lora_A.weight and lora_B.weight of linear layers of this model",
        fix="train the adapter on attention, dense, shared-expert and output projections of this model",
    )


def _is_base(name: str) -> bool:
    """PEFT saves the base model's own embedding and output matrix along when their module is a target, or was resized."""
    return name.removeprefix(_PREFIX).replace(".base_layer", "") in (f"{HEAD}.weight", f"{_EMBEDDING}.weight")


def _check_base(name: str, tensor: Tensor, model: Model, where: str) -> None:
    slots, plain = hf_slots(model), name.removeprefix(_PREFIX).replace(".base_layer", "")
    plain = plain if plain in slots else shared_copies(model.config)[plain]
    slot = slots[plain]
    fits = tuple(tensor.shape) == slot.shape
    if not fits or not _same_values(tensor, slot, bits_of(plain, slot, model.quantization)):
        raise CheckpointError(
            "changes the base model's own matrix, which is not supported",
            where=f"{where}: {name}",
            found=f"{tensor.dtype} {list(tensor.shape)}" + (" of other values" if fits else ""),
            expected=f"the model's {plain}, {list(slot.shape)}",
            fix="save the adapter with save_embedding_layers=False if the matrix was not trained",
        )


def _same_values(tensor: Tensor, slot: Slot, bits: Bits | None) -> bool:
    """Whether the tensor is what the model holds, or was quantised from."""
    own, scales = slot.stored()
    if bits is None or scales is None:
        return torch.equal(own.float(), tensor.float())
    if not bool(torch.isfinite(tensor).all()):
        return False
    return all(map(torch.equal, quantize_integer(tensor, bits), (own, scales)))
