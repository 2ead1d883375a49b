"""Imports go one way. The table here is the architecture; change it here first."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "kernelfield"
SEES = {  # layer: the layers it may import from, beside itself
    "core": set(),
    "linalg": {"core"},
    "nets": {"core"},
    "kernels": {"core", "linalg", "nets"},
    "models": {"core", "linalg", "nets", "kernels"},
    "pde": {"core", "linalg", "kernels", "models"},
    "uq": {"core"},
    "estimators": {"core", "linalg", "nets", "kernels", "models", "uq"},
    "bo": {"core", "linalg", "nets", "kernels", "models", "estimators"},
    "data": {"core"},
    "tabular": {"core", "models", "estimators", "uq", "data"},
    "progress": set(),
    "streaming": {"core", "models", "estimators", "data", "tabular"},
    "solving": {"core", "pde", "uq"},
    "comparing": {"models", "data", "tabular", "uq"},
    "calibrating": {"data", "estimators", "tabular", "uq"},
    "reporting": {"data", "tabular", "uq"},
    "optimising": {"core", "bo", "uq"},
    "commands": {
        "core",
        "linalg",
        "bo",
        "models",
        "estimators",
        "uq",
        "data",
        "tabular",
        "streaming",
        "calibrating",
        "comparing",
        "reporting",
        "solving",
        "optimising",
        "progress",
    },
    "cli": {"core", "commands"},
    "__main__": {"cli"},
}
DOORS = {  # a heavy or optional package enters through these layers only
    "botorch": {"bo"},
    "gpytorch": {"bo", "kernels", "models", "estimators"},
    "gymnasium": {"bo"},
    "jinja2": {"uq"},
    "linear_operator": {"bo", "linalg", "kernels", "models"},
    "matplotlib": {"uq"},
    "optuna": {"bo", "optimising"},
    "pandas": {"data", "tabular", "streaming", "reporting"},
    "pyarrow": {"data"},
    "pykeops": {"linalg"},
    "rich": {"commands", "progress"},
    "safetensors": {"estimators", "models"},
    "sklearn": {"core", "models", "estimators", "uq", "bo", "calibrating", "commands"},
    "sqlalchemy": {"bo"},
    "sympy": {"pde"},
    "typer": {"cli", "commands"},
}
# Optional packages that one file imports, which names the extra.
SINGLE = {"gymnasium", "jinja2", "matplotlib", "pykeops", "sqlalchemy"}
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "base"}

SOURCES = sorted(p for p in ROOT.rglob("*.py") if p.name != "__init__.py")
FILES = [*SOURCES, *sorted((ROOT.parent / "tests").rglob("*.py")), *sorted((ROOT.parent / "benchmarks").rglob("*.py"))]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT.parent))


def layer(path: Path) -> str:
    return Path(path.relative_to(ROOT).parts[0]).stem


def imported(path: Path) -> Iterator[str]:
    """The modules that a file names in its import statements, wherever they stand."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}: relative import; write the full name"
            assert node.module is not None
            assert all(alias.name != "*" for alias in node.names), f"{name(path)}: name what is imported"
            yield node.module


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_imports_come_from_lower_layers(path: Path) -> None:
    here = layer(path)
    for module in imported(path):
        parts = module.split(".")
        if parts[0] == "kernelfield":
            assert len(parts) >= 2, f"{module}: import the module that defines the name"
            assert parts[1] == here or parts[1] in SEES[here], f"{here} may not import {module}"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_heavy_packages_enter_at_their_doors(path: Path) -> None:
    for module in imported(path):
        doors = DOORS.get(module.split(".")[0])
        assert doors is None or layer(path) in doors, f"{module} may only be imported in {sorted(doors)}"


@pytest.mark.parametrize("package", sorted(SINGLE))
def test_an_optional_package_is_imported_in_one_file(package: str) -> None:
    importers = [name(p) for p in SOURCES if package in {m.split(".")[0] for m in imported(p)}]
    assert len(importers) <= 1, importers


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_imports_stand_at_the_top_of_a_file(path: Path) -> None:
    nested = [
        node.lineno
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert not nested, f"imports inside functions at lines {nested}"


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*/__init__.py")), ids=name)
def test_a_package_is_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    assert len(tree.body) == 1


@pytest.mark.parametrize("path", FILES, ids=name)
def test_files_are_short_and_named_by_their_subject(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400
    assert path.stem not in VAGUE


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_every_file_is_tested_beside_its_mirror(path: Path) -> None:
    """`kernelfield/a/b.py` is tested by `tests/a/test_b.py`, or by another test of its folder."""
    folder = ROOT.parent / "tests" / path.relative_to(ROOT).parent
    own = path.parent == ROOT and path.stem != "__main__"
    assert any(folder.glob(f"test_{path.stem}.py" if own else "test_*.py"))
