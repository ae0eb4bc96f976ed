"""pyproject.toml, requirements.lock, environment.yml and the Makefile describe one environment."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.lock").read_text()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WANTED = [Requirement(text) for text in PYPROJECT["project"]["dependencies"] + PYPROJECT["dependency-groups"]["dev"]]


def locked_versions(name: str) -> list[str]:
    """Return the locked versions of a package: several where they depend on the Python or the system."""
    return re.findall(rf"^{re.escape(canonicalize_name(name))}==([^\s;]+)", LOCK, re.MULTILINE)


@pytest.mark.parametrize("wanted", WANTED, ids=lambda wanted: wanted.name)
def test_the_lock_holds_every_dependency_at_a_version_it_allows(wanted):
    versions = locked_versions(wanted.name)
    assert versions
    assert all(wanted.specifier.contains(version) for version in versions)


def imported(path: Path) -> Iterator[str]:
    """Yield the top packages that a Python or Snakemake file imports."""
    if path.suffix != ".py":
        yield from re.findall(r"^(?:from|import) (\w+)", path.read_text(), re.MULTILINE)
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]


def test_every_package_that_is_imported_is_a_declared_dependency():
    files = [path for kind in ("*.py", "*.smk", "Snakefile") for path in ROOT.glob(f"*/**/{kind}")]
    packages = {package for path in files if ".venv" not in path.parts for package in imported(path)}
    scripts = (path.stem for folder in ("benchmarks", "workflow") for path in ROOT.glob(f"{folder}/*.py"))
    own = {"hirl", "tests", "workflow", *scripts}
    declared = {canonicalize_name(wanted.name) for wanted in WANTED}
    distributions = packages_distributions()
    undeclared = {
        package
        for package in packages - own - sys.stdlib_module_names
        if not declared & {canonicalize_name(name) for name in distributions[package]}
    }
    assert not undeclared


def test_the_wheel_carries_what_the_package_reads(tmp_path):
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "src" / "hirl", tmp_path / "src" / "hirl", ignore=shutil.ignore_patterns("__pycache__"))
    build = "import setuptools.build_meta as backend; print(backend.build_wheel('.'))"
    made = subprocess.run([sys.executable, "-c", build], cwd=tmp_path, capture_output=True, text=True, check=True)
    files = {Path(name) for name in zipfile.ZipFile(tmp_path / made.stdout.split()[-1]).namelist()}
    sources = {path.relative_to(tmp_path / "src") for path in (tmp_path / "src" / "hirl").rglob("*.*")}
    assert sources <= files


def test_every_locked_package_has_hashes():
    for block in re.split(r"\n(?=\S)", LOCK.strip()):
        assert "--hash=sha256:" in block, block.splitlines()[0]


def test_the_lock_names_no_address_and_no_path():
    found = [line for line in LOCK.splitlines() if "://" in line or line.startswith("-") or " @ " in line]
    assert not found


def test_conda_users_get_the_lock_on_a_python_that_the_project_takes():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = next(item for item in environment["dependencies"] if str(item).startswith("python="))
    assert SpecifierSet(PYPROJECT["project"]["requires-python"]).contains(python.removeprefix("python="))
    assert {"pip": ["--requirement requirements.lock"]} in environment["dependencies"]


def test_an_environment_in_step_with_the_lock_is_not_made_again(tmp_path):
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".synced").touch()
    assert subprocess.run(["make", "--question", ".venv/.synced"], cwd=tmp_path).returncode == 0
    (tmp_path / "requirements.lock").write_text(LOCK + "\n")
    assert subprocess.run(["make", "--question", ".venv/.synced"], cwd=tmp_path).returncode == 1


def test_an_old_python_is_refused_in_one_line_before_anything_is_made(tmp_path):
    old = tmp_path / "python3.8"
    old.write_text('#!/bin/sh\nexec python3 -c "import sys; sys.version_info = (3, 8); exec(sys.argv[1])" "$2"\n')
    old.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    made = subprocess.run(["make", f"PYTHON={old}", ".venv/.synced"], cwd=tmp_path, capture_output=True, text=True)
    said = [line for line in made.stderr.splitlines() if not line.startswith("make")]
    assert made.returncode != 0
    assert len(said) == 1
    assert said[0].startswith("Python 3.11 or newer is needed")
    assert not (tmp_path / ".venv").exists()
