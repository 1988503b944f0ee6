"""Images, sounds and films in a chat: by tier, by model, and checked before anybody decodes them."""

import base64
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import openai
import pytest
from media_files import FILES, mp4, picture, wav
from starlette.datastructures import Headers
from tools_support import ToolCodec, saying

from deepseek.api import ServerState, serving
from deepseek.api.identity.caller import LOCAL_CALLER, Caller
from deepseek.api.tiers import BASIC, PROFESSIONAL
from deepseek.core.messages import MediaPart, TextPart

SEES = "deepseek-tiny"
BLIND = "deepseek-7b"


class ByHeader:
    """The tier that the key names."""

    async def identify(self, headers: Headers) -> Caller:
        basic = "basic" in headers.get("authorization", "")
        return replace(LOCAL_CALLER, tier=BASIC if basic else PROFESSIONAL)


def seeing(codec: ToolCodec, **options: Any) -> ServerState:
    state = saying("Nice.", codec)
    state.media = {SEES: frozenset(("image", "audio", "video"))}
    state.identifier = ByHeader()
    for name, value in options.items():
        setattr(state, name, value)
    return state


@pytest.fixture(scope="module")
def codec() -> ToolCodec:
    return ToolCodec()


@pytest.fixture(scope="module")
def client(codec: ToolCodec) -> Iterator[openai.OpenAI]:
    with (
        serving(seeing(codec), grace_s=1.0) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="professional", max_retries=0) as client,
    ):
        yield client


def url_of(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def image(url: str) -> Any:
    return {"type": "image_url", "image_url": {"url": url, "detail": "low"}}


def ask(client: openai.OpenAI, *parts: Any, model: str = SEES) -> Any:
    content = [{"type": "text", "text": "What is it?"}, *parts]
    messages: list[Any] = [{"role": "user", "content": content}]
    return client.chat.completions.create(model=model, messages=messages)


def refused(client: openai.OpenAI, *parts: Any, kind: Any = openai.BadRequestError, **options: Any) -> Any:
    with pytest.raises(kind) as caught:
        ask(client, *parts, **options)
    return caught.value


@pytest.mark.parametrize("media_type", [name for name in FILES if name.startswith("image/")])
def test_an_image_reaches_the_model_as_the_bytes_it_is(
    client: openai.OpenAI, codec: ToolCodec, media_type: str
) -> None:
    ask(client, image(url_of(FILES[media_type], media_type)))
    text, part = codec.messages[-1][0].parts
    assert text == TextPart("What is it?") and part == MediaPart("image", media_type, FILES[media_type])


@pytest.mark.parametrize(("form", "media_type"), [("wav", "audio/wav"), ("mp3", "audio/mpeg"), ("flac", "audio/flac")])
def test_a_sound_reaches_the_model(client: openai.OpenAI, codec: ToolCodec, form: str, media_type: str) -> None:
    data = base64.b64encode(FILES[media_type]).decode()
    ask(client, {"type": "input_audio", "input_audio": {"data": data, "format": form}})
    assert codec.messages[-1][0].parts[1] == MediaPart("audio", media_type, FILES[media_type])


def test_a_film_reaches_the_model_by_either_form(client: openai.OpenAI, codec: ToolCodec) -> None:
    url = url_of(mp4(), "video/mp4")
    for part in (
        {"type": "video_url", "video_url": {"url": url}},
        {"type": "file", "file": {"file_data": url, "filename": "a.mp4"}},
    ):
        ask(client, part)
        assert codec.messages[-1][0].parts[1] == MediaPart("video", "video/mp4", mp4())


def test_a_tier_of_text_alone_is_told_which_tiers_take_more(client: openai.OpenAI) -> None:
    error = refused(
        client.with_options(api_key="basic"),
        image(url_of(picture("PNG"), "image/png")),
        kind=openai.PermissionDeniedError,
    )
    assert "tier basic takes no images" in str(error) and "professional, enterprise" in str(error)


def test_a_model_of_text_alone_names_the_models_that_take_more(client: openai.OpenAI) -> None:
    error = refused(client, image(url_of(picture("PNG"), "image/png")), model=BLIND)
    assert f"models that take images: {SEES}" in str(error)
    assert error.param == "messages.0.content.1.image_url.url"


def test_where_no_model_takes_it_that_is_said() -> None:
    with (
        serving(seeing(ToolCodec(), media={}), grace_s=1.0) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="professional", max_retries=0) as client,
    ):
        error = refused(client, image(url_of(picture("PNG"), "image/png")))
    assert "none that is served here" in str(error)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://example.com/a.png", "this server fetches nothing"),
        ("ftp://example.com/a.png", "data:<type>;base64"),
        ("data:image/png,abc", "data:<type>;base64"),
        ("data:image/png;base64,@@@@", "base64"),
        ("data:image/png;base64,iVBO Rw0K", "base64"),
        ("data:image/png;base64,", "bytes of no type"),
        (url_of(b"not an image", "image/png"), "bytes of no type"),
        (url_of(picture("JPEG"), "image/png"), "image/png, as declared"),
        (url_of(picture("PNG")[:30], "image/png"), "broken PNG"),
        (url_of(wav(), "audio/wav"), "a type of image"),
        (url_of(b"%PDF-1.7", "application/pdf"), "an image, a sound or a film"),
    ],
)
def test_what_is_no_image_is_refused_by_name(client: openai.OpenAI, url: str, told: str) -> None:
    error = refused(client, image(url) if "pdf" not in url else {"type": "file", "file": {"file_data": url}})
    assert told in str(error)
    assert (error.param or "").startswith("messages.0.content.1.")


def test_addresses_are_handed_on_unread_where_that_is_configured() -> None:
    codec = ToolCodec()
    with (
        serving(seeing(codec, media_addresses=True), grace_s=1.0) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="professional", max_retries=0) as client,
    ):
        ask(client, image("https://example.com/a.png"))
    assert codec.messages[-1][0].parts[1] == MediaPart("image", "image/*", url="https://example.com/a.png")


def test_only_users_send_media(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "system", "content": [image(url_of(picture("PNG"), "image/png"))]}]
    with pytest.raises(openai.BadRequestError, match=r"messages\.0\.content"):
        client.chat.completions.create(model=SEES, messages=messages)
