"""The configuration: what it says, and that everything it should not say is refused by file and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepseek.api.config import PlatformConfig, load
from deepseek.api.tiers import BASIC, PROFESSIONAL
from deepseek.core.errors import ConfigError

WHOLE = """
database: postgresql://deepseek:${env:TEST_DB_PASSWORD}@db/deepseek
redis: redis://:${env:TEST_DB_PASSWORD}@cache:6379/0
tiers:
  basic: {requests_per_second: 50, media: [image]}
  gold: {based_on: professional, requests_per_second: 800, burst_s: 0.5}
  free: {based_on: basic, requests_per_second: null}
tenants:
  acme: {models: [acme-7b], adapters: {acme-poet: adapters/poet}, tier: gold}
  twin: {models: [acme-7b], adapters: {acme-poet: adapters/poet}}
jwt: {issuer: https://id.example, audience: deepseek, jwks: keys/jwks.json, tier: free}
prices: {deepseek-7b: {input: 0.27, output: 1.10}}
budgets: [{scope: tenant, name: acme, period: month, money: 500}]
limits: {dynamic: {ceiling: 256}}
grpc: {port: 9090, certificate: tls/cert.pem, key: tls/key.pem}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TEST_DB_PASSWORD", "hidden")
    return tmp_path / "platform.yaml"


def test_everything_is_read(file: Path) -> None:
    file.write_text(WHOLE)
    config = load(file)
    assert (
        config.database == "postgresql://deepseek:hidden@db/deepseek" and config.redis == "redis://:hidden@cache:6379/0"
    )
    tiers = config.tiers_of().by_name
    assert (tiers["basic"].requests_per_second, tiers["basic"].media) == (50, {"image"})
    assert tiers["basic"].priority == BASIC.priority and tiers["professional"] == PROFESSIONAL
    assert (tiers["gold"].requests_per_second, tiers["gold"].burst_s, tiers["gold"].protobuf) == (800, 0.5, True)
    assert tiers["gold"].name == "gold" and tiers["free"].requests_per_second is None
    assert config.owners() == {name: frozenset({"acme", "twin"}) for name in ("acme-7b", "acme-poet")}
    assert config.adapters() == {"acme-poet": str(file.parent / "adapters" / "poet")}
    assert config.jwt is not None and config.jwt.jwks == str(file.parent / "keys" / "jwks.json")
    assert config.grpc is not None and config.grpc.certificate == file.parent / "tls" / "cert.pem"
    assert config.limits.dynamic is not None and config.limits.dynamic.ceiling == 256
    assert config.budgets[0].name == "acme" and set(config.prices) == {"deepseek-7b"}


def test_an_empty_file_changes_nothing(file: Path) -> None:
    file.write_text("# later\n")
    assert load(file) == PlatformConfig()


def test_a_database_file_lies_beside_the_configuration(file: Path) -> None:
    file.write_text("database: control.db\nfiles: kept\n")
    assert load(file).database == str(file.parent / "control.db")
    assert load(file).files == str(file.parent / "kept")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tier: {}", "{file}: tier: there is no such field. Fix: did you mean tiers?"),
        (
            "tiers: {basic: {request_per_second: 5}}",
            "tiers.basic.request_per_second: there is no such field. Fix: did you mean",
        ),
        (
            "tiers: {basic: {requests_per_second: fast}}",
            "{file}: tiers.basic.requests_per_second: has a wrong value; found",
        ),
        ("tiers: {basic: {requests_per_second: '5'}}", "tiers.basic.requests_per_second: has a wrong value"),
        ("tiers: {basic: {requests_per_second: 0}}", "expected greater than 0"),
        ("tiers: {basic: {requests_per_second: .inf}}", "tiers.basic.requests_per_second"),
        ("tiers: {basic: {media: [smell]}}", "tiers.basic.media"),
        ("tiers: {basic: {priority: true}}", "tiers.basic.priority"),
        (
            "tiers: {gold: {burst_s: 1}}",
            "tiers.gold.based_on: is based on no tier there is; found nothing; expected basic",
        ),
        ("tiers: {gold: {based_on: silver}}", "tiers.gold.based_on: is based on no tier there is; found silver"),
        ("tiers: {local: {based_on: basic}}", "tiers.local: is the tier of a server without keys"),
        ("tenants: {acme: {tier: gold}}", "tenants.acme.tier: there is no such tier; found gold"),
        ("tenants: {acme: {model: [a]}}", "did you mean models?"),
        ("tenants: {a: {adapters: {x: p}}, b: {adapters: {x: q}}}", "tenants.b.adapters.x: another tenant has another"),
        ("jwt: {issuer: a, audience: b}", "jwt.jwks: is missing"),
        ("jwt: {issuer: a, audience: b, jwks: http://id.example/k}", "jwt.jwks: has a wrong value; found"),
        ("jwt: {issuer: a, audience: b, jwks: k, algorithms: [HS256]}", "jwt.algorithms.0"),
        ("jwt: {issuer: a, audience: b, jwks: k, algorithms: []}", "jwt.algorithms"),
        ("jwt: {issuer: a, audience: b, jwks: k, tier: gold}", "jwt.tier: there is no such tier; found gold"),
        ("prices: {m: {input: -1, output: 1}}", "prices.m.input"),
        ("budgets: [{scope: key, period: week, tokens: 5}]", "budgets.0.period"),
        ("limits: {dynamic: {floor: 9, ceiling: 3}}", "limits.dynamic"),
        ("grpc: {port: 70000}", "grpc.port"),
        ("database: ${env:TEST_NOT_SET}", "database: the environment variable is not set; found ${env:TEST_NOT_SET}"),
        ("database: ${DB}", "database: not a variable"),
        (
            "tiers: {basic: {based_on: '${env:TEST_DB_PASSWORD}'}}",
            "tiers.basic.based_on: an environment variable cannot",
        ),
        (
            "jwt: {issuer: '${env:TEST_DB_PASSWORD}', audience: b, jwks: k}",
            "jwt.issuer: an environment variable cannot",
        ),
        ("tiers: {basic: {}, basic: {}}", "cannot be read as YAML; found basic is given twice"),
        ("[]", "is no mapping of fields; found list"),
        ("a: [", "cannot be read as YAML"),
        ("x: !!python/object/apply:os.system [true]", "cannot be read as YAML"),
        ("tier: {}\nprice: {}", "there is no such field; 1 more fields are wrong"),
    ],
)
def test_a_mistake_is_one_line_with_file_and_field(file: Path, text: str, expected: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(file)
    assert expected.replace("{file}", str(file)) in str(refused.value) and str(file) in str(refused.value)
    assert "hidden" not in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["database: {password: seen}", "database: [seen]", "redis: 5"])
def test_what_may_hold_a_password_is_not_repeated(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(file)
    assert "seen" not in str(refused.value) and "found" not in str(refused.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such configuration"):
        load(tmp_path / "nowhere.yaml")
