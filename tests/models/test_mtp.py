"""Multi-token prediction, against a plain float64 reading of the V3 technical report, section 2.2."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hf_oracle import V3, Checkpoint, Sequences, Spec, edit_config, make, yarn
from safetensors.torch import load_file, save_file
from torch import Tensor

from deepseek.core.errors import CheckpointError, LayoutError
from deepseek.models.checkpoint import load_model, save_model
from deepseek.models.context import KVCache, Packed
from deepseek.models.transformer import Model

LAYERS = V3["num_hidden_layers"]
DEPTHS = 2
FACTOR, ORIGINAL = 8.0, 64


def with_draft_layers(path: Path, tie: bool = False) -> Checkpoint:
    """transformers makes the model; the draft layers, which it does not know, are random tensors under V3's names."""
    rope = yarn(FACTOR, mscale=1.0, mscale_all_dim=1.0)
    checkpoint = make(Spec("deepseek_v3", V3 | {"rope_parameters": rope, "tie_word_embeddings": tie}, 2), path)
    tensors = load_file(path / "model.safetensors")
    generator = torch.Generator().manual_seed(9)
    last = f"model.layers.{LAYERS - 1}."
    width = V3["hidden_size"]
    for depth in range(DEPTHS):
        layer = f"model.layers.{LAYERS + depth}."
        for name in [name for name in tensors if name.startswith(last)]:
            like = tensors[name]
            tensors[name.replace(last, layer)] = torch.randn(like.shape, generator=generator) / like.shape[-1] ** 0.5
        tensors[f"{layer}eh_proj.weight"] = torch.randn(width, 2 * width, generator=generator) / width**0.5
        for norm in ("enorm", "hnorm", "shared_head.norm", "input_layernorm", "post_attention_layernorm"):
            tensors[f"{layer}{norm}.weight"] = torch.rand(width, generator=generator) + 0.5
        for norm in ("q_a_layernorm", "kv_a_layernorm"):
            like = tensors[f"{last}self_attn.{norm}.weight"]
            tensors[f"{layer}self_attn.{norm}.weight"] = torch.rand(like.shape, generator=generator) + 0.5
    save_file(tensors, path / "model.safetensors")
    edit_config(path, num_nextn_predict_layers=DEPTHS)
    return checkpoint


class Reference:
    """One draft layer in float64, straight from the formulas; weights by their checkpoint names."""

    def __init__(self, tensors: dict[str, Tensor], depth: int) -> None:
        prefix = f"model.layers.{LAYERS + depth}."
        self.w = {name.removeprefix(prefix): t.double() for name, t in tensors.items() if name.startswith(prefix)}
        self.embedding, self.head = tensors["model.embed_tokens.weight"].double(), tensors["lm_head.weight"].double()

    def logits(self, hidden: Tensor, next_ids: Tensor) -> Tensor:
        embedded = self.norm(self.embedding[next_ids], "enorm")
        h = torch.cat([embedded, self.norm(hidden.double(), "hnorm")], dim=-1) @ self.w["eh_proj.weight"].T
        h = h + self.attention(self.norm(h, "input_layernorm"))
        h = h + self.experts(self.norm(h, "post_attention_layernorm"))
        return self.norm(h, "shared_head.norm") @ self.head.T

    def norm(self, x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * self.w[f"{name}.weight"]

    def attention(self, x: Tensor) -> Tensor:
        heads, nope, rope, value = (
            V3[k] for k in ("num_attention_heads", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
        )
        down = x @ self.w["self_attn.kv_a_proj_with_mqa.weight"].T
        latent = self.norm(down[:, : V3["kv_lora_rank"]], "self_attn.kv_a_layernorm")
        q = self.norm(x @ self.w["self_attn.q_a_proj.weight"].T, "self_attn.q_a_layernorm")
        q = (q @ self.w["self_attn.q_b_proj.weight"].T).view(-1, heads, nope + rope)
        kv = (latent @ self.w["self_attn.kv_b_proj.weight"].T).view(-1, heads, nope + value)
        k_rope = rotate(down[:, None, V3["kv_lora_rank"] :]).expand(-1, heads, -1)
        q = torch.cat([q[..., :nope], rotate(q[..., nope:])], -1)
        k = torch.cat([kv[..., :nope], k_rope], -1)
        magnitude = 0.1 * math.log(FACTOR) + 1
        scores = torch.einsum("qhd,khd->hqk", q, k) * magnitude**2 / math.sqrt(nope + rope)
        future = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
        mixed = torch.einsum("hqk,khd->qhd", scores.masked_fill(future, -math.inf).softmax(-1), kv[..., nope:])
        return mixed.flatten(1) @ self.w["self_attn.o_proj.weight"].T

    def experts(self, x: Tensor) -> Tensor:
        scores = (x @ self.w["mlp.gate.weight"].T).sigmoid()
        biased = scores + self.w["mlp.gate.e_score_correction_bias"]
        out = self.mlp(x, "mlp.shared_experts")
        for t in range(len(x)):
            groups = biased[t].view(V3["n_group"], -1)
            best = groups.topk(2).values.sum(-1).topk(V3["topk_group"]).indices
            allowed = torch.full_like(groups, -math.inf)
            allowed[best] = groups[best]
            chosen = allowed.flatten().topk(V3["num_experts_per_tok"]).indices
            for expert in chosen.tolist():
                weight = 2.5 * scores[t, expert] / scores[t, chosen].sum()
                out[t] = out[t] + weight * self.mlp(x[t], f"mlp.experts.{expert}")
        return out

    def mlp(self, x: Tensor, name: str) -> Tensor:
        gate, up, down = (self.w[f"{name}.{part}_proj.weight"] for part in ("gate", "up", "down"))
        return (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T


def rotate(x: Tensor) -> Tensor:
    """YaRN's rotation of neighbouring pairs, [T, H, d] at positions 0 .. T - 1."""
    dim = x.shape[-1]
    turns = torch.tensor([10000.0 ** (-2 * i / dim) for i in range(dim // 2)], dtype=torch.float64)
    low, high = (dim * math.log(ORIGINAL / (n * 2 * math.pi)) / (2 * math.log(10000)) for n in (32, 1))
    low, high = max(math.floor(low), 0), min(math.ceil(high), dim - 1)
    ramp = torch.tensor([min(max((i - low) / (high - low), 0), 1) for i in range(dim // 2)], dtype=torch.float64)
    angles = torch.arange(len(x))[:, None] * (turns / FACTOR * ramp + turns * (1 - ramp))[None]
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)[:, None]).flatten(-2)


@dataclass(frozen=True)
class Draft:
    path: Path
    model: Model
    ids: Tensor
    hidden: Tensor

    @property
    def next_ids(self) -> Tensor:
        return self.ids.roll(-1)


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Draft:
    path = tmp_path_factory.mktemp("mtp")
    ids = with_draft_layers(path).ids(40)
    model = load_model(path)
    with torch.no_grad():
        return Draft(path, model, ids, model(ids, Packed.of([len(ids)])))


@pytest.mark.parametrize("depth", range(DEPTHS))
@pytest.mark.parametrize("packed", [True, False])
def test_draft_logits_are_those_of_a_float64_reading_of_the_report(draft: Draft, depth: int, packed: bool) -> None:
    model = draft.model if packed else load_model(draft.path, packed=False)
    with torch.no_grad():
        out = model.draft(draft.hidden, draft.next_ids, Packed.of([len(draft.ids)]), depth)
        found = model.logits(out)
    expected = Reference(load_file(draft.path / "model.safetensors"), depth).logits(draft.hidden, draft.next_ids)
    assert expected.std().item() >= 1
    assert (found - expected).abs().max().item() <= 1e-4


def test_the_two_halves_of_the_projection_are_not_interchangeable(draft: Draft) -> None:
    tensors = load_file(draft.path / "model.safetensors")
    name = f"model.layers.{LAYERS}.eh_proj.weight"
    tensors[name] = tensors[name].roll(V3["hidden_size"], dims=1)
    with torch.no_grad():
        found = draft.model.logits(draft.model.draft(draft.hidden, draft.next_ids, Packed.of([len(draft.ids)])))
    expected = Reference(tensors, 0).logits(draft.hidden, draft.next_ids)
    assert (found - expected).abs().max().item() > 0.1


@pytest.mark.parametrize("depth", range(DEPTHS))
def test_drafting_from_the_cache_is_packed_drafting_bit_for_bit(draft: Draft, depth: int) -> None:
    with torch.no_grad():
        expected = draft.model.draft(draft.hidden, draft.next_ids, Packed.of([len(draft.ids)]), depth)
        worker = Sequences(draft.model, 2, len(draft.ids), block_size=4, seed=depth)
        pieces = []
        for first, last in ((0, 5), (5, 6), (6, 29), (29, 40)):
            hidden = worker.step(draft.ids[first:last], [(1, first, last)])
            context = worker.context([(1, first, last)])
            pieces.append(draft.model.draft(hidden, draft.next_ids[first:last], context, depth))
    assert torch.equal(torch.cat(pieces), expected)


def test_draft_tensors_are_kept_through_load_and_save(draft: Draft, tmp_path: Path) -> None:
    save_model(draft.model, tmp_path)
    before, after = (load_file(path / "model.safetensors") for path in (draft.path, tmp_path))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_repeated_embeddings_and_heads_are_accepted_when_they_are_copies(
    tie: bool, packed: bool, tmp_path: Path
) -> None:
    with_draft_layers(tmp_path, tie)
    repeat_shared(tmp_path, tie)
    assert len(load_model(tmp_path, packed=packed).mtp) == DEPTHS


@pytest.mark.parametrize("copy", ["embed_tokens.weight", "shared_head.head.weight"])
def test_a_repeated_tensor_that_differs_is_refused_by_name(copy: str, tmp_path: Path) -> None:
    with_draft_layers(tmp_path)
    tensors = repeat_shared(tmp_path, tie=False)
    name = f"model.layers.{LAYERS + 1}.{copy}"
    tensors[name][7, 3] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path)
    assert name in str(caught.value)
    assert "a copy of" in str(caught.value)


def repeat_shared(path: Path, tie: bool) -> dict[str, Tensor]:
    tensors = load_file(path / "model.safetensors")
    head = "model.embed_tokens.weight" if tie else "lm_head.weight"
    for depth in range(DEPTHS):
        layer = f"model.layers.{LAYERS + depth}."
        tensors[f"{layer}embed_tokens.weight"] = tensors["model.embed_tokens.weight"].clone()
        tensors[f"{layer}shared_head.head.weight"] = tensors[head].clone()
    save_file(tensors, path / "model.safetensors")
    return tensors


def test_draft_layers_that_an_export_stripped_are_left_out(tmp_path: Path) -> None:
    make(Spec("deepseek_v3", V3, 2), tmp_path)
    edit_config(tmp_path, num_nextn_predict_layers=1)
    model = load_model(tmp_path)
    assert model.config.num_nextn_predict_layers == 0
    with pytest.raises(LayoutError, match="no such multi-token-prediction layer"):
        model.draft(torch.zeros(1, V3["hidden_size"]), torch.tensor([1]), Packed.of([1]))


def test_a_cache_without_draft_layers_is_refused_with_the_way_to_make_one(draft: Draft) -> None:
    context = Sequences(draft.model, 1, 8, block_size=4).context([(0, 0, 2)])
    small = type(context)(
        KVCache(draft.model.config, 64), context.positions, context.slots, context.seq_of_token, context.block_tables, 4
    )
    with torch.no_grad(), pytest.raises(LayoutError, match="layers="):
        draft.model.draft(draft.hidden[:2], draft.ids[:2], small)
