"""The one model definition, trained and served: embeddings, decoder layers, norm, output head, multi-token prediction.

`model(tokens, context)` maps flat tokens [T] to normed hidden states [T, D]; `model.logits(hidden[rows])` is asked for
only where it is needed. `model.draft(hidden, next_ids, context)` is the multi-token-prediction layer (V3 technical
report, section 2.2): from position i's hidden state and token i + 1 it predicts token i + 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from deepseek import kernels
from deepseek.core.errors import LayoutError
from deepseek.kernels import Stack, StackStep
from deepseek.models.attention import GroupedQueryAttention, LatentAttention, Rotation
from deepseek.models.config import ModelConfig
from deepseek.models.context import Context, Packed, Paged
from deepseek.models.experts import ExpertLayer, RoutedExperts, Router
from deepseek.models.layers import Embedding, GatedMLP, Linear, RMSNorm, join_rows, pack_rows
from deepseek.models.low_rank import Assignment
from deepseek.models.rope import RotaryTables
from deepseek.models.stack import compile_layers
from deepseek.precision.integer import IntegerPieces

Quantization = Literal["none", "int8", "int4"]


class DecoderLayer(nn.Module):
    """Pre-norm block. The residual travels beside the hidden state, so that each add is fused with the next norm."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn: nn.Module = (
            LatentAttention(config, index, config.latent) if config.latent else GroupedQueryAttention(config, index)
        )
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        if config.experts is not None and config.is_expert_layer(index):
            self.mlp: nn.Module = ExpertLayer(config.hidden_size, config.experts)
        else:
            self.mlp = GatedMLP(config.hidden_size, config.intermediate_size, config.mlp_bias)

    def forward(
        self, hidden: Tensor, residual: Tensor | None, context: Context, rotate: Rotation
    ) -> tuple[Tensor, Tensor]:
        if residual is None:
            hidden, residual = self.input_layernorm(hidden), hidden
        else:
            hidden, residual = self.input_layernorm.add(hidden, residual)
        hidden = self.self_attn(hidden, context, rotate)
        hidden, residual = self.post_attention_layernorm.add(hidden, residual)
        return self.mlp(hidden, context.adapters), residual


class SharedHead(nn.Module):
    """The draft layer's own last norm; its output matrix is the model's."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class DraftLayer(DecoderLayer):
    """One multi-token-prediction module: joins the next token's embedding to the hidden state for one decoder layer."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__(config, index)
        self.enorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.hnorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.eh_proj = Linear(2 * config.hidden_size, config.hidden_size)
        self.shared_head = SharedHead(config)

    def draft(self, hidden: Tensor, embedded: Tensor, context: Context, rotate: Rotation) -> Tensor:
        out, residual = self(self.join(hidden, embedded), None, context, rotate)
        return self.shared_head.norm.add(out, residual)[0]

    def join(self, hidden: Tensor, embedded: Tensor) -> Tensor:
        joined: Tensor = self.eh_proj(torch.cat([self.enorm(embedded), self.hnorm(hidden)], dim=-1))
        return joined.float()


class Model(nn.Module):
    """A decoder-only language model. Made with undefined weights: `initialize`, or load a checkpoint."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([DecoderLayer(config, index) for index in range(config.num_hidden_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = None if config.tie_word_embeddings else Linear(config.hidden_size, config.vocab_size)
        self.mtp = nn.ModuleList(
            [DraftLayer(config, config.num_hidden_layers + depth) for depth in range(config.num_nextn_predict_layers)]
        )
        self.tied_head: Linear | None = None
        dim = config.latent.qk_rope_head_dim if config.latent else config.head_dim
        self._interleaved = config.latent is not None and config.latent.rope_interleave
        self._tables = RotaryTables(config.rope, dim, config.max_position_embeddings)
        self.compute_dtype: torch.dtype | None = None
        self._stacks: dict[str, Stack | None] = {}
        self.quantization: Quantization = "none"  # what the loader made of the matrices

    @property
    def is_packed(self) -> bool:
        return self.embed_tokens.weight is None

    def forward(self, tokens: Tensor, context: Context) -> Tensor:
        """Token ids int64 [T] to hidden states float32 [T, D], after the final norm.

        Raises LayoutError for ids outside the vocabulary, and for a context of another number of tokens.
        """
        self._check_tokens(tokens, context)
        if not tokens.shape[0]:
            return torch.empty(0, self.config.hidden_size)
        context = self._serving_form(context)
        rotate = self._rotation(context)
        hidden = self.embed_tokens(tokens)
        if isinstance(context, Paged) and context.adapters is None and (stack := self._stack_of("layers")) is not None:
            return self._run(stack, hidden, context, rotate, first_layer=0)
        residual: Tensor | None = None
        for layer in self.layers:
            hidden, residual = layer(hidden, residual, context, rotate)
        if residual is None:
            raise LayoutError("a model needs at least one layer", where="num_hidden_layers", found=0)
        normed: Tensor = self.norm.add(hidden, residual)[0]
        return normed

    def logits(self, hidden: Tensor, adapted: Assignment | None = None) -> Tensor:
        """Hidden states [N, D] to scores over the vocabulary [N, V] (float32; the compute dtype while training).

        adapted: the adapters of these rows; `context.adapters.at(rows)` where `hidden` is a selection of a step's.
        """
        head = self.lm_head if self.lm_head is not None else self.tied_head
        if head is not None:
            scores: Tensor = head(hidden, adapted)
            return scores
        dtype = self.compute_dtype or self.head_weight.dtype
        return nn.functional.linear(hidden.to(dtype), self.head_weight.to(dtype))

    @property
    def head_weight(self) -> nn.Parameter:
        """The output matrix [V, D] of an unpacked model; the embedding's own where the two are tied."""
        if self.lm_head is not None:
            return self.lm_head.require_weight()
        if self.embed_tokens.weight is None:
            raise LayoutError(
                "the output matrix is packed for serving", fix="load the model with packed=False to train it"
            )
        return self.embed_tokens.weight

    def draft(self, hidden: Tensor, next_ids: Tensor, context: Context, depth: int = 0) -> Tensor:
        """Hidden states [T, D] and the ids that follow them, int64 [T], to draft hidden states [T, D] for `logits`.

        Keys and values of draft layer `depth` go to the cache's layer `num_hidden_layers + depth`.
        """
        if depth >= len(self.mtp):
            raise LayoutError("no such multi-token-prediction layer", found=depth, expected=f"below {len(self.mtp)}")
        self._check_tokens(next_ids, context)
        if hidden.shape != (next_ids.shape[0], self.config.hidden_size):
            expected = [next_ids.shape[0], self.config.hidden_size]
            raise LayoutError("hidden states do not fit the ids", found=list(hidden.shape), expected=expected)
        if not next_ids.shape[0]:
            return hidden
        context = self._serving_form(context)
        layer = self.mtp[depth]
        assert isinstance(layer, DraftLayer)
        embedded, rotate = self.embed_tokens(next_ids), self._rotation(context)
        if (
            isinstance(context, Paged)
            and context.adapters is None
            and (stack := self._stack_of(str(depth))) is not None
        ):
            return self._run(
                stack, layer.join(hidden, embedded), context, rotate, self.config.num_hidden_layers + depth
            )
        return layer.draft(hidden, embedded, context, rotate)

    def _stack_of(self, name: str) -> Stack | None:
        """The one-call form of the decoder layers, or of a draft layer; made at first use, None where there is none."""
        if not self.is_packed:
            return None
        if name not in self._stacks:
            if name == "layers":
                self._stacks[name] = compile_layers(self.layers, self.norm)
            else:
                layer = self.mtp[int(name)]
                assert isinstance(layer, DraftLayer)
                self._stacks[name] = compile_layers([layer], layer.shared_head.norm)
        return self._stacks[name]

    def _run(self, stack: Stack, hidden: Tensor, context: Paged, rotate: Rotation, first_layer: int) -> Tensor:
        step = StackStep(
            positions=context.positions,
            slots=context.slots,
            cos=rotate.cos,
            sin=rotate.sin,
            interleaved=rotate.interleaved,
            seq_of_token=context.seq_of_token,
            block_tables=context.block_tables,
            block_size=context.block_size,
            pools=context.stack_pools(stack, first_layer, self.config),
        )
        return kernels.run_stack(stack, hidden, step)

    def set_compute_dtype(self, dtype: torch.dtype | None) -> None:
        """What training multiplies matrices in; weights, norms, residuals and routing stay in their own dtype."""
        self.compute_dtype = dtype
        for module in self.modules():
            if isinstance(module, Linear | RoutedExperts):
                module.compute_dtype = dtype

    def pack(self) -> Model:
        """Move all weights into the kernels' layout, for exact serving. One way: training ends here. Returns self."""
        if self.is_packed:
            return self
        for module in list(self.modules()):
            if isinstance(module, Linear | Router) and module.weight is not None:
                module.adopt([module.weight.detach()])
            elif isinstance(module, RoutedExperts):
                for name in ("gate_proj", "up_proj", "down_proj"):
                    parameter: Tensor = getattr(module, name).detach()
                    for expert in range(parameter.shape[0]):
                        module.adopt(name, expert, [parameter[expert]])
        assert self.embed_tokens.weight is not None
        self.adopt_embedding([self.embed_tokens.weight.detach()])
        return self.requires_grad_(False).eval()

    def adopt_embedding(self, source: Iterable[Tensor] | IntegerPieces) -> None:
        """Take the embedding [vocab, hidden] as `pack_rows` does; tied models keep one packed copy for both uses."""
        shape = self.config.vocab_size, self.config.hidden_size
        if self.lm_head is None:
            with torch.device("meta"):
                self.tied_head = Linear(self.config.hidden_size, self.config.vocab_size)
            self.tied_head.adopt(source)
            self.embed_tokens.packed = self.tied_head.packed
        elif isinstance(source, IntegerPieces):
            self.embed_tokens.rows, self.embed_tokens.packed = None, pack_rows(shape, source)
        else:
            self.embed_tokens.rows, self.embed_tokens.packed = join_rows(shape, source), None
        self.embed_tokens.weight = None

    def initialize(self, seed: int = 0, std: float = 0.02) -> Model:
        """Random weights: normal with `std`, output projections of blocks scaled by 1/sqrt(2 layers). Returns self."""
        generator = torch.Generator().manual_seed(seed)
        depth_scale = 1.0 / math.sqrt(2 * max(1, self.config.num_hidden_layers))
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith("norm.weight"):
                    parameter.fill_(1.0)
                elif name.endswith("bias"):
                    parameter.zero_()
                else:
                    scale = depth_scale if "o_proj" in name or "down_proj" in name else 1.0
                    parameter.normal_(0.0, std * scale, generator=generator)
        return self

    def _check_tokens(self, tokens: Tensor, context: Context) -> None:
        if tokens.dtype != torch.int64 or tokens.shape != context.positions.shape:
            raise LayoutError(
                "token ids do not fit their context",
                found=f"{tokens.dtype} {list(tokens.shape)}",
                expected=f"torch.int64 {list(context.positions.shape)}",
            )
        if (
            not tokens.shape[0] or self.embed_tokens.packed is not None
        ):  # the kernel that reads packed rows looks itself
            return
        lowest, highest = (int(bound) for bound in torch.aminmax(tokens))
        if lowest < 0 or highest >= self.config.vocab_size:
            raise LayoutError(
                "a token id is outside the vocabulary",
                found=lowest if lowest < 0 else highest,
                expected=f"0 to {self.config.vocab_size - 1}",
                fix="use the tokenizer that belongs to this model",
            )

    def _serving_form(self, context: Context) -> Context:
        return context.paged() if self.is_packed and isinstance(context, Packed) else context

    def _rotation(self, context: Context) -> Rotation:
        # In a paged step every position has its place in a block.
        paged = context.block_tables.shape[1] * context.block_size if isinstance(context, Paged) else None
        length = int(context.positions.max()) + 1 if paged is None else paged
        cos, sin = self._tables.upto(length)
        return Rotation(context.positions, cos, sin, self._interleaved)
