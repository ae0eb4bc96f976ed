"""The run record is append-only, is cut back on resume and survives a crash."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from hirl.tracking.record import Record, Recorder, environment, read_record


def epochs(path: Path) -> list[int]:
    return [record["epoch"] for record in read_record(path) if record["kind"] == "metrics"]


def record_of(path: Path, count: int) -> Recorder:
    recorder = Recorder(path)
    recorder.params({"config": {"seed": 0}})
    for epoch in range(count):
        recorder.metrics(epoch, {"loss": 1.0 / (epoch + 1)})
    return recorder


def test_every_line_has_a_kind_an_epoch_a_time_and_values(tmp_path):
    record_of(tmp_path / "record.jsonl", 2).close(1)
    lines = [json.loads(line) for line in (tmp_path / "record.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["params", "metrics", "metrics", "end"]
    assert all(set(line) == {"kind", "epoch", "time", "values"} for line in lines)
    assert lines[2]["values"] == {"loss": 0.5}


def test_params_hold_the_environment(tmp_path):
    record_of(tmp_path / "record.jsonl", 0)
    where = read_record(tmp_path / "record.jsonl")[0]["values"]["environment"]
    assert {"processor", "cores", "memory_gb", "gpu", "torch", "git_commit"} <= set(where)


@pytest.mark.usefixtures("one_thread")
def test_params_hold_the_number_of_threads(tmp_path):
    record_of(tmp_path / "record.jsonl", 0)
    assert read_record(tmp_path / "record.jsonl")[0]["values"]["environment"]["threads"] == 1


def test_the_environment_imports_no_torch(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert environment()["gpu"] == "none"
    assert "torch" not in sys.modules


def test_resuming_drops_the_end_and_all_records_after_the_epoch(tmp_path):
    path = tmp_path / "record.jsonl"
    record_of(path, 5).close(4)
    resumed = Recorder(path)
    resumed.truncate_after(2)
    resumed.metrics(3, {"loss": 0.1})
    assert epochs(path) == [0, 1, 2, 3]
    assert [record["kind"] for record in read_record(path)].count("end") == 0
    assert read_record(path)[0]["kind"] == "params"


def test_starting_afresh_drops_everything(tmp_path):
    path = tmp_path / "record.jsonl"
    record_of(path, 3).truncate_after(-1)
    assert read_record(path) == []


def test_a_run_killed_before_its_first_checkpoint_starts_its_record_anew(tmp_path):
    path = tmp_path / "record.jsonl"
    for _ in range(2):
        recorder = Recorder(path)
        recorder.truncate_after(-1)
        recorder.params({"config": {"seed": 0}})
        recorder.snapshot(0, {"clusters_level0": 8.0})
    assert [record["kind"] for record in read_record(path)] == ["params", "snapshot"]


def test_an_incomplete_line_is_dropped_and_the_rest_kept(tmp_path):
    path = tmp_path / "record.jsonl"
    record_of(path, 3)
    with path.open("a") as handle:
        handle.write('{"kind": "metrics", "epo')
    assert epochs(path) == [0, 1, 2]
    Recorder(path).metrics(3, {"loss": 0.2})
    assert epochs(path) == [0, 1, 2, 3]


def test_a_follower_receives_every_record_after_it_is_on_disk(tmp_path):
    path, heard = tmp_path / "record.jsonl", []

    class Listener:
        def on_record(self, record: Record) -> None:
            assert read_record(path)[-1] == record
            heard.append(record["kind"])

    recorder = Recorder(path, Listener())
    recorder.params({})
    recorder.metrics(0, {"loss": 1.0})
    recorder.snapshot(0, {"clusters_level0": 8.0})
    recorder.close()
    assert heard == ["params", "metrics", "snapshot", "end"]
