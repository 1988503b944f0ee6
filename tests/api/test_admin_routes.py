"""Keys and tenants over HTTP: what `deepseek keys` does, while the server serves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from api_support import quick, state_of
from identity_support import Keys, asking_state, keys_beside

from deepseek.api import serving
from deepseek.api.identity.administration import MAX_GRACE_S


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Keys]:
    with keys_beside(tmp_path) as found:
        yield found


@pytest.fixture
def admin(keys: Keys) -> Iterator[httpx.Client]:
    """A client of a running server, with a key that may operate it."""
    _, key = keys.make("operators", "enterprise", scopes=("operate",))
    keys.ring.load()
    with (
        serving(asking_state(keys), grace_s=1.0) as server,
        httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {key}"}, timeout=30) as client,
    ):
        yield client


def status(admin: httpx.Client, key: str) -> int:
    return httpx.get(admin.base_url.join("/v1/models"), headers={"x-api-key": key}).status_code


def test_a_key_works_as_soon_as_it_is_answered_and_is_shown_this_once(admin: httpx.Client) -> None:
    asked = {"tenant": "acme", "tier": "basic", "name": "web", "models": ["deepseek-7b"], "scopes": ["read"]}
    answer = admin.post("/admin/keys", json=asked)
    made = answer.json()
    assert answer.status_code == 201 and answer.headers["cache-control"] == "no-store"
    assert {name: made[name] for name in asked} == asked
    assert status(admin, made["key"]) == 200
    listed = admin.get("/admin/keys", params={"tenant": "acme"})
    assert [entry["id"] for entry in listed.json()["data"]] == [made["id"]]
    assert made["key"] not in listed.text and '"key"' not in listed.text


def test_a_key_gets_the_usual_scopes_and_no_end_where_nothing_is_said(admin: httpx.Client) -> None:
    made = admin.post("/admin/keys", json={"tenant": "acme", "tier": "professional"}).json()
    assert (made["scopes"], made["models"], made["expires"], made["revoked"]) == (["read", "infer"], None, None, None)


def test_a_revoked_key_is_refused_as_soon_as_that_is_answered(admin: httpx.Client) -> None:
    made = admin.post("/admin/keys", json={"tenant": "acme", "tier": "basic"}).json()
    revoked = admin.post(f"/admin/keys/{made['id']}/revoke").json()
    assert revoked["revoked"] is not None
    assert status(admin, made["key"]) == 401
    assert admin.post(f"/admin/keys/{made['id']}/revoke").json()["revoked"] == revoked["revoked"]
    again = admin.post(f"/admin/keys/{made['id']}/rotate", json={})
    assert again.status_code == 422 and "revoked" in again.json()["detail"]


def test_a_rotated_key_keeps_its_id_and_the_old_text_for_as_long_as_asked(admin: httpx.Client, keys: Keys) -> None:
    made = admin.post("/admin/keys", json={"tenant": "acme", "tier": "basic"}).json()
    rotated = admin.post(f"/admin/keys/{made['id']}/rotate", json={}).json()
    assert rotated["id"] == made["id"] and rotated["key"] != made["key"]
    assert [status(admin, key) for key in (made["key"], rotated["key"])] == [200, 200]
    last = admin.post(f"/admin/keys/{made['id']}/rotate", json={"grace_s": 0}).json()
    keys.clock.now += 3600
    assert [status(admin, key) for key in (made["key"], rotated["key"], last["key"])] == [401, 401, 200]


def test_tenants_are_made_listed_suspended_and_taken_back(admin: httpx.Client) -> None:
    assert admin.post("/admin/tenants", json={"name": "acme"}).status_code == 201
    assert admin.post("/admin/tenants", json={"name": "acme"}).status_code == 200
    key = admin.post("/admin/keys", json={"tenant": "acme", "tier": "basic"}).json()["key"]
    assert admin.post("/admin/tenants/acme/suspend").json()["suspended"] is not None
    assert status(admin, key) == 403
    assert admin.post("/admin/tenants/acme/resume").json()["suspended"] is None
    assert status(admin, key) == 200
    assert [tenant["name"] for tenant in admin.get("/admin/tenants").json()["data"]] == ["acme", "operators"]


def test_lists_come_in_pages(admin: httpx.Client, keys: Keys) -> None:
    made: list[str] = []
    for _ in range(5):
        keys.clock.now += 1
        made.append(admin.post("/admin/keys", json={"tenant": "acme", "tier": "basic"}).json()["id"])
    seen: list[str] = []
    after: str | None = None
    while True:
        query = {"tenant": "acme", "limit": "2"} | ({"after": after} if after else {})
        page = admin.get("/admin/keys", params=query).json()
        seen += [entry["id"] for entry in page["data"]]
        after = page["next"]
        if after is None:
            break
        assert len(page["data"]) == 2
    assert seen == made
    first = admin.get("/admin/tenants", params={"limit": 1}).json()
    assert first["next"] == "acme"
    assert admin.get("/admin/tenants", params={"limit": 1, "after": "acme"}).json()["next"] is None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"tenant": "acme"}, "tier"),
        ({"tenant": "acme", "tier": "platinum"}, "tier"),
        ({"tenant": "", "tier": "basic"}, "tenant"),
        ({"tenant": " acme", "tier": "basic"}, "tenant"),
        ({"tenant": "a\0b", "tier": "basic"}, "tenant"),
        ({"tenant": "x" * 65, "tier": "basic"}, "tenant"),
        ({"tenant": "acme", "tier": "basic", "scopes": ["public"]}, "scopes.0"),
        ({"tenant": "acme", "tier": "basic", "scopes": []}, "scopes"),
        ({"tenant": "acme", "tier": "basic", "models": []}, "models"),
        ({"tenant": "acme", "tier": "basic", "expires": 1}, "expires"),
        ({"tenant": "acme", "tier": "basic", "expire": 1}, "expire"),
        ({"tenant": "acme", "tier": "basic", "name": "a\0b"}, "name"),
    ],
)
def test_a_key_that_cannot_be_is_refused_by_its_field(admin: httpx.Client, body: dict[str, object], field: str) -> None:
    answer = admin.post("/admin/keys", json=body)
    assert answer.status_code == 422 and answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"][0]["field"] == field
    assert [tenant["name"] for tenant in admin.get("/admin/tenants").json()["data"]] == ["operators"]


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("POST", "/admin/keys/key_nobody/revoke", None, 404),
        ("POST", "/admin/keys/key_nobody/rotate", {}, 404),
        ("POST", "/admin/keys/key_nobody/rotate", {"grace_s": MAX_GRACE_S + 1}, 422),
        ("POST", "/admin/keys/key%00/revoke", None, 404),
        ("POST", "/admin/tenants/nobody/suspend", None, 404),
        ("GET", "/admin/keys?after=key_nobody", None, 404),
        ("GET", "/admin/keys?limit=0", None, 422),
        ("GET", "/admin/keys?limit=1001", None, 422),
        ("GET", "/admin/tenants?limit=many", None, 422),
        ("GET", "/admin/tenants?after=%00", None, 422),
    ],
)
def test_what_is_not_there_or_out_of_range_is_said(
    admin: httpx.Client, method: str, path: str, body: dict[str, object] | None, expected: int
) -> None:
    assert admin.request(method, path, json=body).status_code == expected


def test_a_server_without_a_database_says_so() -> None:
    with serving(state_of(quick()), grace_s=1.0) as server:
        answer = httpx.get(f"{server.url}/admin/keys")
        assert answer.status_code == 404 and "--database" in answer.json()["detail"]
