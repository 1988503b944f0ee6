"""What the `format` keyword of JSON schema asks for, as expressions and bounds that a grammar can hold.

By the specification a format is an annotation unless somebody asserts it. Here one is either asserted or refused by
name. Each expression matches a subset of the format, chosen so that every checker accepts it: no 29th of February (a
leap year cannot be told by an expression of sensible size), no leap seconds, no year 0000, domain names short enough in
any case.

Sources: RFC 3339 (dates and times), RFC 3986 (URI), RFC 4122 (UUID), RFC 4291 (IPv6), RFC 4648 (base64), RFC 5321
(e-mail), RFC 6901 (JSON pointer), ISO 8601 (durations), the OpenAPI format registry (int32 to double, byte, password).
"""

from __future__ import annotations

_YEAR = r"(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_DAY = (
    r"(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    r"|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    r"|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
_DATE = f"{_YEAR}-{_DAY}"
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = rf"{_CLOCK}:[0-5][0-9](?:\.[0-9]{{1,6}})?(?:Z|[+-]{_CLOCK})"

_COUNTED_TIME = r"T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S)"
_COUNTED_DATE = r"(?:[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?|[0-9]+M(?:[0-9]+D)?|[0-9]+D)"
_DURATION = f"P(?:{_COUNTED_DATE}(?:{_COUNTED_TIME})?|{_COUNTED_TIME}|[0-9]+W)"

# Four labels of at most 61 characters and the dots between them stay below the limit of 253.
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,59}[A-Za-z0-9])?"
_HOSTNAME = rf"(?:{_LABEL}\.){{0,3}}[A-Za-z](?:[A-Za-z0-9-]{{0,59}}[A-Za-z0-9])?"
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,15}"
_EMAIL = rf"{_ATOM}(?:\.{_ATOM}){{0,3}}@{_HOSTNAME}"

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"(?:{_OCTET}\.){{3}}{_OCTET}"
_GROUP = r"[0-9a-fA-F]{1,4}"
# "::" stands for the groups that are missing: `count` before it, and after it at most what still leaves one out.
_IPV6 = "|".join(
    [
        rf"(?:{_GROUP}:){{7}}{_GROUP}",
        rf"::(?:{_GROUP}(?::{_GROUP}){{0,6}})?",
        *(rf"{_GROUP}(?::{_GROUP}){{{n - 1}}}::(?:{_GROUP}(?::{_GROUP}){{0,{6 - n}}})?" for n in range(1, 7)),
        rf"{_GROUP}(?::{_GROUP}){{6}}::",
    ]
)

_PATH = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
_URI = (
    rf"[A-Za-z][A-Za-z0-9+.-]*:(?://(?:{_HOSTNAME}|{_IPV4})(?::[0-9]{{1,4}})?(?:/{_PATH}*)*|{_PATH}+(?:/{_PATH}*)*)"
    rf"(?:\?(?:{_PATH}|[/?])*)?(?:#(?:{_PATH}|[/?])*)?"
)
_UUID = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
_POINTER = r"(?:/(?:[^~/]|~[01])*)*"
_BASE64 = r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"

# Formats of strings, as expressions for the whole string in Python's syntax.
STRING_FORMATS = {
    name: f"^(?:{expression})$"
    for name, expression in {
        "date": _DATE,
        "time": _TIME,
        "date-time": f"{_DATE}T{_TIME}",
        "duration": _DURATION,
        "email": _EMAIL,
        "idn-email": _EMAIL,
        "hostname": _HOSTNAME,
        "idn-hostname": _HOSTNAME,
        "ipv4": _IPV4,
        "ipv6": _IPV6,
        "uri": _URI,
        "url": _URI,
        "iri": _URI,
        "uri-reference": _URI,
        "iri-reference": _URI,
        "uri-template": _URI,
        "uuid": _UUID,
        "json-pointer": _POINTER,
        "relative-json-pointer": f"(?:0|[1-9][0-9]*)(?:#|{_POINTER})",
        "byte": _BASE64,
        "password": "(?s:.*)",
    }.items()
}

# Formats of numbers, as the least and the greatest.
NUMBER_FORMATS: dict[str, tuple[float, float]] = {
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, 2**64 - 1),
    "float": (-3.4e38, 3.4e38),
    "double": (-1.7e308, 1.7e308),
}
