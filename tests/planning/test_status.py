from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path

import pytest

from hirl.config import Study, load_study
from hirl.files import locked, write_json, write_text
from hirl.planning import status
from hirl.planning.status import headline, runs_table, study_status
from hirl.tracking.record import Recorder

SECONDS = 10.0  # of an epoch
STUDY = """
methods: [simsiam, dino]
variants: [baseline, hirl]
tasks: [knn, hierarchy]
"""


@pytest.fixture
def study(tmp_path: Path) -> Study:
    write_text(tmp_path / "mine.yaml", STUDY)
    return load_study(str(tmp_path / "mine.yaml"))


def record(folder: Path, epochs: int, done: int, taken_over: int = 0) -> None:
    """Write the record of a run: HIRL's start has taken over epochs ten times as long."""
    recorder = Recorder(folder / "record.jsonl")
    stem = {"stem": {"epochs": taken_over}} if taken_over else {}
    recorder.params({"config": {"training": {"epochs": epochs}}} | stem)
    for epoch in range(done):
        seconds = 10 * SECONDS if epoch < taken_over else SECONDS
        recorder.metrics(epoch, {"loss": 2.0 - epoch, "images_per_second": 100.0, "seconds": seconds})


def finish(root: Path, run: str, *tasks: str, epochs: int = 4, taken_over: int = 0) -> None:
    folder = root / "results" / "mine" / "runs" / run
    record(folder, epochs, epochs, taken_over)
    (folder / "weights.safetensors").touch()
    for task in tasks:
        write_json(folder / "evaluation" / f"{task}.json", {})


def begin(root: Path, run: str, done: int, epochs: int = 4) -> Path:
    scratch = root / "scratch" / "mine" / f"{run}-0123abcd"
    record(scratch, epochs, done)
    (scratch / "lock").touch()
    return scratch


def found(study: Study, root: Path) -> dict[str, status.RunStatus]:
    return {run.name: run for run in study_status(study, root).runs}


def asked_of_snakemake(root: Path, *outputs: str, making: tuple[str, ...] = ()) -> None:
    own = root / ".snakemake"
    write_text(own / "locks" / "0.output.lock", "\n".join(outputs))
    (own / "incomplete").mkdir()
    for output in making:
        (own / "incomplete" / base64.urlsafe_b64encode(output.encode()).decode()).touch()


def test_the_states_of_a_study_that_nothing_works_on(study: Study, tmp_path: Path) -> None:
    finish(tmp_path, "simsiam-baseline-s0", "knn")
    finish(tmp_path, "simsiam-hirl-s0", "knn")  # its tree is not evaluated
    begin(tmp_path, "dino-baseline-s0", done=1)
    runs = found(study, tmp_path)
    states = {name: run.state for name, run in runs.items()}
    assert runs["simsiam-hirl-s0"].note == "2 of 3 results"
    assert states == {
        "simsiam-baseline-s0": "done",
        "simsiam-hirl-s0": "evaluated in part",
        "dino-baseline-s0": "stopped",
        "dino-hirl-s0": "not started",
        "untrained-resnet50-s0": "not started",
        "untrained-vit_base_patch16-s0": "not started",
    }
    said = headline(study_status(study, tmp_path))
    assert said.startswith(
        "mine  6 runs: 1 done, 1 stopped, 1 evaluated in part, 3 not started; nothing works on it now"
    )


def test_a_locked_run_trains_and_its_time_left_shrinks(study: Study, tmp_path: Path, monkeypatch) -> None:
    scratch = begin(tmp_path, "dino-baseline-s0", done=1)
    with locked(scratch):
        run = found(study, tmp_path)["dino-baseline-s0"]
        assert run.state == "trains"
        assert run.left == pytest.approx(3 * SECONDS, abs=5)  # this test may take a few seconds
        later = time.time() + 12
        monkeypatch.setattr(time, "time", lambda: later)
        assert found(study, tmp_path)["dino-baseline-s0"].left == pytest.approx(3 * SECONDS - 12, abs=5)


def test_a_run_that_has_not_begun_takes_as_long_as_those_like_it(study: Study, tmp_path: Path) -> None:
    finish(tmp_path, "simsiam-baseline-s0", "knn", epochs=4)
    finish(tmp_path, "simsiam-hirl-s0", "knn", epochs=4, taken_over=1)
    finish(tmp_path, "dino-hirl-s7", "knn", epochs=6, taken_over=2)
    runs = found(study, tmp_path)
    assert runs["dino-hirl-s0"].left == 4 * SECONDS  # another seed: the epochs that were not taken over
    assert runs["dino-baseline-s0"].left == 4 * SECONDS  # another variant
    (tmp_path / "results" / "mine" / "runs" / "dino-hirl-s7" / "record.jsonl").unlink()
    assert found(study, tmp_path)["dino-baseline-s0"].left == pytest.approx(3.5 * SECONDS)  # the mean of others


def test_nothing_is_promised_before_anything_is_measured(study: Study, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(status, "_is_running", lambda _: True)
    asked_of_snakemake(tmp_path, "results/mine/runs/dino-hirl-s0/weights.safetensors")
    told = study_status(study, tmp_path)
    assert [run.state for run in told.runs] == ["waiting"]
    assert headline(told) == "mine  1 run: 1 waiting; no time measured yet"


def test_of_a_running_snakemake_only_what_was_asked_counts(study: Study, tmp_path: Path, monkeypatch) -> None:
    for seed in (3, 4, 5):
        finish(tmp_path, f"dino-baseline-s{seed}")
    knn = "results/mine/runs/dino-baseline-s{}/evaluation/knn.json"
    job = tmp_path / ".snakemake" / "metadata" / base64.urlsafe_b64encode(knn.format(5).encode()).decode()
    write_json(tmp_path / knn.format(5), {})
    write_text(job, json.dumps({"starttime": 100.0, "endtime": 107.0}))
    asked_of_snakemake(tmp_path, *map(knn.format, (3, 4, 5)), making=(knn.format(3),))
    monkeypatch.setattr(status, "_is_running", lambda _: True)
    told = study_status(study, tmp_path)
    assert {run.name: run.state for run in told.runs} == {
        "dino-baseline-s3": "evaluates",
        "dino-baseline-s4": "waiting",
        "dino-baseline-s5": "done",
    }
    assert told.left == 14.0  # two evaluations, one after the other
    assert headline(told) == "mine  3 runs: 1 done, 1 running, 1 waiting; about 14 s left"


@pytest.mark.parametrize(
    ("lines", "state", "note"),
    [
        ("dino-baseline-s0  epoch 1/4\nhirl: the loss is not finite", "failed", "the loss is not finite"),
        ('Traceback (most recent call last):\n  File "x.py"\nMemoryError: 3 GiB', "failed", "MemoryError: 3 GiB"),
        ("dino-baseline-s0  stopped after epoch 1/4; the same command goes on", "stopped", ""),
        ("dino-baseline-s0  epoch 1/4", "stopped", ""),  # killed
    ],
)
def test_a_log_tells_why_a_run_failed(study: Study, tmp_path: Path, lines: str, state: str, note: str) -> None:
    begin(tmp_path, "dino-baseline-s0", done=1)
    write_text(tmp_path / "logs" / "mine" / "dino-baseline-s0" / "pretrain.log", lines)
    run = found(study, tmp_path)["dino-baseline-s0"]
    assert (run.state, run.note) == (state, note)


def test_a_failure_of_an_earlier_call_is_forgotten_by_a_later_one(study: Study, tmp_path: Path, monkeypatch) -> None:
    log = tmp_path / "logs" / "mine" / "dino-baseline-s0" / "pretrain.log"
    write_text(log, "hirl: the loss is not finite")
    os.utime(log, (1, 1))
    asked_of_snakemake(tmp_path, "results/mine/runs/dino-baseline-s0/weights.safetensors")
    monkeypatch.setattr(status, "_is_running", lambda _: True)
    assert found(study, tmp_path)["dino-baseline-s0"].state == "waiting"


def test_a_lock_that_a_killed_snakemake_left_is_no_work(study: Study, tmp_path: Path) -> None:
    asked_of_snakemake(tmp_path, "results/mine/runs/dino-hirl-s0/weights.safetensors")
    assert not study_status(study, tmp_path).works


def test_the_table_has_a_row_for_each_run(study: Study, tmp_path: Path) -> None:
    begin(tmp_path, "dino-baseline-s0", done=1)
    table = runs_table(study_status(study, tmp_path))
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    assert ("dino-baseline-s0", "stopped", "1/4", "2.000", "100", "30 s", "") in rows
