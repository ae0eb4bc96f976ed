"""A project of a user's: a folder with pictures and a study file, on which the workflow runs from outside."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
COLOURS = {
    "warm/red": (200, 30, 30),
    "warm/orange": (220, 140, 20),
    "cold/blue": (30, 40, 200),
    "cold/green": (30, 180, 60),
}


class Project:
    """A working directory of the workflow."""

    def __init__(self, folder: Path):
        self.folder = folder

    def command(self, *arguments: str, **config: object) -> list[str]:
        """The call of Snakemake, with this environment's and these --config values."""
        options = [f"{key}={value}" for key, value in config.items()]
        call = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow" / "Snakefile"), "--cores", "2"]
        return [*call, *arguments, *(["--config", *options] if options else [])]

    def snakemake(self, *arguments: str, **config: object) -> subprocess.CompletedProcess[str]:
        """Calls Snakemake here; what it says is in `stdout`."""
        return subprocess.run(
            self.command(*arguments, **config),
            cwd=self.folder,
            env=os.environ | {"COLUMNS": "200"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def planned(self, *arguments: str, **config: object) -> dict[str, int]:
        """How many jobs of each rule a call would run."""
        said = self.snakemake("--dry-run", *arguments, **config)
        assert said.returncode == 0, said.stdout
        table = said.stdout.partition("Job stats:")[2].partition("total")[0]
        return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """Noisy squares of four colours, two of them warm and two cold."""
    folder, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 6)):
        for name, colour in COLOURS.items():
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(colour + generator.normal(0, 40, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder


@pytest.fixture
def project(tmp_path) -> Project:
    """An empty project with the tiny study in it."""
    return new_project(tmp_path)


def new_project(folder: Path) -> Project:
    shutil.copy(Path(__file__).parent / "tiny.yaml", folder)
    (folder / "data.dvc").touch()  # the demo's, for plans
    return Project(folder)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, pictures) -> Project:
    """The tiny study, run to its end. Tests look at it, or plan on it; none changes its results."""
    project = new_project(tmp_path_factory.mktemp("finished"))
    said = project.snakemake(study="tiny.yaml", data_root=pictures)
    assert said.returncode == 0, said.stdout
    project.said = said.stdout
    return project
