"""What a server's tool answers, as parts: every kind of block, and what is not what it is said to be."""

import base64

import mcp_types as types
import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_files import FILES

from deepseek.agent.mcp.contents import MAX_BLOCKS, parts_of, text_of
from deepseek.core.messages import MediaPart, TextPart


def answer(*blocks: types.ContentBlock, **more: object) -> types.CallToolResult:
    return types.CallToolResult(content=list(blocks), **more)  # type: ignore[arg-type]


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("media_type", [name for name in FILES if name.startswith(("image/", "audio/"))])
def test_images_and_sounds_are_parts_of_the_type_of_their_bytes(media_type: str) -> None:
    kind = types.ImageContent if media_type.startswith("image/") else types.AudioContent
    (part,) = parts_of(answer(kind(data=encoded(FILES[media_type]), mime_type=media_type)))
    assert part == MediaPart(media_type.partition("/")[0], media_type, FILES[media_type])  # type: ignore[arg-type]


def test_a_lie_about_a_type_is_not_believed() -> None:
    (part,) = parts_of(answer(types.ImageContent(data=encoded(FILES["audio/wav"]), mime_type="image/png")))
    assert isinstance(part, MediaPart) and part.media_type == "audio/wav"
    (part,) = parts_of(answer(types.ImageContent(data=encoded(b"no image"), mime_type="image/png")))
    assert part == TextPart("[image: 8 bytes said to be image/png]")
    (part,) = parts_of(answer(types.ImageContent(data="%%%", mime_type="image/png")))
    assert part == TextPart("[image that cannot be decoded]")


def test_resources_are_named_and_their_text_is_framed() -> None:
    link = types.ResourceLink(name="log", uri="file:///log", mime_type="text/plain")
    text = types.EmbeddedResource(resource=types.TextResourceContents(uri="file:///a", text="inside"))
    blob = types.EmbeddedResource(resource=types.BlobResourceContents(uri="file:///b", blob=encoded(b"\0\1")))
    assert text_of(parts_of(answer(link, text, blob))) == (
        "[resource log: file:///log, text/plain]\n"
        "[resource file:///a]\ninside\n[end of resource]\n"
        "[resource file:///b: 2 bytes]"
    )


def test_a_structured_answer_alone_is_its_json() -> None:
    assert parts_of(answer(structured_content={"a": "ä"})) == [TextPart('{"a": "ä"}')]
    assert parts_of(answer(types.TextContent(text="a"), structured_content={"a": 1})) == [TextPart("a")]


def test_more_blocks_than_there_may_be_are_counted() -> None:
    parts = parts_of(answer(*[types.TextContent(text="x")] * (MAX_BLOCKS + 5)))
    assert parts[-1] == TextPart("[5 more blocks are left out]")


@given(st.binary(max_size=64), st.text(max_size=30))
def test_any_bytes_of_any_name_become_a_part(data: bytes, name: str) -> None:
    (part,) = parts_of(answer(types.AudioContent(data=encoded(data), mime_type=name)))
    assert text_of([part])
