"""One process or many: which GPUs and threads a job takes, and what becomes of ranks that crash or find a mistake."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from hirl.distributed import launch
from hirl.distributed.launch import THREADS, choose_threads, gpus, idle_cores, lease, visible_gpus
from hirl.training.loop import pretrain
from tests.run_on_ranks import on_two_ranks

CARDS = ["a", "b", "c"]
CLOCK = ["seconds", "images_per_second", "memory_mb"]  # the columns that no two trainings share


# --- GPUs -------------------------------------------------------------------------------------------------------------


def test_jobs_take_gpus_that_are_free(tmp_path):
    with lease(CARDS, 1, tmp_path) as one, lease(CARDS, 2, tmp_path) as two:
        assert (one, two) == (["a"], ["b", "c"])


def test_jobs_share_the_least_used_when_all_are_taken(tmp_path):
    with lease(CARDS, 3, tmp_path), lease(CARDS, 1, tmp_path) as fourth, lease(CARDS, 2, tmp_path) as fifth:
        assert (fourth, fifth) == (["a"], ["b", "c"])
        with lease(CARDS, 2, tmp_path) as sixth:  # never the same twice for one job
            assert sixth == ["a", "b"]


def test_a_gpu_is_free_again_when_its_job_ends(tmp_path):
    with lease(CARDS, 3, tmp_path):
        pass
    holder = f"""
import os
import re
import signal
from pathlib import Path
from hirl.distributed.launch import lease
with lease({CARDS}, 2, Path({str(tmp_path)!r})):
    os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", holder]).returncode == -9
    with lease(CARDS, 1, tmp_path) as taken:
        assert taken == ["a"]


def test_a_job_sees_the_gpus_it_took(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,5")
    with gpus(2):
        assert visible_gpus() == ["2", "3"]


@pytest.mark.parametrize("named", ["", "-1"])
def test_hidden_gpus_are_none(monkeypatch, named):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == []
    with gpus(4):  # ranks on the CPU
        pass


def test_more_ranks_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(ValueError, match="--ranks 3 needs as many GPUs, but 2 are visible"), gpus(3):
        pass


# --- threads ----------------------------------------------------------------------------------------------------------

STEP = """
import sys
from hirl import cli
from hirl.cli import training
from hirl.distributed import launch

def step(args):
    assert "torch" not in sys.modules
    import torch
    print("threads:", torch.get_num_threads())

launch.idle_cores = lambda: 1
training.pretrain_run = step
cli.main("pretrain --method dino --variant hirl --data . --out . --scratch .".split())
"""


def start_a_step(**variables: str) -> str:
    """Return what a step prints that `hirl` starts while one core is idle, in an environment with these variables."""
    environment = {name: value for name, value in os.environ.items() if name not in (*THREADS, launch.CHOSEN)}
    call = subprocess.run([sys.executable, "-c", STEP], env=environment | variables, capture_output=True, text=True)
    assert call.returncode == 0, call.stderr
    return call.stdout.splitlines()[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell which cores are idle")
def test_a_step_has_one_thread_per_idle_core_before_torch_loads():
    assert start_a_step() == "threads: 1"


def test_a_number_of_threads_that_the_user_sets_stays():
    assert start_a_step(OMP_NUM_THREADS="2") == "threads: 2"


def test_a_number_of_threads_that_the_user_sets_for_one_library_stays_too(monkeypatch):
    monkeypatch.setattr(os, "environ", {"MKL_NUM_THREADS": "2"})
    assert not launch.may_choose_threads()
    monkeypatch.setattr(os, "environ", {})
    assert launch.may_choose_threads()


@pytest.fixture
def two_cores(monkeypatch):
    """Return a function that makes this a machine of two cores, which are in use for these shares of the time."""

    def make(*shares: float) -> None:
        before = dict.fromkeys(range(len(shares)), (500, 9000))
        after = {core: (500 + round(share * 25), 9000 + 25) for core, share in enumerate(shares)}
        readings = iter([before, after])
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
        monkeypatch.setattr(launch, "_core_ticks", lambda: next(readings))
        monkeypatch.setattr(launch, "SAMPLE_SECONDS", 0)

    return make


@pytest.mark.parametrize(
    ("shares", "idle"),
    [((0, 0), 2), ((0.1, 0.2), 2), ((0.5, 0.4), 1), ((0, 1), 1), ((1, 1), 1), ((), 2), ((1,), 1)],
    ids=["idle", "nearly idle", "half busy", "one busy", "both busy", "unknown", "one unknown"],
)
def test_cores_that_other_processes_use_are_not_idle(two_cores, shares, idle):
    two_cores(*shares)
    assert idle_cores() == idle


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/stat")
def test_the_system_tells_how_long_each_core_has_been_in_use():
    ticks = launch._core_ticks()
    assert os.sched_getaffinity(0) <= ticks.keys()
    assert all(0 <= used <= total for used, total in ticks.values())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell which cores are idle")
def test_fewer_threads_than_cores_are_told_in_one_line(two_cores, monkeypatch, capsys):
    for shares, said in (((0, 0), ""), ((1, 1), "threads: 1 of 2, since other processes use the cores")):
        with monkeypatch.context() as fresh:
            fresh.setattr(os, "environ", {})
            fresh.delitem(sys.modules, "torch")
            two_cores(*shares)
            choose_threads()
        out = capsys.readouterr().out
        assert out.startswith(said)
        assert out.count("\n") == bool(said)


# --- ranks ------------------------------------------------------------------------------------------------------------


def start(study: Path | str, data: Path, home: Path, *settings: str) -> subprocess.Popen[str]:
    """`hirl pretrain` of a tiny run on two ranks."""
    folders = ("--data", data, "--out", home / "out", "--scratch", home / "scratch")
    run = ("--study", study, "--method", "simsiam", "--variant", "hirl", *settings)
    command = [sys.executable, "-m", "hirl.cli", "pretrain", *map(str, (*run, *folders)), "--ranks", "2"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "2"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def wait_for_first_epoch(home: Path) -> None:
    deadline = time.monotonic() + 300
    while not list(home.glob("scratch/*/checkpoint00001.pt")):
        assert time.monotonic() < deadline, "no checkpoint in five minutes"
        time.sleep(0.005)


def kill_second_rank(launcher: int) -> None:
    """kill -9 for the rank."""
    (second,) = (rank for rank in psutil.Process(launcher).children() if rank.environ()["RANK"] == "1")
    second.kill()


def test_ranks_of_which_one_is_killed_go_on_to_the_same_numbers(tiny_study, tiny_run, tiny_data, tmp_path):
    call = start(tiny_study, tiny_data, tmp_path)
    wait_for_first_epoch(tmp_path)
    kill_second_rank(call.pid)
    said, errors = call.communicate()
    assert call.returncode == 0, errors
    assert said.count("resumes after epoch 1/3") == 1, said
    assert said.count("epoch 3/3  loss") == 1  # the first rank alone is heard
    assert "exitcode: -9" in errors

    on_two_ranks(pretrain, tiny_run("simsiam", "hirl"), tiny_data, tmp_path / "whole", tmp_path / "undisturbed")
    killed, whole = (pd.read_csv(tmp_path / name / "history.csv").drop(columns=CLOCK) for name in ("out", "whole"))
    pd.testing.assert_frame_equal(killed, whole, check_exact=True)


def test_ctrl_c_ends_all_ranks_in_one_line_that_says_what_is_kept(tiny_study, tiny_data, tmp_path):
    call = start(tiny_study, tiny_data, tmp_path, "--set", "training.epochs=500")
    wait_for_first_epoch(tmp_path)
    ranks = psutil.Process(call.pid).children()
    call.send_signal(signal.SIGINT)
    _, errors = call.communicate(timeout=100)
    assert call.returncode == -signal.SIGINT
    (line,) = (line for line in errors.splitlines() if "Warning" not in line)
    assert re.fullmatch(r"simsiam-hirl-s0  stopped after epoch \d+/500; the same command goes on", line)
    assert len(ranks) == 2
    assert not any(rank.is_running() for rank in ranks)


def test_a_mistake_that_one_rank_finds_ends_all_in_one_line(tiny_study, tiny_data, tmp_path):
    (tmp_path / "plugin.py").write_text(
        'from hirl.distributed.collectives import rank\nif rank() == 1:\n    raise ValueError("image 7 is cut short")\n'
    )
    study = tmp_path / "tiny.yaml"
    study.write_text(f"plugins: [{tmp_path}/plugin.py]\n{Path(tiny_study).read_text()}")
    call = start(study, tiny_data, tmp_path)
    _, errors = call.communicate(timeout=300)
    assert call.returncode == 2
    (line,) = (line for line in errors.splitlines() if "Warning" not in line)
    assert line == f"hirl: plugin {tmp_path}/plugin.py: ValueError: image 7 is cut short (plugin.py, line 3)"
