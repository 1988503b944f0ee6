"""What a file is, by its bytes: every kind that is taken, and whatever else there is."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_files import FILES

from deepseek.agent.perception.recognise import PerceptionError, decoded, recognise

TEXTS = {
    "text/plain": "The quick brown fox.\nJumps over the lazy dog.\n",
    "text/html": "<!DOCTYPE html><html><head><title>t</title></head><body>b</body></html>",
    "text/markdown": "# A heading\n\nSome words.\n",
    "application/json": '{"a": [1, 2, 3]}',
    "text/csv": "name;age\nAda;36\nAlan;41\n",
    "application/pdf": "%PDF-1.7\n...",
}


@pytest.mark.parametrize("media_type", TEXTS)
def test_a_document_is_known_by_its_content_whatever_it_is_called(media_type: str) -> None:
    assert recognise(TEXTS[media_type].encode(), "file.bin").media_type == media_type


@pytest.mark.parametrize("media_type", FILES)
def test_media_are_known_by_their_content_even_when_they_are_called_text(media_type: str) -> None:
    assert recognise(FILES[media_type], "notes.txt").kind in ("image", "audio", "video")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.md", "text/markdown"), ("a.csv", "text/csv"), ("a.htm", "text/html"), ("a", "text/plain")],
)
def test_the_name_decides_between_kinds_of_text_that_look_alike(name: str, expected: str) -> None:
    assert recognise(b"just words", name).media_type == expected


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "gb18030"])
def test_text_is_read_in_the_encoding_it_is_in(encoding: str) -> None:
    text = "深度求索,一个语言模型。Plain English too."
    assert decoded(text.encode(encoding))[0] == text


@pytest.mark.parametrize(
    "data",
    [
        b"\x7fELF\x02\x01\x01" + bytes(200),
        b"PK\x03\x04" + bytes(range(256)),
        b"MZ\x90\x00\x03" + bytes(64),
        b"\x00\x01\x02\x03",
        bytes(range(256)),
    ],
)
def test_what_is_neither_media_nor_text_is_refused(data: bytes) -> None:
    with pytest.raises(PerceptionError, match="not taken"):
        recognise(data)


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(PerceptionError, match="empty"):
        recognise(b"", "a.txt")


@given(st.binary(max_size=400), st.text(max_size=20))
def test_any_bytes_are_recognised_or_refused(data: bytes, name: str) -> None:
    try:
        found = recognise(data, name)
    except PerceptionError:
        return
    assert found.kind == "document" or found.text is None


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_an_object_or_array_of_json_is_known_as_json(value: object) -> None:
    written = json.dumps(value)
    if isinstance(value, dict | list):
        assert recognise(written.encode()).media_type == "application/json"
