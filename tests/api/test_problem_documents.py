"""Bad input is answered with a problem document that names the field, never with a 5xx, and never ignored."""

import http.client
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from api_support import BROKEN, QUEUE_FULL, ByteCodec, RefusingEngine, quick, state_of

from deepseek.api import serving
from deepseek.api.problems import problem_of
from deepseek.core.errors import TokenizerError

BASE = {"model": "deepseek-7b", "prompt": "a"}
JSON = {"content-type": "application/json"}


def post(url: str, data: bytes, headers: dict[str, str] | None = None, path: str = "/v1/generate") -> requests.Response:
    return requests.post(url + path, data=data, headers=JSON if headers is None else headers)


def problem(response: requests.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == response.status_code
    assert body["type"].startswith("urn:deepseek:problem:")
    assert body["title"] and body["detail"]
    assert body["instance"] == response.headers["x-request-id"]
    return body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"{'model': 1}",
        b'{"model": "deepseek-7b", "prompt": "a",}',
        b"\xff\xfe{\x00}\x00",
        b'{"prompt": "\xff"}',
        b'\xef\xbb\xbf{"model": "deepseek-7b", "prompt": "a"}',
        b'{"a":' * 100_000,
        b'{"model": ' + b"[" * 5000 + b"]" * 5000 + b', "prompt": "a"}',
        b'{"model": "deepseek-7b", "prompt": "a", "max_tokens": ' + b"9" * 5000 + b"}",
        b"\x00",
        b'{"prompt": "\\u12"}',
    ],
)
def test_what_is_not_json_is_400(url: str, data: bytes) -> None:
    response = post(url, data)
    assert response.status_code == 400
    assert problem(response)["type"].endswith("malformed-json")


@pytest.mark.parametrize("document", [b"null", b"[]", b'"text"', b"3", b"true"])
def test_json_that_is_no_object_is_422(url: str, document: bytes) -> None:
    assert problem(post(url, document))["errors"][0]["field"] == "body"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", ""),
        ("prompt", 5),
        ("prompt", ["a"]),
        ("prompt", None),
        ("model", ""),
        ("model", "m" * 300),
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("max_tokens", 1.5),
        ("max_tokens", "16"),
        ("max_tokens", True),
        ("max_tokens", 10**30),
        ("max_tokens", 512),
        ("temperature", -0.1),
        ("temperature", "hot"),
        ("temperature", True),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_p", 0),
        ("top_p", 1.01),
        ("top_p", float("-inf")),
        ("top_k", -1),
        ("top_k", 2**40),
        ("seed", -1),
        ("seed", 2**63),
        ("stop_sequences", "\n"),
        ("stop_sequences", [""]),
        ("stop_sequences", [1]),
        ("stop_sequences", ["a"] * 17),
        ("stop_sequences", ["x" * 2000]),
        ("stream", "yes"),
        ("stream", 1),
        ("n", 0),
        ("n", True),
        ("n", 65),
        ("min_p", 1.5),
        ("frequency_penalty", 2.5),
        ("presence_penalty", "high"),
        ("repetition_penalty", 0),
        ("logit_bias", {"a": 1}),
        ("logit_bias", {"1": 101}),
        ("logit_bias", {"01": 2}),
        ("logit_bias", [1]),
        ("bad_words", [""]),
        ("min_tokens", -1),
        ("min_tokens", 400),
        ("logprobs", 21),
        ("logprobs", True),
        ("prompt_logprobs", -1),
        ("priority", 0.5),
        ("timeout_s", 0),
        ("echo", "yes"),
        ("response_format", {"type": "xml"}),
        ("response_format", {"type": "json_schema", "json_schema": {"schema": {}}}),
        ("response_format", {"type": "json_schema"}),
        ("response_format", {"type": "json_object", "json_schema": {"name": "a", "schema": {}}}),
        ("structured_outputs", {}),
        ("structured_outputs", {"regex": "a", "choice": ["a"]}),
        ("structured_outputs", {"structural_tag": "a"}),
        ("stop", ["a"]),
    ],
)
def test_a_bad_field_is_422_and_named_with_what_belongs_there(url: str, field: str, value: Any) -> None:
    response = post(url, json.dumps(BASE | {field: value}).encode())
    assert response.status_code == 422
    errors = problem(response)["errors"]
    assert {error["field"].split(".")[0] for error in errors} == {field}
    assert all(error["expected"] for error in errors)


@pytest.mark.parametrize("missing", ["model", "prompt"])
def test_a_missing_field_is_422(url: str, missing: str) -> None:
    body = {key: value for key, value in BASE.items() if key != missing}
    error = problem(post(url, json.dumps(body).encode()))["errors"][0]
    assert error == {"field": missing, "expected": "a value; the field is required"}


@pytest.mark.parametrize("text", ["\\ud800", "ok \\udfff", "\\ud83d x", "\\ud800\\ud800"])
def test_half_of_a_surrogate_pair_in_a_prompt_is_422(url: str, text: str) -> None:
    response = post(url, b'{"model": "deepseek-7b", "prompt": "%s"}' % text.encode())
    assert response.status_code == 422
    assert problem(response)["errors"][0]["field"] == "prompt"


def test_a_whole_surrogate_pair_is_a_character(url: str) -> None:
    response = post(url, b'{"model": "deepseek-7b", "prompt": "\\ud83d\\ude00", "max_tokens": 1}')
    assert response.json()["usage"]["prompt_tokens"] == 4


def test_every_bad_field_is_listed_but_not_without_end(url: str) -> None:
    many = problem(post(url, json.dumps(BASE | {f"f{i}": 1 for i in range(500)}).encode()))
    assert len(many["errors"]) == 20
    assert "and 499 more" in many["detail"]


def test_a_huge_wrong_value_is_not_sent_back(url: str) -> None:
    assert len(post(url, json.dumps(BASE | {"temperature": "x" * 100_000}).encode()).content) < 2000


def test_an_unknown_model_is_404_and_names_the_served_ones(url: str) -> None:
    response = post(url, json.dumps(BASE | {"model": "gpt-9"}).encode())
    assert response.status_code == 404
    assert problem(response)["errors"] == [
        {"field": "model", "found": '"gpt-9"', "expected": "one of: deepseek-7b, deepseek-tiny"}
    ]


def test_a_prompt_beyond_the_context_is_413(url: str) -> None:
    response = post(url, json.dumps(BASE | {"prompt": "a" * 512}).encode())
    assert response.status_code == 413
    assert problem(response)["errors"] == [{"field": "prompt", "found": "512 tokens", "expected": "at most 511 tokens"}]


def test_a_very_long_prompt_is_413_too(url: str) -> None:
    assert post(url, json.dumps(BASE | {"prompt": "a" * 3_000_000}).encode()).status_code == 413


def test_more_tokens_than_the_context_leaves_is_422_and_says_how_many_fit(url: str) -> None:
    body = problem(post(url, json.dumps(BASE | {"prompt": "a" * 500, "max_tokens": 13}).encode()))
    assert body["errors"][0]["expected"].startswith("at most 12 ")


@pytest.mark.parametrize("media_type", ["text/plain", "", "application/x-www-form-urlencoded", "text/json"])
def test_another_content_type_is_415(url: str, media_type: str) -> None:
    response = post(url, json.dumps(BASE).encode(), {"content-type": media_type})
    assert response.status_code == 415
    problem(response)


def test_json_with_a_charset_is_json(url: str) -> None:
    response = post(url, json.dumps(BASE).encode(), {"content-type": "Application/JSON; charset=utf-8"})
    assert response.status_code == 200


def test_an_unknown_path_is_404_and_a_wrong_method_405_with_allow(url: str) -> None:
    assert problem(requests.get(f"{url}/nope"))["status"] == 404
    assert problem(requests.post(f"{url}/v1/generate/", json=BASE))["status"] == 404
    wrong = requests.get(f"{url}/v1/generate")
    assert problem(wrong)["status"] == 405
    assert wrong.headers["allow"] == "POST"


@pytest.fixture(scope="module")
def narrow() -> Iterator[str]:
    """A server that takes bodies of 1,000 bytes and waits 50 ms for them."""
    with serving(state_of(quick(), max_body_bytes=1000, body_timeout_s=0.05)) as server:
        yield server.url


def test_a_body_declared_too_large_is_413_before_it_is_read(narrow: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(narrow).netloc, timeout=5)
    connection.putrequest("POST", "/v1/generate")
    connection.putheader("content-type", "application/json")
    connection.putheader("content-length", str(10**12))
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 413
    assert b"at most 1000 bytes" in response.read()
    connection.close()


def test_a_body_that_turns_out_too_large_is_413(narrow: str) -> None:
    response = requests.post(f"{narrow}/v1/generate", data=iter([b" " * 600] * 3), headers=JSON)
    assert response.status_code == 413


def test_a_large_body_sent_whole_still_gets_its_413(narrow: str) -> None:
    response = requests.post(f"{narrow}/v1/generate", json=BASE | {"prompt": "a" * 5_000_000})
    assert problem(response)["status"] == 413


def test_a_body_that_does_not_come_is_408(narrow: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(narrow).netloc, timeout=5)
    connection.putrequest("POST", "/v1/generate")
    connection.putheader("content-type", "application/json")
    connection.putheader("content-length", "100")
    connection.endheaders(b"{")
    assert connection.getresponse().status == 408
    connection.close()


def test_a_full_queue_is_429_with_retry_after() -> None:
    with serving(state_of(RefusingEngine(QUEUE_FULL))) as server:
        for stream in (False, True):
            response = requests.post(f"{server.url}/v1/generate", json=BASE | {"stream": stream})
            assert problem(response)["status"] == 429
            assert 1 <= int(response.headers["retry-after"]) <= 60


@pytest.mark.parametrize("failure", [BROKEN, RuntimeError("secret inside"), OSError("secret inside")])
@pytest.mark.parametrize("stream", [False, True])
def test_a_fault_of_the_server_is_500_and_shows_nothing_of_the_inside(failure: Exception, stream: bool) -> None:
    with serving(state_of(RefusingEngine(failure))) as server:
        response = requests.post(f"{server.url}/v1/generate", json=BASE | {"stream": stream})
    assert problem(response)["status"] == 500
    assert "secret" not in response.text and "worker" not in response.text


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_fails_before_the_first_token_is_500(stream: bool) -> None:
    with serving(state_of(quick(fail_at=lambda r: None if r.id.startswith("probe-") else 0))) as server:
        response = requests.post(f"{server.url}/v1/generate", json=BASE | {"stream": stream})
    if stream:
        # The fake engine says Ready before it fails, so the stream has begun.
        assert "event: error" in response.text
    else:
        assert problem(response)["status"] == 500
    assert "injected" not in response.text


def test_a_failure_in_the_middle_of_a_stream_is_an_error_frame_and_the_end() -> None:
    with serving(state_of(quick(fail_at=lambda r: None if r.id.startswith("probe-") else 3))) as server:
        response = requests.post(f"{server.url}/v1/generate", json=BASE | {"stream": True})
    assert response.status_code == 200
    *_, last = (frame for frame in response.text.split("\n\n") if frame)
    event, _, data = last.partition("\n")
    assert event == "event: error"
    assert json.loads(data.removeprefix("data: "))["status"] == 500


def test_a_model_without_a_chat_template_is_400_in_openais_dialect() -> None:
    state = state_of(quick())

    def no_template(*_: Any, **options: Any) -> list[int]:
        raise TokenizerError("the model has no chat template", fix="use /v1/generate")

    state.text.encode_chat = no_template  # type: ignore[method-assign]
    with serving(state) as server:
        body = {"model": "deepseek-7b", "messages": [{"role": "user", "content": "hi"}]}
        response = requests.post(f"{server.url}/v1/chat/completions", json=body)
    assert problem(response)["detail"] == "the model has no chat template. Fix: use /v1/generate"
    assert response.status_code == 400


def test_an_error_in_a_models_files_does_not_say_where_they_are() -> None:
    error = TokenizerError("failed", where="/secret/model: chat template", found="TypeError")
    assert problem_of(error).detail == "failed; found TypeError"


def test_a_body_full_of_mistakes_is_answered_as_fast_as_one_with_few(url: str) -> None:
    body = BASE | {f"k{number}": 1 for number in range(60_000)}
    response = requests.post(url + "/v1/generate", data=json.dumps(body).encode(), headers=JSON, timeout=20)
    assert response.status_code == 422
    assert problem(response)["detail"] == "body: expected at most 20000 fields; found 60002"


def test_a_text_that_cannot_fit_is_refused_without_being_encoded() -> None:
    class ShortTextCodec(ByteCodec):
        def encode_prompt(self, text: str) -> list[int]:
            assert len(text) <= 1000, "a text that cannot fit was encoded"
            return super().encode_prompt(text)

    state = state_of(quick(), max_text_chars=1000)
    state.text = ShortTextCodec()
    with serving(state) as server:
        response = post(server.url, json.dumps(BASE | {"prompt": "a" * 1001}).encode())
        assert problem(response)["errors"] == [
            {"field": "prompt", "found": "1001 characters", "expected": f"at most {state.max_model_len - 1} tokens"}
        ]
