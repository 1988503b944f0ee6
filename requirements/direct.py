"""Print what a lock file must pin directly, one requirement a line; `make lock` pipes it on.

pyproject.toml is the one list of dependencies. torch is left out, because it is installed alone before the lock
(docs/decisions/0001-two-step-install.md); what torch itself needs is put in, from the group `torch-needs`.
"""

import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def direct(lock: str) -> list[str]:
    """The direct requirements of the `runtime`, the `dev`, the `torch-users` or the `conformance` lock."""
    tables = tomllib.loads(PYPROJECT.read_text())
    project = tables["project"]
    if lock == "dev":
        return list(project["optional-dependencies"]["dev"])
    if lock in ("torch-users", "conformance"):
        return list(tables["dependency-groups"][lock])
    wanted = project["dependencies"] + tables["dependency-groups"]["torch-needs"] + tables["build-system"]["requires"]
    return [requirement for requirement in wanted if not requirement.startswith("torch==")]


if __name__ == "__main__":
    print("\n".join(direct(sys.argv[1])))
