"""Where a request says whose it is, and the refusal where it does not: `Authorization: Bearer`, or Anthropic's `x-api-key`.

gRPC sends the same names as metadata. Two different answers to "who are you" in one request are refused, not ranked.
"""

from __future__ import annotations

from starlette.datastructures import Headers

from deepseek.api.problems import Problem

REALM = 'Bearer realm="deepseek"'
MAX_CHARS = 8192


def credential_of(headers: Headers) -> str | None:
    """The key or token of a request; None where there is none. Raises Problem for contradictions and for huge ones."""
    found = {value.strip() for value in headers.getlist("x-api-key") if value.strip()}
    for value in headers.getlist("authorization"):
        scheme, _, given = value.strip().partition(" ")
        if scheme.lower() != "bearer" or not given.strip():
            if found:
                continue  # a proxy's own scheme beside our key
            raise unauthenticated("The Authorization header must be: Bearer, a space, the key.")
        found.add(given.strip())
    if len(found) > 1:
        raise unauthenticated("The request carries different keys; send one.")
    credential = next(iter(found), None)
    if credential is not None and len(credential) > MAX_CHARS:
        raise unauthenticated(f"A key or token has at most {MAX_CHARS} characters.")
    return credential


def unauthenticated(detail: str, *, invalid: bool = True) -> Problem:
    """401, with the challenge that RFC 6750 section 3 asks for. invalid: something was sent, and is no good."""
    challenge = f'{REALM}, error="invalid_token"' if invalid else REALM
    return Problem("unauthenticated", detail, headers={"WWW-Authenticate": challenge})
