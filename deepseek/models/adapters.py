"""The adapters a model serves with: several at once, each under a handle that step plans name it by.

An adapter's matrices stand at the modules they are added to (`Linear.low_rank`); `low_rank` says how they are added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from deepseek.core.errors import LayoutError
from deepseek.models.attention import LatentUpProjection
from deepseek.models.layers import Linear
from deepseek.models.low_rank import Assignment, LatentLowRank, LowRank
from deepseek.models.transformer import Model

HEAD = "lm_head"


@dataclass(frozen=True, eq=False)
class Adapter:
    """One adapter, ready to serve: what it adds, by the Hugging Face name of the module it is added to."""

    matrices: Mapping[str, LowRank]
    latent: Mapping[str, LatentLowRank]

    @property
    def nbytes(self) -> int:
        parts: list[LowRank | LatentLowRank] = [*self.matrices.values(), *self.latent.values()]
        return sum(part.nbytes for part in parts)


class AdapterBank:
    """The adapters a packed model serves with, by integer handles >= 0 that whoever loads them chooses.

    `install` and `remove` belong between steps; `read_adapter` does the slow part before, on any thread.
    """

    def __init__(self, model: Model) -> None:
        require_packed(model)
        self._modules = adaptable(model)
        self._adapters: dict[int, Adapter] = {}

    @property
    def handles(self) -> frozenset[int]:
        return frozenset(self._adapters)

    @property
    def nbytes(self) -> int:
        """Bytes that all adapters hold."""
        return sum(adapter.nbytes for adapter in self._adapters.values())

    def install(self, handle: int, adapter: Adapter) -> None:
        """Serve with `adapter`, read for this model, under `handle`. Raises LayoutError if the handle is taken."""
        if handle < 0 or handle in self._adapters:
            raise LayoutError("is no free handle", where="adapter", found=handle, expected="an unused integer >= 0")
        self._adapters[handle] = adapter
        self._attach(handle, adapter)

    def remove(self, handle: int) -> None:
        """Let the adapter go; its handle is free again. Raises LayoutError if there is none."""
        if self._adapters.pop(handle, None) is None:
            raise LayoutError("no adapter has this handle", where="adapter", found=handle)
        self._detach(handle)

    def move_to(self, model: Model) -> None:
        """Serve the same adapters on other weights of the same shapes, when the model itself has been replaced."""
        require_packed(model)
        for handle in self._adapters:
            self._detach(handle)
        self._modules = adaptable(model)
        for handle, adapter in self._adapters.items():
            self._attach(handle, adapter)

    def assign(self, of_token: Tensor) -> Assignment | None:
        """The step's assignment from its tokens' handles, integers [T], -1 for none. Raises LayoutError if unknown."""
        assignment = Assignment.of(of_token)
        for handle, _ in () if assignment is None else assignment.groups:
            if handle not in self._adapters:
                expected = f"one of {sorted(self._adapters)}" if self._adapters else "-1: none is loaded"
                raise LayoutError("no adapter has this handle", where="adapter", found=handle, expected=expected)
        return assignment

    def _attach(self, handle: int, adapter: Adapter) -> None:
        for name, matrix in adapter.matrices.items():
            self._modules[name].low_rank[handle] = matrix
        for name, latent in adapter.latent.items():
            module = self._modules[name]
            assert isinstance(module, LatentUpProjection)
            module.latent_low_rank[handle] = latent

    def _detach(self, handle: int) -> None:
        for module in self._modules.values():
            module.low_rank.pop(handle, None)
            if isinstance(module, LatentUpProjection):
                module.latent_low_rank.pop(handle, None)


def require_packed(model: Model) -> None:
    """Raise LayoutError for a model that is not packed: training computes without adapters."""
    if not model.is_packed:
        raise LayoutError("adapters are for packed models", fix="call model.pack(), or load_model(path)")


def adaptable(model: Model) -> dict[str, Linear]:
    """Every linear layer of the Hugging Face model by its name there; the draft layers are none of it."""
    found: dict[str, Linear] = {}
    for path, module in model.named_modules():
        if isinstance(module, Linear) and not path.startswith("mtp."):
            found[HEAD if path in ("lm_head", "tied_head") else f"model.{path}"] = module
    return found
