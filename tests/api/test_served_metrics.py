"""/metrics in Prometheus's text format, read by prometheus-client's own parser."""

import requests
from api_support import quick, state_of
from prometheus_client.parser import text_string_to_metric_families

from deepseek.api import serving

BODY = {"model": "deepseek-7b", "prompt": "abc", "max_tokens": 5}


def samples(url: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = requests.get(f"{url}/metrics").text
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
    assert seen["deepseek_inter_token_seconds_count", ()] == 8
    assert seen["deepseek_request_seconds_count", ()] == 2
    assert seen["deepseek_finished_requests_total", (("reason", "length"),)] == 2
    assert seen["deepseek_http_requests_total", (("route", "/v1/generate"), ("status", "200"))] == 2
    assert seen["deepseek_http_requests_total", (("route", "/v1/generate"), ("status", "422"))] == 1
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
