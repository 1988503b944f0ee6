"""Models that share weights: a copy in which some tensors are others, made beside a model that goes on serving.

`with_tensors` never writes to what the old model computes with. It copies the module tree, which is small, lets every
weight be the same object in both, and packs the new tensors into the copy alone. So an update of a few tensors takes
the memory of those few, and one that fails leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deepseek.core.errors import CheckpointError, LayoutError
from deepseek.models.attention import LatentUpProjection
from deepseek.models.experts import RoutedExperts
from deepseek.models.layers import GatedMLP, Linear
from deepseek.models.quantize import bits_of, pack_tensor
from deepseek.models.tensors import Slot, hf_name, hf_slots, shared_copies
from deepseek.models.transformer import Model
from deepseek.precision.fp8 import quantize_blocks, scale_shape

_SCALE_SUFFIX = "_scale_inv"
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_FP8 = torch.float8_e4m3fn


def with_tensors(model: Model, tensors: Mapping[str, Tensor]) -> Model:
    """A packed model like `model`, in which the tensors of these Hugging Face names are others; `model` stays as it is.

    Floating-point tensors are brought to the form of what they replace: quantised as that was, FP8 or 16 bits. An FP8
    tensor comes with its block scales beside it (`..._scale_inv`). A name the checkpoint may repeat (a tied
    `lm_head.weight`) is compared with what it repeats. All are checked, then all are packed; values are copied.
    Raises CheckpointError naming the tensor, what was found and what was expected.
    """
    if not model.is_packed:
        raise LayoutError("only a packed model's tensors can be replaced", fix="call model.pack()")
    old = hf_slots(model)
    given = _checked(model, old, tensors)
    copy: Model = _copy(model, {})
    _make_room(copy, given)
    slots = hf_slots(copy)
    for name, (tensor, scale) in given.items():
        if bits_of(name, old[name], model.quantization) is None:
            tensor, scale = _in_form(old[name], tensor, scale)
        try:
            pack_tensor(name, slots[name], [tensor], scale, model.quantization)
        except LayoutError as error:
            raise CheckpointError(
                error.what, where=name, found=error.found, expected=error.expected, fix=error.fix
            ) from error
    return copy.requires_grad_(False).eval()


def without_weights(model: Model) -> Model:
    """The module tree of a packed model with nothing in it: shapes can be read, nothing can be computed."""
    hollow: Model = _copy(model, {})
    for module in hollow.modules():
        for own, vector in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            empty = vector.detach().to("meta")
            setattr(module, own, nn.Parameter(empty, False) if isinstance(vector, nn.Parameter) else empty)
        for attribute in ("packed", "rows", "fp8", "query_heads", "value_heads"):
            if isinstance(value := getattr(module, attribute, None), dict):
                value.clear()
            elif value is not None:
                setattr(module, attribute, None)
        if isinstance(module, RoutedExperts):
            for part in ("gate_proj", "up_proj", "down_proj"):
                module.make_room(part, range(module.count))
    return hollow


def _checked(
    model: Model, slots: dict[str, Slot], tensors: Mapping[str, Tensor]
) -> dict[str, tuple[Tensor, Tensor | None]]:
    """The tensors that have a place of their own, each with its scales."""
    if not tensors:
        raise CheckpointError("no tensors were given", fix="name at least one")
    copies = shared_copies(model.config)
    given: dict[str, tuple[Tensor, Tensor | None]] = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or tensor.device.type != "cpu" or tensor.layout != torch.strided:
            found = f"{tensor.layout} on {tensor.device}" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise CheckpointError("is no dense tensor in memory", where=name, found=found, expected="a CPU tensor")
        if name in slots:
            given[name] = tensor.detach(), _scale_of(name, slots[name], tensor, tensors)
        elif name in copies:
            _check_copy(name, copies[name], tensors)
        elif not (name.endswith(_SCALE_SUFFIX) and name.removesuffix(_SCALE_SUFFIX) in slots):
            raise CheckpointError(
                "is a tensor the model has no place for",
                where=name,
                found=f"{tensor.dtype} {list(tensor.shape)}",
                expected=f"a name of this model's checkpoint, such as {next(iter(slots))}",
            )
        elif (weight := tensors.get(name.removesuffix(_SCALE_SUFFIX))) is None or weight.dtype != _FP8:
            raise CheckpointError("are block scales without an FP8 weight", where=name, fix="give the two together")
    return given


def _scale_of(name: str, slot: Slot, tensor: Tensor, tensors: Mapping[str, Tensor]) -> Tensor | None:
    found = f"{tensor.dtype} {list(tensor.shape)}"
    if tuple(tensor.shape) != slot.shape:
        raise CheckpointError("has the wrong shape", where=name, found=found, expected=list(slot.shape))
    if tensor.dtype in _FLOATS:
        return None
    if tensor.dtype != _FP8 or not slot.may_be_fp8:
        expected = "float32, bfloat16 or float16" + (", or FP8 with block scales" if slot.may_be_fp8 else "")
        raise CheckpointError("has a type that does not fit", where=name, found=found, expected=expected)
    scale = tensors.get(name + _SCALE_SUFFIX)
    shape = scale_shape(*slot.shape)
    if scale is None or tuple(scale.shape) != shape or scale.dtype != torch.float32:
        raise CheckpointError(
            "has no fitting block scales",
            where=name,
            found=f"no {name}{_SCALE_SUFFIX}" if scale is None else f"{scale.dtype} {list(scale.shape)}",
            expected=f"{name}{_SCALE_SUFFIX} torch.float32 {list(shape)}",
        )
    return scale.detach()


def _check_copy(name: str, original: str, tensors: Mapping[str, Tensor]) -> None:
    kept = tensors.get(original)
    if kept is None or not torch.equal(kept, tensors[name]):
        raise CheckpointError(
            "differs from the tensor it shares" if kept is not None else "is shared with a tensor that was not given",
            where=name,
            expected=f"a copy of {original}",
            fix=f"leave {name} out and give {original} alone",
        )


def _in_form(slot: Slot, tensor: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """In the form that stands in the slot now. FP8 that comes with its scales stays: any other form would lose bits."""
    if scale is not None:
        return tensor, scale
    stored, stored_scale = slot.stored()
    if stored_scale is not None:
        return quantize_blocks(tensor)
    return tensor.to(stored.dtype), None


def _make_room(copy: Model, names: Mapping[str, object]) -> None:
    """Experts are grouped when the last of a layer is there: with the outgoing ones still in place, once for each."""
    for path, module in copy.named_modules():
        if not isinstance(module, RoutedExperts):
            continue
        stem = hf_name(path, copy.config)
        for part in ("gate_proj", "up_proj", "down_proj"):
            module.make_room(part, [e for e in range(module.count) if f"{stem}.{e}.{part}.weight" in names])


def _copy(module: Any, made: dict[int, Any]) -> Any:
    """The module and those in it anew, with the same parameters, buffers and packed weights."""
    if id(module) in made:
        return made[id(module)]
    copy = made[id(module)] = module.__class__.__new__(module.__class__)
    copy.__dict__ = {name: _own(value) for name, value in module.__dict__.items()}
    for name, child in module._modules.items():
        copy._modules[name] = None if child is None else _copy(child, made)
    # What is made from weights, or stands for as long as this very model serves, is not taken along.
    if isinstance(copy, Model):
        copy._stacks = {}
    if isinstance(copy, GatedMLP):
        copy._packed = None
    if isinstance(copy, Linear):
        copy.low_rank = {}
    if isinstance(copy, LatentUpProjection):
        copy.latent_low_rank = {}
    return copy


def _own(value: Any) -> Any:
    """Containers anew, down to what they hold."""
    if isinstance(value, dict):
        own = value.copy()
        own.update((key, _own(item)) for key, item in value.items())
        return own
    return [_own(item) for item in value] if type(value) is list else value
