"""Constrained output end to end: OpenAI's client, the front, the real engine, the built-in model."""

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import jsonschema
import openai
import pytest
import requests
from pydantic import BaseModel

from deepseek.api import ServerState, serving
from deepseek.chat.codec import TextCodec
from deepseek.engine.build import EngineOptions, build_loop
from deepseek.engine.engine import Engine

ASK: Any = [{"role": "user", "content": "What is 7 plus 5?"}]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    loaded = build_loop("builtin", EngineOptions(max_model_len=256, max_sequences=4, kv_bytes=16 << 20))
    engine = Engine(loaded.loop, loaded.weights, loaded.grammars)
    with serving(ServerState(engine, TextCodec(loaded.tokenizer), ("m",), loaded.max_model_len), grace_s=1.0) as server:
        yield server.url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


class Verdict(BaseModel):
    """What the client asks for; its helper makes a strict schema of it."""

    sign: Literal["plus", "minus"]
    digits: Literal[1, 2, 3]


def test_the_clients_own_helper_gets_an_object_of_the_class_it_asked_for(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(model="m", messages=ASK, response_format=Verdict, seed=1)
    assert isinstance(answer.choices[0].message.parsed, Verdict)


def test_every_choice_follows_the_schema(client: openai.OpenAI) -> None:
    schema = {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 3}
    answer = client.chat.completions.create(
        model="m",
        messages=ASK,
        n=2,
        seed=2,
        response_format={"type": "json_schema", "json_schema": {"name": "list", "schema": schema}},
    )
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        jsonschema.validate(json.loads(choice.message.content or ""), schema)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"choice": ["red", "green"]}, "red|green"),
        ({"regex": "[0-9]{3}-[a-c]"}, "[0-9]{3}-[a-c]"),
        ({"grammar": 'start: "x" ("y" | "z")'}, "x[yz]"),
    ],
)
def test_the_forms_vllms_users_know_are_kept_to(client: openai.OpenAI, asked: dict[str, Any], expected: str) -> None:
    stream = client.chat.completions.create(
        model="m", messages=ASK, stream=True, extra_body={"structured_outputs": asked}
    )
    assert re.fullmatch(expected, "".join(chunk.choices[0].delta.content or "" for chunk in stream))


UNUSABLE = {"type": "object", "properties": {"a": {"dependentSchemas": {"x": {}}, "not": {"minLength": 3}}}}


def test_a_schema_that_does_not_compile_is_400_naming_keyword_and_place_to_the_client(client: openai.OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match=r"schema #/properties/a/\w+: ") as caught:
            client.chat.completions.create(
                model="m",
                messages=ASK,
                stream=stream,
                response_format={"type": "json_schema", "json_schema": {"name": "bad", "schema": UNUSABLE}},
            )
        assert caught.value.param == "response_format.json_schema.schema"
        assert caught.value.code == "unusable_constraint"


def test_the_same_is_a_problem_document_of_our_own_dialect(url: str) -> None:
    body = {"model": "m", "prompt": "a", "structured_outputs": {"regex": "(?=a)b"}}
    response = requests.post(f"{url}/v1/generate", json=body, timeout=120)
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["type"] == "urn:deepseek:problem:unusable-constraint"
    assert problem["detail"].startswith("structured_outputs.regex: constraint regex: ")
    assert problem["errors"][0]["field"] == "structured_outputs.regex"


def test_an_unknown_token_id_is_422_naming_the_field(url: str) -> None:
    response = requests.post(
        f"{url}/v1/generate", json={"model": "m", "prompt": "a", "logit_bias": {"999999": 1}}, timeout=120
    )
    assert response.status_code == 422 and response.json()["errors"][0]["field"] == "logit_bias"


def test_compiles_and_refusals_are_counted(url: str, client: openai.OpenAI) -> None:
    def counted() -> dict[str, float]:
        lines = requests.get(f"{url}/metrics", timeout=30).text.splitlines()
        return {line.split()[0]: float(line.split()[1]) for line in lines if line.startswith("deepseek_grammar")}

    before = counted()
    for pattern in ("[ab]{2}", "[ab]{2}", "(?=c)d"):
        requests.post(
            f"{url}/v1/generate",
            json={"model": "m", "prompt": "a", "structured_outputs": {"regex": pattern}},
            timeout=120,
        )
    after = counted()
    assert after["deepseek_grammars_compiled_total"] == before["deepseek_grammars_compiled_total"] + 1
    assert after["deepseek_grammars_refused_total"] == before["deepseek_grammars_refused_total"] + 1
    assert after["deepseek_grammar_seconds_total"] > before["deepseek_grammar_seconds_total"]
