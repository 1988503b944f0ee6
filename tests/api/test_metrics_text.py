"""The text of /metrics keeps the rules that `promtool check metrics` checks: names, units, help, one series once."""

import re
from collections import Counter
from collections.abc import Iterator

import pytest
import requests
from api_support import quick, state_of
from prometheus_client.parser import text_string_to_metric_families

from deepseek.api import serving

BODY = {"model": "deepseek-7b", "prompt": "abc", "max_tokens": 5}
# As in promtool's linter: a unit is a base unit, and written out.
NO_BASE_UNITS = re.compile(
    r"_(milli|micro|nano|kilo|mega)?(minutes|hours|days|milliseconds|microseconds|nanoseconds|kilobytes|megabytes)(_|$)"
)
ABBREVIATED = re.compile(r"_(s|ms|us|ns|sec|b|kb|mb|gb)(_total)?$")


@pytest.fixture(scope="module")
def text() -> Iterator[str]:
    with serving(state_of(quick()), grace_s=1.0) as server:
        for path in ("/v1/generate", "/v1/generate", "/nowhere"):
            requests.post(server.url + path, json=BODY)
        requests.post(f"{server.url}/v1/generate", json=BODY | {"stream": True})
        yield requests.get(f"{server.url}/metrics").text


def test_every_family_has_one_help_and_one_type_before_its_samples(text: str) -> None:
    told: Counter[tuple[str, str]] = Counter()
    for line in text.splitlines():
        if line.startswith("#"):
            _, what, name, rest = line.split(" ", 3)
            told[what, name] += 1
            assert rest.strip()
        else:
            name = re.split(r"[{ ]", line)[0]
            family = re.sub(r"_(bucket|sum|count|created)$", "", name)
            assert told["TYPE", name] or told["TYPE", family], name
    assert set(told.values()) == {1}
    names = {name for _, name in told}
    assert all(told["HELP", name] and told["TYPE", name] for name in names)


def test_counters_end_in_total_and_nothing_else_does(text: str) -> None:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.endswith("_created"):
                continue
            assert sample.name.endswith("_total") == (family.type == "counter"), sample.name


def test_names_are_words_in_small_letters_with_base_units_written_out(text: str) -> None:
    for family in text_string_to_metric_families(text):
        assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", family.name)
        assert not NO_BASE_UNITS.search(family.name) and not ABBREVIATED.search(family.name)
        assert family.type not in ("unknown", "untyped")
        # promtool: a name does not say the type.
        assert not re.search(r"_(counter|gauge|histogram|summary)(_|$)", family.name)
        if family.type != "histogram":
            assert not re.search(r"_(bucket|count|sum)$", family.name)
        for sample in family.samples:
            assert all(re.fullmatch(r"[a-z_]+", label) for label in sample.labels)
            assert ("le" in sample.labels) == sample.name.endswith("_bucket")


def test_no_series_comes_twice(text: str) -> None:
    series = Counter(line.rsplit(" ", 1)[0] for line in text.splitlines() if not line.startswith("#"))
    assert set(series.values()) == {1}


def test_histograms_are_whole(text: str) -> None:
    histograms = [family for family in text_string_to_metric_families(text) if family.type == "histogram"]
    assert {family.name for family in histograms} >= {"deepseek_overhead_seconds", "deepseek_request_seconds"}
    for family in histograms:
        buckets = [s for s in family.samples if s.name.endswith("_bucket")]
        values = [sample.value for sample in buckets]
        assert values == sorted(values) and buckets[-1].labels["le"] == "+Inf"
        assert next(s.value for s in family.samples if s.name.endswith("_count")) == values[-1]


def test_what_operators_look_for_is_there(text: str) -> None:
    names = {family.name for family in text_string_to_metric_families(text)}
    assert names >= {
        "deepseek_choices_limit",
        "deepseek_http_requests",
        "deepseek_in_flight_choices",
        "deepseek_in_flight_requests",
        "deepseek_open_connections",
        "deepseek_overhead_seconds",
        "deepseek_rate_limited_requests",
        "deepseek_refused_connections",
        "deepseek_shed_requests",
        "deepseek_unshared_verdicts",
    }
