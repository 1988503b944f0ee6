"""Documents as text: what a reader would see, bounded, in time."""

import pypdf
import pytest
from perception_files import pdf

from deepseek.agent.perception import documents
from deepseek.agent.perception.documents import document_text
from deepseek.agent.perception.recognise import PerceptionError, recognise

pytestmark = pytest.mark.anyio

PAGE = """<!doctype html><html><head><title>Prices &amp; more</title><style>p {color: red}</style>
<script>alert("no")</script></head><body><h1>Tea</h1><p>A   cup of
<b>green</b> tea.</p><ul><li>one<li>two</ul><table><tr><td>a</td><td>b</td></tr></table>
<img src="x" alt="a cup"><pre>  as
 it is</pre></body></html>"""


async def read(data: bytes, max_chars: int = 10_000, name: str = "") -> documents.DocumentText:
    return await document_text(data, recognise(data, name), max_chars, name)


async def test_a_pdf_becomes_the_text_of_its_pages() -> None:
    found = await read(pdf("the first page", "and the second"))
    assert found.text.split("\n\n") == ["the first page", "and the second"]
    assert found.metadata == {"pages": "2", "title": "A report"}


async def test_a_long_pdf_is_cut_and_said_to_be() -> None:
    found = await read(pdf("one two three", "four"), max_chars=7)
    assert (found.text, found.truncated) == ("one two", True)


async def test_a_broken_pdf_is_refused() -> None:
    with pytest.raises(PerceptionError, match="broken PDF"):
        await read(b"%PDF-1.7\n" + b"garbage " * 50, name="a.pdf")


async def test_a_pdf_with_a_password_is_refused(tmp_path: object) -> None:
    import io

    writer = pypdf.PdfWriter(io.BytesIO(pdf("secret")))
    writer.encrypt("a password")
    out = io.BytesIO()
    writer.write(out)
    with pytest.raises(PerceptionError):
        await read(out.getvalue())


async def test_a_page_becomes_what_it_shows() -> None:
    found = await read(PAGE.encode())
    assert found.metadata == {"title": "Prices & more"}
    assert "# Tea" in found.text and "A cup of green tea." in found.text and "- one\n- two" in found.text
    assert "a\tb" in found.text and "[a cup]" in found.text and "as\n it is" in found.text
    assert "alert" not in found.text and "color" not in found.text


async def test_a_page_that_takes_too_long_to_read_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = documents.ToolRegistry([_with_time(tool) for tool in documents._READERS])
    monkeypatch.setattr(documents, "_READERS", slow)
    with pytest.raises(PerceptionError, match="too long"):
        await read(PAGE.encode())


def _with_time(tool: documents.Tool) -> documents.Tool:
    from dataclasses import replace

    return replace(tool, timeout_s=0.001)


async def test_tables_and_json_say_how_large_they_are() -> None:
    table = await read(b"name,age\nAda,36\nAlan,41\n")
    assert (table.metadata["rows"], table.metadata["columns"]) == ("3", "2")
    assert (await read(b'{"a": 1, "b": 2}')).metadata["json"] == "an object of 2 keys"
    assert table.text == "name,age\nAda,36\nAlan,41\n"
