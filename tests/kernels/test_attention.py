"""Paged attention: right in float64 terms, and a token's result is its own, whatever the batch, blocks and garbage
around."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepseek import kernels as K
from deepseek.core.errors import LayoutError
from deepseek.kernels import Backend, reference
from tests.kernels.oracle import assert_close64, assert_same_bits

each_example = settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Paged:
    """Sequences of the given lengths with keys and values spread over shuffled blocks of a pool full of NaN."""

    def __init__(
        self, lengths: list[int], hq: int, hkv: int, dk: int, dv: int, block: int, latent: bool = False, seed: int = 0
    ) -> None:
        g = torch.Generator().manual_seed(seed)
        self.lengths, self.block, self.scale = lengths, block, dk**-0.5
        self.q = [torch.randn(n, hq, dk, generator=g) for n in lengths]
        self.k = [torch.randn(n, hkv, dk, generator=g) for n in lengths]
        self.v = [k[..., :dv] if latent else torch.randn(k.shape[0], hkv, dv, generator=g) for k in self.k]
        needed = [-(-n // block) for n in lengths]
        total = sum(needed) + 3
        self.latent, self.dv = latent, dv
        self.k_pool = torch.full((total * block, hkv, dk), float("nan"))
        self.v_pool = self.k_pool[..., :dv] if latent else torch.full((total * block, hkv, dv), float("nan"))
        order = torch.randperm(total, generator=g).tolist()
        self.tables = torch.zeros(len(lengths), max(needed) + 1, dtype=torch.int32)
        for b, n in enumerate(lengths):
            blocks = [order.pop() for _ in range(needed[b])]
            self.tables[b, : needed[b]] = torch.tensor(blocks, dtype=torch.int32)
            slots = torch.tensor([blocks[j // block] * block + j % block for j in range(n)])
            K.write_kv(self.k_pool, slots, self.k[b])
            if not latent:
                K.write_kv(self.v_pool, slots, self.v[b])

    def run(self, tokens: list[tuple[int, int]]) -> torch.Tensor:
        """Attention of the given (sequence, position) tokens in one call."""
        q = torch.stack([self.q[b][p] for b, p in tokens])
        positions = torch.tensor([p for _, p in tokens])
        sequences = torch.tensor([b for b, _ in tokens], dtype=torch.int32)
        return K.attention(q, self.k_pool, self.v_pool, positions, self.tables, sequences, self.block, self.scale)

    def all_tokens(self) -> list[tuple[int, int]]:
        return [(b, p) for b, n in enumerate(self.lengths) for p in range(n)]


class SharedPrefix(Paged):
    """Sequences whose first `common` blocks are one and the same."""

    def __init__(self, lengths: list[int], common: int, **shape: object) -> None:
        super().__init__(lengths, **shape)  # type: ignore[arg-type]
        self.tables[1:, :common] = self.tables[0, :common]


SHAPES = [
    pytest.param({"hq": 4, "hkv": 4, "dk": 64, "dv": 64}, id="mha"),
    pytest.param({"hq": 14, "hkv": 2, "dk": 64, "dv": 64}, id="gqa"),
    pytest.param({"hq": 3, "hkv": 1, "dk": 20, "dv": 13}, id="odd"),
    pytest.param({"hq": 16, "hkv": 1, "dk": 80, "dv": 64, "latent": True}, id="latent"),
]


@each_example
@given(
    lengths=st.lists(st.integers(1, 150), min_size=1, max_size=2),
    hkv=st.integers(1, 3),
    group=st.sampled_from([1, 2, 7, 50]),
    dk=st.integers(1, 70),
    dv=st.integers(1, 70),
    block=st.sampled_from([1, 16, 48]),
)
def test_attention_means_what_the_reference_says(
    isa: Backend, lengths: list[int], hkv: int, group: int, dk: int, dv: int, block: int
) -> None:
    paged = Paged(lengths, hkv * group, hkv, dk, dv, block)
    tokens = paged.all_tokens()[::5]
    actual = paged.run(tokens)
    expected = reference.attention(
        torch.stack([paged.q[b][p] for b, p in tokens]).double(),
        paged.k_pool.double(),
        paged.v_pool.double(),
        torch.tensor([p for _, p in tokens]),
        paged.tables,
        torch.tensor([b for b, _ in tokens]),
        block,
        paged.scale,
    )
    assert_close64(actual, expected, 4.0, 150 + dk)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_token_has_the_same_bits_decoded_prefilled_chunked_and_mixed(backend: Backend, shape: dict[str, int]) -> None:
    paged = Paged([130, 1, 67], block=16, **shape)
    tokens = paged.all_tokens()
    together = paged.run(tokens)
    assert not together.isnan().any()
    for i in (0, 1, 63, 64, 65, 127, 128, 129, 130, 131, 197):
        assert_same_bits(paged.run([tokens[i]]), together[i : i + 1])
    for size in (3, 50):
        chunks = [paged.run(tokens[i : i + size]) for i in range(0, len(tokens), size)]
        assert_same_bits(torch.cat(chunks), together)
    order = torch.randperm(len(tokens)).tolist()
    assert_same_bits(paged.run([tokens[i] for i in order]), together[order])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_later_token_that_went_wrong_cannot_reach_an_earlier_one(
    isa: Backend, shape: dict[str, int], poison: float
) -> None:
    paged = Paged([80], block=16, **shape)
    clean = paged.run(paged.all_tokens())
    slot = int(paged.tables[0, 70 // 16]) * 16 + 70 % 16
    paged.k_pool[slot], paged.v_pool[slot] = poison, poison
    poisoned = paged.run(paged.all_tokens())
    assert_same_bits(poisoned[:70], clean[:70])
    assert poisoned[70:].isnan().any(-1).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_where_the_blocks_lie_does_not_reach_the_result(isa: Backend, shape: dict[str, int]) -> None:
    one = Paged([100, 20], block=16, seed=1, **shape)
    two = Paged([100, 20], block=5, seed=1, **shape)
    assert_same_bits(one.run(one.all_tokens()), two.run(two.all_tokens()))


def test_attention_does_not_depend_on_the_number_of_threads(isa: Backend) -> None:
    paged = Paged([300], hq=16, hkv=1, dk=96, dv=64, block=16, latent=True)
    results = []
    for threads in (1, 2, 3):
        K.set_num_threads(threads)
        results.append((paged.run(paged.all_tokens()), paged.run([(0, 299)])))
    for many, one in results:
        assert_same_bits(many, results[0][0])
        assert_same_bits(one, many[-1:])


def test_the_values_may_be_a_slice_of_the_keys(isa: Backend) -> None:
    paged = Paged([90], hq=8, hkv=1, dk=40, dv=24, block=8, latent=True)
    sliced = paged.run(paged.all_tokens())
    paged.v_pool = paged.v_pool.contiguous()
    assert_same_bits(paged.run(paged.all_tokens()), sliced)


def test_queries_may_be_a_slice(isa: Backend) -> None:
    paged = Paged([5], hq=2, hkv=2, dk=8, dv=8, block=4)
    wide = torch.randn(5, 2, 20)
    arguments = (torch.arange(5), paged.tables, torch.zeros(5, dtype=torch.int32), 4, 0.3)
    assert_same_bits(
        K.attention(wide[..., 3:11], paged.k_pool, paged.v_pool, *arguments),
        K.attention(wide[..., 3:11].contiguous(), paged.k_pool, paged.v_pool, *arguments),
    )


@pytest.mark.parametrize(
    ("positions", "sequences", "tables"),
    [
        ([-1], [0], [[0, 1]]),
        ([8], [0], [[0, 1]]),
        ([0], [1], [[0, 1]]),
        ([0], [-1], [[0, 1]]),
        ([5], [0], [[0, 2]]),
        ([5], [0], [[-1, 0]]),
        ([0, 5], [0, 0], [[0, 9]]),
        ([2**62], [0], [[0, 1]]),
    ],
)
def test_an_index_out_of_range_is_refused(
    backend: Backend, positions: list[int], sequences: list[int], tables: list[list[int]]
) -> None:
    pool = torch.zeros(8, 1, 4)
    with pytest.raises(LayoutError):
        K.attention(
            torch.zeros(len(positions), 1, 4),
            pool,
            pool,
            torch.tensor(positions),
            torch.tensor(tables, dtype=torch.int32),
            torch.tensor(sequences, dtype=torch.int32),
            4,
            1.0,
        )


def test_write_kv_skips_negative_slots_and_touches_nothing_else(backend: Backend) -> None:
    pool = torch.zeros(6, 2, 5)
    values = torch.randn(3, 2, 3)
    K.write_kv(pool[..., 1:4], torch.tensor([4, -1, 0]), values)
    expected = torch.zeros(6, 2, 5)
    expected[4, :, 1:4], expected[0, :, 1:4] = values[0], values[2]
    assert torch.equal(pool, expected)
    with pytest.raises(LayoutError, match="slot"):
        K.write_kv(pool, torch.tensor([6]), torch.zeros(1, 2, 5))
    assert torch.equal(pool, expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("common", "block"), [(8, 16), (9, 16), (13, 16), (40, 4), (3, 64), (7, 24)])
def test_sequences_with_a_common_beginning_compute_as_each_alone(
    backend: Backend, shape: dict[str, object], common: int, block: int
) -> None:
    if backend.name == "reference" and common != 9:
        pytest.skip("the reference backend computes every token alone anyway")
    keys = common * block
    paged = SharedPrefix([keys + 1, keys + 70, keys, keys + 3, keys + 64], common, block=block, **shape)
    tokens = [(b, paged.lengths[b] - 1) for b in range(5)] + [(1, keys + 20), (1, keys + 21), (3, keys)]
    together = paged.run(tokens)
    assert together.isfinite().all()
    for row, token in enumerate(tokens):
        assert_same_bits(paged.run([token])[0], together[row])
