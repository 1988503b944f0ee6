"""How much of a call's time is the server's own, as its histogram tells it: HTTP's measure, for gRPC too."""

from typing import Any

import httpx
from api_support import MODELS
from grpc_support import KEYS, bearer, client_of, grpc_server, keyed
from prometheus_client.parser import text_string_to_metric_families

from deepseek.engine.fake import FakeEngine, say

PROMPT: dict[str, Any] = {"model": MODELS[0], "prompt": "Say hello"}


def overheads(url: str) -> tuple[float, float]:
    """How many there are, and their sum in seconds."""
    text = httpx.get(f"{url}/metrics", headers=bearer(KEYS["enterprise"])).text
    samples = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.labels
    }
    return samples["deepseek_overhead_seconds_count"], samples["deepseek_overhead_seconds_sum"]


def test_every_call_that_reached_the_engine_is_counted_without_the_engines_time() -> None:
    engine = FakeEngine(reply=say("Hello"), ttft_s=0.3, inter_token_s=0.05)
    with grpc_server(keyed(engine)) as server, client_of(server, KEYS["enterprise"]) as client:
        client.call("Generate", PROMPT)
        list(client.call("GenerateStream", PROMPT))
        client.call("Models", {})
        count, seconds = overheads(server.url)
    assert count == 2
    assert 0 < seconds < 0.5, "the engine took a second of it"
