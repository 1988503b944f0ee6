"""Mixture of experts: a router picks a few experts per token, shared experts see every token.

V2 scores with a softmax, greedily or inside the best groups; V3 scores with sigmoids and picks by score plus a
correction bias (`noaux_tc`), which balances the load without an auxiliary loss: the bias steers the choice only,
weights come from the plain scores (V3 technical report, section 2.1.2).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepseek import kernels
from deepseek.core.errors import LayoutError
from deepseek.kernels import PackedExperts, PackedWeight, Routing
from deepseek.models.config import ExpertConfig
from deepseek.models.layers import GatedMLP, pack_rows
from deepseek.models.low_rank import Assignment
from deepseek.precision.integer import IntegerPieces


class Router(nn.Module):
    """Scores [E, D]; returns which experts each token takes and with what weight, best first."""

    e_score_correction_bias: Tensor

    def __init__(self, hidden_size: int, config: ExpertConfig) -> None:
        super().__init__()
        self.config = config
        self.shape = (config.n_routed_experts, hidden_size)
        self.weight: nn.Parameter | None = nn.Parameter(torch.empty(self.shape))
        self.packed: PackedWeight | None = None
        if config.topk_method == "noaux_tc":
            self.register_buffer("e_score_correction_bias", torch.zeros(config.n_routed_experts))
        self.counts: list[Tensor] = []  # tokens per expert [E] of each training pass since they were last taken

    def adopt(self, pieces: Iterable[Tensor] | IntegerPieces, scale_inv: Tensor | None = None) -> None:
        if isinstance(pieces, IntegerPieces):
            raise LayoutError("a router is not quantised", fix="its few weights decide which experts compute")
        self.packed = kernels.pack_pieces(self.shape, pieces, scale_inv)
        self.weight = None

    @property
    def correction(self) -> Tensor | None:
        return self.e_score_correction_bias if self.config.topk_method == "noaux_tc" else None

    @property
    def routing(self) -> Routing:
        """The same rules for the kernels."""
        config = self.config
        grouped = config.topk_method != "greedy" and config.topk_group != config.n_group
        return Routing(
            topk=config.num_experts_per_tok,
            sigmoid=config.scoring_func == "sigmoid",
            normalise=config.norm_topk_prob,
            scale=config.routed_scaling_factor,
            groups=config.n_group if grouped else 1,
            top_groups=config.topk_group if grouped else 1,
            group_best=2 if config.topk_method == "noaux_tc" else 1,
            closed=float("-inf") if config.topk_method == "noaux_tc" else 0.0,
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # [T, D] -> ids int64 [T, k], weights float32 [T, k]
        if self.packed is not None:
            return kernels.route(kernels.linear(x, self.packed), self.correction, self.routing)
        assert self.weight is not None
        logits = F.linear(x.float(), self.weight.float())
        scores = logits.sigmoid() if self.config.scoring_func == "sigmoid" else logits.softmax(-1)
        if self.config.topk_method == "noaux_tc":
            chosen = self._within_groups(scores + self.e_score_correction_bias, best=2, closed=float("-inf"))
            ids = torch.topk(chosen, self.config.num_experts_per_tok, dim=-1).indices
            weights = scores.gather(1, ids)
        else:
            chosen = scores
            if self.config.topk_method == "group_limited_greedy":
                chosen = self._within_groups(scores, best=1, closed=0.0)
            weights, ids = torch.topk(chosen, self.config.num_experts_per_tok, dim=-1)
        if self.config.norm_topk_prob:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        if torch.is_grad_enabled():
            self.counts.append(torch.bincount(ids.flatten(), minlength=self.config.n_routed_experts))
        return ids, weights * self.config.routed_scaling_factor

    def _within_groups(self, scores: Tensor, best: int, closed: float) -> Tensor:
        """Close all experts but those of the `topk_group` groups whose `best` highest scores sum highest."""
        config = self.config
        if config.topk_group == config.n_group:
            return scores
        grouped = scores.view(scores.shape[0], config.n_group, -1)
        group_scores = grouped.topk(best, dim=-1).values.sum(-1)
        groups = torch.topk(group_scores, config.topk_group, dim=-1).indices
        open_groups = torch.zeros_like(group_scores, dtype=torch.bool).scatter_(1, groups, True)
        return grouped.masked_fill(~open_groups.unsqueeze(-1), closed).flatten(1)


class RoutedExperts(nn.Module):
    """The routed experts' gated MLPs, stacked by expert: gate and up [E, F, D], down [E, D, F]."""

    def __init__(self, hidden_size: int, config: ExpertConfig) -> None:
        super().__init__()
        count, width = config.n_routed_experts, config.moe_intermediate_size
        self.count, self.hidden_size, self.width = count, hidden_size, width
        self.gate_proj: nn.Parameter | None = nn.Parameter(torch.empty(count, width, hidden_size))
        self.up_proj: nn.Parameter | None = nn.Parameter(torch.empty(count, width, hidden_size))
        self.down_proj: nn.Parameter | None = nn.Parameter(torch.empty(count, hidden_size, width))
        self.compute_dtype: torch.dtype | None = None
        self.packed: dict[str, PackedExperts] = {}
        self._adopted: dict[str, dict[int, PackedWeight]] = {"gate_proj": {}, "up_proj": {}, "down_proj": {}}

    def shape_of(self, name: str) -> tuple[int, int]:
        """Shape of one expert's matrix."""
        return (self.hidden_size, self.width) if name == "down_proj" else (self.width, self.hidden_size)

    def adopt(
        self, name: str, expert: int, source: Iterable[Tensor] | IntegerPieces, scale_inv: Tensor | None = None
    ) -> None:
        """Pack one expert's matrix; when the last of a kind is there, the trainable parameter goes."""
        parts = self._adopted[name]
        parts[expert] = pack_rows(self.shape_of(name), source, scale_inv)
        if len(parts) == self.count:
            self.packed[name] = kernels.pack_experts([parts[index] for index in range(len(parts))])
            setattr(self, name, None)

    def make_room(self, name: str, experts: Iterable[int]) -> None:
        """Let go of these experts' packed matrices of one kind, so that `adopt` groups anew once others are there."""
        for expert in experts:
            self._adopted[name].pop(expert, None)

    def forward(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        if len(self.packed) == 3:
            gate, up, down = (self.packed[name] for name in ("gate_proj", "up_proj", "down_proj"))
            return kernels.expert_ffn(x, ids, weights, gate, up, down)
        return self._train_forward(x, ids, weights)

    def _train_forward(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        if self.gate_proj is None or self.up_proj is None or self.down_proj is None:
            raise LayoutError("the experts are only partly packed", fix="load every expert of the layer")
        dtype = self.compute_dtype or self.gate_proj.dtype
        top_k = ids.shape[1]
        order = ids.flatten().argsort(stable=True)  # rows of the same expert side by side
        counts = torch.bincount(ids.flatten(), minlength=self.gate_proj.shape[0]).tolist()
        token = order // top_k
        rows = torch.split(x.to(dtype).index_select(0, token), counts)
        gate, up, down = (w.to(dtype).unbind(0) for w in (self.gate_proj, self.up_proj, self.down_proj))
        outputs = [
            F.linear(F.silu(F.linear(taken, gate[e])) * F.linear(taken, up[e]), down[e])
            for e, taken in enumerate(rows)
            if taken.shape[0]
        ]
        weighted = torch.cat(outputs).float() * weights.flatten().index_select(0, order).unsqueeze(1)
        return torch.zeros_like(x, dtype=torch.float32).index_add(0, token, weighted)


class ExpertLayer(nn.Module):
    """Shared experts for every token plus the routed ones the router picks."""

    def __init__(self, hidden_size: int, config: ExpertConfig) -> None:
        super().__init__()
        self.gate = Router(hidden_size, config)
        self.experts = RoutedExperts(hidden_size, config)
        shared = config.n_shared_experts
        self.shared_experts = GatedMLP(hidden_size, config.moe_intermediate_size * shared) if shared else None

    def forward(self, x: Tensor, adapted: Assignment | None = None) -> Tensor:
        ids, weights = self.gate(x)
        routed: Tensor = self.experts(x, ids, weights)
        return routed if self.shared_experts is None else routed + self.shared_experts(x, adapted)
