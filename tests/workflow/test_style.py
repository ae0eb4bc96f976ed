"""The workflow's own style, by its own tools."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.workflow.conftest import ROOT
from workflow.draw_dag import BLOCK, draw

# What the linter finds, and why it stays:
ACCEPTED = (
    # one locked environment holds everything, for make, pip and conda users alike
    "Specify a conda environment or container for each rule.",
    # a param would make every run stale when any study option changes; what a rule depends on is among its params
    "Shell command directly uses variable ASKED from outside of the rule",
)


def test_the_linter_finds_nothing_new(project):
    found = re.findall(r"^ +\* (.*):$", project.snakemake("--lint").stdout, re.MULTILINE)
    assert found, "the linter's own words have changed"
    assert set(found) <= set(ACCEPTED)


def test_rules_are_formatted():
    tools = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}  # snakefmt calls shfmt
    said = subprocess.run([tools / "snakefmt", "--check", "workflow"], cwd=ROOT, env=environment, capture_output=True)
    assert said.returncode == 0, said.stderr.decode()


def test_the_readme_shows_the_rules_as_they_are(project):
    graph = project.snakemake("--rulegraph", "mermaid-js").stdout
    assert BLOCK.search((ROOT / "README.md").read_text())[0] == draw(graph), "make dag"
