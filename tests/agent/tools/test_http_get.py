"""The tool `http_get` against a server on this machine, which it may reach only because it is told so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from itertools import count

import pytest
from web_support import Route, WebServer, answer

from deepseek.agent.execution.executor import Executor
from deepseek.agent.execution.registry import ToolRegistry
from deepseek.agent.execution.results import ToolResult
from deepseek.agent.tools import builtin_tools
from deepseek.core.messages import ToolCallPart
from deepseek.core.web import WebClient, WebLimits

HTML = "text/html; charset=utf-8"


def _busy_once() -> Route:
    asked = count()

    def route(handler: BaseHTTPRequestHandler) -> None:
        later = answer("later", 503, Retry_After="0")
        (later if next(asked) == 0 else answer("at last"))(handler)

    return route


def _redirect(location: str) -> Route:
    return answer(status=302, Location=location)


ROUTES: dict[str, Route] = {
    "/page": answer("<title>Tea</title><h1>Tea</h1><p>80 °C <a href=/more>more</a>", type=HTML),
    "/text": answer("plain < text"),
    "/json": answer('{ "a": [1,\n 2] }', type="application/json"),
    "/not-json": answer("{", type="application/json"),
    "/gbk": answer("<p>绿茶".encode("gbk"), type="text/html; charset=gbk"),
    "/empty": answer("<script>1</script>", type=HTML),
    "/long": answer("x" * 30_000),
    "/large": answer("x" * 300_000),
    "/binary": answer(b"\0", type="application/octet-stream"),
    "/gone": answer("no", 404),
    "/busy": _busy_once(),
    "/moved": _redirect("/text"),
    "/to-file": _redirect("file:///etc/passwd"),
    "/to-metadata": _redirect("http://169.254.169.254/latest"),
}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with WebServer(ROUTES) as server:
        yield server.url


def get(url: str, client: WebClient | None = None) -> ToolResult:
    client = client or WebClient(allow=["127.0.0.1"], limits=WebLimits(bytes=100_000, seconds=30.0))
    registry = ToolRegistry(builtin_tools(["http_get"], web=client))
    (result,) = asyncio.run(Executor(registry).run([ToolCallPart("c", "http_get", json.dumps({"url": url}))]))
    return result


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/text", "plain < text"),
        ("/json", '{"a": [1, 2]}'),
        ("/not-json", "{"),
        ("/gbk", "绿茶"),
        ("/empty", "(the page is empty)"),
    ],
)
def test_a_page_is_its_text(address: str, path: str, text: str) -> None:
    assert get(address + path).text == text


def test_html_is_read_as_a_person_sees_it(address: str) -> None:
    assert get(f"{address}/page").text == f"# Tea\n\n80 °C [more]({address}/more)"


def test_where_a_redirect_led_is_said(address: str) -> None:
    assert get(f"{address}/moved").text == f"[at {address}/text]\nplain < text"


def test_a_long_page_is_cut_and_says_so(address: str) -> None:
    result = get(f"{address}/long")

    assert result.text == "x" * 20_000 + "\n[cut after 20000 characters]"


@pytest.mark.parametrize("path", ["/large", "/binary", "/to-file", "/to-metadata"])
def test_what_may_not_be_taken_is_refused(address: str, path: str) -> None:
    assert get(address + path).status == "refused"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/",
        "http://localhost/",
        "file:///etc/passwd",
        "http://[::1]/",
        "http://10.0.0.1/",
        "gopher://x/",
        "",
    ],
)
def test_without_leave_nothing_of_ones_own_network_is_reached(url: str) -> None:
    result = get(url, WebClient())

    assert result.status in ("refused", "error")
    assert "127.0.0.1" not in result.text or "127.0.0.1" in url


def test_a_page_that_is_not_there_is_the_models_to_mend(address: str) -> None:
    result = get(f"{address}/gone")

    assert (result.status, result.kind, result.retryable) == ("error", "retry", True)
    assert "404" in result.text


def test_a_server_that_is_busy_is_asked_again(address: str) -> None:
    result = get(f"{address}/busy")

    assert (result.text, result.attempts) == ("at last", 2)
