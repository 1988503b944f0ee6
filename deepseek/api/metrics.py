"""Prometheus metrics of one server, in a registry of its own. Labels come from fixed sets: their number is bounded."""

from __future__ import annotations

import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from deepseek.core.engine import Engine, Finish, Tokens

# Seconds. One millisecond (a tiny model's token) to a minute (a long prefill on a processor).
LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
OVERHEAD_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 1.0)
TOKEN_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

NO_TIER = "none"


class Metrics:
    """The instruments. `render()` is what /metrics answers."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_LoadCollector(engine))
        self.first_token = Histogram(
            "deepseek_time_to_first_token_seconds",
            "From a request's arrival to its first token.",
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.inter_token = Histogram(
            "deepseek_inter_token_seconds",
            "Between two tokens of one choice; those that came together, once, on the average.",
            buckets=TOKEN_BUCKETS,
            registry=self.registry,
        )
        self.request_time = Histogram(
            "deepseek_request_seconds",
            "From a request's arrival to its end.",
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.prompt_tokens = Counter(
            "deepseek_prompt_tokens", "Prompt tokens of ended requests.", registry=self.registry
        )
        self.completion_tokens = Counter("deepseek_completion_tokens", "Tokens generated.", registry=self.registry)
        self.finished = Counter(
            "deepseek_finished_requests",
            "Choices (a request has n) by the reason they ended; client_gone: a client that left or read too slowly.",
            ["reason"],
            registry=self.registry,
        )
        self.http_requests = Counter(
            "deepseek_http_requests",
            "Answers by route, status and tier; 499 is a client that left before one, tier none a caller not known.",
            ["route", "status", "tier"],
            registry=self.registry,
        )
        self.rate_limited = Counter(
            "deepseek_rate_limited_requests", "Refused as too fast.", ["tier"], registry=self.registry
        )
        self.overhead = Histogram(
            "deepseek_overhead_seconds",
            "Of a request that reached the engine: its time outside the engine and the network.",
            buckets=OVERHEAD_BUCKETS,
            registry=self.registry,
        )
        self.plugin_calls = Counter(
            "deepseek_plugin_calls",
            "Calls of plugins' hooks by outcome: changed, unchanged, refused, raised, timeout, wrong_type, unavailable.",
            ["plugin", "hook", "outcome"],
            registry=self.registry,
        )
        self.plugin_time = Counter(
            "deepseek_plugin_seconds",
            "Time that requests waited for plugins' hooks.",
            ["plugin", "hook"],
            registry=self.registry,
        )
        self.plugin_reloads = Counter(
            "deepseek_plugin_reloads",
            "Times the plugins' configuration was read again, by whether it could be used.",
            ["result"],
            registry=self.registry,
        )
        self.plugins_stale = Gauge(
            "deepseek_plugins_stale",
            "1 while the plugins' configuration as it is now cannot be used, and an older one is.",
            registry=self.registry,
        )
        self._answers: dict[tuple[str, int | str, str], Counter] = {}

    def answered(self, route: str, status: int | str, tier: str) -> None:
        """Count one answer. status: of HTTP, a number; of gRPC, a word."""
        key = (route, status, tier)
        counter = self._answers.get(key)
        if counter is None:
            counter = self._answers[key] = self.http_requests.labels(route, str(status), tier)
        counter.inc()

    def plugin_called(self, plugin: str, hook: str, outcome: str, seconds: float) -> None:
        self.plugin_calls.labels(plugin, hook, outcome).inc()
        self.plugin_time.labels(plugin, hook).inc(seconds)

    def plugins_read(self, good: bool) -> None:
        self.plugin_reloads.labels("used" if good else "refused").inc()
        self.plugins_stale.set(not good)

    def render(self) -> bytes:
        return generate_latest(self.registry)


class RequestMeter:
    """Times one request against the instruments. `arrived` is on time.perf_counter."""

    __slots__ = ("_arrived", "_last", "_metrics")

    def __init__(self, metrics: Metrics, arrived: float) -> None:
        self._metrics = metrics
        self._arrived = arrived
        self._last: dict[int, float] = {}  # when each choice's last token came

    def tokens(self, event: Tokens) -> None:
        count = len(event.token_ids)
        if not count:
            return
        now = time.perf_counter()
        if not self._last:
            self._metrics.first_token.observe(now - self._arrived)
        elif event.choice in self._last:
            self._metrics.inter_token.observe((now - self._last[event.choice]) / count)
        self._last[event.choice] = now
        self._metrics.completion_tokens.inc(count)

    def finish(self, event: Finish) -> None:
        self._metrics.prompt_tokens.inc(event.usage.prompt_tokens)
        self._metrics.request_time.observe(time.perf_counter() - self._arrived)
        for reason in event.reasons:
            self._metrics.finished.labels(reason).inc()

    def client_gone(self) -> None:
        self._metrics.finished.labels("client_gone").inc()


class _LoadCollector:
    """Reads the engine's load when scraped, so nothing is updated in between."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterable[Metric]:
        load = self._engine.load()
        gauges = (
            ("waiting_requests", "Requests in the queue.", load.waiting),
            ("running_requests", "Requests being computed.", load.running),
            ("oldest_wait_seconds", "Waiting time of the oldest request in the queue.", load.oldest_wait_s),
            ("kv_blocks_used", "Key-value cache blocks held.", load.blocks_used),
            ("kv_blocks", "Key-value cache blocks there are.", load.blocks_total),
            ("kv_use_ratio", "Share of the key-value cache in use.", load.kv_use),
            ("weights_version", "Of the weights in use.", load.weights_version),
            ("asleep", "1 while the engine sleeps.", load.sleeping),
            ("speculating", "1 while drafts are tried.", load.speculating),
        )
        counters = (
            ("prefix_query_tokens", "Tokens looked up in the prefix cache.", load.prefix_query_tokens),
            ("prefix_hit_tokens", "Tokens found in the prefix cache.", load.prefix_hit_tokens),
            ("prefix_evicted_blocks", "Cached blocks that gave way to others.", load.prefix_evicted_blocks),
            ("preemptions", "Sequences set back, to be computed anew.", load.preemptions),
            ("drafted_tokens", "Guessed tokens that were computed.", load.drafted_tokens),
            ("accepted_tokens", "Guessed tokens that became output.", load.accepted_tokens),
            ("grammars_compiled", "Constraints compiled; one used before is not again.", load.grammars_compiled),
            ("grammars_refused", "Constraints that could not be compiled.", load.grammars_refused),
            ("grammar_seconds", "Time spent on compiling constraints.", load.grammar_seconds),
        )
        for name, text, value in gauges:
            yield GaugeMetricFamily(f"deepseek_{name}", text, value=float(value))
        for name, text, value in counters:
            yield CounterMetricFamily(f"deepseek_{name}", text, value=float(value))

    def describe(self) -> Iterable[Metric]:
        return ()
