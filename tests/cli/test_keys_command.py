"""`deepseek keys`: a key is made, printed once, listed, rotated and revoked, with and without a server beside it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from test_serve import lines_until

from deepseek.cli.keys import duration_of, moment_of
from deepseek.core.errors import ConfigError
from tests.cli.conftest import Run


def create(run: Run, *args: object) -> tuple[str, str]:
    """The key's public id and the key."""
    made = run("keys", "create", "--tenant", "acme", *args)
    assert made.code == 0, made.err
    assert re.fullmatch(r"dsk_[0-9A-Za-z]{49}\n", made.out)
    return made.err.split()[0], made.out.strip()


def test_a_key_is_alone_on_standard_output_and_is_not_listed(run: Run, own_data: Path) -> None:
    key_id, key = create(
        run, "--tier", "professional", "--name", "web", "--scope", "infer", "--model", "a", "--expires", "90d"
    )
    listed = run("keys", "list").out
    assert listed.startswith(f"{key_id}  acme  professional  infer  good until ") and "never used" in listed
    assert "only a" in listed and "web" in listed and listed.count("\n") == 1
    assert key not in listed and key[4:] not in own_data.read_bytes().decode("latin-1")
    assert own_data.exists()


def test_a_database_of_its_own_may_be_named(run: Run, tmp_path: Path, own_data: Path) -> None:
    file = tmp_path / "other.db"
    key_id, _ = create(run, "--tier", "basic", "--database", file)
    assert not own_data.exists()
    (record,) = run("keys", "list", "--json", "--database", file).out.splitlines()
    assert json.loads(record)["id"] == key_id
    config = tmp_path / "platform.yaml"
    config.write_text("database: other.db\ntenants: {acme: {tier: gold}}\ntiers: {gold: {based_on: basic}}\n")
    create(run, "--config", config)
    assert "gold" in run("keys", "list", "--config", config).out


def test_a_key_is_rotated_and_revoked_by_its_id(run: Run) -> None:
    key_id, key = create(run, "--tier", "basic")
    rotated = run("keys", "rotate", key_id, "--grace", "10m")
    assert rotated.out.strip() != key and "good for 10m more" in rotated.err
    assert run("keys", "revoke", key_id).err == f"{key_id} of acme is revoked\n"
    assert "revoked" in run("keys", "list").out
    assert run("keys", "list", "--tenant", "nobody").out == ""


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("create", "--tenant", "acme"), "--tier: is missing"),
        (("create", "--tier", "basic"), "Missing option '--tenant'"),
        (("create", "--tenant", "acme", "--tier", "gold"), "tier: there is no such tier; found gold; expected basic,"),
        (("create", "--tenant", "", "--tier", "basic"), "tenant: not a name"),
        (("create", "--tenant", "a", "--tier", "basic", "--scope", "public"), "scopes: there is no such scope"),
        (("create", "--tenant", "a", "--tier", "basic", "--expires", "soon"), "--expires: not a time; found soon"),
        (("create", "--tenant", "a", "--tier", "basic", "--expires", "2020-01-01"), "expires: lies in the past"),
        (("create", "--tenant", "a", "--tier", "basic", "--config", "none.yaml"), "none.yaml: no such configuration"),
        (("create", "--tenant", "a", "--tier", "basic", "--database", "mysql://h/n"), "no such kind of database"),
        (("rotate", "key_nobody"), "key_nobody: there is no such key"),
        (("rotate", "key_nobody", "--grace", "1y"), "--grace: not a while; found 1y"),
        (("revoke", "key_nobody"), "key_nobody: there is no such key"),
    ],
)
def test_what_cannot_be_is_one_line(refused: Callable[..., str], args: tuple[str, ...], expected: str) -> None:
    assert expected in refused("keys", *args)


def test_times_may_be_dates_moments_and_whiles() -> None:
    assert moment_of("2027-01-31", 0) == moment_of("2027-01-31T00:00:00+00:00", 0) == 1801353600
    assert moment_of("2027-01-31T01:00+01:00", 0) == 1801353600
    assert moment_of("2h", 100.0) == 7300.0
    assert [duration_of(text, "x") for text in ("30s", "15m", "12h", "7d", "4w")] == [30, 900, 43200, 604800, 2419200]
    with pytest.raises(ConfigError):
        duration_of("9999999999999w", "x")


def test_a_running_server_asks_for_the_first_key_within_a_second_and_serves_its_owner(
    run: Run, spawn: Callable[..., subprocess.Popen[str]], model_dir: Path, tmp_path: Path
) -> None:
    process = spawn("serve", "--model", model_dir, "--port", 0, "--served-model-name", "m")
    lines = lines_until(process, "ready: ")
    assert any(line.startswith("identity") and "until the first key is made" in line for line in lines)
    url = lines[-1].split()[1]
    assert httpx.get(f"{url}/v1/models", timeout=30).status_code == 200
    key_id, key = create(run, "--tier", "basic")
    asking = (httpx.get(f"{url}/v1/models", timeout=30).status_code for _ in iter(int, 1))
    assert next(status for status in asking if status != 200) == 401
    body = {"model": "m", "prompt": "Hello", "max_tokens": 3}
    headers = {"authorization": f"Bearer {key}"}
    assert httpx.post(f"{url}/v1/generate", json=body, headers=headers, timeout=60).status_code == 200
    run("keys", "revoke", key_id)
    trying = (httpx.get(f"{url}/v1/models", headers=headers, timeout=30).status_code for _ in iter(int, 1))
    assert next(status for status in trying if status != 200) == 401
    process.terminate()
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in rest
    listed = run("keys", "list").out
    assert "used 20" in listed


def test_a_server_for_other_machines_is_refused_without_a_key_before_the_model_is_loaded(
    refused: Callable[..., str],
) -> None:
    line = refused("serve", "--model", "no-such-model", "--host", "0.0.0.0", "--port", 0)
    assert "there is no key to tell callers apart by" in line and "Fix: deepseek keys create --tenant NAME" in line


def test_a_tenants_model_that_is_not_served_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    config = tmp_path / "platform.yaml"
    config.write_text("tenants: {acme: {models: [theirs]}}\n")
    line = refused("serve", "--model", "no-such-model", "--port", 0, "--served-model-name", "m", "--config", config)
    assert f"{config}: tenants.acme.models: no such model is served; found theirs; expected m" in line
