"""Run the workflow in a user's project: a folder with pictures and a study file, outside the repository."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.workflow import warm

ROOT = Path(__file__).parents[2]
COLORS = {
    "warm/red": (200, 30, 30),
    "warm/orange": (220, 140, 20),
    "cold/blue": (30, 40, 200),
    "cold/green": (30, 180, 60),
}


# The module of each program, and others that its calls import.
PROGRAMS = {
    "snakemake": "snakemake.cli hirl.config docutils.core jinja2 jsonschema pygments requests smart_open yte",
    "hirl": "hirl.cli hirl.cli.parser hirl.training.loop hirl.evaluation.run hirl.reporting.report "
    "mlflow.tracking faiss",
}


class Server:
    """A program whose calls run in forks of a process that has imported it: see `warm.py`."""

    def __init__(self, program: str, folder: Path):
        self.address, self.said = str(folder / f"{program}.socket"), folder / f"{program}.txt"
        command = [sys.executable, warm.__file__, "serve", self.address, *PROGRAMS[program].split()]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        while not Path(self.address).exists():
            assert self.process.poll() is None, f"the server of {program} ended"
            time.sleep(0.02)

    def end(self) -> None:
        self.process.terminate()
        self.process.wait()

    def __call__(self, folder: Path, arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
        """Call the program in a folder; its output is in `stdout`."""
        with self.said.open("w") as said, open(os.devnull) as nothing:
            streams = (nothing.fileno(), said.fileno(), said.fileno())
            code = warm.call(self.address, str(folder), os.environ | environment, arguments, streams)
        return subprocess.CompletedProcess(arguments, code, self.said.read_text())


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Server]:
    """Start a process that imports Snakemake once for all calls."""
    server = Server("snakemake", tmp_path_factory.mktemp("server"))
    yield server
    server.end()


@pytest.fixture(scope="session")
def warm_jobs(tmp_path_factory) -> Iterator[dict[str, str]]:
    """Return variables under which jobs call a `hirl` that has its imports: a function of the shell of that name."""
    folder = tmp_path_factory.mktemp("jobs")
    server = Server("hirl", folder)
    command = shlex.join([sys.executable, "-SE", warm.__file__, "call", server.address])
    (folder / "functions.sh").write_text(f'hirl() {{ {command} "$@"; }}\n')
    yield {"BASH_ENV": str(folder / "functions.sh")}
    server.end()


class Project:
    """A working directory of the workflow."""

    def __init__(self, folder: Path, server: Server, **environment: str):
        self.folder, self.server = folder, server
        self.environment = {"COLUMNS": "200"} | environment

    def arguments(self, *arguments: str, **config: object) -> list[str]:
        """Return what follows `snakemake` in a call with these --config values."""
        options = [f"{key}={value}" for key, value in config.items()]
        call = ["--snakefile", str(ROOT / "workflow" / "Snakefile"), "--cores", "2", *arguments]
        return [*call, "--config", *options] if options else call

    def snakemake(self, *arguments: str, **config: object) -> subprocess.CompletedProcess[str]:
        """Call Snakemake in this folder; its output is in `stdout`."""
        return self.server(self.folder, self.arguments(*arguments, **config), **self.environment)

    def planned(self, *arguments: str, **config: object) -> dict[str, int]:
        """Return how many jobs of each rule a call would run."""
        said = self.snakemake("--dry-run", *arguments, **config)
        assert said.returncode == 0, said.stdout
        table = said.stdout.partition("Job stats:")[2].partition("total")[0]
        return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """Draw noisy squares of four colours, two of them warm and two cold."""
    folder, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 6)):
        for name, color in COLORS.items():
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(color + generator.normal(0, 40, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder


@pytest.fixture
def project(tmp_path, server) -> Project:
    """Make an empty project with the tiny study in it."""
    return new_project(tmp_path, server)


def new_project(folder: Path, server: Server, **environment: str) -> Project:
    shutil.copy(Path(__file__).parent / "tiny.yaml", folder)
    (folder / "data.dvc").touch()  # the demo's, for plans
    return Project(folder, server, **environment)


def own_profile(folder: Path, profile: str, **edits: int) -> Path:
    """Copy a profile, as a user does, and change some of its numbers."""
    text = (ROOT / "workflow" / "profiles" / profile / "profile.yaml").read_text()
    for key, number in edits.items():
        text, found = re.subn(rf"^(\s*{key}): \d+", rf"\1: {number}", text, flags=re.MULTILINE)
        assert found == 1, key
    folder.mkdir()
    (folder / "profile.yaml").write_text(text)
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory, pictures, server, warm_jobs) -> Project:
    """Run the tiny study to its end. Tests read it, or plan on it; none changes its results."""
    project = new_project(tmp_path_factory.mktemp("finished"), server, **warm_jobs)
    said = project.snakemake(study="tiny.yaml", data_root=pictures)
    assert said.returncode == 0, said.stdout
    project.said = said.stdout
    return project
