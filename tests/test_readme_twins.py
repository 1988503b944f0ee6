"""README.md and README.zh-CN.md are twins: the same headings in the same order, and the very same code."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FENCE = re.compile(
    r"^(?P<fence>```+|~~~+)(?P<language>[^\n`]*)\n(?P<body>.*?)^(?P=fence)[ \t]*$", re.MULTILINE | re.DOTALL
)
HEADING = re.compile(r"^(#{1,6})[ \t]+\S", re.MULTILINE)


def code_blocks(text: str) -> list[tuple[str, str]]:
    """Each fenced block as (language, body)."""
    return [(match["language"].strip(), match["body"]) for match in FENCE.finditer(text)]


def heading_levels(text: str) -> list[int]:
    """The level of each heading in order; a `#` inside a code block is no heading."""
    return [len(match[1]) for match in HEADING.finditer(FENCE.sub("", text))]


@pytest.fixture(scope="module")
def twins() -> tuple[str, str]:
    return (ROOT / "README.md").read_text(encoding="utf-8"), (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")


def test_the_twins_have_the_same_headings(twins: tuple[str, str]) -> None:
    english, chinese = twins
    assert heading_levels(english) == heading_levels(chinese)
    assert heading_levels(english)[0] == 1


def test_the_twins_have_the_same_code(twins: tuple[str, str]) -> None:
    english, chinese = twins
    assert code_blocks(english) == code_blocks(chinese)


def test_the_twins_lead_to_each_other(twins: tuple[str, str]) -> None:
    english, chinese = twins
    assert "(README.zh-CN.md)" in english
    assert "(README.md)" in chinese


def test_the_chinese_twin_is_in_chinese(twins: tuple[str, str]) -> None:
    prose = FENCE.sub("", twins[1])
    assert len(re.findall(r"[\u4e00-\u9fff]", prose)) > 0.2 * len(re.findall(r"\S", prose))


def test_a_comment_in_a_code_block_is_not_read_as_a_heading() -> None:
    text = "# Title\n\n```sh\n# not a heading\nmake run\n```\n\n## Next\n"
    assert heading_levels(text) == [1, 2]
    assert code_blocks(text) == [("sh", "# not a heading\nmake run\n")]
