"""The table of imports in docs/architecture.md, held against the imports that the code makes."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "python" / "microgpt"
GROUND = "ground floor"
FACES = ("__init__", "__main__")
"""Modules that stand above every folder: the public API and `python -m microgpt`."""


@dataclass(frozen=True)
class Import:
    """One import statement's target, and whether importing the module runs it."""

    importer: str
    target: str
    at_import: bool


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_in(source: str, importer: str) -> Iterator[Import]:
    """Yields every import, function bodies too; those for type checkers only count as late."""
    tree = ast.parse(source)
    late = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        or (isinstance(outer, ast.If) and "TYPE_CHECKING" in ast.unparse(outer.test))
        for node in ast.walk(outer)
    }
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{importer}: a relative import; name the module in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            yield Import(importer, name, id(node) not in late)


def internal(target: str) -> str | None:
    """Returns the module of this package that `target` names or lies in, or None."""
    if target.split(".")[0] != "microgpt":
        return None
    parts = target.split(".")[1:]
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if name in MODULES or name == "_core":
            return name
    return "__init__"


IMPORTS = [
    found for name, path in MODULES.items() for found in imports_in(path.read_text("utf-8"), name)
]


def place(module: str) -> str:
    """Returns the row of the table that a module belongs to."""
    if module in FACES or module == "_core":
        return module
    folder = module.split(".")[0]
    return folder if (PACKAGE / folder).is_dir() else GROUND


def table() -> dict[str, tuple[str, str]]:
    """Returns, by folder, the cells "may import" and "never"."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rows = re.findall(r"^\| ([a-z ]+) \| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE)
    return {folder: (may, never) for folder, may, never in rows if folder != "folder"}


def ranks() -> dict[str, int]:
    """Returns the ground floor's modules with their height."""
    order = table()[GROUND][0].partition("downward:")[2]
    groups = [re.findall(r"\w+", group) for group in order.split("<")]
    return {module: height for height, group in enumerate(groups) for module in group}


def allowed(folder: str) -> dict[str, set[str]]:
    """Returns, by folder that `folder` may import, the modules of it; the empty set: all."""
    cell = table()[folder][0]
    found = re.findall(r"`?(\w+)`?(?: \(([^)]*)\))?", re.sub(r"\bonly\b", "", cell))
    return {name: set(re.findall(r"\w+", inner)) for name, inner in found}


def test_the_table_names_every_folder_and_every_ground_module() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert set(table()) == folders | {GROUND}
    ground = {m for m in MODULES if place(m) == GROUND}
    assert ground <= set(ranks())


def test_the_ground_floor_imports_only_downward() -> None:
    height = ranks()
    for found in IMPORTS:
        target = internal(found.target)
        if target is None or place(found.importer) != GROUND:
            continue
        assert place(target) == GROUND, found
        assert height[target] < height[found.importer], found


def test_each_folder_imports_only_what_the_table_allows() -> None:
    broken = []
    for found in IMPORTS:
        target, folder = internal(found.target), place(found.importer)
        if target is None or folder in (*FACES, GROUND) or place(target) == folder:
            continue
        may = allowed(folder)
        name = "ground" if place(target) == GROUND else place(target)
        modules = may.get(name, set())
        fits = name in may and (not modules or target.split(".")[-1] in modules)
        if "all" not in may and not fits:
            broken.append(found)
    assert broken == []


def test_nothing_imports_the_command_line_but_its_own_door() -> None:
    importers = {
        found.importer
        for found in IMPORTS
        if (internal(found.target) or "").split(".")[0] == "cli"
        and found.importer.split(".")[0] != "cli"
    }
    assert importers == {"__main__"}


@pytest.mark.parametrize("folder", [f for f, (_, never) in table().items() if "torch" in never])
def test_what_is_said_never_to_import_torch_does_not(folder: str) -> None:
    only_at_import = "torch at import" in table()[folder][1]
    torch = [
        found
        for found in IMPORTS
        if place(found.importer) == folder
        and found.target.split(".")[0] in ("torch", "safetensors")
        and (found.at_import or not only_at_import)
    ]
    assert torch == []


def test_there_is_no_import_circle() -> None:
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    for found in IMPORTS:
        target = internal(found.target)
        if target is not None and target != found.importer:
            graph[found.importer].add(target)
    # A command may ask its own package for what stands in it; the package finds it by name.
    for name in graph:
        graph[name].discard(name.split(".")[0])
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize(
    "statement", ["import microgpt", "import microgpt.cli", "import microgpt.lab"]
)
def test_importing_the_package_imports_no_torch(statement: str) -> None:
    heavy = "{'torch', 'safetensors'} & set(sys.modules)"
    run = [sys.executable, "-c", f"import sys\n{statement}\nprint({heavy} or '')"]
    result = subprocess.run(run, capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == ""


def test_every_module_of_text_and_data_and_lab_imports_without_torch() -> None:
    names = [n for n in MODULES if place(n) in ("text", "data", "lab", GROUND)]
    code = (
        "import importlib, sys\n"
        f"for name in {names}: importlib.import_module('microgpt.' + name)\n"
        "print('torch' in sys.modules)"
    )
    run = [sys.executable, "-c", code]
    result = subprocess.run(run, capture_output=True, text=True, timeout=60)
    assert (result.stdout.strip(), result.stderr) == ("False", "")


def test_only_the_border_names_python_in_rust() -> None:
    naming = {
        path.name
        for path in (ROOT / "rust").rglob("*.rs")
        if re.search(r"\b(?:pyo3|numpy)\b", without_comments(path.read_text("utf-8")))
    }
    assert naming <= {"python.rs"}


def without_comments(rust: str) -> str:
    return re.sub(r"//.*", "", rust)


@pytest.mark.parametrize("path", MODULES.values(), ids=MODULES)
def test_nothing_is_pickled(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            assert not names & {"pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in ("torch.load", "torch.save")


def test_imports_are_read_from_function_bodies_and_told_apart() -> None:
    source = (
        "import torch\nfrom microgpt.errors import DataError\n"
        "if TYPE_CHECKING:\n    import numpy\n"
        "def f():\n    from microgpt.data import loader\n"
    )
    assert list(imports_in(source, "m")) == [
        Import("m", "torch", True),
        Import("m", "microgpt.errors.DataError", True),
        Import("m", "numpy", False),
        Import("m", "microgpt.data.loader", False),
    ]
