"""The description of OpenAI's other routes is true: schemathesis sends what it allows and forbids, and finds no fault."""

from collections import Counter
from typing import Any

import pytest
import schemathesis
from hypothesis import given, settings
from schemathesis import GenerationMode
from test_openapi_description import CHECKS, EXAMPLES

# Fields that are right only beside others, which a schema cannot say; half of the draws go without.
NEEDS_OTHERS = (
    "best_of",
    "max_tokens",
    "min_tokens",
    "n",
    "previous_response_id",
    "prompt_logprobs",
    "reasoning",
    "response_format",
    "stop",
    "stream_options",
    "structured_outputs",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
)
GETS = (
    "/v1/responses/{response_id}",
    "/v1/responses/{response_id}/input_items",
    "/v1/files",
    "/v1/files/{file_id}",
    "/v1/files/{file_id}/content",
    "/v1/batches",
    "/v1/batches/{batch_id}",
)
FEW = settings(EXAMPLES, max_examples=15)


@pytest.fixture(scope="module")
def described(url: str) -> Any:
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings", "/v1/responses"])
def test_no_body_makes_the_server_fail_or_lie(described: Any, path: str, mode: GenerationMode) -> None:
    statuses: Counter[int] = Counter()

    @EXAMPLES
    @given(described[path]["POST"].as_strategy(generation_mode=mode))
    def send(case: schemathesis.Case) -> None:
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = "deepseek-7b"
            if mode is GenerationMode.POSITIVE and statuses.total() % 2:
                for field in NEEDS_OTHERS:
                    case.body.pop(field, None)
        statuses[case.call_and_validate(checks=CHECKS).status_code] += 1

    send()
    if mode is GenerationMode.POSITIVE:
        assert statuses[200] >= 3, f"too few requests were answered to mean anything: {statuses}"
    else:
        assert statuses[400] >= 5, f"too few requests were refused to mean anything: {statuses}"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", path) for path in GETS),
        ("POST", "/v1/files"),
        ("POST", "/v1/batches"),
        ("POST", "/v1/batches/{batch_id}/cancel"),
        ("POST", "/v1/responses/{response_id}/cancel"),
        ("DELETE", "/v1/files/{file_id}"),
        ("DELETE", "/v1/responses/{response_id}"),
    ],
)
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_nothing_sent_makes_the_server_fail_or_lie(
    described: Any, method: str, path: str, mode: GenerationMode
) -> None:
    @FEW
    @given(described[path][method].as_strategy(generation_mode=mode))
    def send(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=CHECKS)

    send()
