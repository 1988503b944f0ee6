"""Environment variables reach a plugin's parameters, and nothing that is shown."""

import json
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek.core.errors import ConfigError
from deepseek.plugins.config import MAX_PLUGINS, read_plugins
from deepseek.plugins.secret import Scrubber, plain, with_variables


def params(value: Any, **environment: str) -> Any:
    return with_variables(value, "here", environment)


def test_variables_are_put_in_wherever_a_text_stands() -> None:
    given_so = {"url": "https://${env:HOST}/${env:PATH_}", "deep": [{"key": "${env:KEY}"}, 3, None, "plain"]}
    found = params(given_so, HOST="h", PATH_="p", KEY="k")
    assert plain(found) == {"url": "https://h/p", "deep": [{"key": "k"}, 3, None, "plain"]}
    assert type(plain(found)["url"]) is str


@pytest.mark.parametrize("text", ["${env:}", "${KEY}", "${env:KEY", "${env:K-Y}", "${file:x}"])
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"here\.key: not a variable"):
        params({"key": text}, KEY="k")


def test_a_missing_variable_is_named() -> None:
    with pytest.raises(ConfigError, match=r"not set; found \$\{env:GONE\}"):
        params({"key": "${env:GONE}"})


@given(st.text(min_size=4, max_size=30).filter(lambda text: text.isprintable() and text.strip() == text))
def test_a_secret_is_in_no_repr_and_no_scrubbed_text(secret: str) -> None:
    found = params({"key": "Bearer ${env:KEY}"}, KEY=secret)
    assert repr(found) == "{'key': [hidden]}"
    scrub = Scrubber(found)
    for form in (secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1], repr(secret)[1:-1]):
        assert form not in scrub(f"<<{form}>>").replace("[hidden]", "")


def test_a_secret_too_short_to_be_told_from_other_text_silences_it() -> None:
    assert Scrubber(params({"key": "${env:KEY}"}, KEY="ab"))("about") == "[hidden]"
    assert Scrubber(params({"key": "${env:KEY}"}, KEY=""))("about") == "about"
    assert Scrubber({"key": "not secret"})("not secret") == "not secret"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"nam": "x"}, r"plugins\.0\.name: is missing; 1 more"),
        ({"name": "x", "colour": 1}, r"plugins\.0\.colour: there is no such field"),
        ({"name": "x", "deadline_ms": 0}, r"deadline_ms: has a wrong value"),
        ({"name": "x", "on_failure": "shrug"}, r"on_failure: has a wrong value; expected 'open' or 'closed'"),
        ({"name": "x", "trigger_words": [" "]}, r"trigger_words: has a wrong value"),
        ({"name": "x", "params": "sk-secret"}, r"params: has a wrong value"),
        ({"name": "x y"}, r"name: has a wrong value"),
        ("x", r"plugins\.0: has a wrong value"),
    ],
)
def test_a_wrong_entry_is_named_and_its_value_is_not_repeated(entry: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_plugins([entry], "p.yaml: plugins")
    assert "sk-secret" not in str(caught.value)


def test_what_is_no_list_and_what_is_too_long_is_refused() -> None:
    with pytest.raises(ConfigError, match="no list of plugins"):
        read_plugins({"name": "x"}, "plugins")
    with pytest.raises(ConfigError, match="too many"):
        read_plugins([{"name": f"p{at}"} for at in range(MAX_PLUGINS + 1)], "plugins")
