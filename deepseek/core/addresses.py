"""Which addresses are the public Internet's, and which lead into somebody's own network.

By the special-purpose registries of IANA (RFC 6890, as they stand in 2026). Refused are also all forms that carry an IPv4
address within an IPv6 one (mapped, compatible, NAT64, 6to4, Teredo), which go round every list of IPv4 networks, and the
addresses at which clouds tell a machine its secrets.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deepseek.core.errors import ConfigError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_KINDS: dict[str, tuple[str, ...]] = {
    "this host": ("0.0.0.0/8", "::/128"),
    "loopback": ("127.0.0.0/8", "::1/128"),
    "private": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10"),
    "shared by a carrier": ("100.64.0.0/10",),
    "link-local": ("169.254.0.0/16", "fe80::/10"),
    "multicast": ("224.0.0.0/4", "ff00::/8"),
    "cloud metadata": ("168.63.129.16/32", "192.0.0.192/32"),
    "reserved": (
        "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "240.0.0.0/4", "100::/64", "100:0:0:1::/64", "2001:db8::/32", "3fff::/20", "5f00::/16",
    ),
    "an IPv4 address in disguise": ("::ffff:0:0/96", "::ffff:0:0:0/96", "::/96", "64:ff9b::/96", "64:ff9b:1::/48",
                                    "2002::/16", "2001::/32"),
    "for protocols": ("2001::/23",),
}  # fmt: skip
_NETWORKS: list[tuple[str, Network]] = [
    (kind, ipaddress.ip_network(written)) for kind, networks in _KINDS.items() for written in networks
]
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")


def why_not_public(address: Address) -> str | None:
    """What an address is instead of public, in a word or two; None where it is."""
    for kind, network in _NETWORKS:
        if address.version == network.version and address in network:
            return kind
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_UNICAST:
        return "reserved"
    return None


@dataclass(frozen=True, slots=True)
class _Allowed:
    """One entry of an allow-list. host: or a network; port: None for any."""

    host: str = ""
    network: Network | None = None
    port: int | None = None


class AllowList:
    """Hosts and networks that may be reached although they are not public: an intranet's, or a test's own server.

    entries: `wiki.corp`, `wiki.corp:8080`, `10.1.0.0/16`, `127.0.0.1:8888`, `[::1]:8888`; without a port they stand for all
    ports. A host's name allows whatever address it has. Raises ConfigError.
    """

    def __init__(self, entries: Sequence[str] = ()) -> None:
        self._entries = tuple(map(_entry, entries))

    def has(self, host: str, address: Address, port: int) -> bool:
        """Whether this address, which that host has, may be reached."""
        return any(
            (entry.host == host if entry.network is None else address in entry.network) for entry in self._at(port)
        )

    def has_port(self, host: str, addresses: Iterable[Address], port: int) -> bool:
        """Whether an entry speaks of all of this; then its port needs no other leave."""
        return bool(self._entries) and all(self.has(host, address, port) for address in addresses)

    def _at(self, port: int) -> Iterable[_Allowed]:
        return (entry for entry in self._entries if entry.port in (None, port))


def _entry(written: str) -> _Allowed:
    text = written.strip().lower()
    host, port = text, None
    if text.startswith("[") or text.count(":") == 1:
        host, _, tail = text.rpartition(":") if not text.endswith("]") else (text, "", "")
        if tail:
            if not tail.isascii() or not tail.isdigit() or not 0 < int(tail) < 65536:
                raise _wrong(written)
            port = int(tail)
        host = host.removeprefix("[").removesuffix("]")
    try:
        return _Allowed(network=ipaddress.ip_network(host), port=port)
    except ValueError:
        pass
    if not host or any(char in host for char in "/@:*? ") or host.replace(".", "").isdigit():
        raise _wrong(written)
    return _Allowed(host=host.rstrip("."), port=port)


def _wrong(written: str) -> ConfigError:
    expected = "a host, an address or a network (10.0.0.0/8), with :port if need be"
    return ConfigError("not an entry of an allow-list", where="allow", found=repr(written)[:80], expected=expected)
