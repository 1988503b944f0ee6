"""The prefix cache's salt of each tenant: from the authenticated identity, never from the client, so that how fast a
prompt is answered tells nobody what another tenant asked (CVE-2025-46570)."""

from __future__ import annotations

import hmac
import secrets
from functools import lru_cache


class TenantSalts:
    """HMAC-SHA256 of the tenant under the server's secret; drawn anew at each start where none is given."""

    def __init__(self, secret: bytes | None = None) -> None:
        key = secret or secrets.token_bytes(32)
        self.of = lru_cache(maxsize=4096)(lambda tenant: hmac.digest(key, tenant.encode(), "sha256").hex())
