"""The slurm profile on a Slurm of this machine: `pytest -m slurm`, as root, with Slurm's daemons installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

import pandas as pd
import pytest

from hirl.files import read_json
from tests.workflow.conftest import ROOT, Project, new_project, own_profile

DAEMONS = ("slurmctld", "slurmd", "munged")
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(os.geteuid() != 0 or not all(map(shutil.which, DAEMONS)), reason="needs root and Slurm"),
]

RUN = "results/tiny/runs/mocov2-hirl-s0"
SMALL = {"threads": 1, "memory": 3000, "latency-wait": 5}
WATCH = "--slurm-status-command squeue --slurm-init-seconds-before-status-checks 3 --seconds-between-status-checks 3"
CLOCK = ["seconds", "images_per_second", "memory_mb"]  # the columns that no two trainings share


@pytest.fixture(scope="module")
def slurm() -> Iterator[None]:
    """Start a Slurm of two nodes with two simulated GPUs each."""
    script = ROOT / "workflow" / "slurm_here.sh"
    said = subprocess.run([script, "start"], capture_output=True, text=True)
    if said.returncode == 2:
        pytest.skip(said.stderr)
    assert said.returncode == 0, said.stderr
    yield
    subprocess.run([script, "stop"], check=True)


@pytest.fixture(scope="module")
def call(tmp_path_factory, pictures, server):
    """Return a function that starts the tiny study's MoCo v2 with HIRL, up to some of its files, in a new project."""

    def start(*files: str, **edits: int) -> tuple[Project, subprocess.Popen[str]]:
        project = new_project(tmp_path_factory.mktemp("project"), server)
        profile = own_profile(project.folder / "ours", "slurm", **SMALL, **edits)
        config = {"methods": "mocov2", "variants": "hirl", "tasks": "knn,linear", "set": "evaluation.linear.epochs=2"}
        arguments = project.arguments(
            *(f"{RUN}/{file}" for file in files),
            *("--workflow-profile", str(profile), *WATCH.split()),
            **{"study": "tiny.yaml", "data_root": pictures} | config,
        )
        command = [sys.executable, "-m", "snakemake", *arguments]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return project, subprocess.Popen(command, cwd=project.folder, **streams)

    return start


def history(project: Project) -> pd.DataFrame:
    return pd.read_csv(project.folder / RUN / "history.csv").drop(columns=CLOCK)


@pytest.fixture(scope="module")
def evaluated(slurm, call) -> Project:
    """Train and evaluate the run by jobs of two GPUs."""
    project, snakemake = call("evaluation/knn.json", "evaluation/linear.json", pretrain_hirl=2, evaluate_hirl=2)
    said, _ = snakemake.communicate()
    assert snakemake.returncode == 0, said
    return project


def test_a_run_is_trained_and_evaluated_by_slurm_jobs_of_two_gpus(evaluated):
    assert len(history(evaluated)) == 3
    for task in ("knn", "linear"):
        assert 0 <= read_json(evaluated.folder / RUN / "evaluation" / f"{task}.json")["metrics"]["top1"] <= 100
    jobs = subprocess.run(["scontrol", "show", "jobs"], capture_output=True, text=True, check=True).stdout
    assert jobs.count("TresPerJob=gres:gpu:2") == 2


def test_a_cancelled_job_of_two_nodes_goes_on_to_the_numbers_of_one_node(evaluated, call):
    project, snakemake = call("weights.safetensors", pretrain_hirl=2, gpus_per_node=1)
    deadline = time.monotonic() + 300
    while not list(project.folder.glob("scratch/tiny/*/checkpoint00001.pt")):
        assert time.monotonic() < deadline, "no checkpoint in five minutes"
        assert snakemake.poll() is None, snakemake.stdout.read()
        time.sleep(0.05)
    running = subprocess.run(["squeue", "--noheader", "--format=%i %D"], capture_output=True, text=True, check=True)
    job, nodes = running.stdout.split()
    assert nodes == "2"
    subprocess.run(["scancel", job], check=True)
    said, _ = snakemake.communicate()
    assert snakemake.returncode == 0, said
    assert "resumes after epoch" in (project.folder / "logs/tiny/mocov2-hirl-s0/pretrain.log").read_text()
    # two ranks are two ranks, wherever they are
    pd.testing.assert_frame_equal(history(project), history(evaluated), check_exact=True)
