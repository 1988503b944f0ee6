"""How one error looks in each dialect."""

import re
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
import requests
from api_support import CONTEXT, RefusingEngine, quick, state_of

from deepseek.api import serving
from deepseek.api.problems import KINDS, FieldError, Problem, envelope_of
from deepseek.core.errors import AdmissionError

MODEL = "deepseek-7b"
LONG: list[Any] = [{"role": "user", "content": "x" * CONTEXT}]
ASK: list[Any] = [{"role": "user", "content": "Hi"}]
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
    status = Problem(kind, "x").status_in("anthropic")
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


@pytest.fixture(scope="module")
def openais(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def anthropics(url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def test_a_wrong_field_is_422_in_our_form_and_400_in_both_others() -> None:
    assert [PROBLEM.status_in(form) for form in ("own", "openai", "anthropic")] == [422, 400, 400]
    assert PROBLEM.response(instance=None).status_code == PROBLEM.document(instance=None)["status"] == 422
    answer = PROBLEM.response(instance=None, envelope="openai")
    assert answer.status_code == PROBLEM.document(instance=None, envelope="openai")["status"] == 400
    assert PROBLEM.response(instance=None, envelope="anthropic").status_code == 400


@pytest.mark.parametrize("route", ["chat", "completions", "responses", "embeddings"])
def test_openais_client_knows_a_prompt_that_does_not_fit_by_its_code_and_message(
    openais: openai.OpenAI, route: str
) -> None:
    text = "x" * (CONTEXT + 88)
    with pytest.raises(openai.BadRequestError) as caught:
        if route == "chat":
            openais.chat.completions.create(model=MODEL, messages=LONG)
        elif route == "completions":
            openais.completions.create(model=MODEL, prompt=text)
        elif route == "responses":
            openais.responses.create(model=MODEL, input=text)
        else:
            openais.embeddings.create(model=MODEL, input=text)
    error = caught.value
    assert (error.status_code, error.code, error.type) == (400, "context_length_exceeded", "invalid_request_error")
    found = re.search(
        r"This model's maximum context length is (\d+) tokens\. However, your (\w+) resulted in (\d+) tokens",
        str(error),
    )
    assert found is not None and int(found[1]) == CONTEXT < int(found[3]) and error.param == found[2]


@pytest.mark.parametrize("counts", [False, True])
def test_anthropics_client_knows_a_prompt_that_does_not_fit_by_its_message(
    anthropics: anthropic.Anthropic, counts: bool
) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        if counts:
            anthropics.messages.count_tokens(model=MODEL, messages=LONG)
        else:
            anthropics.messages.create(model=MODEL, messages=LONG, max_tokens=5)
    body: Any = caught.value.body
    assert body["error"]["type"] == "invalid_request_error"
    found = re.fullmatch(r"prompt is too long: (\d+) tokens > (\d+) maximum", body["error"]["message"])
    assert found is not None and int(found[1]) > int(found[2]) == CONTEXT - 1


def test_a_text_that_is_refused_unread_says_the_same_in_both() -> None:
    with serving(state_of(quick(), max_text_chars=4 * CONTEXT)) as server:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "x" * 6 * CONTEXT}]}
        ours = requests.post(f"{server.url}/v1/chat/completions", json=body)
        theirs = requests.post(f"{server.url}/v1/messages", json=body | {"max_tokens": 5})
    assert (ours.status_code, ours.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert f"resulted in {CONTEXT * 3 // 2} tokens (counted from 3072 characters" in ours.json()["error"]["message"]
    assert theirs.status_code == 400
    assert theirs.json()["error"]["message"].startswith(f"prompt is too long: {CONTEXT * 3 // 2} tokens > 511 maximum")


def test_a_prompt_that_the_engine_has_no_room_for_is_told_in_the_same_words() -> None:
    refusal = AdmissionError("no room", reason="too_long", where="prompt", found="300 tokens", expected="at most 255")
    with (
        serving(state_of(RefusingEngine(refusal))) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as ours,
        anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as theirs,
    ):
        with pytest.raises(
            openai.BadRequestError, match=r"is 256 tokens\. However, your messages resulted in 300"
        ) as one:
            ours.chat.completions.create(model=MODEL, messages=ASK)
        with pytest.raises(anthropic.BadRequestError, match="prompt is too long: 300 tokens > 255 maximum"):
            theirs.messages.create(model=MODEL, messages=ASK, max_tokens=5)
        own = requests.post(f"{server.url}/v1/generate", json={"model": MODEL, "prompt": "a"})
    assert (one.value.code, one.value.param) == ("context_length_exceeded", "messages")
    assert own.status_code == 413 and own.json()["errors"][0]["found"] == "300 tokens"


def test_a_wrong_field_is_a_bad_request_to_both_clients(
    openais: openai.OpenAI, anthropics: anthropic.Anthropic
) -> None:
    with pytest.raises(openai.BadRequestError, match="top_p") as ours:
        openais.chat.completions.create(model=MODEL, messages=ASK, top_p=7)
    assert (ours.value.type, ours.value.param) == ("invalid_request_error", "top_p")
    with pytest.raises(openai.BadRequestError, match="limit"):
        openais.files.list(limit=0)
    with pytest.raises(anthropic.BadRequestError, match="top_p") as theirs:
        anthropics.messages.create(model=MODEL, messages=ASK, max_tokens=5, extra_body={"top_p": 7})
    body: Any = theirs.value.body
    assert body["error"]["type"] == "invalid_request_error"


def test_a_wrong_field_is_described_as_400_where_it_is_400(url: str) -> None:
    paths = requests.get(f"{url}/openapi.json").json()["paths"]
    assert "422" not in paths["/v1/files"]["get"]["responses"] and "400" in paths["/v1/files"]["get"]["responses"]
    for path in ("/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/embeddings"):
        assert "400" in paths[path]["post"]["responses"]
