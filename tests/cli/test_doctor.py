"""`deepseek doctor`: one row a fact."""

from __future__ import annotations

from tests.cli.conftest import Run


def test_it_names_what_is_installed_and_in_use(run: Run) -> None:
    outcome = run("doctor")
    rows = dict(line.split("  ", 1) for line in outcome.out.splitlines())
    assert outcome.code == 0
    assert rows["torch"].strip().startswith("2.")
    for name in ("deepseek-stack", "cores", "memory", "GPU", "C++ compiler", "kernels: backend", "built-in model"):
        assert rows[name].strip(), name
    assert rows["kernels: isa"].strip() in rows["kernels: instruction sets"]


def test_a_row_is_a_line_however_long_its_path(run: Run) -> None:
    assert all("  " in line.strip() for line in run("doctor").out.splitlines())
