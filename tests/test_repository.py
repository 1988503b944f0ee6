"""What the repository itself promises: it names no machine, its locks are whole, its version is one, its files explain
themselves."""

import ast
import importlib.metadata
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TEXT_BYTES = 2_000_000

# Written so that this file does not match itself.
FOREIGN = {
    "a path of one machine": r"(?<![\w./-])/(?:root|work|home/\w+|Users/\w+|opt/(?:wheels|pypi[\w-]*))/",
    "a package index address": r"(?:find[-]links|index[-]url)\b|pypi\.org/(?:simple)|files\.pythonhosted(?:\.)org",
}


def tracked() -> list[Path]:
    """The files git carries, or would after `git add`."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def pins(lock: str) -> dict[str, str]:
    """name -> version of each requirement in requirements/<lock>.lock."""
    text = (ROOT / "requirements" / f"{lock}.lock").read_text()
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", text, re.MULTILINE))


def names(requirements: list[str]) -> set[str]:
    """Normalised project names of requirement lines."""
    return {re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", line)[0]).lower() for line in requirements}


@pytest.mark.parametrize("what", FOREIGN)
def test_no_file_names_a_machine_or_an_index(what: str) -> None:
    pattern = re.compile(FOREIGN[what])
    found = []
    for path in tracked():
        if path.stat().st_size > TEXT_BYTES:
            continue
        raw = path.read_bytes()
        if b"\0" in raw:
            continue
        for number, line in enumerate(raw.decode("utf-8").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert found == []


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("a path of one machine", "cache = '/" + "root/.cache'"),
        ("a path of one machine", "see /" + "home/someone/model"),
        ("a package index address", "pip install --extra-index" + "-url http://mirror deepseek-stack"),
    ],
)
def test_a_foreign_line_is_recognised(what: str, line: str) -> None:
    assert re.search(FOREIGN[what], line)


@pytest.mark.parametrize("lock", ["runtime", "dev", "conformance"])
def test_every_pin_of_a_lock_carries_hashes(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.lock").read_text()
    entries = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(entries) == len(pins(lock)) > 10
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize("lock", ["runtime", "dev", "conformance"])
def test_no_lock_pins_torch_or_its_accelerator_libraries(lock: str) -> None:
    assert [name for name in pins(lock) if name.startswith(("torch", "nvidia-", "triton", "cuda-"))] == []


def test_the_locks_agree_where_they_overlap() -> None:
    runtime, dev = pins("runtime"), pins("dev")
    assert {
        name: (runtime[name], dev[name]) for name in runtime.keys() & dev.keys() if runtime[name] != dev[name]
    } == {}


def test_the_locks_cover_every_declared_dependency() -> None:
    project = PYPROJECT["project"]
    needed = names(project["dependencies"]) | names(PYPROJECT["dependency-groups"]["torch-needs"])
    assert needed - pins("runtime").keys() == {"torch"}
    assert names(project["optional-dependencies"]["dev"]) - pins("dev").keys() == set()


def test_the_outside_suites_are_locked() -> None:
    assert names(PYPROJECT["dependency-groups"]["conformance"]) - pins("conformance").keys() == set()


def test_what_asks_for_torch_has_a_lock_of_its_own_and_finds_the_rest_in_the_others() -> None:
    own = pins("torch-users")
    text = (ROOT / "requirements" / "torch-users.lock").read_text()
    assert [f"{name}=={version}" for name, version in own.items()] == PYPROJECT["dependency-groups"]["torch-users"]
    assert text.count("--hash=sha256:") == len(own)
    required = [line for name in own for line in importlib.metadata.requires(name) or [] if "extra ==" not in line]
    assert names(required) - own.keys() - pins("runtime").keys() - pins("dev").keys() == {"torch"}


def test_the_locks_cover_everything_that_torch_needs() -> None:
    required = [line for line in importlib.metadata.requires("torch") or [] if "extra ==" not in line]
    required = [line for line in required if not line.startswith(("nvidia", "triton", "cuda"))]
    assert names(required) - pins("runtime").keys() == set()


def test_torch_is_pinned_alike_in_the_project_and_the_makefile() -> None:
    (declared,) = [line for line in PYPROJECT["project"]["dependencies"] if line.startswith("torch")]
    assert re.findall(r"pip install (torch\S+)|\$\(PIP\) install (torch\S+)", (ROOT / "Makefile").read_text()) == [
        ("", declared)
    ]


def test_the_newest_section_of_the_changelog_is_this_version() -> None:
    sections = re.findall(r"^## \[?([^\]\s]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert next(section for section in sections if section != "Unreleased") == PYPROJECT["project"]["version"]


def test_every_module_of_the_package_opens_by_saying_what_it_is_for() -> None:
    modules = sorted((ROOT / "deepseek").rglob("*.py"))
    assert [str(path.relative_to(ROOT)) for path in modules if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_every_relative_link_of_a_page_leads_to_a_file() -> None:
    pages = [path for path in tracked() if path.suffix == ".md"]
    links = [(page, link) for page in pages for link in re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", page.read_text())]
    assert links
    assert [f"{page.relative_to(ROOT)}: {link}" for page, link in links if not (page.parent / link).exists()] == []
