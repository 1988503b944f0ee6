"""Limits and connections as metrics, read when scraped."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from deepseek.api.limits.overload import Overload
from deepseek.api.limits.rate import RateLimiter

if TYPE_CHECKING:
    from deepseek.api.connections import Gate


class LimitCollector(Collector):
    """What is in flight, the limit on it, and who was refused."""

    def __init__(self, overload: Overload, limiter: Callable[[], RateLimiter]) -> None:
        self._overload, self._limiter = overload, limiter

    def collect(self) -> Iterable[Metric]:
        in_flight = GaugeMetricFamily(
            "deepseek_in_flight_requests", "Requests between admission and their end.", labels=["tier"]
        )
        choices = GaugeMetricFamily("deepseek_in_flight_choices", "Their choices (a request has n).", labels=["tier"])
        shed = CounterMetricFamily("deepseek_shed_requests", "Refused because the server was busy.", labels=["tier"])
        for name, partition in self._overload.partitions.items():
            in_flight.add_metric([name], partition.requests)
            choices.add_metric([name], partition.choices)
            shed.add_metric([name], partition.shed)
        yield from (in_flight, choices, shed)
        if self._overload.law is not None:
            text = "Choices that may be in flight before tiers above their share are refused."
            yield GaugeMetricFamily("deepseek_choices_limit", text, value=self._overload.law.limit)
        yield CounterMetricFamily(
            "deepseek_unshared_verdicts",
            "Rates that were judged by this process alone, since the shared store did not answer.",
            value=self._limiter().faults,
        )

    def describe(self) -> Iterable[Metric]:
        return ()


class ConnectionCollector(Collector):
    """What is connected, and what was cut off before it was a request."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily("deepseek_open_connections", "Connections of clients.", value=self._gate.open)
        refused = CounterMetricFamily(
            "deepseek_refused_connections", "Connections closed by the kind of problem.", labels=["kind"]
        )
        for kind, count in self._gate.refused.items():
            refused.add_metric([kind], count)
        yield refused

    def describe(self) -> Iterable[Metric]:
        return ()
