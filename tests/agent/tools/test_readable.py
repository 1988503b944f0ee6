"""Web pages as text: what is kept, what is left out, and that no page is too much."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek.agent.tools.readable import readable

PAGE = """<!DOCTYPE html><html><head><meta charset=utf-8><title>Tea &amp; more</title><style>p {color: red}</style>
<script>alert("no")</script></head><body><nav><a href="/home">Home</a></nav><h1>Green  tea</h1>
<p>Water at <b>80&nbsp;°C</b>,<br>three minutes.</p><ul><li>Sencha<li>Gyokuro</ul>
<table><tr><th>Kind<th>Price</tr><tr><td>Sencha</td><td>5</td></tr></table>
<pre>  a
    b</pre><!-- hidden --><noscript>no</noscript><p>See <a href="https://tea.example/x?a=1&amp;b=2">the shop</a>.</p>
<img src=x alt="A cup"><textarea>typed</textarea></body></html>"""


def test_a_page_reads_as_a_person_sees_it() -> None:
    assert readable(PAGE, "https://tea.example/green") == (
        "Tea & more\n\n[Home](https://tea.example/home)\n\n# Green tea\n\nWater at 80 °C,\nthree minutes.\n\n- Sencha\n- Gyokuro\n\n"
        "Kind | Price\nSencha | 5\n\n  a\n    b\n\nSee [the shop](https://tea.example/x?a=1&b=2).\n\n[A cup]"
    ).replace("\u00a0", " ")


def test_without_an_address_links_are_their_text() -> None:
    assert "See the shop." in readable(PAGE)


@pytest.mark.parametrize(
    "href",
    [
        "javascript:alert(1)",
        "data:text/html,x",
        "#top",
        "mailto:a@b.example",
        "http://[",
        "https://e.example/" + "x" * 600,
    ],
)
def test_only_links_to_pages_are_kept(href: str) -> None:
    assert readable(f'<a href="{href}">word</a>', "https://a.example/") == "word"


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>a<p>b", "a\n\nb"),
        ("just text", "just text"),
        ("", ""),
        ("<title>T</title><p>no head, no body", "T\n\nno head, no body"),
        ("<title>never closed<body><p>x", "never closed\n\nx"),
        ("<script>if (a < b) { '</p>' }</script>x", "x"),
        ("<svg><title>no</title><text>no</text></svg>x", "x"),
        ("a < b &amp;&amp; c &gt; d &#x4f60;", "a < b && c > d 你"),
        ("<h1>Same</h1><title>Same</title>", "# Same"),
        ("<b>unclosed <i>tags", "unclosed tags"),
        ("</div></p>stray", "stray"),
    ],
)
def test_careless_pages_are_read_too(html: str, text: str) -> None:
    assert readable(html) == text


def test_a_long_page_is_cut() -> None:
    assert 900 <= len(readable("<p>" + "word " * 10**5, max_chars=1000)) <= 6 * 10**5
    assert len(readable("<p>word</p>" * 10**5, max_chars=1000)) < 2500


HEAVY = [
    "<div>", "<", "<a ", "&#", "<svg>", "<!", "<a href='", "<li>", "<a href=\"'", "<a b='c'", "<!--", "<a =", "<script>", "</",
    "<pre>\n", "&#1",    "<a href='x'>", "<title>", "<td>x", "<?", "<!--->", "<a href=x>y</a>", "<textarea>", "= '",
]  # fmt: skip


@pytest.mark.parametrize("piece", HEAVY)
def test_the_time_a_page_takes_grows_with_its_length(piece: str) -> None:
    html = piece * (400_000 // len(piece))
    begun = time.process_time()
    readable(html, "https://a.example/", max_chars=10**7)

    assert time.process_time() - begun < 3


def test_a_character_reference_may_be_any_length() -> None:
    assert readable("a&#" + "1" * 10_000 + ";b") == "a\ufffdb"


_PIECES = (
    "<", ">", "</", "/>", "<!--", "-->", "<![", "]]>", "<p>", "<script>", "</script>", "&", ";", "a", '"', "'", "=", "<title>",
    "<pre>", "\n",    "<?", "<!x", "\0", "<a href=x>",
)  # fmt: skip


@given(st.lists(st.sampled_from(_PIECES), max_size=60).map("".join))
def test_whatever_a_page_is_made_of_it_is_text_in_the_end(html: str) -> None:
    assert "\0" not in readable(html, "https://a.example/")
