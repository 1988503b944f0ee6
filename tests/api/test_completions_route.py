"""/v1/completions, asked by OpenAI's own client over a real socket; and what evaluation harnesses read of it."""

import math
from collections.abc import Iterator
from operator import itemgetter
from typing import Any

import openai
import pytest
import requests
from api_support import CONTEXT, HeldEngine, RecordingEngine, RefusingEngine, quick, state_of

from deepseek.api import serving
from deepseek.core.engine import Request
from deepseek.core.errors import AdmissionError
from deepseek.engine.fake import FakeEngine

FLAT = -math.log(256)


def answered(request: Request, choice: int, seed: int) -> bytes:
    """A different answer to every prompt, and of a different length for every choice."""
    return bytes(request.prompt_ids[:2]).upper() * (choice + 1)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    engine = FakeEngine(reply=answered, ttft_s=0.0, inter_token_s=0.0, max_model_len=CONTEXT)
    with serving(state_of(engine), grace_s=1.0) as running:
        yield running.url


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0) as client:
        yield client


def complete(client: openai.OpenAI, prompt: Any, **fields: Any) -> Any:
    return client.completions.create(model="deepseek-7b", prompt=prompt, **fields)


def test_a_text_is_continued(client: openai.OpenAI) -> None:
    answer = complete(client, "ab")
    assert (answer.object, answer.model) == ("text_completion", "deepseek-7b")
    assert [(choice.index, choice.text, choice.finish_reason) for choice in answer.choices] == [(0, "AB", "stop")]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (2, 2, 4)


def test_several_prompts_are_answered_with_their_choices_in_order(client: openai.OpenAI) -> None:
    answer = complete(client, ["ab", "cd", "efg"], n=2)
    assert [choice.text for choice in answer.choices] == ["AB", "ABAB", "CD", "CDCD", "EF", "EFEF"]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3, 4, 5]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 18)


@pytest.mark.parametrize("prompt", [[97, 98], [[97, 98], [99, 100]]])
def test_token_ids_are_taken_as_they_are(client: openai.OpenAI, prompt: Any) -> None:
    assert [choice.text for choice in complete(client, prompt).choices][:1] == ["AB"]


def test_more_prompts_than_run_at_once_are_all_answered(client: openai.OpenAI) -> None:
    prompts = [f"{index:02d}" for index in range(40)]
    assert [choice.text for choice in complete(client, prompts).choices] == prompts


def test_a_stream_says_whose_text_each_chunk_is(client: openai.OpenAI) -> None:
    texts, ends, last = ["", "", "", ""], {}, None
    for chunk in complete(client, ["ab", "cd"], n=2, stream=True, stream_options={"include_usage": True}):
        last = chunk
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            if choice.finish_reason:
                ends[choice.index] = choice.finish_reason
    assert texts == ["AB", "ABAB", "CD", "CDCD"] and ends == dict.fromkeys(range(4), "stop")
    assert last is not None and last.choices == [] and last.usage.completion_tokens == 12


@pytest.mark.parametrize("stream", [False, True])
def test_echo_begins_each_text_with_its_prompt(client: openai.OpenAI, stream: bool) -> None:
    options: dict[str, Any] = {"echo": True, "stream": stream}
    if not stream:
        assert [choice.text for choice in complete(client, ["ab", "cd"], **options).choices] == ["abAB", "cdCD"]
        return
    texts = ["", ""]
    for chunk in complete(client, ["ab", "cd"], **options):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == ["abAB", "cdCD"]


def test_echo_of_token_ids_is_their_text(client: openai.OpenAI) -> None:
    assert complete(client, [97, 98], echo=True).choices[0].text == "abAB"


def test_log_probabilities_come_as_lists_side_by_side(client: openai.OpenAI) -> None:
    found = complete(client, "ab", logprobs=2).choices[0].logprobs
    assert found.tokens == ["A", "B"] and found.text_offset == [0, 1]
    assert found.token_logprobs == [pytest.approx(FLAT)] * 2
    # The chosen token stands among the alternatives too.
    assert [set(top) for top in found.top_logprobs] == [{"\x00", "\x01", "A"}, {"\x00", "\x01", "B"}]


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_is_scored_by_echo_and_logprobs_with_nothing_generated(client: openai.OpenAI, stream: bool) -> None:
    options: dict[str, Any] = {"echo": True, "logprobs": 1, "max_tokens": 0, "stream": stream}
    if stream:
        chunks = [chunk for chunk in complete(client, "hé", **options) if chunk.choices[0].logprobs]
        assert len(chunks) == 1 and chunks[0].choices[0].text == "hé"
        found = chunks[0].choices[0].logprobs
    else:
        choice = complete(client, "hé", **options).choices[0]
        assert (choice.text, choice.finish_reason) == ("hé", "length")
        found = choice.logprobs
    # Half a character is written by its bytes; offsets count characters.
    assert found.tokens == ["h", "bytes:\\xc3", "bytes:\\xa9"] and found.text_offset == [0, 1, 1]
    assert found.token_logprobs == [None, pytest.approx(FLAT), pytest.approx(FLAT)]
    assert found.top_logprobs[0] is None and len(found.top_logprobs[1]) == 2


def test_scores_of_prompt_and_answer_stand_in_one_list(client: openai.OpenAI) -> None:
    for index, choice in enumerate(complete(client, ["ab", "cd"], echo=True, logprobs=0).choices):
        prompt = ("ab", "cd")[index]
        assert choice.logprobs.tokens == list(prompt + prompt.upper())
        assert choice.logprobs.text_offset == [0, 1, 2, 3]
        assert [entry is None for entry in choice.logprobs.token_logprobs] == [True, False, False, False]


def test_echo_alone_of_nothing_generated_gives_the_prompt_back(client: openai.OpenAI) -> None:
    choice = complete(client, "ab", echo=True, max_tokens=0).choices[0]
    assert choice.text == "ab" and choice.logprobs is None


def test_vllms_prompt_logprobs_stand_in_each_choice(client: openai.OpenAI) -> None:
    answer = complete(client, ["ab", "cd"], extra_body={"prompt_logprobs": 1}).model_dump()
    for choice, second in zip(answer["choices"], ("b", "d"), strict=True):
        assert choice["prompt_logprobs"][0] is None
        assert choice["prompt_logprobs"][1][str(ord(second))]["decoded_token"] == second


def test_the_default_length_is_openais() -> None:
    engine = RecordingEngine()
    with (
        serving(state_of(engine)) as running,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client,
    ):
        complete(client, "ab", stop=["x", "y"], user="someone", best_of=2, n=2, suffix=None)
    (request,) = engine.requests
    assert (request.sampling.max_tokens, request.sampling.stop, request.sampling.n) == (16, ("x", "y"), 2)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"suffix": "!"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"logprobs": 21}, "logprobs"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [300]}, "prompt"),
        ({"prompt": ["ab", ""]}, "prompt.1"),
        ({"prompt": ["a"] * 257}, "prompt"),
        ({"prompt": ["a"] * 20, "n": 64}, "n"),
        ({"no_such_field": 1}, "no_such_field"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(server: str, fields: dict[str, Any], named: str) -> None:
    body = {"model": "deepseek-7b", "prompt": "ab"} | fields
    response = requests.post(f"{server}/v1/completions", json=body, timeout=30)
    assert response.status_code == 400, response.text
    assert named in response.json()["error"]["message"]


def test_a_prompt_that_is_too_long_is_named(server: str) -> None:
    body = {"model": "deepseek-7b", "prompt": ["a", "b" * CONTEXT]}
    response = requests.post(f"{server}/v1/completions", json=body, timeout=30)
    assert response.status_code == 400 and response.json()["errors"][0]["field"] == "prompt.1"


@pytest.mark.parametrize("prompt", ["a", ["a", "b"]])
def test_a_refusal_of_the_engine_is_the_clients_own_error(prompt: Any) -> None:
    full = AdmissionError("too many requests are waiting", reason="queue_full", found=9)
    with (
        serving(state_of(RefusingEngine(full))) as running,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client,
        pytest.raises(openai.RateLimitError),
    ):
        complete(client, prompt)


def test_one_prompt_that_fails_ends_the_others() -> None:
    engine = quick("Hello", fail_at=lambda request: 1 if request.prompt_ids == (98,) else None)
    with (
        serving(state_of(engine)) as running,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client,
    ):
        with pytest.raises(openai.InternalServerError):
            complete(client, ["a", "b", "c"])
        assert engine.load().running == 0


def test_leaving_a_stream_of_several_prompts_ends_them_all() -> None:
    engine = HeldEngine(["Hello"])
    with (
        serving(state_of(engine)) as running,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client,
    ):
        stream = complete(client, ["a", "b"], stream=True)
        next(stream)
        stream.close()
        assert engine.ended.wait(5)


def likelihood(choices: list[Any], context: int) -> tuple[float, bool]:
    """How lm-eval's `local-completions` reads an answer: it asks for one token more than it wants and drops it."""
    choice = sorted(choices, key=itemgetter("index"))[0]
    logprobs = choice["logprobs"]["token_logprobs"][context:-1]
    tops = choice["logprobs"]["top_logprobs"][context:-1]
    greedy = all(logprob == max(top.values()) for logprob, top in zip(logprobs, tops, strict=True))
    return sum(logprobs), greedy


def test_a_harness_reads_likelihoods_of_token_ids(server: str) -> None:
    body = {
        "model": "deepseek-7b",
        "prompt": [list(b"question answer")],
        "temperature": 0,
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    }
    found = requests.post(f"{server}/v1/completions", json=body, timeout=30).json()
    total, greedy = likelihood(found["choices"], len(b"question "))
    assert total == pytest.approx(len(b"answer") * FLAT) and greedy
