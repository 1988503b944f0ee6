import re

from hypothesis import example, given
from hypothesis import strategies as st

from deepseek.agent.execution.names import own_name, wire_name

NAMES = st.one_of(
    st.text(alphabet="._-adotx5f01", min_size=1, max_size=24),
    st.text(min_size=1, max_size=12),
    st.lists(st.sampled_from(["_dot_", ".", "_", "x5f", "_x2e_", "a"]), min_size=1).map("".join),
)


@given(NAMES)
@example("math.factorial")
@example("x_dot.")
@example("_x5.")
def test_every_name_has_a_form_that_apis_take_and_comes_back(name: str) -> None:
    wire = wire_name(name)
    assert re.fullmatch("[A-Za-z0-9_-]+", wire)
    assert own_name(wire) == name


@given(NAMES, NAMES)
def test_different_names_stay_different(one: str, other: str) -> None:
    assert (wire_name(one) == wire_name(other)) == (one == other)


def test_a_name_that_fits_stays_as_it_is() -> None:
    for name in ("calculator", "get-weather", "mcp__files__read", "a_b_c", "_x", "x_"):
        assert wire_name(name) == name
    assert wire_name("math.factorial") == "math_dot_factorial"
