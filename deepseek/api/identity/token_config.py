"""Section `jwt` of the configuration: whose tokens are taken, and what their claims are called.

In a file of its own, so that a server without an issuer need not load what verifies tokens.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

Algorithm = Literal["RS256", "ES256", "EdDSA"]
Name = Annotated[str, Field(min_length=1, max_length=200)]


class JwtConfig(BaseModel):
    """Section `jwt` of the configuration.

    issuer, audience: what `iss` must be, and what `aud` must contain. jwks: the issuer's keys, a URL or a file.
    *_claim: names of claims; a dotted name reaches into objects. tier, scopes: of tokens that do not say. Times in
    seconds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    issuer: Name
    audience: Name
    jwks: Name
    algorithms: Annotated[list[Algorithm], Field(min_length=1)] = ["RS256", "ES256", "EdDSA"]
    tenant_claim: Name = "tenant"
    tier_claim: Name = "tier"
    scope_claim: Name = "scope"
    tier: str | None = None
    scopes: list[Literal["read", "infer", "operate"]] = ["read", "infer"]
    refresh_s: Annotated[float, Field(ge=1, le=86400, strict=False)] = 30.0
    cache_s: Annotated[float, Field(ge=60, le=604800, strict=False)] = 3600.0
    timeout_s: Annotated[float, Field(gt=0, le=60, strict=False)] = 5.0
    leeway_s: Annotated[float, Field(ge=0, le=300, strict=False)] = 30.0

    @field_validator("jwks")
    @classmethod
    def _from_a_place_nobody_can_write_between(cls, source: str) -> str:
        parts = urlsplit(source)
        if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
            raise ValueError("keys are fetched by https (http only from loopback)")
        if "://" in source and parts.scheme not in ("http", "https"):
            raise ValueError("an https URL or a file")
        return source


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
