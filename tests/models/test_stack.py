"""The one-call decoder stack: the same bits as the modules' own forward, whatever the architecture and the format."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from deepseek import kernels
from deepseek.core.errors import LayoutError
from deepseek.kernels.backend import use_backend
from deepseek.kernels.cpu.backend import CppBackend
from deepseek.kernels.fallback import ReferenceBackend
from deepseek.models.checkpoint import load_model
from deepseek.models.context import Packed, Paged
from deepseek.models.transformer import Model
from tests.models.hf_oracle import DENSE, V2_LITE, V3, Sequences, Spec, make, random_spec

SHAPES = {
    "llama": Spec("llama", DENSE),
    "qwen2": Spec("qwen2", DENSE),
    "v2": Spec("deepseek_v2", V2_LITE),
    "v3": Spec("deepseek_v3", V3),
} | {f"random-{seed}": random_spec(seed) for seed in range(8)}


def hidden_states(model: Model, modular: bool) -> list[Tensor]:
    """Two prompts of 70 and 9 tokens in three mixed steps, then scored whole."""
    model._stacks = dict.fromkeys(("layers", "0")) if modular else {}
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(0, model.config.vocab_size, (n,), generator=generator) for n in (70, 9)]
    sequences = Sequences(model, 2, 80, block_size=4)
    steps = [[(0, 0, 40), (1, 0, 3)], [(1, 3, 4), (0, 40, 69)], [(0, 69, 70), (1, 4, 9)]]
    out = [sequences.step(torch.cat([ids[row][a:b] for row, a, b in spans]), spans) for spans in steps]
    with torch.no_grad():
        out.append(model(torch.cat(ids), Packed.of([70, 9])))
    return out


@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
@pytest.mark.parametrize("name", SHAPES)
def test_one_call_computes_the_bits_of_the_single_operations(name: str, quantization: str, tmp_path: Path) -> None:
    model = load_model(make(SHAPES[name], tmp_path).path, quantization=quantization)  # type: ignore[arg-type]
    if kernels.describe()["backend"] != "cpp":
        pytest.skip("the reference backend runs single operations only")
    with_mlp_bias = bool(SHAPES[name].config.get("mlp_bias"))
    assert (model._stack_of("layers") is None) == with_mlp_bias
    for whole, single in zip(hidden_states(model, modular=False), hidden_states(model, modular=True), strict=True):
        assert torch.equal(whole, single)
        assert whole.isfinite().all()


def test_the_draft_layer_has_a_stack_of_its_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = SHAPES["v3"]
    checkpoint = make(spec, tmp_path)
    from dataclasses import replace

    config = replace(load_model(checkpoint.path).config, num_nextn_predict_layers=1)
    model = Model(config).initialize(seed=3, std=0.3).pack()
    sequences = Sequences(model, 1, 20, block_size=4)
    ids, following = checkpoint.ids(12), checkpoint.ids(12, seed=1)
    results = []
    for modular in (False, True):
        model._stacks = dict.fromkeys(("layers", "0")) if modular else {}
        hidden = sequences.step(ids, [(0, 0, 12)])
        with torch.no_grad():
            results.append(model.draft(hidden, following, sequences.context([(0, 0, 12)])))
    assert torch.equal(*results)
    if kernels.describe()["backend"] == "cpp":
        model._stacks = {}
        model.draft(hidden, following, sequences.context([(0, 0, 12)]))
        assert model._stacks["0"] is not None


def test_a_slot_outside_the_cache_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = load_model(make(SHAPES["qwen2"], tmp_path).path)
    if kernels.describe()["backend"] != "cpp":
        pytest.skip("the reference backend runs single operations only")
    sequences = Sequences(model, 1, 8, block_size=4)
    before = [keys.clone() for keys, _ in sequences.cache.pools]
    good = sequences.context([(0, 0, 4)])
    for change in (
        {"slots": good.slots + 10_000},
        {"positions": good.positions + 100},
        {"seq_of_token": good.seq_of_token + 1},
    ):
        context = Paged(**{field: getattr(good, field) for field in good.__dataclass_fields__} | change)
        with pytest.raises(LayoutError, match="outside"), torch.no_grad():
            model(torch.zeros(4, dtype=torch.int64), context)
    for pool, kept in zip(sequences.cache.pools, before, strict=True):
        assert torch.equal(pool[0], kept)


def test_a_backend_without_stacks_computes_module_by_module(tmp_path: Path) -> None:
    path = make(SHAPES["v2"], tmp_path).path
    with use_backend(ReferenceBackend()):
        model = load_model(path)
        assert model._stack_of("layers") is None
        assert all(part.isfinite().all() for part in hidden_states(model, modular=False))


def test_a_stack_does_not_depend_on_threads(tmp_path: Path) -> None:
    if kernels.describe()["backend"] != "cpp":
        pytest.skip("the reference backend runs single operations only")
    model = load_model(make(SHAPES["v3"], tmp_path).path, quantization="int8")
    before = kernels.num_threads()
    try:
        kernels.set_num_threads(1)
        alone = hidden_states(model, modular=False)
        kernels.set_num_threads(3)
        for one, three in zip(alone, hidden_states(model, modular=False), strict=True):
            assert torch.equal(one, three)
    finally:
        kernels.set_num_threads(before)


def test_every_instruction_set_runs_the_stack(tmp_path: Path) -> None:
    from deepseek.kernels.backend import default_backend

    backend = default_backend()
    if not isinstance(backend, CppBackend):
        pytest.skip("the reference backend runs single operations only")
    model = load_model(make(SHAPES["v3"], tmp_path).path, quantization="int4")
    now = backend.describe()["isa"]
    try:
        results = []
        for isa in backend.available_isas():
            backend.set_isa(isa)
            whole, single = hidden_states(model, modular=False), hidden_states(model, modular=True)
            assert all(torch.equal(a, b) for a, b in zip(whole, single, strict=True))
            results.append(whole[-1])
        for result in results[1:]:
            torch.testing.assert_close(result, results[0], rtol=5e-2, atol=5e-2)
    finally:
        backend.set_isa(str(now))
