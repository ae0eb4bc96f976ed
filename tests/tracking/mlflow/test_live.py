"""A run is followed live, and a tracker's failure never stops it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from hirl.tracking.mlflow import LiveRun, live_run, sync
from hirl.tracking.record import Recorder, read_record
from tests.tracking.mlflow.conftest import BASELINE, config_of, contents, stored


def test_a_live_run_and_a_later_sync_are_one_run(study, uri):
    folder = study / "runs" / BASELINE
    (folder / "record.jsonl").unlink()
    recorder = Recorder(folder / "record.jsonl", LiveRun(uri, BASELINE, config_of(BASELINE)))
    recorder.params({"config": config_of(BASELINE)})
    recorder.metrics(0, {"loss": 1.0})
    recorder.close()
    (live,) = contents(uri).values()
    sync(study, [BASELINE], uri)
    after = contents(uri)[BASELINE]
    assert after["info"] == live["info"]
    assert live["metrics"].items() <= after["metrics"].items()


def test_a_resumed_live_run_continues_the_same_run(uri, tmp_path):
    for epoch in range(2):
        recorder = Recorder(tmp_path / "record.jsonl", LiveRun(uri, BASELINE, config_of(BASELINE)))
        recorder.metrics(epoch, {"loss": 1.0})
    assert stored(uri)[BASELINE].info.status == "RUNNING"
    (content,) = contents(uri).values()
    assert [step for step, _, _ in content["metrics"]["train/loss"]] == [0, 1]


@pytest.mark.parametrize(
    "store",
    ["sqlite:////proc/nowhere/mlflow.db", "http://127.0.0.1:9", "nonsense://x"],
    ids=["file", "server", "scheme"],
)
def test_a_failing_store_is_named_once_and_training_continues(store, tmp_path, capsys):
    recorder = Recorder(tmp_path / "record.jsonl", LiveRun(store, BASELINE, config_of(BASELINE)))
    started = time.monotonic()
    recorder.params({"config": {}})
    for epoch in range(3):
        recorder.metrics(epoch, {"loss": 1.0})
    recorder.close()
    assert time.monotonic() - started < 30  # one timeout of ten seconds and one retry, with room
    assert len(read_record(tmp_path / "record.jsonl")) == 5
    said = [line for line in capsys.readouterr().err.splitlines() if "tracking of" in line]
    assert len(said) == 1
    assert BASELINE in said[0]


def test_a_machine_without_mlflow_trains_nevertheless(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "mlflow.db", None)
    monkeypatch.setitem(sys.modules, "mlflow.exceptions", None)
    recorder = Recorder(tmp_path / "record.jsonl", LiveRun(f"sqlite:///{tmp_path}/x.db", BASELINE, config_of(BASELINE)))
    recorder.params({})
    recorder.close()
    assert "training continues" in capsys.readouterr().err


def test_live_tracking_starts_only_if_the_environment_names_a_store(monkeypatch):
    monkeypatch.delenv("HIRL_TRACKING_URI", raising=False)
    assert live_run("run", {}) is None
    monkeypatch.setenv("HIRL_TRACKING_URI", "sqlite:///x.db")
    assert live_run("run", {}).uri == "sqlite:///x.db"


def test_telemetry_is_off_and_importing_the_package_imports_neither_mlflow_nor_numpy():
    program = (
        "import sys, os, hirl.tracking.mlflow;"
        "print('mlflow' in sys.modules, 'numpy' in sys.modules, os.environ['MLFLOW_DISABLE_TELEMETRY'])"
    )
    clean = {key: value for key, value in os.environ.items() if key not in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK")}
    said = subprocess.run([sys.executable, "-c", program], env=clean, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["False", "False", "true"]
