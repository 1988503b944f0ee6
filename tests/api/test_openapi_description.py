"""The OpenAPI description is true: schemathesis sends what it allows and what it forbids, and finds no fault."""

from collections import Counter
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]


# Fields that are right only beside others, which a schema cannot say; half of the draws go without.
NEEDS_OTHERS = (
    "chat_template_kwargs",
    "min_tokens",
    "output_config",
    "prompt_logprobs",
    "reasoning_effort",
    "response_format",
    "stream_options",
    "structured_outputs",
    "thinking",
    "tool_choice",
    "tools",
    "top_logprobs",
)
OPTIONAL = (*NEEDS_OTHERS, "max_tokens")
EXAMPLES = settings(
    max_examples=60,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def described(url: str) -> Any:
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("path", ["/v1/generate", "/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens"])
def test_no_body_makes_the_server_fail_or_lie(described: Any, path: str, mode: GenerationMode) -> None:
    statuses: Counter[int] = Counter()

    @EXAMPLES
    @given(described[path]["POST"].as_strategy(generation_mode=mode))
    def send(case: schemathesis.Case) -> None:
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            # No draw would hit a served name, and nothing behind the name's check would be reached.
            case.body["model"] = "deepseek-7b"
            if mode is GenerationMode.POSITIVE and statuses.total() % 2:
                for field in NEEDS_OTHERS if "/messages" in path else OPTIONAL:
                    case.body.pop(field, None)
                if "/messages" in path and statuses.total() % 4 == 1:
                    case.body["messages"] = [{"role": "user", "content": "Hi"}]
        statuses[case.call_and_validate(checks=CHECKS).status_code] += 1

    send()
    if mode is GenerationMode.POSITIVE:
        assert statuses[200] >= 5, f"too few requests were answered to mean anything: {statuses}"
    else:
        assert statuses[422 if path == "/v1/generate" else 400] >= 5, (
            f"too few requests were refused to mean anything: {statuses}"
        )


@pytest.mark.parametrize("path", ["/v1/models", "/healthz", "/readyz", "/metrics"])
def test_no_query_or_header_makes_the_server_fail_or_lie(described: Any, path: str) -> None:
    @settings(EXAMPLES, max_examples=5)
    @given(described[path]["GET"].as_strategy())
    def send(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=CHECKS)

    send()


@pytest.mark.parametrize("path", ["/v1/generate", "/v1/chat/completions"])
def test_bodies_and_answers_are_described(described: Any, path: str) -> None:
    operation = described.raw_schema["paths"][path]["post"]
    assert "$ref" in operation["requestBody"]["content"]["application/json"]["schema"]
    assert {"200", "400", "404", "413", "415", "422", "429", "503"} <= set(operation["responses"])
    assert "application/problem+json" in operation["responses"]["422"]["content"]


def test_the_goals_fields_are_the_described_ones(described: Any) -> None:
    fields = described.raw_schema["components"]["schemas"]["GenerateRequest"]["properties"]
    goal = {"model", "prompt", "max_tokens", "temperature", "top_p", "stop_sequences"}
    assert set(fields) >= goal | {"stream", "seed", "top_k"}
