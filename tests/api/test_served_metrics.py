"""/metrics in Prometheus's text format, read by prometheus-client's own parser."""

from typing import Any

import requests
from api_support import HeldEngine, quick, state_of
from prometheus_client.parser import text_string_to_metric_families

from deepseek.api import serving
from deepseek.core.engine import Load

BODY = {"model": "deepseek-7b", "prompt": "abc", "max_tokens": 5}


def samples(url: str, session: Any = requests) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = session.get(f"{url}/metrics").text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_tokens_times_and_answers_are_counted() -> None:
    with serving(state_of(quick())) as server:
        for stream in (False, True):
            requests.post(f"{server.url}/v1/generate", json=BODY | {"stream": stream})
        requests.post(f"{server.url}/v1/generate", json=BODY | {"top_p": 7})
        seen = samples(server.url)
    assert seen["deepseek_prompt_tokens_total", ()] == 6
    assert seen["deepseek_completion_tokens_total", ()] == 10
    assert seen["deepseek_time_to_first_token_seconds_count", ()] == 2
    # Four gaps of the stream, and those of the whole answer, which nobody waited for one by one, as one on the average.
    assert seen["deepseek_inter_token_seconds_count", ()] == 4 + 1
    assert seen["deepseek_request_seconds_count", ()] == 2
    assert seen["deepseek_finished_requests_total", (("reason", "length"),)] == 2
    assert seen["deepseek_http_requests_total", (("route", "/v1/generate"), ("status", "200"), ("tier", "local"))] == 2
    assert seen["deepseek_http_requests_total", (("route", "/v1/generate"), ("status", "422"), ("tier", "local"))] == 1
    assert 0.001 <= seen["deepseek_time_to_first_token_seconds_sum", ()] < 5


def test_the_engines_load_is_read_when_asked() -> None:
    with serving(state_of(quick())) as server:
        seen = samples(server.url)
    for name in ("waiting_requests", "running_requests", "kv_blocks_used", "kv_use_ratio", "oldest_wait_seconds"):
        assert seen[f"deepseek_{name}", ()] == 0
    assert seen["deepseek_kv_blocks", ()] == 4096


def test_unknown_paths_share_one_label() -> None:
    with serving(state_of(quick())) as server:
        for path in range(20):
            requests.get(f"{server.url}/{path}")
        routes = {dict(labels).get("route") for name, labels in samples(server.url) if name.startswith("deepseek_http")}
    assert routes == {"unmatched"}


def test_two_servers_count_apart() -> None:
    with serving(state_of(quick())) as one, serving(state_of(quick())) as other:
        requests.post(f"{one.url}/v1/generate", json=BODY)
        assert samples(other.url)["deepseek_completion_tokens_total", ()] == 0


def test_what_the_engine_counts_is_shown() -> None:
    class Counting(HeldEngine):
        def load(self) -> Load:
            return Load(
                waiting=3,
                running=2,
                blocks_used=1,
                blocks_total=4,
                oldest_wait_s=0.5,
                prefix_query_tokens=100,
                prefix_hit_tokens=40,
                preemptions=5,
                weights_version=6,
                prefix_evicted_blocks=7,
                drafted_tokens=30,
                accepted_tokens=20,
                speculating=True,
                grammars_compiled=8,
                grammars_refused=9,
                grammar_seconds=1.5,
            )

    with serving(state_of(Counting())) as server:
        seen = {name.removeprefix("deepseek_"): value for (name, labels), value in samples(server.url).items()}
    expected: dict[str, Any] = {
        "waiting_requests": 3,
        "running_requests": 2,
        "kv_use_ratio": 0.25,
        "prefix_query_tokens_total": 100,
        "prefix_hit_tokens_total": 40,
        "prefix_evicted_blocks_total": 7,
        "preemptions_total": 5,
        "weights_version": 6,
        "drafted_tokens_total": 30,
        "accepted_tokens_total": 20,
        "speculating": 1,
        "asleep": 0,
        "grammars_compiled_total": 8,
        "grammars_refused_total": 9,
        "grammar_seconds_total": 1.5,
    }
    assert {name: seen[name] for name in expected} == expected


def test_every_choice_is_counted_and_timed_by_itself() -> None:
    with serving(state_of(quick())) as server:
        requests.post(f"{server.url}/v1/generate", json=BODY | {"n": 3, "stream": True})
        seen = samples(server.url)
    assert seen["deepseek_finished_requests_total", (("reason", "length"),)] == 3
    assert seen["deepseek_time_to_first_token_seconds_count", ()] == 1
    assert seen["deepseek_inter_token_seconds_count", ()] == 3 * 4
    assert seen["deepseek_prompt_tokens_total", ()] == 3
