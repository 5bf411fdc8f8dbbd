"""Who imports whom: one direction, layer by layer."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import networkx as nx
import pytest

from tests.source_files import PACKAGE, PASSES, ROOT, module_name, python_files

PIPELINES = "graphprune.passes.pipelines"

LAYERS = (
    ("errors",),
    ("process_state", "program", "version"),
    ("labels", "registry", "training"),
    ("deploy", "ops", "rewrite"),
    ("coupling",),
    ("costs", "gates", "pass_manager"),
    ("criteria", "request", "verification"),
    ("capture", "latency", "selection"),
    ("paths", "repair"),
    ("passes", "report"),
    ("plan", "profile", "rounds"),
    ("saving",),
    ("compiled",),
    ("pruner",),
    ("compile", "distillation", "research"),
    ("sweep",),
    ("",),
    ("cli",),
)
"""The rooms of graphprune, each layer after those that it may import; "" is the package itself."""

LAYER_OF = {room: layer for layer, rooms in enumerate(LAYERS) for room in rooms}


def imported_names(source: str, package: str) -> set[str]:
    """Dotted names that `source`, a module of `package`, imports.

    ``from a import b`` gives ``a.b``, for b may be a module.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = parents[: len(parents) - node.level + 1] if node.level else []
            stem = ".".join(base + node.module.split(".") if node.module else base)
            found.update(f"{stem}.{alias.name}" for alias in node.names)
    return found


def forbidden_imports(module: str, source: str, package: str) -> set[str]:
    """The imports by which `module` knows a pass that it should not know.

    The package and the pipelines put passes together. The core may use the pipelines; a pass may use neither.
    """
    if module in (PASSES, PIPELINES):
        return set()
    names = {name for name in imported_names(source, package) if name.startswith(f"{PASSES}.")}
    if module.startswith(f"{PASSES}."):
        return names
    return {name for name in names if not f"{name}.".startswith(f"{PIPELINES}.")}


def room_of(module: str) -> str:
    """The folder or file right below graphprune that a module lies in; "" for the package itself."""
    return module.split(".")[1] if "." in module else ""


def imports() -> Iterator[tuple[str, str, bool]]:
    """A module, a module of graphprune that it imports, and whether it does so when it is imported itself."""
    modules = {module_name(path) for path in python_files(PACKAGE)}
    for path in python_files(PACKAGE):
        module, tree = module_name(path), ast.parse(path.read_text("utf-8"))
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                for name in imported_names(ast.unparse(node), package):
                    found = name if name in modules else name.rpartition(".")[0]
                    if found in modules:
                        yield module, found, node in tree.body


@pytest.mark.parametrize(
    ("module", "statement", "expected"),
    [
        ("graphprune.core", "import graphprune.passes.fold", {"graphprune.passes.fold"}),
        ("graphprune.core", "from graphprune.passes.fold import Fold", {"graphprune.passes.fold.Fold"}),
        ("graphprune.core", "from graphprune.passes import fold", {"graphprune.passes.fold"}),
        ("graphprune.core", "from .passes import fold", {"graphprune.passes.fold"}),
        ("graphprune.core", "from graphprune.passes.pipelines_old import x", {"graphprune.passes.pipelines_old.x"}),
        ("graphprune.core", "from graphprune.passes.pipelines import default", set()),
        ("graphprune.core", "from .passes import pipelines", set()),
        ("graphprune.core", "import torch.fx", set()),
        ("graphprune.ops.norm", "from ..passes.fold import Fold", {"graphprune.passes.fold.Fold"}),
        ("graphprune.passes.split", "from .fold import Fold", {"graphprune.passes.fold.Fold"}),
        ("graphprune.passes.split", "def late():\n    from . import fold", {"graphprune.passes.fold"}),
        ("graphprune.passes.split", "from .pipelines import default", {"graphprune.passes.pipelines.default"}),
        ("graphprune.passes.split", "from ..program import Program", set()),
        ("graphprune.passes.pipelines", "from .fold import Fold", set()),
    ],
)
def test_the_reader_of_imports(module: str, statement: str, expected: set[str]) -> None:
    assert forbidden_imports(module, statement, module.rpartition(".")[0]) == expected


def test_the_core_knows_no_pass_and_passes_know_no_other_pass() -> None:
    found = []
    for path in python_files(PACKAGE):
        module = module_name(path)
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        names = forbidden_imports(module, path.read_text("utf-8"), package)
        found += [f"{module} imports {name}" for name in sorted(names)]
    assert not found, "\n".join(found)


def test_every_room_has_a_layer() -> None:
    assert {room_of(module_name(path)) for path in python_files(PACKAGE)} == set(LAYER_OF)


def test_the_map_in_contributing_is_that_of_the_layers() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)(?:\.py|/)` \|", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.MULTILINE)
    names = {"": "__init__"}
    expected = [(str(layer), names.get(room, room)) for layer, rooms in enumerate(LAYERS, 1) for room in rooms]
    assert rows == expected


def test_imports_go_one_way() -> None:
    found = [
        f"{module} imports {imported}"
        for module, imported, _ in imports()
        if room_of(module) != room_of(imported) and LAYER_OF[room_of(module)] <= LAYER_OF[room_of(imported)]
    ]
    assert not found, "\n".join(sorted(set(found)))


def test_no_import_is_put_off() -> None:
    """Neither into a function nor under TYPE_CHECKING, where a circle would hide."""
    found = [f"{module} imports {imported}" for module, imported, at_once in imports() if not at_once]
    assert not found, "\n".join(sorted(set(found)))


def test_there_is_no_circle_of_files() -> None:
    graph = nx.DiGraph([(module, imported) for module, imported, _ in imports() if module != imported])
    assert not [sorted(circle) for circle in nx.strongly_connected_components(graph) if len(circle) > 1]
