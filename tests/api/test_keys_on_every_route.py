"""Who may do what, on every route there is: nothing without a key, nothing beyond its scopes, and a key in either header."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from identity_support import Keys, asking_state, keys_beside
from starlette.datastructures import Headers
from starlette.routing import Route, WebSocketRoute

from deepseek.api import create_app, serving
from deepseek.api.identity import administration
from deepseek.api.identity.credentials import credential_of
from deepseek.api.problems import Problem
from deepseek.api.scopes import Scope, scope_of
from deepseek.api.store import keys as store

BODY = {"model": "deepseek-7b", "prompt": "Hello", "max_tokens": 4}


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Keys]:
    with keys_beside(tmp_path) as found:
        yield found


@pytest.fixture
def app(keys: Keys) -> FastAPI:
    return create_app(asking_state(keys))


def ask(app: FastAPI, method: str, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
    async def main() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(main())


def guarded(app: FastAPI) -> Iterator[tuple[str, str, Scope]]:
    """Method, path and scope of every HTTP route that is not public."""
    for route in app.routes:
        scope = scope_of(route)
        if isinstance(route, Route) and scope is not None and scope is not Scope.PUBLIC:
            path = route.path.replace("{", "").replace("}", "").replace(":path", "")
            for method in sorted((route.methods or set()) - {"HEAD"}):
                yield method, path, scope


def test_every_route_that_is_not_public_answers_401_without_a_key(app: FastAPI) -> None:
    walked = list(guarded(app))
    assert {path for _, path, _ in walked} >= {"/v1/generate", "/v1/models", "/metrics", "/admin/keys"}
    for method, path, _ in walked:
        answer = ask(app, method, path)
        assert answer.status_code == 401, (method, path)
        assert answer.headers["www-authenticate"].startswith('Bearer realm="deepseek"'), (method, path)


def test_every_route_answers_403_to_a_key_with_every_scope_but_its_own(app: FastAPI, keys: Keys) -> None:
    scopes = [scope for scope in Scope if scope is not Scope.PUBLIC]
    made = {
        scope: keys.make(scopes=tuple(other.value for other in scopes if other is not scope))[1] for scope in scopes
    }
    keys.ring.load()
    for method, path, scope in guarded(app):
        answer = ask(app, method, path, {"authorization": f"Bearer {made[scope]}"})
        assert answer.status_code == 403, (method, path)
        assert f"'{scope.value}'" in answer.text, (method, path)


def spoken(app: FastAPI, path: str, headers: list[tuple[bytes, bytes]]) -> list[dict[str, Any]]:
    """What a WebSocket's server says to a client that connects, asks for something, and leaves."""
    said: list[dict[str, Any]] = []
    heard = iter([{"type": "websocket.connect"}, {"type": "websocket.receive", "text": '{"type": "generate"}'}])

    async def receive() -> dict[str, Any]:
        return next(heard, {"type": "websocket.disconnect", "code": 1000})

    async def send(message: MutableMapping[str, Any]) -> None:
        said.append(dict(message))

    scope = {
        "type": "websocket",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"localhost"), *headers],
        "scheme": "ws",
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
    }
    asyncio.run(app(scope, receive, send))
    return said


def test_no_web_socket_does_anything_without_a_key(app: FastAPI) -> None:
    sockets = [route for route in app.routes if isinstance(route, WebSocketRoute)]
    assert sockets
    for route in sockets:
        assert scope_of(route) is not Scope.PUBLIC
        refused = spoken(app, route.path, [(b"x-api-key", b"dsk_wrong")])
        assert refused[0]["type"] == "websocket.http.response.start" and refused[0]["status"] == 401
        # A browser cannot send a header: such a connection may be opened, but its first message must bring the key.
        said = spoken(app, route.path, [])
        assert said[0].get("status", 401) == 401
        if said[0]["type"] == "websocket.accept":
            assert said[-1]["type"] == "websocket.close" and said[-1]["code"] == 1008
            assert all('"error"' in message["text"] for message in said[1:-1])


def test_the_description_says_where_a_key_is_needed(app: FastAPI) -> None:
    document = ask(app, "GET", "/openapi.json").json()
    assert {scheme["type"] for scheme in document["components"]["securitySchemes"].values()} == {"http", "apiKey"}
    for route in app.routes:
        if isinstance(route, Route) and route.path in document["paths"]:
            for operation in document["paths"][route.path].values():
                open_to_all = scope_of(route) is Scope.PUBLIC
                assert ("security" in operation) is not open_to_all
                assert {"401", "403"} <= operation["responses"].keys() or open_to_all


@pytest.mark.parametrize("form", ["Authorization: Bearer {}", "authorization: bearer  {}", "X-Api-Key: {}"])
def test_a_key_is_taken_from_either_header(keys: Keys, form: str) -> None:
    _, key = keys.make()
    keys.ring.load()
    name, value = form.format(key).split(": ", 1)
    with serving(asking_state(keys), grace_s=1.0) as server:
        answer = httpx.post(f"{server.url}/v1/generate", json=BODY, headers={name: value})
        assert answer.status_code == 200
        assert httpx.post(f"{server.url}/v1/generate", json=BODY).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Basic YTpi"},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": "{key}"},
        {"authorization": "Bearer {key}x"},
        {"authorization": "Bearer {key}", "x-api-key": "dsk_other"},
        {"x-api-key": "x" * 9000},
        {"x-api-key": ""},
    ],
)
def test_anything_else_is_refused_and_not_repeated(app: FastAPI, keys: Keys, headers: dict[str, str]) -> None:
    _, key = keys.make()
    keys.ring.load()
    sent = {name: value.format(key=key) for name, value in headers.items()}
    answer = ask(app, "GET", "/v1/models", sent)
    assert answer.status_code == 401
    assert key not in answer.text and "dsk_other" not in answer.text and "xxxx" not in answer.text


def test_a_proxys_own_authorization_does_not_hide_the_key(app: FastAPI, keys: Keys) -> None:
    _, key = keys.make()
    keys.ring.load()
    assert ask(app, "GET", "/v1/models", {"authorization": "Basic YTpi", "x-api-key": key}).status_code == 200


@given(st.lists(st.tuples(st.sampled_from(["authorization", "x-api-key"]), st.text(max_size=40)), max_size=4))
def test_any_headers_give_one_credential_or_a_401(given_headers: list[tuple[str, str]]) -> None:
    raw = [(name.encode(), value.encode("latin-1", "replace")) for name, value in given_headers]
    try:
        found = credential_of(Headers(raw=raw))
    except Problem as problem:
        assert problem.status == 401
    else:
        assert found is None or found == found.strip() != ""


def test_a_key_only_sees_and_uses_its_own_models(app: FastAPI, keys: Keys) -> None:
    _, key = keys.make(models=("deepseek-tiny",))
    keys.ring.load()
    names = [card["id"] for card in ask(app, "GET", "/v1/models", {"x-api-key": key}).json()["data"]]
    assert names == ["deepseek-tiny"]
    with serving(asking_state(keys), grace_s=1.0) as server:
        answer = httpx.post(f"{server.url}/v1/generate", json=BODY, headers={"x-api-key": key})
        assert answer.status_code == 404 and "deepseek-7b" in answer.json()["detail"]


def test_a_revoked_key_is_refused_at_once(app: FastAPI, keys: Keys) -> None:
    record, key = keys.make()
    keys.ring.load()
    assert ask(app, "GET", "/v1/models", {"x-api-key": key}).status_code == 200
    keys.database.write_now(administration.revoke(record.id))
    keys.ring.load()
    assert ask(app, "GET", "/v1/models", {"x-api-key": key}).status_code == 401


def test_a_suspended_tenant_is_refused_whatever_its_key(app: FastAPI, keys: Keys) -> None:
    _, key = keys.make("acme")
    _, other = keys.make("other")
    keys.database.write_now(lambda connection: store.suspend_tenant(connection, "acme", 5.0))
    keys.ring.load()
    answer = ask(app, "GET", "/v1/models", {"x-api-key": key})
    assert answer.status_code == 403 and "suspended" in answer.text
    assert ask(app, "GET", "/v1/models", {"x-api-key": other}).status_code == 200


def test_a_key_of_a_tier_that_is_not_configured_is_told_so(app: FastAPI, keys: Keys) -> None:
    _, key = keys.make(tier="platinum")
    keys.ring.load()
    answer = ask(app, "GET", "/v1/models", {"x-api-key": key})
    assert answer.status_code == 403 and "'platinum'" in answer.json()["error"]["message"]


def test_a_keyless_server_asks_nobody_until_the_first_key_is_made(keys: Keys) -> None:
    app = create_app(asking_state(keys, open_until_keyed=True))
    assert ask(app, "GET", "/v1/models").status_code == 200
    assert ask(app, "GET", "/v1/models", {"authorization": "Bearer whatever-a-client-sends"}).status_code == 200
    record, _ = keys.make()
    keys.ring.load()
    assert ask(app, "GET", "/v1/models").status_code == 401
    # Revoking the last key does not open the server again.
    keys.database.write_now(administration.revoke(record.id))
    keys.ring.load()
    assert ask(app, "GET", "/v1/models").status_code == 401


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8080", 200),
        ("app.localhost", 200),
        ("127.0.0.1:8080", 200),
        ("[::1]:8080", 200),
        ("192.168.1.7", 200),
        ("evil.example:8080", 403),
        ("localhost.evil.example", 403),
    ],
)
def test_while_nobody_is_asked_a_strange_name_for_this_machine_is_refused(keys: Keys, host: str, status: int) -> None:
    app = create_app(asking_state(keys, open_until_keyed=True))
    assert ask(app, "GET", "/v1/models", {"host": host}).status_code == status


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:3000"},
        {"origin": ""},
        {"sec-fetch-site": "cross-site"},
        {"origin": "http://localhost", "sec-fetch-site": "cross-site"},
    ],
)
def test_while_nobody_is_asked_no_route_answers_a_page_of_another_site(keys: Keys, headers: dict[str, str]) -> None:
    app = create_app(asking_state(keys, open_until_keyed=True))
    for method, path, _ in guarded(app):
        answer = ask(app, method, path, headers)
        assert answer.status_code == 403 and "Pages of other sites" in answer.text, (method, path)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://localhost"},
        {"origin": "http://LOCALHOST:8080", "host": "localhost:8080", "sec-fetch-site": "same-origin"},
        {"origin": "http://[::1]:8080", "host": "[::1]:8080"},
        {"sec-fetch-site": "none"},
    ],
)
def test_while_nobody_is_asked_a_page_of_the_servers_own_is_answered(keys: Keys, headers: dict[str, str]) -> None:
    app = create_app(asking_state(keys, open_until_keyed=True))
    assert ask(app, "GET", "/v1/models", headers).status_code == 200


def test_with_a_key_a_request_may_come_from_any_page(app: FastAPI, keys: Keys) -> None:
    _, key = keys.make()
    keys.ring.load()
    sent = {"origin": "https://app.example", "sec-fetch-site": "cross-site", "x-api-key": key}
    assert ask(app, "GET", "/v1/models", sent).status_code == 200


def test_a_form_that_another_site_has_a_browser_send_leaves_no_file_behind(keys: Keys) -> None:
    form: dict[str, Any] = {"files": {"file": ("a.jsonl", b"{}")}, "data": {"purpose": "batch"}}
    with serving(asking_state(keys, open_until_keyed=True), grace_s=1.0) as server:
        files = f"{server.url}/v1/files"
        refused = httpx.post(files, headers={"origin": "https://evil.example"}, **form)
        assert refused.status_code == 403 and httpx.get(files).json()["data"] == []
        assert httpx.post(files, headers={"origin": server.url}, **form).status_code == 200
