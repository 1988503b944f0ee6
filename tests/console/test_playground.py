"""The playground: what is served, and, in a real Chromium, what a visitor sees and does at phone and desktop width."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import requests
from chromium import Page, browser, executable
from starlette.datastructures import Headers

from deepseek.api import ServerState, serving
from deepseek.api.identity.caller import LOCAL_CALLER, Caller
from deepseek.api.identity.credentials import credential_of, unauthenticated
from deepseek.chat.parsing import PlainParser
from deepseek.console import STATIC, pages
from deepseek.core.messages import Message
from deepseek.engine.fake import FakeEngine, babble, say

PHONE, DESK = (390, 844), (1440, 900)
ANSWER = 'It is 1776. <img src=x onerror="document.title=1"> 好的。'
ENDLESS = "count"

in_chromium = pytest.mark.skipif(executable() is None, reason="no Chromium on this machine")


class Codec:
    """One token a byte; a conversation is its last message."""

    def encode_prompt(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_chat(self, messages: Sequence[Message], tools: Sequence[Any], *, thinking: bool = False) -> list[int]:
        return list(messages[-1].text.encode()) or [0]

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id])

    def parser(self, tools: bool, thinking: bool) -> PlainParser:
        return PlainParser()

    def tool_constraint(self, tools: Sequence[Any], choice: Any, parallel: bool, *, thinking: bool = False) -> None:
        return None


def reply(request: Any, choice: int, seed: int) -> Any:
    """The answer, or words without end for a prompt that says so."""
    return (babble if bytes(request.prompt_ids).decode().startswith(ENDLESS) else say(ANSWER))(request, choice, seed)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    engine = FakeEngine(reply=reply, ttft_s=0.01, inter_token_s=0.002, max_model_len=4096)
    with serving(ServerState(engine, Codec(), ("deepseek-tiny", "other"), 4096), pages=pages(), grace_s=1.0) as server:
        yield server.url


@pytest.fixture(scope="module")
def devtools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with browser(tmp_path_factory.mktemp("chromium")) as address:
        yield address


def open_page(devtools: str, url: str, size: tuple[int, int], **options: bool) -> Page:
    return Page(devtools, url, *size, **options)


def ask(page: Page, prompt: str) -> None:
    page.write("#prompt", prompt)
    page.press("Enter", ctrl=True)


@pytest.mark.parametrize("path", sorted(pages()))
def test_each_file_is_served_with_its_type_and_a_policy_that_lets_nothing_in(url: str, path: str) -> None:
    answer = requests.get(url + path)
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"].startswith("default-src 'self'")
    kinds = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
    assert answer.headers["content-type"].startswith(kinds[pages()[path].suffix])
    again = requests.get(url + path, headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_every_file_of_the_console_is_served_and_nothing_else() -> None:
    assert sorted(pages().values()) == sorted(STATIC.iterdir())


def test_nothing_is_loaded_from_elsewhere_and_nothing_is_written_as_markup() -> None:
    for file in STATIC.iterdir():
        text = file.read_text().replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.search(r"(https?:)?//[a-z]", re.sub(r"^\s*//.*|\s// .*", "", text, flags=re.M)), file.name
        assert "innerHTML" not in text and "insertAdjacentHTML" not in text and "eval(" not in text


def test_both_languages_have_every_word() -> None:
    text = (STATIC / "words.js").read_text()
    english, chinese = (re.findall(r"\b(\w+): [\"{(]", part) for part in text.split("zh: {")[:2])
    assert [word for word in english if word != "en"] == chinese[: len(english) - 1]
    used = set(re.findall(r'data-[tlp]="(\w+)"', (STATIC / "playground.html").read_text()))
    assert used <= set(english)


@in_chromium
@pytest.mark.browser
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_an_answer_streams_in_with_its_numbers_and_as_text_only(
    devtools: str, url: str, size: tuple[int, int], tmp_path: Path
) -> None:
    with open_page(devtools, url, size) as page:
        ask(page, "What is 37 × 48?")
        page.until("document.querySelector('#stat-reason').textContent === 'stop'")
        assert page.text(".turn.assistant p") == ANSWER
        assert re.fullmatch(r"\d+ ms", page.text("#stat-ttft"))
        assert re.fullmatch(r"[\d.]+ tokens/s", page.text("#stat-speed"))
        assert page.text("#stat-tokens") == f"{len(ANSWER.encode())} (+ 17 prompt)"
        assert page.js("document.querySelectorAll('#log img').length") == 0
        assert page.js("document.documentElement.scrollWidth") == size[0]
        page.screenshot(tmp_path / "page.png")
        assert page.problems == []


@in_chromium
@pytest.mark.browser
def test_stop_ends_the_stream_here_and_in_the_engine(devtools: str, url: str) -> None:
    with open_page(devtools, url, DESK) as page:
        page.write("#max_tokens", "4000")
        ask(page, ENDLESS)
        page.until("document.querySelector('.turn.assistant p').textContent.length > 10")
        page.press("Escape")
        page.until("document.querySelector('#stat-reason').textContent === 'you'")
        page.until("document.querySelector('#stop').hidden")
        idle = (requests.get(f"{url}/metrics").text for _ in range(1000))
        assert any("deepseek_running_requests 0.0" in text for text in idle)


@in_chromium
@pytest.mark.browser
def test_a_problem_is_shown_with_its_field_and_the_prompt_comes_back(devtools: str, url: str) -> None:
    with open_page(devtools, url, DESK) as page:
        page.write("#max_tokens", "99999")
        ask(page, "hello")
        page.until("!document.querySelector('#problem').hidden")
        assert page.text("#problem li").startswith("max_tokens: at most 4091 ")
        assert page.js("document.querySelector('#prompt').value") == "hello"
        assert page.js("document.querySelectorAll('.turn').length") == 0


@in_chromium
@pytest.mark.browser
def test_completion_continues_the_prompt_with_the_chosen_parameters(devtools: str, url: str) -> None:
    with open_page(devtools, url, DESK) as page:
        assert page.js("[...document.querySelector('#model').options].map(o => o.value)") == ["deepseek-tiny", "other"]
        page.click("input[value=complete]")
        page.write("#max_tokens", "7")
        page.write("#stops", "76")
        ask(page, "Well, ")
        page.until("document.querySelector('#stat-reason').textContent.length > 1")
        assert page.text(".turn.text p") == "Well, It is 1"
        curl = page.js("document.querySelector('#curl').textContent")
        assert "/v1/generate" in curl and '"stop_sequences": [\n  "76"\n ]' in curl


@in_chromium
@pytest.mark.browser
def test_the_page_speaks_chinese_and_remembers_it(devtools: str, url: str) -> None:
    with open_page(devtools, url, PHONE) as page:
        page.click("#language")
        assert page.text("#send") == "发送"
        assert page.js("document.documentElement.lang") == "zh-CN"
        page.js("location.reload()")
        page.until("document.querySelector('#health.ready') && document.querySelector('#send').innerText === '发送'")


@in_chromium
@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_control_has_a_name_and_text_stands_out_from_its_ground(devtools: str, url: str, dark: bool) -> None:
    with open_page(devtools, url, DESK, dark=dark) as page:
        unnamed = page.js(
            "[...document.querySelectorAll('button, input, select, textarea')].filter(e => "
            "!(e.labels?.length || e.textContent.trim() || e.ariaLabel)).map(e => e.outerHTML)"
        )
        assert unnamed == []
        # WCAG 2.2, 1.4.3: at least 4.5 to 1.
        ratio = """(selector) => {
          const light = (color) => { const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map((v) => { v /= 255;
            return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
            return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
          let ground = document.querySelector(selector); const ink = getComputedStyle(ground).color;
          while (getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)') ground = ground.parentElement;
          const [a, b] = [light(ink), light(getComputedStyle(ground).backgroundColor)].sort((x, y) => y - x);
          return (a + 0.05) / (b + 0.05); }"""
        for selector in ("h2", ".welcome p", "#send", "#health", "#language", ".fields span", "nav a", ".modes span"):
            assert page.js(f"({ratio})({selector!r})") >= 4.5, selector


class OneKey:
    """Knows one key, and refuses the rest as a server with keys does."""

    async def identify(self, headers: Headers) -> Caller:
        given = credential_of(headers)
        if given is None:
            raise unauthenticated("Send a key.", invalid=False)
        if given != "dsk_right":
            raise unauthenticated("This key is not valid.")
        return LOCAL_CALLER


@pytest.fixture(scope="module")
def asking() -> Iterator[str]:
    engine = FakeEngine(reply=reply, ttft_s=0.01, inter_token_s=0.002, max_model_len=4096)
    state = ServerState(engine, Codec(), ("deepseek-tiny",), 4096, identifier=OneKey())
    with serving(state, pages=pages(), grace_s=1.0) as server:
        yield server.url


def give_key(page: Page, key: str) -> None:
    page.write("#key", key)
    page.click("#use-key")


@in_chromium
@pytest.mark.browser
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_a_server_with_keys_is_given_one_which_stays_in_its_tab(
    devtools: str, asking: str, size: tuple[int, int], tmp_path: Path
) -> None:
    with open_page(devtools, asking, size) as page:
        page.until("!document.querySelector('#gate').hidden")
        assert page.js("document.activeElement.id") == "key"
        assert page.js("document.querySelector('#key').type") == "password"
        assert page.js("document.documentElement.scrollWidth") == size[0]
        page.screenshot(tmp_path / "gate.png")
        page.click("#use-key")  # nothing was written
        give_key(page, "dsk_wrong 密钥")
        page.until("!document.querySelector('#problem').hidden")
        assert "not valid" in page.text("#problem")
        give_key(page, "dsk_right")
        page.until("document.querySelector('#gate').hidden && document.querySelector('#model').options.length === 1")
        assert page.js("document.querySelector('#problem').hidden")
        ask(page, "What is 37 × 48?")
        page.until("document.querySelector('#stat-reason').textContent === 'stop'")
        assert page.text(".turn.assistant p") == ANSWER
        curl = page.js("document.querySelector('#curl').textContent")
        assert '-H "authorization: Bearer $DEEPSEEK_API_KEY"' in curl
        # Nowhere to be seen, and kept for this tab alone.
        assert "dsk_right" not in page.js("document.documentElement.outerHTML")
        assert page.js("document.querySelector('#key').value") == ""
        assert page.js("Object.values(localStorage).join()").find("dsk_right") == -1
        page.js("location.reload()")
        page.until("document.querySelector('#health.ready') && document.querySelector('#model').options.length === 1")
        assert page.js("document.querySelector('#gate').hidden")
        assert [problem for problem in page.problems if "401" not in problem] == []


@in_chromium
@pytest.mark.browser
def test_a_key_that_is_refused_in_the_middle_asks_for_another_and_keeps_the_prompt(devtools: str, asking: str) -> None:
    with open_page(devtools, asking, DESK) as page:
        page.until("!document.querySelector('#gate').hidden")
        give_key(page, "dsk_right")
        page.until("document.querySelector('#gate').hidden")
        page.js("import('/static/key.js').then((key) => key.keepKey('dsk_revoked'))")
        ask(page, "hello")
        page.until("!document.querySelector('#gate').hidden")
        assert "not valid" in page.text("#problem")
        assert page.js("document.querySelector('#prompt').value") == "hello"
        assert page.js("sessionStorage.length") == 0


@in_chromium
@pytest.mark.browser
def test_a_server_without_keys_shows_no_field_for_one(devtools: str, url: str) -> None:
    with open_page(devtools, url, DESK) as page:
        page.until("document.querySelector('#model').options.length === 2")
        assert page.js("document.querySelector('#gate').hidden")
        assert page.js("[...document.querySelectorAll('nav a')].every((link) => !link.hidden)")
        assert "authorization" not in page.js("document.querySelector('#curl').textContent")
