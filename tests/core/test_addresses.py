"""What is public and what is not, held against the standard library's own tables."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek.core.addresses import AllowList, why_not_public
from deepseek.core.errors import ConfigError

PRIVATE = (
    "0.0.0.0", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.255", "169.254.169.254", "172.31.0.1",
    "192.168.0.1", "198.18.0.1", "203.0.113.9", "224.0.0.1", "239.1.1.1", "255.255.255.255", "168.63.129.16", "192.0.0.192",
    "::", "::1", "fe80::1", "fec0::1", "fd00:ec2::254", "ff02::1", "::ffff:8.8.8.8", "::ffff:127.0.0.1", "::127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1", "2002:7f00:1::", "2001:0:1::1", "2001:db8::1", "3fff::1", "5f00::1",
    "4000::1",
)  # fmt: skip


@pytest.mark.parametrize("written", PRIVATE)
def test_an_address_that_is_not_of_the_public_web_is_told(written: str) -> None:
    assert why_not_public(ipaddress.ip_address(written))


@pytest.mark.parametrize("written", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "2001:4860:4860::8888", "2606:4700::1111"])
def test_a_public_address_is_public(written: str) -> None:
    assert why_not_public(ipaddress.ip_address(written)) is None


@given(st.integers(0, 2**32 - 1))
def test_no_ipv4_address_is_public_that_the_standard_library_holds_for_private(number: int) -> None:
    address = ipaddress.IPv4Address(number)
    if why_not_public(address) is None:
        assert address.is_global and not address.is_multicast


@given(st.integers(0, 2**128 - 1) | st.integers(0x2000 << 112, (0x3FFF << 112) + 2**112 - 1))
def test_no_ipv6_address_is_public_that_the_standard_library_holds_for_private(number: int) -> None:
    address = ipaddress.IPv6Address(number)
    if why_not_public(address) is None:
        assert (
            address.is_global and address.ipv4_mapped is None and address.sixtofour is None and address.teredo is None
        )


@given(st.integers(0, 2**32 - 1), st.sampled_from(["::ffff:0:0", "::", "64:ff9b::"]))
def test_no_ipv4_address_becomes_public_within_an_ipv6_one(number: int, prefix: str) -> None:
    assert why_not_public(ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) + number))


@pytest.mark.parametrize(
    ("entry", "host", "address", "port", "has"),
    [
        ("127.0.0.1:80", "x", "127.0.0.1", 80, True),
        ("127.0.0.1:80", "x", "127.0.0.1", 81, False),
        ("10.0.0.0/8", "x", "10.9.9.9", 1, True),
        ("10.0.0.0/8", "x", "11.9.9.9", 1, False),
        ("[::1]:80", "x", "::1", 80, True),
        ("::1", "x", "::1", 5, True),
        ("Wiki.Corp", "wiki.corp", "10.0.0.1", 5, True),
        ("wiki.corp:5", "evil.wiki.corp", "10.0.0.1", 5, False),
    ],
)
def test_an_allow_list_lets_through_what_it_names(entry: str, host: str, address: str, port: int, has: bool) -> None:
    assert AllowList([entry]).has(host, ipaddress.ip_address(address), port) is has


@pytest.mark.parametrize("entry", ["", "http://x", "*.corp", "127.1", "x:99999", "x:y", "a b", "10.0.0.1/8"])
def test_an_entry_that_is_none_is_refused(entry: str) -> None:
    with pytest.raises(ConfigError):
        AllowList([entry])
