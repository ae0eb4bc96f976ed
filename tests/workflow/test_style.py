"""The workflow's own style, by its own tools; the drawings of docs/ and the services that call make are in step."""

from __future__ import annotations

import base64
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from tests.workflow.conftest import ROOT
from workflow.draw_dag import draw, read_graph
from workflow.draw_hirl import draw_diagram

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


def test_the_drawing_of_the_workflow_shows_the_rules_as_they_are(project):
    graph = read_graph(project.snakemake("--rulegraph", "mermaid-js").stdout)
    assert (ROOT / "docs" / "images" / "workflow.svg").read_text() == draw(graph), "make dag"


def split_pictures(svg: str) -> tuple[str, np.ndarray]:
    """Return a drawing without its pictures, and their pixels one after another."""
    pictures = re.findall(r"base64,([^']+)", svg)
    opened = [Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB") for picture in pictures]
    return re.sub(r"base64,[^']+", "", svg), np.concatenate([np.asarray(image, float).ravel() for image in opened])


def test_the_drawing_of_hirl_is_what_its_script_makes():
    shown, pictures = split_pictures((ROOT / "docs" / "images" / "hirl.svg").read_text())
    drawn, drawn_pictures = split_pictures(draw_diagram())
    assert shown == drawn, "make diagram"
    assert np.abs(pictures - drawn_pictures).mean() < 2, "make diagram"  # another processor, another last bit


def test_a_drawing_leaves_out_arrows_that_a_longer_way_implies():
    graph = read_graph("id0[all]\nid1[a]\nid2[b]\nid3[c]\nid1 --> id2\nid2 --> id3\nid1 --> id3\nid3 --> id0\n")
    assert set(graph.edges) == {("a", "b"), ("b", "c")}


def test_the_site_builds_without_a_broken_link_and_loads_nothing_from_elsewhere(tmp_path):
    build = [Path(sys.executable).parent / "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    said = subprocess.run(build, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    pages = [page.read_text() for page in tmp_path.rglob("*.html")]
    assert pages
    assert not [
        tag for page in pages for tag in re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="?https?:[^>]*', page)
    ]


def test_continuous_integration_calls_targets_of_the_makefile():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    lines = [step.get("run", "") for job in jobs.values() for step in job["steps"]]
    targets = re.findall(r"^make ([\w-]+)$", "\n".join(lines), re.MULTILINE)
    assert {"check", "test"} <= set(targets)
    makefile = (ROOT / "Makefile").read_text()
    assert not [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)]


def test_hooks_before_a_commit_use_tools_of_the_lock():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    tools = re.findall(r"\.venv/bin/([\w-]+)", " ".join(hook["entry"] for hook in hooks))
    lock = (ROOT / "requirements.lock").read_text()
    assert {"ruff", "codespell"} <= set(tools)
    assert not [tool for tool in tools if f"\n{tool}==" not in lock]
