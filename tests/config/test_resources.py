from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hirl.config import CONFIG_ROOT, RESOURCES, RunConfig, load_study
from hirl.config.resources import find_resources

ROOT = Path(__file__).parents[2]
SOURCES = ("src", "config", "workflow", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")


def test_a_clone_reads_its_own_folders() -> None:
    assert RESOURCES == ROOT
    assert CONFIG_ROOT == ROOT / "config"


def test_an_installed_package_reads_what_it_ships(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "hirl"
    (package / "shipped").mkdir(parents=True)
    assert find_resources(package) == package / "shipped"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder outside the clone with the files of the package's wheel."""
    clone, site = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("site")
    for name in SOURCES:  # a build leaves folders behind
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, clone / name)
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(clone / "wheel")]
    subprocess.run([sys.executable, "-m", "pip", "wheel", str(clone), *options], check=True)
    [wheel] = (clone / "wheel").glob("hirl-*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    return site


def run_installed(site: Path, *arguments: str) -> str:
    """Run Python on an unpacked wheel, far from the clone; return what it prints."""
    environment = os.environ | {"PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
    said = subprocess.run(
        [sys.executable, *arguments], cwd=site, env=environment, capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    return said.stdout


@pytest.mark.slow
def test_an_installed_package_shows_the_same_configuration_as_the_clone(installed: Path) -> None:
    shown = run_installed(installed, "-m", "hirl.cli", "config", "show", "--method", "dino", "--variant", "hirl")
    config: RunConfig = load_study("demo").resolve("dino", "hirl")
    assert shown.splitlines()[-1].split()[:2] == ["hash", config.pretraining_hash]


@pytest.mark.slow
def test_a_wheel_ships_every_file_of_the_configuration_and_every_caption(installed: Path) -> None:
    assert str(installed) in run_installed(installed, "-c", "import hirl.config; print(hirl.config.RESOURCES)")
    for folder in ("config", "workflow/report"):
        ours, shipped = ROOT / folder, installed / "hirl" / "shipped" / folder
        names = {path.relative_to(ours) for path in ours.rglob("*") if path.is_file()}
        assert {path.relative_to(shipped) for path in shipped.rglob("*") if path.is_file()} == names
