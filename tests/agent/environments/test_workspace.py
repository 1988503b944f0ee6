"""A workspace: what it does, what it bounds, and that no path leads out of it, whoever changes what meanwhile."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepseek.agent.environments.workspace import MAX_DEPTH, Workspace, WorkspaceLimits, parts_of
from deepseek.agent.execution.errors import ToolFailed, ToolRefused, ToolRetry
from deepseek.core.errors import ToolError

SECRET = "hunter2"


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    (tmp_path / "secret.txt").write_text(SECRET)
    with Workspace(tmp_path / "work") as opened:
        yield opened


def test_what_is_written_is_read(workspace: Workspace) -> None:
    assert workspace.write("notes/today.txt", "Grüße 你好\n") == 15
    assert workspace.read("notes/today.txt") == "Grüße 你好\n"
    assert workspace.read("./notes//today.txt") == "Grüße 你好\n"


def test_a_file_is_replaced_whole(workspace: Workspace) -> None:
    workspace.write("a", "long text")
    workspace.write("a", "x")

    assert workspace.read("a") == "x"
    assert [entry.path for entry in workspace.entries()] == ["a"]


def test_the_list_names_files_and_directories_in_order(workspace: Workspace) -> None:
    for path in ("b.txt", "a/c.txt", "a/b/d.txt"):
        workspace.write(path, "12345")

    assert [(entry.path, entry.bytes) for entry in workspace.entries()] == [
        ("a/", 0), ("a/b/", 0), ("a/b/d.txt", 5), ("a/c.txt", 5), ("b.txt", 5),
    ]  # fmt: skip


def test_a_search_finds_lines_whatever_their_case(workspace: Workspace) -> None:
    workspace.write("a.txt", "one\n  Two words\nthree")
    workspace.write("b/c.txt", "nothing\ntwo")

    assert [(m.path, m.line, m.text) for m in workspace.search("TWO")] == [
        ("a.txt", 2, "Two words"),
        ("b/c.txt", 2, "two"),
    ]
    assert workspace.search("two", most=1) == workspace.search("two")[:1]


def test_a_search_passes_over_what_is_not_text(workspace: Workspace) -> None:
    (workspace.root / "binary").write_bytes(b"\xff\xfetwo")
    workspace.write("a", "two")

    assert [match.path for match in workspace.search("two")] == ["a"]


OUTSIDE = [
    "../secret.txt",
    "/etc/passwd",
    "a/../../secret.txt",
    "~/x",
    "..",
    "a\\..\\b",
    "/",
    "",
    ".",
    "a\0b",
    "a\nb",
    "x" * 2000,
    "d/" * MAX_DEPTH + "f",
]


@pytest.mark.parametrize("path", OUTSIDE, ids=range(len(OUTSIDE)))
def test_a_path_that_is_not_below_the_root_is_refused(workspace: Workspace, path: str) -> None:
    with pytest.raises(ToolRetry):
        workspace.read(path)
    with pytest.raises(ToolRetry):
        workspace.write(path, "x")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    st.lists(
        st.sampled_from(["..", ".", "", "a", "secret.txt", "etc", "~", "\\", "…", "．．", " ", "..."]), max_size=8
    ).map("/".join)
)
def test_no_path_reads_or_writes_outside(workspace: Workspace, path: str) -> None:
    try:
        workspace.write(path, "mine")
        assert workspace.read(path) == "mine"
    except ToolError:
        pass
    assert (workspace.root.parent / "secret.txt").read_text() == SECRET
    assert {entry.name for entry in workspace.root.parent.iterdir()} == {"secret.txt", "work"}


@given(st.text(max_size=60))
def test_parts_of_a_path_never_climb(path: str) -> None:
    try:
        parts = parts_of(path)
    except ToolRetry:
        return
    assert parts
    assert not {"", ".", ".."} & set(parts)
    assert not any("/" in part or "\0" in part for part in parts)


def test_links_are_not_followed_whether_last_or_on_the_way(workspace: Workspace) -> None:
    (workspace.root / "link.txt").symlink_to(workspace.root.parent / "secret.txt")
    (workspace.root / "up").symlink_to(workspace.root.parent)
    (workspace.root / "self").symlink_to("self")

    for path in ("link.txt", "up/secret.txt", "self"):
        with pytest.raises(ToolRetry):
            workspace.read(path)
        with pytest.raises(ToolError):
            workspace.write(path, "x")
    assert workspace.entries() == []
    assert (workspace.root.parent / "secret.txt").read_text() == SECRET


def test_a_file_with_another_name_elsewhere_keeps_its_content_there(workspace: Workspace) -> None:
    os.link(workspace.root.parent / "secret.txt", workspace.root / "hard.txt")
    workspace.write("hard.txt", "x")

    assert workspace.read("hard.txt") == "x"
    assert (workspace.root.parent / "secret.txt").read_text() == SECRET


def test_a_named_pipe_is_not_waited_for(workspace: Workspace) -> None:
    os.mkfifo(workspace.root / "pipe")

    with pytest.raises(ToolRetry, match="not a file"):
        workspace.read("pipe")
    with pytest.raises(ToolRetry, match="not a file"):
        workspace.write("pipe", "x")


def test_a_directory_is_not_a_file(workspace: Workspace) -> None:
    workspace.write("d/f", "x")

    with pytest.raises(ToolRetry):
        workspace.read("d")
    with pytest.raises(ToolRetry):
        workspace.write("d", "x")
    with pytest.raises(ToolRetry):
        workspace.read("d/f/g")


def test_a_directory_that_becomes_a_link_between_two_looks_lets_nothing_out(workspace: Workspace) -> None:
    outside = workspace.root.parent / "outside"
    outside.mkdir()
    (outside / "f").write_text(SECRET)
    real, link = workspace.root / "real", workspace.root / "link"
    real.mkdir()
    (real / "f").write_text("inside")
    link.symlink_to(outside)
    over = threading.Event()

    def swap() -> None:
        here = workspace.root / "d"
        while not over.is_set():
            for kind in (real, link):
                try:
                    os.rename(kind, here)
                except OSError:  # writing has made a directory of that name meanwhile
                    shutil.rmtree(here)
                else:
                    os.rename(here, kind)

    thread = threading.Thread(target=swap)
    thread.start()
    seen = set()
    try:
        for number in range(3000):
            try:
                seen.add(workspace.read("d/f"))
                if number % 10 == 0:
                    workspace.write("d/g", "written")
            except ToolError:
                continue
    finally:
        over.set()
        thread.join()

    assert seen <= {"inside"}
    assert [path.name for path in outside.iterdir()] == ["f"]


def test_the_root_may_be_moved_while_it_is_open(workspace: Workspace) -> None:
    workspace.write("a", "x")
    moved = workspace.root.rename(workspace.root.parent / "moved")
    (workspace.root.parent / "work").symlink_to("/etc")

    workspace.write("b", "y")

    assert (moved / "b").read_text() == "y"


def test_sizes_and_numbers_are_bounded(tmp_path: Path) -> None:
    limits = WorkspaceLimits(file_bytes=100, total_bytes=250, files=4)
    workspace = Workspace(tmp_path / "w", limits=limits)

    with pytest.raises(ToolFailed, match="too large; found 101 bytes"):
        workspace.write("a", "x" * 101)
    workspace.write("a", "x" * 100)
    workspace.write("b", "x" * 100)
    with pytest.raises(ToolFailed, match="full"):
        workspace.write("c", "x" * 100)
    workspace.write("a", "y" * 100)
    for name in ("c", "d"):
        workspace.write(name, "")
    workspace.write("d", "x")
    (workspace.root / "large").write_bytes(bytes(101))
    with pytest.raises(ToolFailed, match="too large"):
        workspace.read("large")
    (workspace.root / "large").unlink()
    workspace.write("d", "again")
    with pytest.raises(ToolFailed, match="too many files"):
        workspace.write("e", "")
    workspace.close()


def test_a_file_without_end_is_not_read_to_its_end(workspace: Workspace) -> None:
    with (workspace.root / "sparse").open("wb") as stream:
        stream.truncate(1 << 40)

    with pytest.raises(ToolFailed, match="too large"):
        workspace.read("sparse")
    assert workspace.search("x") == []


def test_a_file_that_is_not_text_is_not_read(workspace: Workspace) -> None:
    (workspace.root / "b").write_bytes(b"\xff")

    with pytest.raises(ToolFailed, match="not a text file"):
        workspace.read("b")


def test_a_read_only_workspace_is(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    workspace = Workspace(tmp_path, read_only=True)

    assert workspace.read("a") == "x"
    with pytest.raises(ToolRefused, match="read-only"):
        workspace.write("a", "y")
    workspace.close()


def test_what_is_said_of_a_file_does_not_name_the_workspaces_place(workspace: Workspace) -> None:
    with pytest.raises(ToolRetry, match="no such file") as caught:
        workspace.read("missing/file")

    assert str(workspace.root) not in str(caught.value)


def test_a_closed_workspace_says_so(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.close()

    for use in (workspace.entries, lambda: workspace.read("a"), lambda: workspace.write("a", "x")):
        with pytest.raises(ToolFailed, match="closed"):
            use()


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")

    with pytest.raises(ToolError, match="cannot be used"):
        Workspace(tmp_path / "f")
