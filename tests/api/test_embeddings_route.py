"""/v1/embeddings and the scores of /v1/completions: OpenAI's client against the built-in model, with the engine as oracle."""

import asyncio
import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
import requests
from api_support import CONTEXT, HeldEngine, RefusingEngine, quick, state_of

from deepseek.api import ServerState, serving
from deepseek.api.identity.caller import Caller
from deepseek.api.metering.meter import FreeMeter
from deepseek.chat.codec import TextCodec
from deepseek.core.engine import Request, Usage
from deepseek.core.errors import AdmissionError
from deepseek.core.sampling import SamplingParams
from deepseek.engine.build import EngineOptions, LoadedModel, build_loop
from deepseek.engine.engine import Engine
from deepseek.engine.llm import LLM

TEXTS = ["The sky is blue.", "Seven plus five is twelve.", "一二三"]
OPTIONS = EngineOptions(max_model_len=256, max_sequences=4, kv_bytes=16 << 20)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return build_loop("builtin", OPTIONS)


@pytest.fixture(scope="module")
def oracle() -> LLM:
    """The same model, asked without a server."""
    return LLM("builtin", options=OPTIONS)


@pytest.fixture(scope="module")
def client(loaded: LoadedModel) -> Iterator[openai.OpenAI]:
    engine = Engine(loaded.loop, loaded.weights, loaded.grammars)
    with (
        serving(ServerState(engine, TextCodec(loaded.tokenizer), ("m",), loaded.max_model_len), grace_s=1.0) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120) as client,
    ):
        yield client


def test_the_client_gets_the_engines_vectors_in_order(client: openai.OpenAI, oracle: LLM) -> None:
    answer = client.embeddings.create(model="m", input=TEXTS)
    assert [item.index for item in answer.data] == [0, 1, 2]
    for text, item in zip(TEXTS, answer.data, strict=True):
        (expected,) = oracle.encode([text])
        np.testing.assert_array_equal(np.array(item.embedding, np.float32), expected)
    counted = sum(len(oracle.tokenizer.encode(text)) for text in TEXTS)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == counted


def test_numbers_and_base64_say_the_same(client: openai.OpenAI) -> None:
    numbers = client.embeddings.create(model="m", input=TEXTS[0], encoding_format="float").data[0].embedding
    raw = client.embeddings.with_raw_response.create(model="m", input=TEXTS[0], encoding_format="base64")
    encoded = raw.http_response.json()["data"][0]["embedding"]
    decoded = np.frombuffer(base64.b64decode(encoded), "<f4")
    np.testing.assert_array_equal(np.array(numbers, np.float32), decoded)
    assert np.linalg.norm(decoded) == pytest.approx(1.0, abs=1e-5)


def test_token_ids_are_as_good_as_their_text(client: openai.OpenAI, oracle: LLM) -> None:
    ids = oracle.tokenizer.encode(TEXTS[0])
    one, other = (client.embeddings.create(model="m", input=given).data[0].embedding for given in (ids, TEXTS[0]))
    assert one == other


def test_the_mean_may_be_asked_for(client: openai.OpenAI, oracle: LLM) -> None:
    found = client.embeddings.create(model="m", input=TEXTS[0], extra_body={"pooling": "mean"}).data[0].embedding
    (expected,) = oracle.encode([TEXTS[0]], pooling="mean")
    np.testing.assert_array_equal(np.array(found, np.float32), expected)


def test_echoed_log_probabilities_are_the_engines_scores(client: openai.OpenAI, oracle: LLM) -> None:
    answer = client.completions.create(model="m", prompt=TEXTS, echo=True, logprobs=3, max_tokens=0)
    for choice, expected in zip(answer.choices, oracle.score(TEXTS, alternatives=3), strict=True):
        assert choice.logprobs is not None and choice.text == TEXTS[choice.index]
        scores = [None if entry is None else entry.logprob for entry in expected.logprobs]
        assert choice.logprobs.token_logprobs == scores
        for top, entry in zip(choice.logprobs.top_logprobs or [], expected.logprobs, strict=True):
            assert top is None or sorted(top.values())[-3:] == sorted(score for _, score in entry.top)  # type: ignore[union-attr]


def test_a_texts_offsets_leave_out_the_beginning_of_sequence(client: openai.OpenAI, oracle: LLM) -> None:
    text = TEXTS[0]
    found = client.completions.create(model="m", prompt=text, echo=True, logprobs=0, max_tokens=2, seed=3).choices[0]
    assert found.logprobs is not None
    tokens, offsets = found.logprobs.tokens or [], found.logprobs.text_offset or []
    ids = oracle.tokenizer.encode(text)
    begins = int(ids[0] == oracle.tokenizer.bos_id)
    assert offsets[begins] == 0 and tokens[begins] == text[: len(tokens[begins])]
    for token, offset in list(zip(tokens, offsets, strict=True))[begins : len(ids)]:
        assert text[offset : offset + len(token)] == token


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"dimensions": 8}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input.1"),
        ({"input": ["a"] * 257}, "input"),
        ({"pooling": "first"}, "pooling"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(url: str, fields: dict[str, Any], named: str) -> None:
    response = requests.post(f"{url}/v1/embeddings", json={"model": "deepseek-7b", "input": "a"} | fields, timeout=30)
    assert response.status_code == 400 and named in response.json()["error"]["message"], response.text


def test_an_input_that_is_too_long_is_named(url: str) -> None:
    body = {"model": "deepseek-7b", "input": ["a", "b" * CONTEXT]}
    response = requests.post(f"{url}/v1/embeddings", json=body, timeout=30)
    assert response.status_code == 400 and response.json()["errors"][0]["field"] == "input.1"


def test_more_inputs_than_run_at_once_are_all_answered(url: str) -> None:
    body = {"model": "deepseek-7b", "input": [f"text {index}" for index in range(50)]}
    found = requests.post(f"{url}/v1/embeddings", json=body, timeout=30).json()
    assert len({tuple(item["embedding"]) for item in found["data"]}) == 50


def test_a_refusal_of_the_engine_names_the_input() -> None:
    refusal = AdmissionError("has an unknown id", where="prompt", found=9, expected="ids of the model")
    with serving(state_of(RefusingEngine(refusal))) as server:
        body = {"model": "deepseek-7b", "input": "a"}
        response = requests.post(f"{server.url}/v1/embeddings", json=body, timeout=30)
    assert response.status_code == 400 and response.json()["error"]["param"] == "input"


def test_leaving_ends_the_request() -> None:
    engine = HeldEngine()
    with serving(state_of(engine), grace_s=0.1) as server:
        with pytest.raises(requests.exceptions.ReadTimeout):
            requests.post(f"{server.url}/v1/embeddings", json={"model": "deepseek-7b", "input": "a"}, timeout=0.2)
        assert engine.ended.wait(5)


class NotingMeter(FreeMeter):
    """Notes what it was asked to lease and what was settled."""

    def __init__(self) -> None:
        self.opened: list[Request] = []
        self.settled: list[Usage] = []

    async def open(self, caller: Caller, request: Request, model: str, route: str) -> Any:
        account = await super().open(caller, request, model, route)
        meter = self
        self.opened.append(request)

        class Noting:
            lease = account.lease

            def note(self, event: Any) -> None:
                account.note(event)

            async def settle(self, usage: Usage, reasons: Any) -> None:
                meter.settled.append(usage)

            async def close(self) -> None:
                await asyncio.sleep(0)

        return Noting()


def test_every_input_is_leased_and_settled_without_tokens_to_generate() -> None:
    state, meter = state_of(quick()), NotingMeter()
    state.meter = meter
    with serving(state) as server:
        body = {"model": "deepseek-7b", "input": ["abc", "de"]}
        assert requests.post(f"{server.url}/v1/embeddings", json=body, timeout=30).status_code == 200
    assert sorted(usage.prompt_tokens for usage in meter.settled) == [2, 3]
    assert all(request.sampling.max_tokens == 0 for request in meter.opened)
    assert isinstance(meter.opened[0].sampling, SamplingParams)


def test_inputs_wait_for_the_engine_once_the_first_is_in_it() -> None:
    engine = quick(max_running=1, max_waiting=0)
    with serving(state_of(engine)) as server:
        body = {"model": "deepseek-7b", "input": ["a", "b", "c", "d"]}
        answer = requests.post(f"{server.url}/v1/embeddings", json=body, timeout=30)
    assert answer.status_code == 200 and len(answer.json()["data"]) == 4
