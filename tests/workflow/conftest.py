"""Run the workflow in a user's project: a folder with pictures and a study file, outside the repository."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
COLORS = {
    "warm/red": (200, 30, 30),
    "warm/orange": (220, 140, 20),
    "cold/blue": (30, 40, 200),
    "cold/green": (30, 180, 60),
}


# Snakemake takes seconds to import: one process does it, and every call is a fork of it.
SERVER = """
import json, os, sys
from snakemake.cli import main
for line in sys.stdin:
    folder, said, arguments = json.loads(line)
    if not (child := os.fork()):
        os.chdir(folder)
        for stream in (1, 2):
            os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        main(arguments)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Server:
    """A process that has imported Snakemake and waits for calls."""

    def __init__(self, process: subprocess.Popen[str], folder: Path):
        self.process, self.said = process, folder / "said.txt"

    def __call__(self, folder: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
        self.said.unlink(missing_ok=True)
        self.process.stdin.write(json.dumps([str(folder), str(self.said), arguments]) + "\n")
        self.process.stdin.flush()
        code = int(self.process.stdout.readline())
        return subprocess.CompletedProcess(arguments, code, self.said.read_text())


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Server]:
    """Start a process that imports Snakemake once for all calls."""
    environment, pipe = os.environ | {"COLUMNS": "200"}, subprocess.PIPE
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        yield Server(process, tmp_path_factory.mktemp("server"))
        process.stdin.close()


class Project:
    """A working directory of the workflow."""

    def __init__(self, folder: Path, server: Server):
        self.folder, self.server = folder, server

    def arguments(self, *arguments: str, **config: object) -> list[str]:
        """Return what follows `snakemake` in a call with these --config values."""
        options = [f"{key}={value}" for key, value in config.items()]
        call = ["--snakefile", str(ROOT / "workflow" / "Snakefile"), "--cores", "2", *arguments]
        return [*call, "--config", *options] if options else call

    def snakemake(self, *arguments: str, **config: object) -> subprocess.CompletedProcess[str]:
        """Call Snakemake in this folder; its output is in `stdout`."""
        return self.server(self.folder, self.arguments(*arguments, **config))

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


def new_project(folder: Path, server: Server) -> Project:
    shutil.copy(Path(__file__).parent / "tiny.yaml", folder)
    (folder / "data.dvc").touch()  # the demo's, for plans
    return Project(folder, server)


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
def finished(tmp_path_factory, pictures, server) -> Project:
    """Run the tiny study to its end. Tests read it, or plan on it; none changes its results."""
    project = new_project(tmp_path_factory.mktemp("finished"), server)
    said = project.snakemake(study="tiny.yaml", data_root=pictures)
    assert said.returncode == 0, said.stdout
    project.said = said.stdout
    return project
