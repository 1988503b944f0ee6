"""Documents are found in English and Chinese, by words and by meaning, by their own tenant alone, and kept up to date."""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek.core.documents import Passage, documents
from deepseek.core.errors import ConfigError, ModelError, TenancyError
from deepseek.tenancy import TenantContext
from deepseek.tenancy.documents import DocumentIndex, Indexed, offer
from deepseek.tenancy.documents.chunks import WIDTH, chunks
from deepseek.tenancy.documents.segment import coverage, question, segmented, words
from deepseek.tenancy.documents.vectors import fused

T = TypeVar("T")

TEXTS = {
    "engine": "The engine schedules requests. Indexing documents happens elsewhere.",
    "tenants": "Every tenant has a database of its own; isolation is by files.",
    "quota": "本公司的最新数据表明，配额每天零点重置。",
    "leave": "员工请假需要提前三天申请，由主管批准。",
    "mixed": "使用GPU训练时，请先安装CUDA驱动程序。",
}


class Axes:
    """An embedding model of three meanings: animals, machines, food."""

    name = "axes-1"
    meanings = (("cat", "dog", "feline", "猫"), ("engine", "motor", "machine", "发动机"), ("bread", "cake", "面包"))

    def __init__(self) -> None:
        self.seen = 0
        self.broken = False

    async def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        if self.broken:
            raise ModelError("out of order")
        self.seen += len(texts)
        return [[0.1 + sum(text.lower().count(word) for word in axis) for axis in self.meanings] for text in texts]


@pytest.fixture
def index(tmp_path: Path) -> Iterator[DocumentIndex]:
    found = DocumentIndex(root=tmp_path / "data")
    yield found
    found.close()


def run(work: Coroutine[Any, Any, T]) -> T:
    async def main() -> T:
        with TenantContext("acme"):
            return await work

    return asyncio.run(main())


def fill(index: DocumentIndex, texts: dict[str, str] = TEXTS) -> DocumentIndex:
    async def put() -> None:
        for source, text in texts.items():
            await index.put(source, text)

    run(put())
    return index


def names(index: DocumentIndex, query: str, limit: int = 5) -> list[str]:
    return [passage.name for passage in run(index.search(query, limit=limit))]


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("How are requests scheduled?", "engine"),
        ("index document", "engine"),
        ("TENANT isolation", "tenants"),
        ("最新", "quota"),
        ("配额什么时候重置？", "quota"),
        ("请假", "leave"),
        ("怎么请假", "leave"),
        ("驱动", "mixed"),
        ("ＣＵＤＡ", "mixed"),
        ("gpu训练", "mixed"),
        ("批", "leave"),
        ("准", "leave"),
    ],
)
def test_what_is_asked_for_comes_first(index: DocumentIndex, query: str, name: str) -> None:
    assert names(fill(index), query)[0] == name


@pytest.mark.parametrize(
    "query", ["", "?!", "   ", "zzz", "请问的了吗龘", '"', "a OR b NOT (", "NEAR(", "*", "col:x", "\0"]
)
def test_a_question_with_nothing_in_it_finds_nothing_and_breaks_nothing(index: DocumentIndex, query: str) -> None:
    assert names(fill(index), query) == [] or query in ("a OR b NOT (", "col:x")


@given(st.text(max_size=40))
def test_any_question_is_a_query_of_fts5(text: str) -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE VIRTUAL TABLE t USING fts5 (a, tokenize = 'porter unicode61 remove_diacritics 2')")
    wanted = words(text.encode("utf-8", "replace").decode())
    if wanted:
        connection.execute("SELECT * FROM t WHERE t MATCH ?", [question(wanted)]).fetchall()
    connection.close()


@given(st.text("最新数据表明ab c", min_size=2, max_size=30), st.data())
def test_any_two_characters_of_a_chinese_text_are_found(text: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(text) - 2))
    pair = text[at : at + 2]
    if all("\u4e00" <= char <= "\u9fff" for char in pair):
        assert pair in segmented(text).split()
        assert coverage(words(pair), text) == 1.0


def test_the_place_of_a_passage_is_its_place_in_the_text(index: DocumentIndex) -> None:
    text = "\n\n".join(f"Paragraph {number} speaks of topic{number} at some length. " * 8 for number in range(20))
    fill(index, {"long": text})
    (passage,) = run(index.search("topic13", limit=1))
    assert text[passage.start : passage.end] == passage.text
    assert "topic13" in passage.text and passage.start > 0


@given(st.text("ab。 \n.，最", max_size=400), st.integers(8, 60))
def test_passages_cover_a_text_in_order_and_are_short(text: str, width: int) -> None:
    found = list(chunks(text, width, width // 4))
    covered = {at for chunk in found for at in range(chunk.start, chunk.end)}
    assert all(text[at].isspace() for at in range(len(text)) if at not in covered)
    assert all(text[chunk.start : chunk.end] == chunk.text and len(chunk.text) <= width for chunk in found)
    assert [chunk.start for chunk in found] == sorted(chunk.start for chunk in found)


def test_a_chinese_passage_has_half_as_many_characters() -> None:
    assert max(len(chunk.text) for chunk in chunks("汉字" * 2000)) <= WIDTH // 2


def test_no_tenant_finds_anothers_documents(index: DocumentIndex) -> None:
    fill(index)

    async def ask() -> Sequence[Passage]:
        return await index.search("最新", tenant="other")

    assert asyncio.run(ask()) == ()
    with pytest.raises(TenancyError):
        asyncio.run(index.search("最新"))


def test_a_document_put_in_again_takes_the_place_of_the_old_one(index: DocumentIndex) -> None:
    fill(index, {"a": "alpha beta"})
    assert run(index.put("a", "gamma")) is True
    assert run(index.put("a", "gamma")) is False
    assert names(index, "alpha") == []
    assert names(index, "gamma") == ["a"]


def test_a_title_counts_more_than_a_mention(index: DocumentIndex) -> None:
    async def put() -> None:
        await index.put("mention", "Among others there are quotas. " + "filler words here. " * 5)
        await index.put("topic", "They are reset at midnight. " + "filler words here. " * 5, title="Quotas")

    run(put())
    assert names(index, "quotas")[0] == "topic"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.md").write_text("# Alpha\nfirst document", "utf-8")
    (folder / "sub" / "b.txt").write_bytes("第二个文档说明请假流程".encode("gb18030"))
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    (folder / ".hidden").write_text("hidden")
    (folder / "link.txt").symlink_to("/etc/hostname")
    return folder


def test_a_folder_is_indexed_and_only_what_changed_is_read_again(index: DocumentIndex, folder: Path) -> None:
    read: list[str] = []

    async def reader(path: Path) -> str | None:
        from deepseek.tenancy.documents.reading import read_text

        read.append(path.name)
        return await read_text(path)

    def update() -> Indexed:
        read.clear()
        return run(index.update(folder, reader=reader))

    first = update()
    assert (first.added, first.removed, first.skipped) == (2, 0, (("docs/picture.png", "no text"),))
    assert names(index, "请假") == ["docs/sub/b.txt"]

    assert update() == Indexed(unchanged=2, skipped=first.skipped)
    assert read == ["picture.png"]

    (folder / "a.md").write_text("# Alpha\nchanged document", "utf-8")
    (folder / "sub" / "b.txt").unlink()
    (folder / "c.txt").write_text("third")
    third = update()
    assert (third.added, third.changed, third.unchanged, third.removed) == (1, 1, 0, 1)
    assert names(index, "请假") == []
    assert names(index, "changed") == ["docs/a.md"]


def test_a_file_that_was_only_touched_is_unchanged(index: DocumentIndex, folder: Path) -> None:
    run(index.update(folder))
    os.utime(folder / "a.md", ns=(1, 1))
    assert run(index.update(folder)).changed == 0


def test_what_is_gone_is_taken_out_also_with_its_folder(index: DocumentIndex, folder: Path) -> None:
    run(index.update(folder))
    assert run(index.remove(str(folder / "sub"))) == 1
    assert names(index, "请假") == []
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()
    assert run(index.update(folder)).removed == 1
    with pytest.raises(ConfigError):
        run(index.update(folder))


def test_a_sibling_with_a_longer_name_is_not_taken_for_a_part(index: DocumentIndex, tmp_path: Path) -> None:
    for name in ("doc", "docs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.txt").write_text(f"word{name}")
        run(index.update(tmp_path / name))
    run(index.remove(str(tmp_path / "doc")))
    assert names(index, "worddocs") == ["docs/x.txt"]


def test_names_of_files_may_be_any_bytes(index: DocumentIndex, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / os.fsdecode(b"\xff.txt")).write_text("strange")
    assert run(index.update(folder)).added == 1
    assert run(index.update(folder)).unchanged == 1
    assert len(names(index, "strange")) == 1


def meaningful(tmp_path: Path, model: Axes) -> DocumentIndex:
    return DocumentIndex(root=tmp_path / "data", embedder=model)


def test_meaning_finds_what_words_do_not(tmp_path: Path) -> None:
    model = Axes()
    index = meaningful(tmp_path, model)
    fill(index, {"pets": "A cat is a small animal.", "cars": "The motor of a car.", "food": "Bread and cake."})
    assert run(index.embed_missing()) == 3
    assert names(index, "feline")[0] == "pets"
    assert names(index, "发动机", limit=1) == ["cars"]
    index.close()


def test_vectors_are_made_once_and_follow_what_changes(tmp_path: Path) -> None:
    model = Axes()
    index = meaningful(tmp_path, model)
    fill(index, {"pets": "A cat.", "cars": "A motor."})
    run(index.embed_missing())
    assert run(index.embed_missing()) == 0
    assert model.seen == 2
    assert names(index, "dog", limit=1) == ["pets"]
    run(index.put("pets", "A cake."))
    run(index.embed_missing())
    assert names(index, "面包", limit=1) == ["pets"]
    index.close()


def test_where_the_embedding_model_fails_words_still_find(tmp_path: Path) -> None:
    model = Axes()
    index = meaningful(tmp_path, model)
    fill(index)
    run(index.embed_missing())
    model.broken = True
    assert names(index, "最新") == ["quota"]
    index.close()


def test_vectors_of_another_model_are_not_compared(tmp_path: Path) -> None:
    fill(meaningful(tmp_path, Axes()), {"pets": "A cat."})
    other = Axes()
    other.name = "axes-2"
    assert names(meaningful(tmp_path, other), "feline") == []


def test_ranks_are_fused_as_published() -> None:
    assert fused([1, 2], [2, 3]) == [(2, 1 / 62 + 1 / 61), (1, 1 / 61), (3, 1 / 62)]


def test_documents_are_found_through_core_once_they_are_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPSEEK_DATA", str(tmp_path / "data"))
    offer()
    fill(DocumentIndex())
    found: Callable[..., Coroutine[Any, Any, Sequence[Passage]]] = documents().search  # type: ignore[assignment]
    assert [passage.name for passage in run(found("最新"))] == ["quota"]
