"""Free memory, as a container sees it."""

from __future__ import annotations

from pathlib import Path

from deepseek.core import memory


def test_memory_is_what_the_control_group_leaves(tmp_path: Path) -> None:
    def free() -> int | None:
        return memory._free_in_group("memory.max", "memory.current", "inactive_file", tmp_path)

    assert free() is None
    for name, content in (
        ("memory.max", "max"),
        ("memory.current", "300"),
        ("memory.stat", "anon 9\ninactive_file 50\n"),
    ):
        (tmp_path / name).write_text(content)
    assert free() is None
    (tmp_path / "memory.max").write_text("1000\n")
    assert free() == 750
    (tmp_path / "memory.max").write_text("100\n")
    assert free() == 0
    assert memory.available_bytes() > 0
