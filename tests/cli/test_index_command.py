"""`deepseek index`: documents in, found, brought up to date, and out again; each tenant's apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "leave.md").write_text("# 请假\n员工请假需要提前三天申请。", "utf-8")
    (folder / "page.html").write_text("<html><body><script>var hidden</script><p>The <b>portal</b> is open.</p></body>")
    (folder / "data.json").write_text('{"quota": 12}')
    (folder / "noise.bin").write_bytes(bytes(range(256)))
    return folder


def test_a_folder_is_indexed_and_searched(run: Run, folder: Path) -> None:
    done = run("index", str(folder))
    assert (done.code, done.out) == (0, "3 added, 0 changed, 0 unchanged, 0 removed, 1 left out\n")
    assert "noise.bin" in done.err
    found = run("index", "--search", "怎么请假", "--json")
    assert [passage["name"] for passage in json.loads(found.out)] == ["docs/leave.md"]
    page = run("index", "--search", "portal")
    assert "The portal is open." in page.out.replace("**", "") and "hidden" not in page.out


def test_a_second_run_reads_nothing_that_did_not_change(run: Run, folder: Path) -> None:
    run("index", str(folder))
    (folder / "data.json").unlink()
    done = json.loads(run("index", str(folder), "--json").out)
    assert (done["added"], done["unchanged"], done["removed"]) == (0, 2, 1)


def test_tenants_do_not_see_each_others_documents(run: Run, folder: Path) -> None:
    run("index", str(folder), "--tenant", "acme")
    assert run("index", "--search", "portal").out == "nothing found\n"
    assert "portal" in run("index", "--search", "portal", "--tenant", "acme").out


def test_a_folder_can_be_taken_out(run: Run, folder: Path) -> None:
    run("index", str(folder))
    assert "3 removed" in run("index", str(folder), "--remove").out
    assert run("index", "--search", "portal").out == "nothing found\n"


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--remove"],
        ["/no/such/folder"],
        ["--search", "x", "--tenant", "../x"],
        ["--search", "x", "--embeddings", "x"],
    ],
)
def test_a_mistake_is_one_line_and_code_2(run: Run, args: list[str]) -> None:
    wrong = run("index", *args)
    assert wrong.code == 2 and len(wrong.err.strip().splitlines()) == 1


def test_what_a_document_says_to_the_terminal_is_not_obeyed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "evil.txt").write_text("portal \x1b[2J gone")
    run("index", str(tmp_path / "evil.txt"))
    assert "\x1b" not in run("index", "--search", "portal").out
