"""The router's choice: `reference.route` in every backend, equal scores resolved by the smaller id."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepseek import kernels as K
from deepseek.core.errors import LayoutError
from deepseek.kernels import Backend, Routing, reference
from tests.kernels.oracle import assert_same_bits


@st.composite
def routings(draw: st.DrawFn) -> tuple[int, Routing]:
    groups = draw(st.sampled_from([1, 2, 4]))
    size = draw(st.integers(2, 6))
    top_groups = draw(st.integers(1, groups))
    topk = draw(st.integers(1, top_groups * size))
    sigmoid = draw(st.booleans())
    return groups * size, Routing(
        topk=topk,
        sigmoid=sigmoid,
        normalise=draw(st.booleans()),
        scale=draw(st.sampled_from([1.0, 2.5])),
        groups=groups,
        top_groups=top_groups,
        group_best=draw(st.sampled_from([1, 2])),
        closed=float("-inf") if sigmoid else 0.0,
    )


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=routings(), tokens=st.integers(0, 9), correct=st.booleans(), seed=st.integers(0, 2**31))
def test_every_backend_picks_what_the_reference_picks(
    backend: Backend, case: tuple[int, Routing], tokens: int, correct: bool, seed: int
) -> None:
    experts, routing = case
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(tokens, experts, generator=generator)
    correction = torch.randn(experts, generator=generator) * 0.1 if correct else None
    ids, weights = K.route(logits, correction, routing)
    wide = None if correction is None else correction.double()
    expected_ids, expected_weights = reference.route(logits.double(), wide, routing)
    assert torch.equal(ids, expected_ids)
    torch.testing.assert_close(weights.double(), expected_weights, rtol=1e-5, atol=1e-7)
    for t in range(tokens):
        alone_ids, alone_weights = K.route(logits[t : t + 1], correction, routing)
        assert torch.equal(alone_ids, ids[t : t + 1])
        assert_same_bits(alone_weights, weights[t : t + 1])


def test_of_equal_scores_the_smaller_id_is_taken_first(backend: Backend) -> None:
    ids, _ = K.route(torch.zeros(2, 6), None, Routing(topk=3, sigmoid=False, normalise=True, scale=1.0))
    assert ids.tolist() == [[0, 1, 2]] * 2
    grouped = Routing(topk=2, sigmoid=True, normalise=True, scale=1.0, groups=3, top_groups=1, closed=float("-inf"))
    assert K.route(torch.zeros(1, 6), None, grouped)[0].tolist() == [[0, 1]]


def test_a_routing_that_asks_for_more_experts_than_there_are_is_refused(backend: Backend) -> None:
    with pytest.raises(LayoutError, match="routing"):
        K.route(torch.zeros(1, 4), None, Routing(topk=5, sigmoid=False, normalise=False, scale=1.0))
