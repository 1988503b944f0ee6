"""Which Hugging Face tensor belongs where in the model: name by name, with its shape and how it goes in and comes out.

Names are the checkpoint's own. The draft layers of multi-token prediction follow the decoder layers there
(`model.layers.61...` in DeepSeek-V3); routed experts stand one by one, while the model stacks them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deepseek import kernels
from deepseek.core.errors import LayoutError
from deepseek.models.attention import LatentUpProjection
from deepseek.models.config import ModelConfig
from deepseek.models.experts import RoutedExperts, Router
from deepseek.models.layers import Embedding, Linear, join_rows
from deepseek.models.transformer import Model
from deepseek.precision.integer import Bits, IntegerPieces

Stored = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Slot:
    """One checkpoint tensor.

    pack(source, scale_inv) takes it for serving, as pieces of whole rows in its stored form or quantised, copying what it
    keeps; quantize_heads(bits), where it is not None, quantises afterwards what `pack` made of the stored form;
    fill(tensor) takes ownership of it as a float32 parameter; stored() gives it back, with block scales if it is FP8.
    may_be_fp8: a projection matrix. is_table: the embedding. keep_float32: never narrowed when saved.
    """

    shape: tuple[int, ...]
    pack: Callable[[Iterable[Tensor] | IntegerPieces, Tensor | None], None]
    fill: Callable[[Tensor], None]
    stored: Callable[[], Stored]
    may_be_fp8: bool = False
    is_table: bool = False
    quantize_heads: Callable[[Bits], None] | None = None
    keep_float32: bool = False


def hf_slots(model: Model) -> dict[str, Slot]:
    """Every tensor of the model's checkpoint, by its Hugging Face name."""
    slots: dict[str, Slot] = {}
    for path, module in model.named_modules():
        name = hf_name(path, model.config)
        if isinstance(module, Embedding):
            slots[f"{name}.weight"] = _embedding_slot(model, module)
        elif isinstance(module, LatentUpProjection | Linear | Router):
            if module is model.tied_head:
                continue
            slots[f"{name}.weight"] = _matrix_slot(module)
        elif isinstance(module, RoutedExperts):
            for expert in range(module.count):
                for part in ("gate_proj", "up_proj", "down_proj"):
                    slots[f"{name}.{expert}.{part}.weight"] = _expert_slot(module, part, expert)
        for own, _ in list(module.named_parameters(recurse=False)) + list(module.named_buffers(recurse=False)):
            full = f"{name}.{own}"
            if full not in slots and not isinstance(module, RoutedExperts):
                slots[full] = _vector_slot(module, own)
    return slots


def shared_copies(config: ModelConfig) -> dict[str, str]:
    """Tensors a checkpoint may repeat, and the one each repeats: they are compared, not loaded twice."""
    copies: dict[str, str] = {}
    head = "model.embed_tokens.weight"
    if config.tie_word_embeddings:
        copies["lm_head.weight"] = head
    else:
        head = "lm_head.weight"
    for depth in range(config.num_nextn_predict_layers):
        layer = f"model.layers.{config.num_hidden_layers + depth}"
        copies[f"{layer}.embed_tokens.weight"] = "model.embed_tokens.weight"
        copies[f"{layer}.shared_head.head.weight"] = head
    return copies


def hf_name(path: str, config: ModelConfig) -> str:
    """A module's name in the Hugging Face checkpoint, from its path in `Model`."""
    if path == "lm_head":
        return path
    if path.startswith("mtp."):
        depth, _, rest = path.removeprefix("mtp.").partition(".")
        return f"model.layers.{config.num_hidden_layers + int(depth)}.{rest}"
    return f"model.{path}"


def _matrix_slot(module: Linear | Router) -> Slot:
    def fill(tensor: Tensor) -> None:
        module.weight = nn.Parameter(tensor)

    def stored() -> Stored:
        if isinstance(module, LatentUpProjection) and module.query_heads is not None:
            return module.stored()
        if module.packed is not None:
            return kernels.unpack_weight(module.packed)
        return _present(module.weight), None

    shape = tuple(module.weight.shape) if module.weight is not None else module.shape
    heads = module.quantize_heads if isinstance(module, LatentUpProjection) else None
    return Slot(shape, module.adopt, fill, stored, may_be_fp8=not isinstance(module, Router), quantize_heads=heads)


def _expert_slot(module: RoutedExperts, part: str, expert: int) -> Slot:
    def fill(tensor: Tensor) -> None:
        parameter: nn.Parameter = getattr(module, part)
        if parameter.is_meta:
            parameter = nn.Parameter(torch.empty(parameter.shape, dtype=torch.float32))
            setattr(module, part, parameter)
        with torch.no_grad():
            parameter[expert].copy_(tensor)

    def stored() -> Stored:
        if part in module.packed:
            return kernels.unpack_weight(module.packed[part].weights[expert])
        return _present(getattr(module, part))[expert], None

    shape = module.shape_of(part)
    return Slot(shape, lambda source, scale: module.adopt(part, expert, source, scale), fill, stored, may_be_fp8=True)


def _embedding_slot(model: Model, module: Embedding) -> Slot:
    def fill(tensor: Tensor) -> None:
        module.weight = nn.Parameter(tensor)

    def stored() -> Stored:
        if module.packed is not None:
            return kernels.unpack_weight(module.packed)
        return (module.rows if module.rows is not None else _present(module.weight)), None

    shape = (model.config.vocab_size, model.config.hidden_size)
    return Slot(shape, lambda source, _scale: model.adopt_embedding(source), fill, stored, is_table=True)


def _vector_slot(module: nn.Module, own: str) -> Slot:
    current: Tensor = getattr(module, own)

    def fill(tensor: Tensor) -> None:
        setattr(module, own, nn.Parameter(tensor) if own in module._parameters else tensor)

    def take(source: Iterable[Tensor] | IntegerPieces, _scale: Tensor | None) -> None:
        if isinstance(source, IntegerPieces):
            raise LayoutError("only matrices are quantised", found=own)
        fill(join_rows(tuple(current.shape), source).float())

    return Slot(
        tuple(current.shape),
        take,
        fill,
        lambda: (getattr(module, own).detach(), None),
        keep_float32=own == "e_score_correction_bias",
    )


def _present(parameter: nn.Parameter | None) -> Tensor:
    if parameter is None or parameter.is_meta:
        raise LayoutError("a weight was never loaded", fix="initialise the model or load a checkpoint first")
    return parameter.detach()
