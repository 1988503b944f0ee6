"""The house has floors, and a room imports only from the floors below it.

The package is read, not imported: every import statement (deferred and type-checking ones too) is resolved to the room
it reaches, and the room's floor is compared with the importer's. The same reading follows imports transitively to show
that what must stay free of torch does. Each rule is shown to fail on a package made up for the purpose.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "deepseek"

FLOORS = {
    "core": 0,
    "kernels": 0,
    "precision": 1,
    "tenancy": 1,
    "plugins": 1,
    "models": 2,
    "parallel": 3,
    "training": 4,
    "engine": 4,
    "chat": 5,
    "evaluation": 5,
    "agent": 6,
    "learning": 7,
    "api": 7,
    "console": 8,
    "cli": 9,
    "__main__": 10,
}

# Sideways steps the design draws: core is what everyone speaks, so its neighbour on the ground floor speaks it too.
SIDEWAYS = {("kernels", "core")}

TORCH_FREE = ("core", "engine.request", "engine.blocks", "engine.scheduler", "engine.plan")

Sources = Mapping[str, str]  # dotted module name -> source; a package's name ends in ".__init__"


@dataclass(frozen=True)
class Import:
    """One import: the dotted name it reaches, where, and whether it runs when the module is loaded."""

    target: str
    line: int
    at_load: bool


def imports(module: str, source: str) -> Iterator[Import]:
    """Every import in `source`: statements at any depth, relative ones resolved, and literal import_module calls."""
    yield from _walk(module, ast.parse(source), at_load=True)


def _walk(module: str, node: ast.AST, at_load: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        runs = at_load and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, at_load) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = _absolute(module, child)
            yield from (Import(f"{base}.{alias.name}", child.lineno, at_load) for alias in child.names)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _walk(module, ast.Module(body=child.body, type_ignores=[]), at_load=False)
            yield from _walk(module, ast.Module(body=child.orelse, type_ignores=[]), at_load)
        else:
            if isinstance(child, ast.Call) and ast.unparse(child.func).split(".")[-1] in (
                "import_module",
                "__import__",
            ):
                argument = child.args[0] if child.args else None
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield Import(argument.value, child.lineno, at_load)
            yield from _walk(module, child, runs)


def _absolute(module: str, node: ast.ImportFrom) -> str:
    if node.level == 0:
        return node.module or ""
    parents = module.split(".")[: -node.level]
    return ".".join(parents + ([node.module] if node.module else []))


def room_of(dotted: str) -> str:
    """`deepseek.engine.plan` -> `engine`; the package itself -> `__init__`."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def floor_violations(sources: Sources) -> list[str]:
    """Each import that reaches up, sideways undrawn, or into the top-level front, as `module:line: why`."""
    found = []
    for module, source in sorted(sources.items()):
        room = room_of(module)
        if room != "__init__" and room not in FLOORS:
            found.append(f"{module}: room {room!r} stands on no floor of the design")
            continue
        for item in imports(module, source):
            if item.target.split(".")[0] != "deepseek":
                continue
            why = _why_not(room, room_of(item.target), item)
            if why:
                found.append(f"{module}:{item.line}: {why}")
    return found


def _why_not(room: str, reached: str, item: Import) -> str | None:
    if room == "__init__":
        # The front door may name any room, but opens it only when asked.
        return f"loads {item.target} with the package; defer it" if item.at_load and reached != "core" else None
    if reached not in FLOORS:
        return f"imports {item.target} from the top of the package; import it from the room that defines it"
    if reached == room or (room, reached) in SIDEWAYS or FLOORS[reached] < FLOORS[room]:
        return None
    return f"{room} (floor {FLOORS[room]}) imports {item.target} (floor {FLOORS[reached]})"


def torch_paths(sources: Sources, roots: tuple[str, ...] = TORCH_FREE) -> list[str]:
    """Chains of imports from a torch-free root to torch, as `a -> b -> torch`.

    A root itself may not name torch at all; what it reaches may, as long as loading it does not.
    """
    found = []
    for start in sorted(name for name in sources if _is_root(name, roots)):
        own_packages = set(_packages(start))  # the room's front may load more than the root does
        seen = {start} | own_packages
        chains: list[tuple[str, ...]] = [(start,)]
        while chains:
            chain = chains.pop()
            for item in imports(chain[-1], sources[chain[-1]]):
                if item.target.split(".")[0] == "torch" and (item.at_load or len(chain) == 1):
                    found.append(" -> ".join([*chain, "torch"]))
                for module in _loaded_by(sources, item.target) if item.at_load else ():
                    if module not in seen:
                        seen.add(module)
                        chains.append((*chain, module))
    return sorted(set(found))


def _is_root(module: str, roots: tuple[str, ...]) -> bool:
    inside = module.removeprefix("deepseek.")
    return any(inside == root or inside.startswith(f"{root}.") for root in roots)


def _packages(module: str) -> list[str]:
    parts = module.split(".")[:-1]
    return [".".join([*parts[:end], "__init__"]) for end in range(1, len(parts) + 1)]


def _loaded_by(sources: Sources, dotted: str) -> list[str]:
    """The modules of the package that `import dotted`, or `from parent import name`, runs."""
    names = [*_packages(f"{dotted}.__init__"), dotted, dotted.rpartition(".")[0]]
    return [name for name in names if name in sources]


@pytest.fixture(scope="module")
def package() -> Sources:
    files = sorted(PACKAGE.rglob("*.py"))
    return {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path.read_text() for path in files}


def test_every_import_of_the_package_goes_down(package: Sources) -> None:
    assert len(package) > 1
    assert floor_violations(package) == []


def test_core_and_the_scheduling_half_of_the_engine_do_not_reach_torch(package: Sources) -> None:
    assert torch_paths(package) == []


def test_importing_core_does_not_load_torch() -> None:
    modules = [f"deepseek.core.{path.stem}" for path in (PACKAGE / "core").glob("*.py") if path.stem != "__init__"]
    assert modules
    program = f"import sys, {', '.join(sorted(modules))}; sys.exit('torch' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert loaded.returncode == 0, loaded.stderr or "torch was loaded"


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("deepseek.models.layers", "from deepseek.engine.plan import StepPlan"),
        ("deepseek.engine.worker", "from deepseek.training import losses"),
        ("deepseek.training.trainer", "import deepseek.engine"),
        ("deepseek.tenancy.context", "from ..plugins import manager"),
        ("deepseek.core.errors", "from deepseek.kernels import reference"),
        ("deepseek.core.errors", "def late():\n    from deepseek.models import layers"),
        ("deepseek.chat.__init__", "from .. import api"),
        ("deepseek.engine.engine", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import deepseek.api"),
        ("deepseek.models.config", "import importlib\nimportlib.import_module('deepseek.cli')"),
        ("deepseek.agent.agent", "from deepseek import LLM"),
        ("deepseek.cellar.wine", "import math"),
        ("deepseek.__init__", "from deepseek.engine import LLM"),
    ],
)
def test_an_import_that_breaks_the_floors_is_reported(module: str, source: str) -> None:
    assert len(floor_violations({module: source})) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("deepseek.models.layers", "from deepseek.kernels import reference\nfrom .config import ModelConfig"),
        ("deepseek.kernels.reference", "from deepseek.core.errors import LayoutError"),
        ("deepseek.engine.worker", "from ..models.transformer import Transformer\nimport torch"),
        ("deepseek.__init__", "def __getattr__(name):\n    from deepseek.engine.llm import LLM\n    return LLM"),
        ("deepseek.__main__", "from deepseek.cli import main"),
    ],
)
def test_an_import_that_keeps_the_floors_is_not_reported(module: str, source: str) -> None:
    assert floor_violations({module: source}) == []


def test_torch_is_found_through_a_chain_of_imports() -> None:
    sources = {
        "deepseek.engine.scheduler": "from .helpers import pick",
        "deepseek.engine.helpers": "from deepseek.kernels import reference",
        "deepseek.kernels.__init__": "from .reference import matmul",
        "deepseek.kernels.reference": "import torch.nn.functional as F",
    }
    (path,) = torch_paths(sources)
    assert path.startswith("deepseek.engine.scheduler -> deepseek.engine.helpers -> deepseek.kernels.")
    assert path.endswith("deepseek.kernels.reference -> torch")


def test_a_package_on_the_way_that_loads_torch_is_found() -> None:
    sources = {
        "deepseek.engine.plan": "from deepseek.models.config import ModelConfig",
        "deepseek.models.__init__": "from .layers import RMSNorm",
        "deepseek.models.config": "import dataclasses",
        "deepseek.models.layers": "from torch import nn",
    }
    assert torch_paths(sources) == [
        "deepseek.engine.plan -> deepseek.models.__init__ -> deepseek.models.layers -> torch"
    ]


def test_a_torch_free_module_may_not_even_defer_torch() -> None:
    assert torch_paths({"deepseek.core.messages": "def f():\n    import torch"}) == ["deepseek.core.messages -> torch"]


def test_a_deferred_import_of_what_loads_torch_is_allowed() -> None:
    sources = {
        "deepseek.engine.request": "from .helpers import pick",
        "deepseek.engine.helpers": "def pick():\n    import torch",
    }
    assert torch_paths(sources) == []
