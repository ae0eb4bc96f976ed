"""Imports of src/hirl point down: a room imports only from the rooms below it. The tests mirror the modules."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "hirl"
TESTS = Path(__file__).parent
OF_NO_MODULE = {  # tests of several modules at once, and of what lies outside the package
    "test_environment.py",
    "test_gpu_rehearsal.py",
    "test_layout.py",
    "config/test_fuzz.py",
    "config/test_published_values.py",
    "evaluation/test_on_two_ranks.py",
    "methods/test_contract.py",
    "reporting/test_atlas_in_browser.py",
    "reporting/test_show_results.py",
    "training/test_bare_machine.py",
    "training/test_loop_on_two_ranks.py",
    "training/test_no_wait.py",
}
FLOORS = (  # top to bottom; rooms of one floor do not import each other
    ("cli",),
    ("estimator",),
    ("reporting", "planning", "evaluation"),
    ("training",),
    ("hierarchy",),
    ("methods",),
    ("models",),
    ("data",),
    ("distributed", "tracking"),
    ("config",),
    ("files",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def module_name(file: Path) -> str:
    """Return `hirl.data.views` for src/hirl/data/views.py."""
    return ".".join(("hirl", *file.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")


FILES = {module_name(file): file for file in sorted(SOURCE.rglob("*.py"))}


def imports(module: str) -> set[str]:
    """Return the modules of src/hirl that a module imports, except under TYPE_CHECKING."""
    found: set[str] = set()
    tree = ast.parse(FILES[module].read_text())
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in FILES else node.module for name in names}
    return found & FILES.keys() - {module}


PROGRAM = "hirl.tracking.mlflow.pyfunc"  # MLflow runs it on its own, in a copy; it imports what it likes, as cli does


def room(module: str) -> str:
    """Return `data` for hirl.data.views; the package itself and a program of its own belong to the top floor."""
    if module == PROGRAM:
        return "cli"
    return module.split(".")[1] if "." in module else "cli"


def test_only_one_file_lies_outside_the_rooms():
    assert {file.name for file in SOURCE.glob("*.py")} == {"__init__.py", "files.py"}


def test_every_room_has_its_floor():
    assert {room(module) for module in FILES} == set(FLOOR)


@pytest.mark.parametrize("module", FILES)
def test_imports_point_down(module):
    upward = [
        other for other in imports(module) if room(other) != room(module) and FLOOR[room(other)] <= FLOOR[room(module)]
    ]
    assert not upward


def test_only_tracking_imports_mlflow():
    users = {
        module for module, file in FILES.items() if re.search(r"^\s*(import|from) mlflow\b", file.read_text(), re.M)
    }
    assert users
    assert all(module.startswith("hirl.tracking.mlflow.") for module in users)


def test_no_imports_run_in_a_circle():
    order = TopologicalSorter({module: imports(module) for module in FILES if FILES[module].name != "__init__.py"})
    assert list(order.static_order())


MIRRORED = {  # the path of each module's tests in tests/
    file.relative_to(SOURCE).with_name(f"test_{file.name}").as_posix()
    for file in FILES.values()
    if file.name not in ("__init__.py", "__main__.py")
}


@pytest.mark.parametrize("path", sorted(MIRRORED))
def test_every_module_has_its_tests(path):
    assert (TESTS / path).is_file()


def test_every_file_of_tests_belongs_to_a_module_or_is_listed():
    found = {path.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py")}
    outside = {path for path in found if path.startswith("workflow/")}  # tests of whole studies
    assert found - outside - MIRRORED == OF_NO_MODULE
