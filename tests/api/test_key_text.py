"""The text of a key: what it is made of, and that no mistyped one passes for a key."""

from __future__ import annotations

import re
import zlib

from hypothesis import given
from hypothesis import strategies as st

from deepseek.api.identity.keys import KEY_CHARS, digest_of, is_well_formed, new_key, new_key_id

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def number(text: str) -> int:
    value = 0
    for char in text:
        value = value * 62 + DIGITS.index(char)
    return value


def test_a_key_is_a_prefix_256_random_bits_and_the_crc_of_both() -> None:
    keys = {new_key() for _ in range(1000)}
    assert len(keys) == 1000
    for key in keys:
        assert re.fullmatch(r"dsk_[0-9A-Za-z]{49}", key) and len(key) == KEY_CHARS == 53
        assert number(key[4:47]) < 2**256
        assert number(key[47:]) == zlib.crc32(key[:47].encode())
        assert is_well_formed(key)
    # Every bit is drawn: none is the same in a thousand keys.
    bits = [number(key[4:47]) for key in keys]
    assert all(0 < sum(value >> bit & 1 for value in bits) < 1000 for bit in range(256))


@given(st.integers(0, 52), st.sampled_from(DIGITS + "-_ é"))
def test_one_wrong_character_is_noticed(place: int, char: str) -> None:
    key = new_key()
    changed = key[:place] + char + key[place + 1 :]
    assert is_well_formed(changed) == (changed == key)


@given(st.integers(0, 51))
def test_two_characters_swapped_are_noticed(place: int) -> None:
    key = new_key()
    swapped = key[:place] + key[place + 1] + key[place] + key[place + 2 :]
    assert is_well_formed(swapped) == (swapped == key)


@given(st.text())
def test_other_text_is_no_key(text: str) -> None:
    assert not is_well_formed(text)
    assert not is_well_formed(new_key() + text) or text == ""


def test_what_is_stored_depends_on_the_secret_and_shows_nothing_of_the_key() -> None:
    key = new_key()
    assert digest_of(key, b"a") != digest_of(key, b"b") and digest_of(key, b"a") == digest_of(key, b"a")
    assert re.fullmatch(r"[0-9a-f]{64}", digest_of(key, b"a"))


def test_a_public_id_is_random_by_itself() -> None:
    ids = {new_key_id() for _ in range(1000)}
    assert len(ids) == 1000 and all(re.fullmatch(r"key_[0-9A-Za-z]{12}", one) for one in ids)
