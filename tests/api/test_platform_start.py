"""What a server starts with: frictionless on loopback until the first key, refused elsewhere without one."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from api_support import CONTEXT, MODELS, ByteCodec, quick
from starlette.datastructures import Headers

from deepseek.api import ServerState, serving
from deepseek.api.config import PlatformConfig, load
from deepseek.api.identity import administration
from deepseek.api.identity.administration import NewKey
from deepseek.api.identity.caller import LOCAL_CALLER, Caller
from deepseek.api.identity.secret import VARIABLE, secret_of
from deepseek.api.kept.callers import recall, write_caller
from deepseek.api.platform import Platform, default_database, is_loopback, open_platform
from deepseek.api.problems import Problem
from deepseek.api.store.database import Database, DatabaseInUse
from deepseek.core.errors import ConfigError

EVERYWHERE = "0.0.0.0"


@pytest.fixture(autouse=True)
def own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)


def make_key(url: str, tenant: str = "acme", tier: str = "basic") -> str:
    database = Database.open(url)
    add, key = administration.issue(NewKey(tenant, tier), secret_of(database))
    database.write_now(add)
    database.close()
    return key


def identify(platform: Platform, **headers: str) -> Caller:
    return asyncio.run(platform.identifier.identify(Headers(headers)))


def start(host: str = "127.0.0.1", config: PlatformConfig | None = None, **options: object) -> Platform:
    return open_platform(config or PlatformConfig(), host=host, **options)  # type: ignore[arg-type]


def test_on_loopback_without_keys_everybody_is_the_local_tenant_and_the_start_says_so() -> None:
    platform = start()
    assert identify(platform) == LOCAL_CALLER
    rows = dict(platform.rows)
    assert rows["identity"].startswith("nobody is asked") and rows["database"] == default_database()
    platform.close()


def test_elsewhere_without_keys_it_does_not_start_and_says_how_to_make_one() -> None:
    with pytest.raises(ConfigError, match=r"--host 0\.0\.0\.0: .*Fix: deepseek keys create --tenant NAME"):
        start(EVERYWHERE)
    start().close()  # and it lets go of the file


def test_the_way_out_names_the_database_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"--tier professional --database {tmp_path}/mine.db"):
        start(EVERYWHERE, database=f"{tmp_path}/mine.db")


def test_elsewhere_with_a_key_it_starts_and_asks_for_it() -> None:
    key = make_key(default_database())
    platform = start(EVERYWHERE)
    with pytest.raises(Problem, match="Send a key"):
        identify(platform)
    assert identify(platform, authorization=f"Bearer {key}").tenant == "acme"
    assert dict(platform.rows)["identity"] == "keys (1 good); required from every caller, on this machine too"
    platform.close()


def test_once_there_is_a_key_it_is_asked_for_on_loopback_too() -> None:
    make_key(default_database())
    platform = start()
    with pytest.raises(Problem, match="Send a key"):
        identify(platform)
    platform.close()


def test_keys_can_be_required_before_there_are_any() -> None:
    platform = start(require_keys=True)
    with pytest.raises(Problem, match="Send a key"):
        identify(platform)
    platform.close()


def test_an_issuer_of_tokens_is_as_good_as_a_key_and_ends_the_open_door(tmp_path: Path) -> None:
    file = tmp_path / "platform.yaml"
    file.write_text("jwt: {issuer: https://id.example, audience: deepseek, jwks: jwks.json}")
    for host in (EVERYWHERE, "127.0.0.1"):
        platform = start(host, load(file))
        assert "tokens of https://id.example" in dict(platform.rows)["identity"]
        with pytest.raises(Problem, match="Send a key"):
            identify(platform)
        platform.close()


def test_a_second_server_of_the_same_user_works_without_a_database_and_says_so() -> None:
    first = start()
    second = start()
    assert identify(second) == LOCAL_CALLER and second.admin is None
    assert "another server uses this database" in dict(second.rows)["database"]
    with pytest.raises(Problem, match="not under another name"):
        identify(second, host="evil.example")
    second.close()
    first.close()


def test_a_second_server_answers_nobody_once_a_key_was_made() -> None:
    first = start()
    second = start()
    state = ServerState(quick(), ByteCodec(), MODELS, CONTEXT, **second.state_fields())
    with serving(state, grace_s=1.0) as server:
        assert httpx.get(f"{server.url}/v1/models").status_code == 200
        key = make_key(default_database())
        answer, deadline = httpx.get(f"{server.url}/v1/models"), time.monotonic() + 10
        while answer.status_code == 200 and time.monotonic() < deadline:
            answer = httpx.get(f"{server.url}/v1/models")
        assert answer.status_code == 503 and "this server cannot check keys" in answer.text
        assert answer.headers["x-should-retry"] == "false"
        assert httpx.get(f"{server.url}/v1/models", headers={"x-api-key": key}).status_code == 503
        assert httpx.get(f"{server.url}/healthz").status_code == 200
    second.close()
    first.close()


def test_a_second_server_runs_its_batches_until_a_key_was_made() -> None:
    first, second = start(), start()
    written = write_caller(LOCAL_CALLER)
    assert recall(second.identifier, written) == LOCAL_CALLER
    assert recall(second.identifier, written | {"tenant": "acme"}) is None
    assert recall(second.identifier, written | {"key_id": "key_1"}) is None
    make_key(default_database())
    deadline = time.monotonic() + 10
    while recall(second.identifier, written) is not None and time.monotonic() < deadline:
        with suppress(Problem):
            identify(second)
    assert recall(second.identifier, written) is None
    second.close()
    first.close()


def test_a_second_server_is_refused_where_it_matters(tmp_path: Path) -> None:
    first = start()
    named = {"database": default_database()}
    for refused in ({"host": EVERYWHERE}, {"require_keys": True}, named):
        with pytest.raises(DatabaseInUse, match="stop it, give this server a file of its own"):
            start(**refused)
    make_key(default_database())
    with pytest.raises(DatabaseInUse):
        start()
    first.close()


def test_a_home_that_cannot_be_written_to_does_not_keep_a_local_server_from_starting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/proc/nowhere")
    platform = start()
    assert identify(platform) == LOCAL_CALLER
    platform.close()
    with pytest.raises(ConfigError, match="cannot be used"):
        start(EVERYWHERE)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("no such name", False),
        ("", False),
    ],
)
def test_loopback_is_what_no_other_machine_can_reach(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_the_secret_is_made_once_for_its_owner_alone_and_kept(tmp_path: Path) -> None:
    database = Database.open(str(tmp_path / "control.db"))
    secret = secret_of(database)
    file = tmp_path / "control.db.secret"
    assert file.stat().st_mode & 0o777 == 0o600 and len(secret) == 64
    assert secret_of(database) == secret
    assert secret.decode() not in (tmp_path / "control.db").read_bytes().decode("latin-1")
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="others may read the secret; found mode 640"):
        secret_of(database)
    database.close()


def test_another_secret_than_the_keys_were_made_under_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database.open(str(tmp_path / "control.db"))
    secret_of(database)
    (tmp_path / "control.db.secret").write_text("another secret that is long enough too\n")
    with pytest.raises(ConfigError, match="not the secret that the database's keys were made under") as refused:
        secret_of(database)
    assert "another secret" not in str(refused.value)
    monkeypatch.setenv(VARIABLE, "short")
    with pytest.raises(ConfigError, match="found 5 characters"):
        secret_of(database)
    database.close()


def test_a_secret_from_the_environment_needs_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "a secret of the environment, long enough")
    database = Database.open(str(tmp_path / "control.db"))
    assert secret_of(database) == os.environ[VARIABLE].encode()
    assert not (tmp_path / "control.db.secret").exists()
    database.close()


def test_a_configured_server_serves_its_tiers_and_keeps_private_names_private(tmp_path: Path) -> None:
    file = tmp_path / "platform.yaml"
    file.write_text(
        "database: mine.db\n"
        "tiers: {gold: {based_on: professional, requests_per_second: 10, burst_s: 0.3}}\n"
        "tenants: {acme: {models: [deepseek-tiny]}}\n"
    )
    config = load(file)
    assert config.database is not None
    own, foreign = make_key(config.database, "acme", "gold"), make_key(config.database, "other", "basic")
    platform = open_platform(config, host="127.0.0.1", where=str(file))
    state = ServerState(quick(), ByteCodec(), MODELS, CONTEXT, **platform.state_fields())
    with serving(state, grace_s=1.0) as server:

        def get(key: str) -> httpx.Response:
            return httpx.get(f"{server.url}/v1/models", headers={"x-api-key": key})

        answer = get(own)
        assert answer.headers["x-ratelimit-limit-requests"] == "3"
        assert [card["id"] for card in answer.json()["data"]] == ["deepseek-7b", "deepseek-tiny"]
        assert [card["id"] for card in get(foreign).json()["data"]] == ["deepseek-7b"]
        body = {"model": "deepseek-tiny", "prompt": "Hello", "max_tokens": 4}
        answers = [
            httpx.post(f"{server.url}/v1/generate", json=body, headers={"x-api-key": key}) for key in (own, foreign)
        ]
        assert [one.status_code for one in answers] == [200, 404]
        used = httpx.get(f"{server.url}/v1/usage", headers={"x-api-key": own}).json()
        assert used["data"][0]["requests"] == 1
    platform.close()
    again = Database.open(config.database, serving=True)
    again.close()
