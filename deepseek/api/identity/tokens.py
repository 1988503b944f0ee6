"""Bearer tokens of an OpenID Connect issuer (JWT, RFC 7519): verified here, against the issuer's public keys.

The algorithms are fixed by the operator and the key decides which of them applies, so a token can neither ask for `none`
nor have a public key taken for a secret (RFC 8725, sections 3.1 and 3.2). Issuer, audience, expiry and subject are
required. Claims say which tenant, tier and scopes the caller has; a token without a tenant is refused.
"""

from __future__ import annotations

from typing import Any

import jwt

from deepseek.api.identity.caller import Caller, WrittenCaller
from deepseek.api.identity.credentials import unauthenticated
from deepseek.api.identity.jwks import KeySet, NoKeys, algorithm_of
from deepseek.api.identity.ring import scopes_of
from deepseek.api.identity.token_config import JwtConfig
from deepseek.api.problems import Problem, retry_after
from deepseek.api.store.tables import NAME_CHARS
from deepseek.api.tiers import Tiers


class TokenVerifier:
    """Verifies tokens of one issuer. Used from one event loop."""

    def __init__(self, config: JwtConfig, tiers: Tiers, keys: KeySet | None = None) -> None:
        self._config, self._tiers = config, tiers
        self._keys = keys or KeySet(
            config.jwks, refresh_s=config.refresh_s, cache_s=config.cache_s, timeout_s=config.timeout_s
        )

    async def verify(self, token: str) -> Caller:
        """The caller a token stands for. Raises Problem: 401; 403 for an unknown tier; 503 without the issuer's keys."""
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            raise unauthenticated("This is neither a key of this server nor a token (JWT).") from None
        kid = header.get("kid")
        if header.get("alg") not in self._config.algorithms or "crit" in header:
            expected = ", ".join(self._config.algorithms)
            raise unauthenticated(f"The token must be signed with one of {expected}, without critical extensions.")
        try:
            key = await self._keys.find(kid if isinstance(kid, str) else None)
        except NoKeys:
            raise Problem(
                "identity-unavailable",
                "The issuer's keys cannot be read now, so tokens cannot be verified.",
                headers=retry_after(self._config.refresh_s),
            ) from None
        if key is None or algorithm_of(key.key) != header["alg"]:
            raise unauthenticated("The token is signed with a key that its issuer does not publish.")
        return self._caller_of(self._claims(token, key, header["alg"]))

    def recall(self, written: WrittenCaller) -> Caller | None:
        """Whom a token stood for, with the tier as it is now; None where that is gone."""
        tier = self._tiers.by_name.get(written.tier)
        if tier is None:
            return None
        models = None if written.models is None else frozenset(written.models)
        return Caller(written.tenant, tier, scopes_of(written.scopes), written.subject, models=models)

    async def close(self) -> None:
        await self._keys.close()

    def _claims(self, token: str, key: jwt.PyJWK, algorithm: str) -> dict[str, Any]:
        config = self._config
        try:
            return jwt.decode(
                token,
                key.key,
                algorithms=[algorithm],
                issuer=config.issuer,
                audience=config.audience,
                leeway=config.leeway_s,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError:
            raise unauthenticated("The token has expired.") from None
        except jwt.MissingRequiredClaimError as error:
            raise unauthenticated(f"The token lacks the claim {error.claim!r}.") from None
        except (jwt.PyJWTError, ValueError) as error:
            raise unauthenticated(f"The token is not valid: {type(error).__name__}.") from None

    def _caller_of(self, claims: dict[str, Any]) -> Caller:
        config = self._config
        tenant, subject = _reach(claims, config.tenant_claim), claims["sub"]
        if not isinstance(tenant, str) or not 0 < len(tenant) <= NAME_CHARS:
            raise unauthenticated(f"The token's claim {config.tenant_claim!r} must name a tenant.")
        if not isinstance(subject, str) or not 0 < len(subject) <= 200:
            raise unauthenticated("The token's claim 'sub' must name somebody.")
        named = _reach(claims, config.tier_claim)
        tier = self._tiers.by_name.get(named if isinstance(named, str) else config.tier or "")
        if tier is None:
            raise Problem("forbidden", f"The token's claim {config.tier_claim!r} names no tier of this server.")
        granted = _reach(claims, config.scope_claim)
        names = config.scopes if granted is None else granted.split() if isinstance(granted, str) else granted
        scopes = scopes_of(tuple(name for name in names if isinstance(name, str)) if isinstance(names, list) else ())
        # Another tenant's token may have the same subject: limits and budgets are not shared with it.
        return Caller(tenant, tier, scopes, subject=f"{tenant}:{subject}")


def _reach(claims: dict[str, Any], name: str) -> object:
    if name in claims:
        return claims[name]
    value: object = claims
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
