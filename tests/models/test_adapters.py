"""LoRA adapters that PEFT made compute what PEFT computes, several in one batch, without touching anybody else's bits."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from hf_oracle import (
    DENSE,
    V2_LITE,
    V3,
    Checkpoint,
    Sequences,
    Spec,
    make,
    oracle_logits,
    packed_logits,
    yarn,
)
from safetensors.torch import load_file, save_file
from torch import Tensor

from deepseek.core.errors import CheckpointError, ConfigError, DeepSeekError, LayoutError
from deepseek.models.adapter_files import WEIGHTS_FILE, read_adapter
from deepseek.models.adapters import AdapterBank
from deepseek.models.checkpoint import load_model, save_model
from deepseek.models.context import Packed
from deepseek.models.low_rank import Assignment
from deepseek.models.transformer import Model

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),
]

LARGEST_DIFFERENCE = 1e-4
DENSE_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LATENT_TARGETS = r".*\.(q_a_proj|q_b_proj|q_proj|kv_a_proj_with_mqa|kv_b_proj|o_proj|(0\.mlp|shared_experts)\.\w+_proj)"

SPECS = {
    "llama": Spec("llama", DENSE, 18),
    "llama-biases": Spec("llama", DENSE | {"attention_bias": True, "mlp_bias": True}, 31),
    "qwen2-tied": Spec("qwen2", DENSE | {"tie_word_embeddings": True, "num_key_value_heads": 4}, 22),
    "v2-lite": Spec("deepseek_v2", V2_LITE | {"rope_parameters": yarn(40.0, mscale=0.707, mscale_all_dim=0.707)}, 5),
    "v3": Spec("deepseek_v3", V3, seed=1),
}
# A checkpoint, and an adapter for it as PEFT's LoraConfig describes it.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "dense": ("llama", {"r": 4, "lora_alpha": 6, "target_modules": DENSE_TARGETS}),
    "dense, queries and values": ("llama", {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}),
    "dense, one MLP matrix": ("llama", {"r": 3, "lora_alpha": 4, "target_modules": ["up_proj"]}),
    "dense, biases": ("llama-biases", {"r": 5, "lora_alpha": 5, "target_modules": DENSE_TARGETS}),
    "output matrix": ("llama", {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "lm_head"]}),
    "tied output matrix": ("qwen2-tied", {"r": 4, "lora_alpha": 8, "target_modules": [*DENSE_TARGETS, "lm_head"]}),
    "stabilised ranks": ("qwen2-tied", {"r": 16, "lora_alpha": 4, "use_rslora": True, "target_modules": DENSE_TARGETS}),
    "ranks and alphas by pattern": (
        "llama",
        {
            "r": 4,
            "lora_alpha": 4,
            "target_modules": DENSE_TARGETS,
            "rank_pattern": {
                "q_proj": 2,
                r"layers\.[12]\.mlp\.(up|down)_proj": 7,
                "^model.layers.0.self_attn.v_proj": 1,
            },
            "alpha_pattern": {"layers.1.self_attn.o_proj": 9, ".*mlp.*_proj": 3},
        },
    ),
    "a regular expression": ("llama", {"r": 4, "lora_alpha": 8, "target_modules": r".*\.[02]\..*(?<!v)_proj"}),
    "some layers": (
        "llama",
        {
            "r": 4,
            "lora_alpha": 8,
            "target_modules": [*DENSE_TARGETS, "model.layers.1.self_attn.q_proj"],
            "layers_to_transform": [0, 2],
            "layers_pattern": "layers",
            "exclude_modules": ["o_proj", "layers.2.mlp.up_proj"],
        },
    ),
    "latent": ("v3", {"r": 4, "lora_alpha": 6, "target_modules": LATENT_TARGETS}),
    "latent, kv_b_proj alone": ("v3", {"r": 6, "lora_alpha": 12, "target_modules": ["kv_b_proj"]}),
    "latent, shared experts alone": ("v3", {"r": 6, "lora_alpha": 6, "target_modules": ["shared_experts.gate_proj"]}),
    "latent, plain queries": ("v2-lite", {"r": 4, "lora_alpha": 6, "target_modules": LATENT_TARGETS}),
}


@dataclass(frozen=True)
class Base:
    checkpoint: Checkpoint
    ids: Tensor
    expected: Tensor

    def model(self) -> Model:
        return load_model(self.checkpoint.path)


@dataclass(frozen=True)
class Case:
    """A base model, a directory PEFT saved, and PEFT's logits."""

    base: Base
    path: Path
    expected: Tensor
    peft_model: Any


def adapted_oracle(checkpoint: Checkpoint, seed: int, **config: Any) -> Any:
    """PEFT's model around a copy of transformers' with random A and B."""
    torch.manual_seed(seed)
    oracle = copy.deepcopy(checkpoint.oracle)
    if "target_parameters" not in config:
        # PEFT on transformers 5 takes MLP targets of DeepSeek models to mean the routed experts too. Under a name it
        # does not know they mean linear layers, as they did on transformers 4.
        oracle.config.model_type = "plain"
    model = peft.get_peft_model(oracle, peft.LoraConfig(**config)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.8 / parameter.shape[-1] ** 0.5)
    return model


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Base]:
    made: dict[str, Base] = {}

    def base(name: str) -> Base:
        if name not in made:
            checkpoint = make(SPECS[name], tmp_path_factory.mktemp(name))
            ids = checkpoint.ids(50, 7)
            made[name] = Base(checkpoint, ids, checkpoint.oracle_logits(ids))
        return made[name]

    return base


@pytest.fixture(scope="module")
def cases(bases: Callable[[str], Base], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    made: dict[str, Case] = {}

    def case(name: str) -> Case:
        if name not in made:
            of_base, config = CASES[name]
            base = bases(of_base)
            model = adapted_oracle(base.checkpoint, len(made), **config)
            path = tmp_path_factory.mktemp("adapter")
            model.save_pretrained(path)
            made[name] = Case(base, path, oracle_logits(model, base.ids), model)
        return made[name]

    return case


@pytest.fixture
def saved(cases: Callable[[str], Case], tmp_path: Path) -> Path:
    """A copy of a dense adapter's directory, to be spoilt."""
    return Path(shutil.copytree(cases("dense").path, tmp_path / "adapter"))


def adapted_logits(model: Model, bank: AdapterBank, sequences: list[Tensor], handles: list[int]) -> list[Tensor]:
    """Logits of whole sequences computed together, each with its own adapter."""
    lengths = [len(ids) for ids in sequences]
    assignment = bank.assign(torch.repeat_interleave(torch.tensor(handles), torch.tensor(lengths)))
    context = replace(Packed.of(lengths).paged(), adapters=assignment)
    with torch.inference_mode():
        logits = model.logits(model(torch.cat(sequences), context), assignment)
    return list(logits.split(lengths))


def assert_same_logits(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max().item() <= LARGEST_DIFFERENCE


@pytest.mark.parametrize("name", CASES)
def test_an_adapter_computes_what_peft_computes(name: str, cases: Callable[[str], Case]) -> None:
    case = cases(name)
    model = case.base.model()
    bank = AdapterBank(model)
    bank.install(0, read_adapter(case.path, model))
    assert (case.expected - case.base.expected).abs().max().item() >= 0.1  # it makes a difference at all
    assert_same_logits(adapted_logits(model, bank, [case.base.ids], [0])[0], case.expected)


@pytest.mark.parametrize("name", ["dense", "latent", "latent, kv_b_proj alone", "latent, plain queries"])
def test_an_adapter_computes_what_the_merged_weights_do(
    name: str, cases: Callable[[str], Case], tmp_path: Path
) -> None:
    case = cases(name)
    merged_oracle = copy.deepcopy(case.peft_model).merge_and_unload()
    merged_oracle.config.model_type = case.base.checkpoint.spec.architecture
    merged_oracle.save_pretrained(tmp_path)
    model = case.base.model()
    bank = AdapterBank(model)
    bank.install(0, read_adapter(case.path, model))
    merged = packed_logits(load_model(tmp_path), case.base.ids)
    assert_same_logits(adapted_logits(model, bank, [case.base.ids], [0])[0], merged)


@dataclass(frozen=True)
class Served:
    path: Path
    model: Model
    bank: AdapterBank
    sequences: list[Tensor]
    handles: list[int]


MIXES = {
    "llama": ("dense", "dense, one MLP matrix", "output matrix"),
    "llama-biases": ("dense, biases",),
    "qwen2-tied": ("tied output matrix", "stabilised ranks"),
    "v3": ("latent", "latent, kv_b_proj alone", "latent, shared experts alone"),
}


@pytest.fixture(params=MIXES)
def served(request: pytest.FixtureRequest, cases: Callable[[str], Case], bases: Callable[[str], Base]) -> Served:
    """A model with several adapters, and sequences that have one each, or none."""
    base = bases(request.param)
    model = base.model()
    bank = AdapterBank(model)
    handles = []
    for number, name in enumerate(MIXES[request.param]):
        handle = 3 * number + 2
        bank.install(handle, read_adapter(cases(name).path, model))
        handles += [-1, handle]
    handles.append(handles[1])
    return Served(
        base.checkpoint.path,
        model,
        bank,
        [base.checkpoint.ids(9 + 4 * row, row) for row in range(len(handles))],
        handles,
    )


def test_in_a_mixed_batch_every_sequence_gets_the_bits_it_gets_alone(served: Served) -> None:
    together = adapted_logits(served.model, served.bank, served.sequences, served.handles)
    for ids, handle, logits in zip(served.sequences, served.handles, together, strict=True):
        assert torch.equal(logits, adapted_logits(served.model, served.bank, [ids], [handle])[0])


def test_sequences_without_an_adapter_get_the_bits_of_a_model_that_has_none(served: Served) -> None:
    together = adapted_logits(served.model, served.bank, served.sequences, served.handles)
    plain = load_model(served.path)
    for ids, handle, logits in zip(served.sequences, served.handles, together, strict=True):
        assert torch.equal(logits, packed_logits(plain, ids)) == (handle < 0)


@pytest.mark.parametrize("name", ["dense", "latent"])
def test_chunks_and_the_cache_give_the_bits_of_the_whole_sequence(name: str, cases: Callable[[str], Case]) -> None:
    case = cases(name)
    model = case.base.model()
    bank = AdapterBank(model)
    bank.install(1, read_adapter(case.path, model))
    ids = [case.base.ids[:30], case.base.ids[20:50]]
    worker = Sequences(model, 2, 30, block_size=4)
    hidden: list[list[Tensor]] = [[], []]
    for spans in ([(0, 0, 11), (1, 0, 1)], [(1, 1, 2)], [(0, 11, 12), (1, 2, 29)], [(0, 12, 30), (1, 29, 30)]):
        tokens = torch.cat([ids[row][first:last] for row, first, last in spans])
        handles = torch.cat([torch.full((last - first,), -1 if row else 1) for row, first, last in spans])
        with torch.no_grad():
            out = model(tokens, replace(worker.context(spans), adapters=bank.assign(handles)))
        for (row, *_), part in zip(spans, out.split([last - first for _, first, last in spans]), strict=True):
            hidden[row].append(part)
    for row, handle in ((0, 1), (1, -1)):
        expected = adapted_logits(model, bank, [ids[row]], [handle])[0]
        assert torch.equal(model.logits(torch.cat(hidden[row]), bank.assign(torch.full((30,), handle))), expected)


@pytest.mark.parametrize(
    ("name", "quantization"),
    [
        ("output matrix", "int8"),
        ("tied output matrix", "int4"),
        ("latent", "int8"),
        ("latent", "int4"),
        ("latent", "fp8"),
    ],
)
def test_quantised_weights_stay_what_they_are_beside_an_adapter(
    name: str, quantization: Any, cases: Callable[[str], Case], tmp_path: Path
) -> None:
    case = cases(name)
    if quantization == "fp8":
        save_model(case.base.model(), tmp_path, fp8_blocks=True)
        model = load_model(tmp_path)
    else:
        model = load_model(case.base.checkpoint.path, quantization=quantization)
    before = packed_logits(model, case.base.ids)
    bank = AdapterBank(model)
    bank.install(0, read_adapter(case.path, model))
    alone = adapted_logits(model, bank, [case.base.ids], [0])[0]
    together = adapted_logits(model, bank, [case.base.ids, case.base.ids], [-1, 0])
    assert torch.equal(together[0], before)
    assert torch.equal(together[1], alone)
    assert (alone - before).abs().max().item() >= 0.1


def test_an_adapter_saved_in_half_precision_is_read(cases: Callable[[str], Case], tmp_path: Path) -> None:
    case = cases("dense")
    copied = copy.deepcopy(case.peft_model).to(torch.bfloat16)
    copied.save_pretrained(tmp_path)
    assert {tensor.dtype for tensor in load_file(tmp_path / WEIGHTS_FILE).values()} == {torch.bfloat16}
    model = case.base.model()
    bank = AdapterBank(model)
    bank.install(0, read_adapter(tmp_path, model))
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(case.base.checkpoint.oracle), tmp_path).eval()
    assert_same_logits(
        adapted_logits(model, bank, [case.base.ids], [0])[0], oracle_logits(loaded.float(), case.base.ids)
    )


def test_an_adapter_is_read_from_the_bytes_of_its_files_too(cases: Callable[[str], Case]) -> None:
    case = cases("dense")
    model = case.base.model()
    bank = AdapterBank(model)
    bank.install(0, read_adapter({file.name: file.read_bytes() for file in case.path.iterdir()}, model))
    bank.install(1, read_adapter(str(case.path), model))
    from_bytes, from_files = adapted_logits(model, bank, [case.base.ids, case.base.ids], [0, 1])
    assert torch.equal(from_bytes, from_files)


def test_a_removed_adapter_leaves_the_base_model_and_a_free_handle(cases: Callable[[str], Case]) -> None:
    first, second = cases("latent"), cases("latent, kv_b_proj alone")
    model = first.base.model()
    bank = AdapterBank(model)
    adapter = read_adapter(first.path, model)
    bank.install(4, adapter)
    assert bank.nbytes == adapter.nbytes > 0
    assert bank.handles == {4}
    bank.remove(4)
    assert bank.nbytes == 0
    with pytest.raises(LayoutError, match="no adapter has this handle; found 4"):
        bank.assign(torch.tensor([-1, 4]))
    bank.install(4, read_adapter(second.path, model))
    assert_same_logits(adapted_logits(model, bank, [first.base.ids], [4])[0], second.expected)


@pytest.mark.parametrize("name", ["dense", "latent"])
def test_adapters_move_to_a_model_that_replaces_theirs(name: str, cases: Callable[[str], Case]) -> None:
    case = cases(name)
    old, new = case.base.model(), case.base.model()
    bank = AdapterBank(old)
    bank.install(0, read_adapter(case.path, old))
    bank.move_to(new)
    assert_same_logits(adapted_logits(new, bank, [case.base.ids], [0])[0], case.expected)
    assert torch.equal(adapted_logits(old, bank, [case.base.ids], [0])[0], packed_logits(old, case.base.ids))


def test_handles_are_unused_integers_and_known_to_the_step(cases: Callable[[str], Case]) -> None:
    case = cases("dense")
    model = case.base.model()
    bank = AdapterBank(model)
    adapter = read_adapter(case.path, model)
    bank.install(0, adapter)
    for taken in (0, -1):
        with pytest.raises(LayoutError, match="is no free handle"):
            bank.install(taken, adapter)
    with pytest.raises(LayoutError, match="no adapter has this handle"):
        bank.remove(1)
    with pytest.raises(LayoutError, match=r"found 7; expected one of \[0\]"):
        bank.assign(torch.tensor([0, 7]))


def test_a_step_without_adapters_has_no_assignment() -> None:
    assert Assignment.of(torch.tensor([-1, -1])) is None
    assignment = Assignment.of(torch.tensor([-1, 3, 0, 3]))
    assert assignment is not None
    assert assignment.at(torch.tensor([0])) is None
    assert [handle for handle, _ in assignment.groups] == [0, 3]


def test_a_model_to_train_takes_no_adapter(cases: Callable[[str], Case]) -> None:
    case = cases("dense")
    model = load_model(case.base.checkpoint.path, packed=False)
    for refused in (lambda: AdapterBank(model), lambda: read_adapter(case.path, model)):
        with pytest.raises(LayoutError, match=r"adapters are for packed models.*Fix: call model.pack\(\)"):
            refused()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("peft_type", "LOHA", "peft_type: is not supported; found 'LOHA'; expected 'LORA'"),
        ("peft_type", None, "peft_type: is not supported"),
        ("bias", "all", "bias: is not supported; found 'all'"),
        ("use_dora", True, "use_dora: is not supported; found True"),
        ("modules_to_save", ["lm_head"], "modules_to_save: is not supported"),
        ("fan_in_fan_out", True, "fan_in_fan_out: is not supported"),
        ("lora_bias", True, "lora_bias: is not supported"),
        ("use_qalora", True, "use_qalora: is not supported"),
        ("layer_replication", [[0, 2], [1, 3]], "layer_replication: is not supported"),
        ("trainable_token_indices", [5], "trainable_token_indices: is not supported"),
        ("alora_invocation_tokens", [5], "alora_invocation_tokens: is not supported"),
        ("target_parameters", ["mlp.experts.down_proj"], "target_parameters: is not supported: routed experts"),
        ("ensure_weight_tying", True, "ensure_weight_tying: is not supported"),
        ("init_lora_weights", "pissa", "init_lora_weights: is not supported; found 'pissa'"),
        ("something_new", {"x": 1}, "something_new: is not supported; found {'x': 1}"),
        ("r", 0, "r: is not usable; found 0"),
        ("r", "8", "r: is not usable; found '8'"),
        ("lora_alpha", -1, "lora_alpha: is not usable; found -1"),
        ("use_rslora", "yes", "use_rslora: is not usable"),
        ("target_modules", None, "target_modules: is missing"),
        ("target_modules", [1], "target_modules: is not usable"),
        ("exclude_modules", {"a": 1}, "exclude_modules: is not usable"),
        ("layers_pattern", ["blocks"], "layers_pattern: is not supported"),
        ("layers_to_transform", ["0"], "layers_to_transform: is not usable"),
        ("rank_pattern", {"q_proj": 2.5}, "rank_pattern: q_proj: is not usable; found 2.5; expected an integer"),
        ("alpha_pattern", {"q_proj": 0}, "alpha_pattern: q_proj: is not usable"),
        ("alpha_pattern", [8], "alpha_pattern: is not usable"),
        ("alpha_pattern", {"(?=q)q_proj": 8}, "alpha_pattern: has a pattern that is not a regular expression we take"),
    ],
)
def test_a_setting_we_do_not_support_is_refused_by_its_name(
    field: str, value: object, message: str, saved: Path, bases: Callable[[str], Base]
) -> None:
    file = saved / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    with pytest.raises(ConfigError) as refusal:
        read_adapter(saved, bases("llama").model())
    assert f"{file}: {message}" in str(refusal.value)


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_config_that_is_no_object_is_refused(text: str, saved: Path, bases: Callable[[str], Base]) -> None:
    (saved / "adapter_config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"adapter_config.json: (cannot be read as|is not a) JSON"):
        read_adapter(saved, bases("llama").model())


def test_a_pattern_that_would_take_forever_is_matched_in_no_time(saved: Path, bases: Callable[[str], Base]) -> None:
    file = saved / "adapter_config.json"
    slow = {r"(([a-z_]|[a-z._0-9])+)+!": 8}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"alpha_pattern": slow}))
    read_adapter(saved, bases("llama").model())


NAME = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
EXPERT = "base_model.model.model.layers.1.mlp.experts.0.up_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({NAME: None}, f"{NAME}: does not fit; found no such tensor; expected [4, 48]"),
        ({NAME: torch.zeros(4, 47)}, f"{NAME}: does not fit; found torch.float32 [4, 47]; expected [4, 48]"),
        ({NAME: torch.zeros(5, 48)}, f"{NAME}: does not fit; found torch.float32 [5, 48]; expected [4, 48]"),
        ({NAME: torch.zeros(4, 48).int()}, f"{NAME}: does not fit; found torch.int32 [4, 48]"),
        ({NAME: torch.full((4, 48), torch.nan)}, f"{NAME}: has values that are not finite"),
        ({NAME.replace(".1.", ".3."): torch.zeros(4, 48)}, "layers.3.self_attn.q_proj.lora_A.weight: is a tensor we"),
        ({NAME.replace("A", "C"): torch.zeros(4, 48)}, "lora_C.weight: is a tensor we have no place for"),
        ({NAME.replace(".weight", ".default.weight"): torch.zeros(4, 48)}, "lora_A.default.weight: is a tensor we"),
        ({NAME.removeprefix("base_model."): torch.zeros(4, 48)}, "we have no place for"),
        ({EXPERT: torch.zeros(4, 48)}, f"{EXPERT}: adapts routed experts"),
        ({"base_model.model.lm_head.lora_A.weight": torch.zeros(4, 48)}, "lm_head.lora_A.weight: is not among the"),
        (
            {"base_model.model.model.embed_tokens.lora_embedding_A": torch.zeros(4, 131)},
            "embed_tokens.lora_embedding_A: adapts an embedding",
        ),
        (
            {"base_model.model.lm_head.modules_to_save.weight": torch.zeros(131, 48)},
            "lm_head.modules_to_save.weight: adapts an embedding or a whole module",
        ),
        (
            {"base_model.model.lm_head.base_layer.weight": torch.zeros(131, 48)},
            "lm_head.base_layer.weight: changes the base model's own matrix",
        ),
        ({"base_model.model.lm_head.weight": torch.zeros(140, 48)}, "found torch.float32 [140, 48]; expected the mo"),
    ],
)
def test_every_tensor_finds_its_place_or_the_adapter_is_refused(
    changes: dict[str, Tensor | None], message: str, saved: Path, bases: Callable[[str], Base]
) -> None:
    tensors = load_file(saved / WEIGHTS_FILE) | changes
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, saved / WEIGHTS_FILE)
    with pytest.raises(CheckpointError) as refusal:
        read_adapter(saved, bases("llama").model())
    assert str(saved / WEIGHTS_FILE) in str(refusal.value)
    assert message in str(refusal.value)


def test_a_file_cut_short_is_refused(saved: Path, bases: Callable[[str], Base]) -> None:
    file = saved / WEIGHTS_FILE
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors: cannot be read"):
        read_adapter(saved, bases("llama").model())


def test_pickled_weights_are_refused_unread(saved: Path, bases: Callable[[str], Base]) -> None:
    (saved / WEIGHTS_FILE).rename(saved / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"found adapter_model.bin.*safe_serialization=True"):
        read_adapter(saved, bases("llama").model())


def test_what_is_no_adapter_is_refused(tmp_path: Path, bases: Callable[[str], Base]) -> None:
    model = bases("llama").model()
    for source in (tmp_path, tmp_path / "nowhere", {}, bases("llama").checkpoint.path):
        with pytest.raises(CheckpointError, match="is not a PEFT adapter"):
            read_adapter(source, model)


def test_an_adapter_of_another_model_is_refused(cases: Callable[[str], Case], bases: Callable[[str], Base]) -> None:
    with pytest.raises(CheckpointError, match=r"self_attn\.q_a_proj\.lora_[AB]\.weight: is a tensor we have no place"):
        read_adapter(cases("latent").path, bases("v2-lite").model())
    with pytest.raises(CheckpointError, match="is a tensor we have no place for"):
        read_adapter(cases("dense").path, bases("v3").model())


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("llama", {"target_modules": ["q_proj"], "use_dora": True}),
        ("llama", {"target_modules": ["q_proj", "embed_tokens"]}),
        ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
        ("llama-biases", {"target_modules": ["q_proj"], "lora_bias": True}),
        ("llama-biases", {"target_modules": ["q_proj"], "bias": "all"}),
        ("llama", {"target_modules": ["q_proj"], "trainable_token_indices": [1, 5]}),
        ("llama", {"target_modules": ["q_proj"], "layer_replication": [[0, 2], [1, 3]]}),
        ("llama", {"target_modules": ["q_proj"], "init_lora_weights": "olora"}),
        ("v3", {"target_modules": ["o_proj"], "target_parameters": ["mlp.experts.down_proj"]}),
    ],
)
def test_what_peft_saves_beyond_our_means_is_refused(
    name: str, config: dict[str, Any], bases: Callable[[str], Base], tmp_path: Path
) -> None:
    base = bases(name)
    adapted_oracle(base.checkpoint, 0, r=4, lora_alpha=4, **config).save_pretrained(tmp_path)
    with pytest.raises(DeepSeekError, match=r"not supported|no place"):
        read_adapter(tmp_path, base.model())
