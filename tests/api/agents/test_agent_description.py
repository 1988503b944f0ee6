"""The description of the agents' routes is true: schemathesis sends what it allows and forbids, and finds no fault."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import given, settings
from schemathesis import GenerationMode
from served_agents import agent_state
from test_openapi_description import CHECKS, EXAMPLES

from deepseek.api import serving

FEW = settings(EXAMPLES, max_examples=15)
RUNS = "/v1/agents/{agent}/runs"


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    directory: Path = tmp_path_factory.mktemp("agents")
    with serving(agent_state(directory), grace_s=1.0) as server:
        yield schemathesis.openapi.from_url(f"{server.url}/openapi.json")


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_nothing_that_is_asked_makes_the_server_fail_or_lie(described: Any, mode: GenerationMode) -> None:
    statuses: Counter[int] = Counter()

    @EXAMPLES
    @given(described[RUNS]["POST"].as_strategy(generation_mode=mode))
    def send(case: schemathesis.Case) -> None:
        case.path_parameters = {"agent": "helper"}
        if isinstance(case.body, dict) and mode is GenerationMode.POSITIVE:
            case.body.pop("attachments", None)  # what is no document is refused, and no draw is one
            case.body["input"] = str(case.body.get("input"))[:100] or "hello"
        statuses[case.call_and_validate(checks=CHECKS).status_code] += 1

    send()
    expected = 200 if mode is GenerationMode.POSITIVE else 422
    assert statuses[expected] >= 5, statuses


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("rest", ["/{run_id}/cancel", "/{run_id}/resume"])
def test_no_answer_to_a_run_makes_the_server_fail_or_lie(described: Any, rest: str, mode: GenerationMode) -> None:
    @FEW
    @given(described[RUNS + rest]["POST"].as_strategy(generation_mode=mode))
    def send(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=CHECKS)

    send()


@pytest.mark.parametrize("path", ["/v1/agents", RUNS + "/{run_id}", RUNS + "/{run_id}/events"])
def test_no_query_or_header_makes_the_server_fail_or_lie(described: Any, path: str) -> None:
    @FEW
    @given(described[path]["GET"].as_strategy())
    def send(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=CHECKS)

    send()
