"""Tokens of an issuer (JWT): real keys, a real key server on loopback, and what must not get in."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from identity_support import Keys, asking_state, keys_beside
from pydantic import ValidationError

from deepseek.api import serving
from deepseek.api.identity.caller import Caller
from deepseek.api.identity.jwks import MAX_BYTES, KeySet, read_keys
from deepseek.api.identity.token_config import JwtConfig
from deepseek.api.identity.tokens import TokenVerifier
from deepseek.api.problems import Problem
from deepseek.api.scopes import Scope
from deepseek.api.tiers import ENTERPRISE, PROFESSIONAL, Tiers

ISSUER, AUDIENCE = "https://id.example", "deepseek"
PRIVATE: dict[str, Any] = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
WEAK = rsa.generate_private_key(65537, 1024)
CURVE = ec.generate_private_key(ec.SECP384R1())


def jwk_of(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    kind = {"Ed": "EdDSA", "EC": "ES256", "RS": "RS256"}[type(key).__name__.lstrip("_")[:2]]
    text = jwt.get_algorithm_by_name(kind).to_jwk(key.public_key())
    return {**json.loads(text), "kid": kid, "use": "sig", **more}


KEY_SET: dict[str, Any] = {"keys": [jwk_of(key, name) for name, key in PRIVATE.items()]}


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    given = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": now + 600, "iat": now, "tenant": "acme"}
    given |= {"tier": "professional", "scope": "infer other read"}
    return {name: value for name, value in (given | changes).items() if value is not None}


def token(algorithm: str = "RS256", *, key: Any = None, headers: dict[str, Any] | None = None, **changes: Any) -> str:
    header = {"kid": algorithm} if headers is None else headers
    return jwt.encode(claims(**changes), key or PRIVATE[algorithm], algorithm, headers=header)


def forged(header: dict[str, Any], secret: bytes | None) -> str:
    """A token made by hand: what no library would sign."""

    def part(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    signed = part(json.dumps(header).encode()) + b"." + part(json.dumps(claims()).encode())
    mark = b"" if secret is None else part(hmac.digest(secret, signed, hashlib.sha256))
    return (signed + b"." + mark).decode()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps(KEY_SET))
    return file


def config(jwks: object, **changes: Any) -> JwtConfig:
    return JwtConfig(issuer=ISSUER, audience=AUDIENCE, jwks=str(jwks), **changes)


def verify(settings: JwtConfig, *tokens: str) -> list[Caller]:
    async def main() -> list[Caller]:
        verifier = TokenVerifier(settings, Tiers())
        return [await verifier.verify(one) for one in tokens]

    return asyncio.run(main())


def refusal(settings: JwtConfig, one: str) -> Problem:
    with pytest.raises(Problem) as refused:
        verify(settings, one)
    return refused.value


@pytest.mark.parametrize("algorithm", list(PRIVATE))
def test_a_token_of_each_algorithm_stands_for_the_caller_its_claims_name(key_file: Path, algorithm: str) -> None:
    (caller,) = verify(config(key_file), token(algorithm))
    assert caller == Caller("acme", PROFESSIONAL, frozenset({Scope.INFER, Scope.READ}), "acme:ada")


def test_claims_may_have_other_names_and_lie_deeper(key_file: Path) -> None:
    settings = config(
        key_file, tenant_claim="https://example/org", tier_claim="plan.name", scope_claim="realm_access.roles"
    )
    plan = {"plan": {"name": "enterprise"}, "realm_access": {"roles": ["operate", 7]}, "https://example/org": "other"}
    (caller,) = verify(settings, token(tenant=None, tier=None, scope=None, **plan))
    assert (caller.tenant, caller.tier, caller.scopes) == ("other", ENTERPRISE, frozenset({Scope.OPERATE}))


def test_what_a_token_does_not_say_comes_from_the_configuration(key_file: Path) -> None:
    (caller,) = verify(config(key_file, tier="enterprise", scopes=["read"]), token(tier=None, scope=None))
    assert (caller.tier, caller.scopes) == (ENTERPRISE, frozenset({Scope.READ}))


def test_the_same_subject_of_two_tenants_is_two_subjects(key_file: Path) -> None:
    one, other = verify(config(key_file), token(tenant="a"), token(tenant="b"))
    assert one.subject != other.subject


PUBLIC_PEM = (
    PRIVATE["RS256"]
    .public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
)


@pytest.mark.parametrize(
    ("one", "status", "says"),
    [
        (forged({"alg": "none", "kid": "RS256"}, None), 401, "signed with one of"),
        (forged({"alg": "None", "kid": "RS256"}, None), 401, "signed with one of"),
        (forged({"alg": "HS256", "kid": "RS256"}, PUBLIC_PEM), 401, "signed with one of"),
        (forged({"alg": "RS256", "kid": "RS256"}, PUBLIC_PEM), 401, "InvalidSignature"),
        (forged({"alg": "RS256", "kid": "RS256"}, None), 401, "InvalidSignature"),
        (forged({"alg": "ES256", "kid": "RS256"}, PUBLIC_PEM), 401, "does not publish"),
        (token(headers={"kid": "RS256", "crit": ["exp"]}), 401, ""),
        (token("ES256", headers={"kid": "RS256"}), 401, "does not publish"),
        (token(key=rsa.generate_private_key(65537, 2048)), 401, "InvalidSignature"),
        (token(headers={"kid": "unknown"}), 401, "does not publish"),
        (token(headers={}), 401, "does not publish"),
        (token(exp=int(time.time()) - 60), 401, "expired"),
        (token(nbf=int(time.time()) + 600), 401, "Immature"),
        (token(exp=None), 401, "'exp'"),
        (token(sub=None), 401, "'sub'"),
        (token(iss="https://evil.example"), 401, "Issuer"),
        (token(aud="another"), 401, "Audience"),
        (token(aud=None), 401, "'aud'"),
        (token(tenant=None), 401, "'tenant'"),
        (token(tenant=["acme"]), 401, "'tenant'"),
        (token(tenant="x" * 65), 401, "'tenant'"),
        (token(tier="platinum"), 403, "'tier'"),
        (token(tier=None), 403, "'tier'"),
        ("a.b.c", 401, "neither a key"),
        ("", 401, "neither a key"),
        (token()[:-3], 401, ""),
        (token() + ".x", 401, "neither a key"),
    ],
)
def test_any_other_token_is_refused(key_file: Path, one: str, status: int, says: str) -> None:
    found = refusal(config(key_file), one)
    assert found.status == status and says in found.detail
    assert status != 401 or "WWW-Authenticate" in found.headers


def test_an_algorithm_that_the_operator_left_out_is_refused(key_file: Path) -> None:
    assert refusal(config(key_file, algorithms=["ES256"]), token("RS256")).status == 401
    verify(config(key_file, algorithms=["ES256"]), token("ES256"))


def test_an_expired_token_is_still_good_within_the_leeway(key_file: Path) -> None:
    late = token(exp=int(time.time()) - 5)
    verify(config(key_file, leeway_s=60), late)
    assert refusal(config(key_file, leeway_s=0), late).status == 401


@pytest.mark.parametrize(
    "entry",
    [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "x"},
        jwk_of(PRIVATE["RS256"], "x", use="enc"),
        jwk_of(PRIVATE["RS256"], "x", alg="HS256"),
        jwk_of(PRIVATE["RS256"], "x", alg="RS512"),
        jwk_of(WEAK, "x"),
        {**jwk_of(PRIVATE["ES256"], "x"), "crv": "secp256k1"},
        {"kty": "RSA", "n": "AA", "e": "AQAB", "kid": "x"},
        {"kty": "RSA"},
        {},
        "key",
    ],
)
def test_a_key_that_must_not_be_trusted_is_left_out_and_the_rest_is_kept(entry: Any) -> None:
    found = read_keys(json.dumps({"keys": [entry, *KEY_SET["keys"]]}).encode())
    assert set(found) == set(PRIVATE)


@pytest.mark.parametrize(
    "document", [b"", b"[]", b"{}", b'{"keys": 1}', b"\xff", b"[" * 100_000, b'{"keys": [' + b"1," * 99 + b"1]}"]
)
def test_what_is_no_key_set_is_an_error(document: bytes) -> None:
    with pytest.raises(ValueError, match="not"):
        read_keys(document)


class Issuer:
    """A key server on loopback. document: what it answers; asked: how often it was."""

    def __init__(self) -> None:
        self.document, self.status, self.asked = json.dumps(KEY_SET).encode(), 200, 0
        self.hold: threading.Event | None = None
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                if issuer.hold is not None:
                    issuer.hold.wait(30)
                self.send_response(issuer.status)
                self.send_header("location", "/elsewhere")
                self.send_header("content-length", str(len(issuer.document)))
                try:
                    self.end_headers()
                    self.wfile.write(issuer.document)
                except ConnectionError:  # the client had read, or waited, enough
                    return

            def log_message(self, format: str, *args: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/jwks.json"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    found = Issuer()
    yield found
    found.server.shutdown()
    found.server.server_close()


class Moves:
    """A monotonic clock moved by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def key_set(issuer: Issuer, clock: Moves, **changes: float) -> KeySet:
    return KeySet(issuer.url, **({"refresh_s": 30, "cache_s": 3600, "timeout_s": 5} | changes), clock=clock)


def test_keys_are_fetched_once_for_many_tokens_at_once(issuer: Issuer) -> None:
    async def main() -> None:
        keys = key_set(issuer, Moves())
        found = await asyncio.gather(*(keys.find("RS256") for _ in range(20)))
        assert all(key is not None for key in found)

    asyncio.run(main())
    assert issuer.asked == 1


def test_an_unknown_key_id_asks_again_but_not_more_often_than_allowed(issuer: Issuer) -> None:
    async def main() -> None:
        clock = Moves()
        keys = key_set(issuer, clock)
        for _ in range(50):
            assert await keys.find("new") is None
        assert issuer.asked == 1
        issuer.document = json.dumps({"keys": [jwk_of(PRIVATE["RS256"], "new")]}).encode()
        clock.now += 29
        assert await keys.find("new") is None
        clock.now += 1
        assert await keys.find("new") is not None
        assert issuer.asked == 2
        assert await keys.find("RS256") is None  # the issuer has taken it back

    asyncio.run(main())


def test_old_keys_are_used_while_the_issuer_is_away_and_no_longer_than_said(
    issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        clock = Moves()
        verifier = TokenVerifier(config(issuer.url), Tiers(), key_set(issuer, clock))
        await verifier.verify(token())
        issuer.status = 500
        clock.now += 3600
        await verifier.verify(token())
        clock.now += 31
        with pytest.raises(Problem) as refused:
            await verifier.verify(token())
        assert (refused.value.kind, refused.value.status) == ("identity-unavailable", 503)
        issuer.status = 200
        clock.now += 31
        await verifier.verify(token())

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    assert "status 500" in caplog.text


@pytest.mark.parametrize("trouble", ["redirect", "large", "slow", "garbage", "closed"])
def test_an_issuer_that_misbehaves_costs_bounded_time_and_lets_nobody_in(issuer: Issuer, trouble: str) -> None:
    if trouble == "redirect":
        issuer.status = 302
    elif trouble == "large":
        issuer.document = json.dumps({**KEY_SET, "padding": "x" * MAX_BYTES}).encode()
    elif trouble == "slow":
        issuer.hold = threading.Event()
    elif trouble == "garbage":
        issuer.document = b"<html>"
    else:
        issuer.server.socket.close()

    async def main() -> None:
        verifier = TokenVerifier(config(issuer.url), Tiers(), key_set(issuer, Moves(), timeout_s=0.05))
        with pytest.raises(Problem) as refused:
            await verifier.verify(token())
        assert refused.value.status == 503

    asyncio.run(main())
    if issuer.hold is not None:
        issuer.hold.set()


def test_a_key_file_is_read_again_for_a_new_key(key_file: Path) -> None:
    async def main() -> None:
        clock = Moves()
        keys = KeySet(str(key_file), refresh_s=30, cache_s=3600, timeout_s=5, clock=clock)
        assert await keys.find("new") is None
        key_file.write_text(json.dumps({"keys": [jwk_of(PRIVATE["ES256"], "new")]}))
        clock.now += 30
        assert await keys.find("new") is not None
        assert await keys.find(None) is not None  # the only one

    asyncio.run(main())


@pytest.mark.parametrize("jwks", ["http://id.example/jwks.json", "ftp://id.example/jwks.json", ""])
def test_keys_are_not_taken_from_where_they_could_be_changed_on_the_way(jwks: str) -> None:
    with pytest.raises(ValidationError):
        config(jwks)


def test_a_server_takes_keys_and_tokens_side_by_side(tmp_path: Path, issuer: Issuer) -> None:
    with keys_beside(tmp_path) as keys:
        _serve_both(keys, issuer)


def _serve_both(keys: Keys, issuer: Issuer) -> None:
    _, key = keys.make()
    keys.ring.load()
    state = asking_state(keys, tokens=TokenVerifier(config(issuer.url), Tiers()), open_until_keyed=True)
    with serving(state, grace_s=1.0) as server:

        def status(credential: str) -> int:
            headers = {"authorization": f"Bearer {credential}"}
            return httpx.get(f"{server.url}/v1/models", headers=headers).status_code

        assert [status(one) for one in (key, token(), token(scope="none"), token()[:-1], "x")] == [
            200,
            200,
            403,
            401,
            401,
        ]
        assert httpx.get(f"{server.url}/v1/models").status_code == 401
        body = {"model": "deepseek-7b", "prompt": "Hello", "max_tokens": 2}
        headers = {"authorization": f"Bearer {token('EdDSA')}"}
        assert httpx.post(f"{server.url}/v1/generate", json=body, headers=headers).status_code == 200
