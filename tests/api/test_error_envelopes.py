"""How one error looks in each dialect."""

import pytest
import requests
from api_support import quick, state_of

from deepseek.api import serving
from deepseek.api.problems import KINDS, FieldError, Problem, envelope_of

PROBLEM = Problem("invalid-request", "top_p: expected less", (FieldError("top_p", "7", "less"),))


def test_our_own_form_is_a_problem_document() -> None:
    document = PROBLEM.document(instance="req-1")
    assert document["type"] == "urn:deepseek:problem:invalid-request" and "error" not in document
    assert PROBLEM.response(instance=None).media_type == "application/problem+json"


def test_openais_form_is_the_same_document_with_an_error_in_it() -> None:
    document = PROBLEM.document(instance="req-1", envelope="openai")
    assert document["error"] == {
        "message": "top_p: expected less",
        "type": "invalid_request_error",
        "param": "top_p",
        "code": "invalid_request",
    }
    assert document["instance"] == "req-1"


def test_anthropics_form_is_its_own_alone() -> None:
    assert PROBLEM.document(instance="req-1", envelope="anthropic") == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "top_p: expected less"},
        "request_id": "req-1",
    }
    assert PROBLEM.response(instance=None, envelope="anthropic").media_type == "application/json"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_problem_has_one_of_anthropics_types(kind: str) -> None:
    status = KINDS[kind][0]
    expected = {
        401: {"authentication_error"},
        403: {"permission_error"},
        404: {"not_found_error"},
        408: {"timeout_error"},
        413: {"request_too_large"},
        429: {"rate_limit_error", "billing_error"},
        500: {"api_error"},
        503: {"overloaded_error"},
    }.get(status, {"invalid_request_error"})
    assert Problem(kind, "x").document(instance=None, envelope="anthropic")["error"]["type"] in expected


@pytest.mark.parametrize(
    ("path", "envelope"),
    [
        ("/v1/generate", "own"),
        ("/metrics", "own"),
        ("/v1/chat/completions", "openai"),
        ("/v1/responses/x", "openai"),
        ("/v1/messages", "anthropic"),
        ("/v1/messages/count_tokens", "anthropic"),
    ],
)
def test_the_path_says_whose_form_it_is(path: str, envelope: str) -> None:
    assert envelope_of(path) == envelope


def test_refusals_of_the_router_take_the_form_of_their_path() -> None:
    with serving(state_of(quick())) as server:
        wrong = requests.get(f"{server.url}/v1/messages")
        missing = requests.get(f"{server.url}/v1/messages/nothing")
        malformed = requests.post(f"{server.url}/v1/messages", data=b"{", headers={"content-type": "application/json"})
    assert (wrong.status_code, missing.status_code, malformed.status_code) == (405, 404, 400)
    assert missing.json()["error"]["type"] == "not_found_error"
    for response in (wrong, missing, malformed):
        assert response.json()["type"] == "error" and response.headers["content-type"] == "application/json"
        assert response.json()["request_id"] == response.headers["x-request-id"]
