"""/v1/files, used by OpenAI's own client; and uploads that are not what they should be."""

import asyncio
import io
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import openai
import pytest
import requests
from api_support import quick, state_of
from hypothesis import given, settings
from hypothesis import strategies as st
from kept_support import asking, lasting, line, lines

from deepseek.api import serving
from deepseek.api.identity.caller import EVERYTHING, Caller
from deepseek.api.problems import Problem
from deepseek.api.tiers import BASIC
from deepseek.api.upload import receive_upload

CONTENT = lines([line("a"), line("b")])
FORM = {"content-type": "multipart/form-data; boundary=b0und"}


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with asking(url) as client:
        yield client


def test_a_file_is_kept_read_and_deleted(client: openai.OpenAI) -> None:
    file = client.files.create(file=("a file.jsonl", CONTENT), purpose="batch")
    assert (file.object, file.bytes, file.filename, file.purpose) == ("file", len(CONTENT), "a file.jsonl", "batch")
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).content == CONTENT
    assert client.files.delete(file.id).deleted
    for look in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError, match=file.id):
            look(file.id)


def test_files_are_listed_in_pages_newest_first() -> None:
    with serving(state_of(quick())) as server, asking(server.url) as client:
        made = [client.files.create(file=(f"{index}", CONTENT), purpose="batch").id for index in range(5)]
        assert [file.id for file in client.files.list(limit=2)] == made[::-1]
        assert [file.id for file in client.files.list(limit=2, order="asc")] == made
        assert [file.id for file in client.files.list(purpose="batch_output")] == []
        with pytest.raises(openai.NotFoundError):
            client.files.list(after="file-unknown")


def test_a_name_is_only_ever_shown(tmp_path: Path) -> None:
    with lasting(tmp_path, quick()) as (server, _), asking(server.url) as client:
        for name in ("../../etc/passwd", "..\\x", "/abs", "a\x00b", "x" * 2000):
            file = client.files.create(file=(name, CONTENT), purpose="batch")
            assert "/" not in file.filename and "\\" not in file.filename and len(file.filename) <= 255
            assert client.files.content(file.id).content == CONTENT
    stored = [path.name for path in (tmp_path / "files").rglob("*") if path.is_file()]
    assert len(stored) == 5 and all(name.startswith("file-") for name in stored)


def test_a_file_outlives_the_server(tmp_path: Path) -> None:
    with lasting(tmp_path, quick()) as (server, _), asking(server.url) as client:
        file = client.files.create(file=("a", CONTENT), purpose="batch")
    with lasting(tmp_path, quick()) as (server, _), asking(server.url) as client:
        assert client.files.content(file.id).content == CONTENT


def test_a_large_file_is_streamed_to_disk_and_back(client: openai.OpenAI) -> None:
    large = b"0123456789abcdef" * (1 << 19)  # 8 MiB, twice the largest JSON body
    file = client.files.create(file=("large", io.BytesIO(large)), purpose="batch")
    assert client.files.content(file.id).content == large
    client.files.delete(file.id)


def test_expiry_is_taken_as_openai_has_it(client: openai.OpenAI) -> None:
    file = client.files.create(
        file=("a", CONTENT), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert file.expires_at == file.created_at + 3600
    with pytest.raises(openai.BadRequestError, match=r"expires_after\.seconds"):
        client.files.create(file=("a", CONTENT), purpose="batch", expires_after={"anchor": "created_at", "seconds": 60})


@pytest.mark.parametrize("purpose", ["fine-tune", "vision", "no such"])
def test_other_purposes_are_refused_by_name(client: openai.OpenAI, purpose: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="purpose"):
        client.files.create(file=("a", CONTENT), purpose=purpose)


def test_what_is_refused_leaves_nothing_behind(tmp_path: Path) -> None:
    with lasting(tmp_path, quick()) as (server, _):
        for data in ({"purpose": "vision"}, {"purpose": "batch", "other": "x"}, {}):
            response = requests.post(f"{server.url}/v1/files", files={"file": ("a", CONTENT)}, data=data, timeout=30)
            assert response.status_code == 400, response.text
    assert [path for path in (tmp_path / "files").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("multipart/form-data", b"", 415),
        ("multipart/form-data; boundary=b", b"", 400),
        ("multipart/form-data; boundary=b", b"nonsense", 400),
        ("multipart/form-data; boundary=b", b"--b\r\nx: y\r\n\r\nz\r\n--b--\r\n", 400),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nz',
            400,
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b--\r\n',
            400,
        ),
    ],
)
def test_a_body_that_is_no_form_is_answered(url: str, content_type: str, body: bytes, status: int) -> None:
    response = requests.post(f"{url}/v1/files", data=body, headers={"content-type": content_type}, timeout=30)
    assert response.status_code == status, response.text
    assert response.json()["error"]["message"]


def test_fields_and_headers_are_bounded(url: str) -> None:
    for part in (
        b'content-disposition: form-data; name="purpose"\r\n\r\n' + b"x" * 5000,
        b"x: " + b"y" * 5000 + b"\r\n\r\nz",
    ):
        body = b"--b\r\n" + part + b"\r\n--b--\r\n"
        head = {"content-type": "multipart/form-data; boundary=b"}
        assert requests.post(f"{url}/v1/files", data=body, headers=head, timeout=30).status_code == 400
    many = b"".join(b'--b\r\ncontent-disposition: form-data; name="a"\r\n\r\nz\r\n' for _ in range(30)) + b"--b--\r\n"
    assert requests.post(f"{url}/v1/files", data=many, headers=head, timeout=30).status_code == 400


class ByHeader:
    """Whoever the header says: one tenant a key."""

    async def identify(self, headers: Any) -> Caller:
        name = headers.get("authorization", "").removeprefix("Bearer ")
        return Caller(name, BASIC, EVERYTHING, name)


def test_another_tenant_finds_nothing() -> None:
    state = state_of(quick())
    state.identifier = ByHeader()
    with serving(state) as server, asking(server.url, "one") as one, asking(server.url, "other") as other:
        file = one.files.create(file=("a", CONTENT), purpose="batch")
        assert list(other.files.list()) == []
        for look in (other.files.retrieve, other.files.content, other.files.delete):
            with pytest.raises(openai.NotFoundError):
                look(file.id)
        with pytest.raises(openai.BadRequestError, match="input_file_id"):
            other.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")
        made = one.responses.create(model="deepseek-7b", input="a")
        with pytest.raises(openai.NotFoundError):
            other.responses.retrieve(made.id)
        with pytest.raises(openai.NotFoundError):
            other.responses.create(model="deepseek-7b", input="a", previous_response_id=made.id)
        assert one.files.content(file.id).content == CONTENT


def test_a_tenants_files_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepseek.api.kept.files.MAX_TENANT_BYTES", len(CONTENT) + 10)
    with serving(state_of(quick())) as server, asking(server.url) as client:
        file = client.files.create(file=("a", CONTENT), purpose="batch")
        with pytest.raises(openai.APIStatusError) as caught:
            client.files.create(file=("b", CONTENT), purpose="batch")
        assert caught.value.status_code == 413
        client.files.delete(file.id)
        client.files.create(file=("b", CONTENT), purpose="batch")


def form(name: bytes, content: bytes, purpose: bytes) -> bytes:
    return (
        b'--b0und\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n' + purpose + b"\r\n"
        b'--b0und\r\nContent-Disposition: form-data; name="file"; filename="' + name + b'"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n" + content + b"\r\n--b0und--\r\n"
    )


@given(content=st.binary(max_size=400), cuts=st.lists(st.integers(0, 700), max_size=8))
@settings(max_examples=150, derandomize=True, deadline=None)
def test_a_form_is_read_alike_however_it_is_cut(tmp_path_factory: Any, content: bytes, cuts: list[int]) -> None:

    path = tmp_path_factory.mktemp("form") / "file"
    body = form(b"name", content, b"batch")
    if b"--b0und" in content:
        return
    places = [0, *sorted(cut for cut in cuts if cut < len(body)), len(body)]
    pieces = [body[begin:end] for begin, end in pairwise(places)]

    class Fed:
        headers = FORM

        async def receive(self) -> dict[str, Any]:
            piece = pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    found = asyncio.run(receive_upload(Fed(), path, max_bytes=1000, pause_s=5.0))  # type: ignore[arg-type]
    assert path.read_bytes() == content and (found.name, found.size, found.fields) == (
        "name",
        len(content),
        {"purpose": "batch"},
    )


def test_a_file_over_the_limit_stops_being_read(tmp_path: Path) -> None:

    body = form(b"name", b"x" * 2000, b"batch")
    sent = 0

    class Fed:
        headers = FORM

        async def receive(self) -> dict[str, Any]:
            nonlocal sent
            piece = body[sent : sent + 100]
            sent += 100
            return {"type": "http.request", "body": piece, "more_body": True}

    with pytest.raises(Problem) as caught:
        asyncio.run(receive_upload(Fed(), tmp_path / "file", max_bytes=500, pause_s=5.0))  # type: ignore[arg-type]
    assert caught.value.status == 413 and sent < 1000 and not (tmp_path / "file").exists()
