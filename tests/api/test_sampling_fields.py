"""What both dialects can say about how tokens are chosen, and that the engine hears exactly that."""

import json
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import requests
from api_support import RecordingEngine, state_of

from deepseek.api import serving
from deepseek.core.constraint import Constraint
from deepseek.core.sampling import SamplingParams

ASK: Any = [{"role": "user", "content": "Hi"}]
OURS = {
    "temperature": 0.5,
    "top_p": 0.8,
    "top_k": 7,
    "min_p": 0.1,
    "seed": 3,
    "n": 2,
    "frequency_penalty": 0.5,
    "presence_penalty": -1,
    "repetition_penalty": 1.1,
    "logit_bias": {"65": -100, "7": 2.5},
    "bad_words": ["no", "never"],
    "min_tokens": 2,
    "stop_token_ids": [9],
    "ignore_eos": True,
    "max_tokens": 8,
}
EXPECTED = SamplingParams(
    max_tokens=8,
    temperature=0.5,
    top_p=0.8,
    top_k=7,
    min_p=0.1,
    seed=3,
    n=2,
    frequency_penalty=0.5,
    presence_penalty=-1,
    repetition_penalty=1.1,
    logit_bias=((7, 2.5), (65, -100)),
    bad_words=("no", "never"),
    min_tokens=2,
    stop_token_ids=(9,),
    ignore_eos=True,
)


@pytest.fixture(scope="module")
def engine() -> RecordingEngine:
    return RecordingEngine()


@pytest.fixture(scope="module")
def server(engine: RecordingEngine) -> Iterator[str]:
    state = state_of(engine)
    state.adapters = ("poet",)
    with serving(state, grace_s=1.0) as running:
        yield running.url


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0) as client:
        yield client


def create(client: openai.OpenAI, **fields: Any) -> Any:
    return client.chat.completions.create(**{"model": "deepseek-tiny", "messages": ASK} | fields)


def generate(url: str, **fields: Any) -> Any:
    response = requests.post(f"{url}/v1/generate", json={"model": "deepseek-7b", "prompt": "abc"} | fields, timeout=30)
    assert response.status_code == 200, response.text
    if fields.get("stream"):
        lines = response.content.decode().split("\n\n")
        return [json.loads(line.removeprefix("data: ")) for line in lines if line]
    return response.json()


def test_every_sampling_field_reaches_the_engine_from_our_own_dialect(server: str, engine: RecordingEngine) -> None:
    generate(server, **OURS)
    assert engine.requests[-1].sampling == EXPECTED


def test_every_sampling_field_reaches_the_engine_from_openais_client(
    client: openai.OpenAI, engine: RecordingEngine
) -> None:
    theirs = ("temperature", "top_p", "seed", "n", "frequency_penalty", "presence_penalty", "logit_bias", "max_tokens")
    create(
        client,
        **{name: OURS[name] for name in theirs},
        extra_body={name: value for name, value in OURS.items() if name not in theirs},
    )
    assert engine.requests[-1].sampling == EXPECTED


def test_null_is_the_default_of_every_field(server: str, engine: RecordingEngine) -> None:
    generate(server, **dict.fromkeys((*OURS, "logprobs", "echo", "priority", "timeout_s", "response_format"), None))
    assert engine.requests[-1].sampling == SamplingParams()


def test_priority_and_deadline_reach_the_engine(server: str, client: openai.OpenAI, engine: RecordingEngine) -> None:
    for ask in (
        lambda: generate(server, priority=-3, timeout_s=60),
        lambda: create(client, extra_body={"priority": -3, "timeout_s": 60}),
    ):
        before = time.monotonic()
        ask()
        request = engine.requests[-1]
        assert request.priority == -3
        assert request.deadline is not None and before + 59 < request.deadline <= time.monotonic() + 60


SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"enum": [1.0, "x"]}}, "required": ["b"]}
FORMS = [
    ({"response_format": {"type": "text"}}, None),
    ({"response_format": {"type": "json_object"}}, Constraint.json_object()),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA, "strict": True}}},
        Constraint.json_schema(SCHEMA),
    ),
    ({"structured_outputs": {"json": SCHEMA}}, Constraint.json_schema(SCHEMA)),
    ({"structured_outputs": {"json": '{"type": "null"}'}}, Constraint.json_schema('{"type": "null"}')),
    ({"structured_outputs": {"regex": "a+"}}, Constraint.regex("a+")),
    ({"structured_outputs": {"choice": ["yes", "no"]}}, Constraint.choice(["yes", "no"])),
    ({"structured_outputs": {"grammar": 'start: "a"'}}, Constraint.lark('start: "a"')),
    ({"structured_outputs": {"json_object": True}}, Constraint.json_object()),
]


@pytest.mark.parametrize(("form", "expected"), FORMS)
def test_each_form_of_a_constraint_reaches_the_engine(
    server: str, client: openai.OpenAI, engine: RecordingEngine, form: dict[str, Any], expected: Constraint | None
) -> None:
    generate(server, **form)
    assert engine.requests[-1].constraint == expected
    create(client, extra_body=form)
    assert engine.requests[-1].constraint == expected


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json"),
        ({"structured_outputs": {"json": "3"}}, "structured_outputs.json"),
        ({"structured_outputs": {"choice": ["a", ""]}}, "structured_outputs.choice"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"const": 1e999}}}},
            "response_format.json_schema.schema",
        ),
    ],
)
def test_a_constraint_without_a_valid_form_is_400_in_both_dialects(
    server: str, client: openai.OpenAI, form: dict[str, Any], field: str
) -> None:
    body = json.dumps({"model": "deepseek-7b", "prompt": "a"} | form).replace("Infinity", "1e999")
    response = requests.post(f"{server}/v1/generate", data=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    problem = response.json()
    assert problem["type"] == "urn:deepseek:problem:unusable-constraint"
    assert problem["errors"][0]["field"] == field and problem["detail"].startswith(f"{field}: constraint ")
    if "Infinity" not in json.dumps(form):
        with pytest.raises(openai.BadRequestError) as caught:
            create(client, extra_body=form)
        assert (caught.value.param, caught.value.code) == (field, "unusable_constraint")


def test_two_constraints_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="one of response_format and structured_outputs"):
        create(client, response_format={"type": "json_object"}, extra_body={"structured_outputs": {"regex": "a"}})


def test_an_adapter_is_asked_for_by_name_and_listed_with_its_parent(
    server: str, client: openai.OpenAI, engine: RecordingEngine
) -> None:
    # The fake engine knows no adapter of this name, and says so as the real one would.
    with pytest.raises(openai.NotFoundError) as caught:
        create(client, model="poet")
    assert engine.requests[-1].adapter == "poet" and caught.value.param == "model"
    listed = requests.get(f"{server}/v1/models").json()["data"]
    assert [(card["id"], card["parent"]) for card in listed] == [
        ("deepseek-7b", None),
        ("deepseek-tiny", None),
        ("poet", "deepseek-7b"),
    ]


def test_min_tokens_above_max_tokens_is_refused_by_name(server: str) -> None:
    body = {"model": "deepseek-7b", "prompt": "a", "min_tokens": 9, "max_tokens": 8}
    response = requests.post(f"{server}/v1/generate", json=body)
    assert response.status_code == 422
    assert response.json()["errors"] == [{"field": "min_tokens", "found": "9", "expected": "at most 8"}]
