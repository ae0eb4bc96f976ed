"""The training core needs the first block of dependencies alone: what a machine with GPUs is given."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PYPROJECT = (Path(__file__).parents[2] / "pyproject.toml").read_text()

HIRL_WITHOUT = """
import sys
from importlib.machinery import PathFinder

absent = sys.argv.pop(1).split(",")

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in absent else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
from hirl.cli import main
sys.exit(main())
"""


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(requirement).name) for requirement in requirements}


def packages_beyond_the_core() -> set[str]:
    """What can be imported of the later blocks of dependencies, but for what torch needs itself."""
    later = PYPROJECT.partition("# evaluation and reporting")[2].partition("\n]")[0]
    distributions = names(re.findall(r'^  "(.+?)"', later, re.MULTILINE)) - names(requires("torch"))
    owners = packages_distributions().items()
    return {package for package, owned_by in owners if distributions & set(map(canonicalize_name, owned_by))}


def test_a_run_trains_without_what_evaluates_reports_and_plans(
    tiny_study: str, tiny_data: Path, tmp_path: Path
) -> None:
    absent = packages_beyond_the_core()
    assert {"faiss", "sklearn", "scipy", "mlflow", "dvc", "snakemake", "pandas", "rich"} <= absent
    run = ("--study", tiny_study, "--method", "swav", "--variant", "hirl", "--data", tiny_data)
    where = ("--out", tmp_path / "out", "--scratch", tmp_path / "scratch")
    settings = ("training.epochs=1", "hierarchy.start_epoch=0", "hierarchy.kmeans.backend=torch")
    arguments = ["pretrain", *run, *where, *(part for setting in settings for part in ("--set", setting))]
    command = [sys.executable, "-c", HIRL_WITHOUT, ",".join(absent), *map(str, arguments)]
    trained = subprocess.run(command, capture_output=True, text=True, check=False)
    assert trained.returncode == 0, trained.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"weights.safetensors", "tree.safetensors"}
