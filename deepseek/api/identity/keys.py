"""The text of an API key: `dsk_` + 43 characters of 256 random bits + 6 of checksum, all letters and digits.

    dsk_4f0Q…(43)…k2Xa + 0Zq1Lm        base 62; the checksum is the CRC-32 of all that stands before it

The prefix lets secret scanners find a key that leaked; the checksum tells a mistyped or cut key from an unknown one
without a look at anything. Only HMAC-SHA256 of the key under the server's secret is stored: a fast hash is enough for 256
random bits, and without the secret a stolen database cannot even be searched for a key that someone has seen.
"""

from __future__ import annotations

import hmac
import re
import secrets
import string
import zlib

PREFIX = "dsk_"
RANDOM_BITS = 256
RANDOM_CHARS = 43
CHECKSUM_CHARS = 6
KEY_CHARS = len(PREFIX) + RANDOM_CHARS + CHECKSUM_CHARS
ID_PREFIX = "key_"
ID_CHARS = 12

_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_FORM = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{RANDOM_CHARS + CHECKSUM_CHARS}}}")


def new_key() -> str:
    """A key that nobody has had before. To be shown once and stored nowhere."""
    body = PREFIX + _base62(secrets.randbits(RANDOM_BITS), RANDOM_CHARS)
    return body + _checksum(body)


def new_key_id() -> str:
    """A public name for a key: random by itself, no part of the secret."""
    return ID_PREFIX + "".join(secrets.choice(_DIGITS) for _ in range(ID_CHARS))


def is_well_formed(text: str) -> bool:
    """Whether this can be a key at all: its form and its checksum."""
    if not _FORM.fullmatch(text):
        return False
    return hmac.compare_digest(_checksum(text[:-CHECKSUM_CHARS]), text[-CHECKSUM_CHARS:])


def digest_of(key: str, secret: bytes) -> str:
    """What is stored of a key: HMAC-SHA256 under the server's secret, in hexadecimal."""
    return hmac.digest(secret, key.encode(), "sha256").hex()


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), CHECKSUM_CHARS)


def _base62(number: int, chars: int) -> str:
    digits = []
    for _ in range(chars):
        number, digit = divmod(number, 62)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
