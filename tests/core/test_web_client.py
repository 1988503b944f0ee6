"""Fetching is bounded and stays on the public web, against a real server on loopback."""

import asyncio
import datetime
import gzip
import ipaddress
import socket
import ssl
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from web_support import WebServer, answer, serving

from deepseek.core.web import Page, WebClient, WebError, WebLimits, WebRefused


def chunks(handler: BaseHTTPRequestHandler, chunk: bytes, times: int) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/plain")
    handler.send_header("Connection", "close")
    handler.end_headers()
    for _ in range(times):
        handler.wfile.write(chunk)


@pytest.fixture
def server() -> Iterator[WebServer]:
    with serving(
        {
            "/": answer("hello"),
            "/zh": answer("最新".encode("gbk"), type="text/html; charset=gb2312"),
            "/meta": answer(b'<html><meta charset="gbk">' + "最新".encode("gbk"), type="text/html"),
            "/image": answer(b"\x89PNG", type="image/png"),
            "/untyped": answer(b"x", type=None),
            "/busy": answer("later", status=503, Retry_After="7"),
            "/gone": answer("no", status=404),
            "/long": answer(b"x" * 5000),
            "/endless": lambda handler: chunks(handler, b"x" * 1000, 1_000_000),
            "/bomb": answer(gzip.compress(b"0" * 5_000_000), Content_Encoding="gzip"),
            "/zip": answer(gzip.compress(b"packed"), Content_Encoding="gzip"),
            "/half": answer(gzip.compress(b"packed" * 100)[:-12], Content_Encoding="gzip"),
            "/brotli": answer(b"x", Content_Encoding="br"),
            "/here": answer(status=302, Location="/"),
            "/loop": answer(status=302, Location="/loop"),
            "/metadata": answer(status=302, Location="http://169.254.169.254/latest/meta-data/"),
            "/file": answer(status=302, Location="file:///etc/passwd"),
        }
    ) as found:
        yield found


def get(server: WebServer, path: str, **given: object) -> Page:
    limits = WebLimits(bytes=2000, seconds=5, types=("text/*",))
    return asyncio.run(WebClient(allow=server.allow, limits=limits).get(server.url + path, **given))  # type: ignore[arg-type]


def test_a_page_comes_as_text(server: WebServer) -> None:
    page = get(server, "/")
    assert (page.text, page.type, page.status, page.url) == ("hello", "text/plain", 200, server.url + "/")


@pytest.mark.parametrize("path", ["/zh", "/meta"])
def test_chinese_encodings_are_read(server: WebServer, path: str) -> None:
    assert get(server, path).text.endswith("最新")


def test_loopback_is_refused_without_an_entry_and_never_asked(server: WebServer) -> None:
    with pytest.raises(WebRefused, match="loopback"):
        asyncio.run(WebClient().get(server.url))
    assert server.asked == []


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "127.1", "0", "[::ffff:127.0.0.1]", "localhost", "[::]"])
def test_other_ways_to_write_loopback_are_refused(server: WebServer, host: str) -> None:
    with pytest.raises((WebRefused, WebError)):
        asyncio.run(WebClient(limits=WebLimits(ports=frozenset([server.port]))).get(f"http://{host}:{server.port}/"))
    assert server.asked == []


@pytest.mark.parametrize(
    "url",
    ["ftp://example.org/", "file:///etc/passwd", "http://", "http://user:pass@example.org/", "x", "http://a b/", "//x"],
)
def test_what_is_no_url_of_the_web_is_refused(url: str) -> None:
    with pytest.raises(WebRefused) as refused:
        asyncio.run(WebClient().get(url))
    assert "pass@" not in str(refused.value)


def test_a_host_with_one_private_address_among_public_ones_is_refused() -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["8.8.8.8", "10.0.0.1"]

    with pytest.raises(WebRefused, match="private"):
        asyncio.run(WebClient(resolve=resolve).get("http://example.org/"))


def test_the_connection_goes_to_the_address_that_was_checked(server: WebServer) -> None:
    asked = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append((host, port))
        return ["127.0.0.1"]

    client = WebClient(allow=[f"rebinding.test:{server.port}"], resolve=resolve)
    page = asyncio.run(client.get(f"http://rebinding.test:{server.port}/"))
    assert page.text == "hello"
    assert asked == [("rebinding.test", server.port)]
    assert server.asked[0][1]["Host"] == f"rebinding.test:{server.port}"


def test_the_next_address_is_tried_where_one_does_not_answer(server: WebServer) -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.2", "127.0.0.1"]

    client = WebClient(allow=[f"two.test:{server.port}"], resolve=resolve)
    assert asyncio.run(client.get(f"http://two.test:{server.port}/")).text == "hello"


@pytest.mark.parametrize("path", ["/metadata", "/file", "/loop"])
def test_redirects_are_checked_and_bounded(server: WebServer, path: str) -> None:
    with pytest.raises(WebRefused):
        get(server, path)
    assert len(server.asked) <= 6


def test_a_redirect_within_the_host_is_followed(server: WebServer) -> None:
    assert get(server, "/here").text == "hello"


def test_headers_do_not_follow_to_another_host(server: WebServer) -> None:
    with serving({"/away": answer(status=302, Location=server.url + "/")}) as other:
        client = WebClient(allow=[*server.allow, *other.allow])
        page = asyncio.run(client.get(other.url + "/away", headers={"X-Key": "secret"}))
    assert page.text == "hello"
    assert other.asked[0][1]["X-Key"] == "secret"
    assert "X-Key" not in server.asked[0][1]


@pytest.mark.parametrize("path", ["/long", "/endless", "/bomb"])
def test_what_is_too_large_is_refused(server: WebServer, path: str) -> None:
    with pytest.raises(WebRefused, match="too large"):
        get(server, path)


@pytest.mark.parametrize("path", ["/image", "/untyped", "/brotli"])
def test_what_is_of_another_type_is_refused(server: WebServer, path: str) -> None:
    with pytest.raises(WebRefused):
        get(server, path)


def test_what_is_packed_is_unpacked(server: WebServer) -> None:
    assert get(server, "/zip").text == "packed"


def test_half_of_what_was_packed_is_an_error(server: WebServer) -> None:
    with pytest.raises(WebError, match="damaged"):
        get(server, "/half")


def test_an_error_of_the_server_says_whether_and_when_to_try_again(server: WebServer) -> None:
    with pytest.raises(WebError) as busy:
        get(server, "/busy")
    assert (busy.value.status, busy.value.retryable, busy.value.retry_after_s) == (503, True, 7.0)
    with pytest.raises(WebError) as gone:
        get(server, "/gone")
    assert (gone.value.status, gone.value.retryable) == (404, False)


def test_an_error_page_can_be_asked_for(server: WebServer) -> None:
    assert get(server, "/gone", any_status=True).status == 404


def test_a_server_that_does_not_answer_is_left_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        client = WebClient(allow=["127.0.0.1"], limits=WebLimits(seconds=0.2))
        with pytest.raises(WebError) as late:
            asyncio.run(client.get(f"http://127.0.0.1:{port}/"))
    assert late.value.retryable


def test_nobody_listening_is_an_error_that_may_pass() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(WebError) as failed:
        asyncio.run(WebClient(allow=["127.0.0.1"]).get(f"http://127.0.0.1:{port}/"))
    assert failed.value.retryable


def test_a_port_of_something_else_is_refused() -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["8.8.8.8"]

    with pytest.raises(WebRefused, match="port"):
        asyncio.run(WebClient(resolve=resolve).get("http://example.org:25/"))


def test_the_query_of_a_url_is_not_in_an_error(server: WebServer) -> None:
    with pytest.raises(WebError) as failed:
        get(server, "/gone?key=secret")
    assert "secret" not in str(failed.value)


def test_a_thread_without_a_loop_may_fetch(server: WebServer) -> None:
    assert WebClient(allow=server.allow).get_now(server.url, params={"q": "最新 a&b"}).text == "hello"
    assert (
        server.asked[0][0] == "/?q=%E6%9C%80%E6%96%B0+a%26b" or server.asked[0][0] == "/?q=%E6%9C%80%E6%96%B0%20a%26b"
    )


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Of secure.test, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "secure.test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("secure.test")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "secure.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


def test_tls_is_checked_against_the_name_though_the_connection_goes_to_the_address(certificate: Path) -> None:
    names: list[str | None] = []
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    tls.sni_callback = lambda sock, name, context: names.append(name)
    trusted = ssl.create_default_context(cafile=str(certificate))

    async def resolve(host: str, port: int) -> Sequence[str]:
        return [str(ipaddress.ip_address("127.0.0.1"))]

    with serving({"/": answer("sealed")}, tls) as server:
        client = WebClient(allow=["127.0.0.1"], tls=trusted, resolve=resolve)
        assert asyncio.run(client.get(f"https://secure.test:{server.port}/")).text == "sealed"
        with pytest.raises(WebError):
            asyncio.run(client.get(f"https://other.test:{server.port}/"))
    assert names == ["secure.test", "other.test"]
