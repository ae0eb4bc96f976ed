"""The machine is sampled while a training is long, and never after it."""

from __future__ import annotations

import sys
import threading

from hirl.tracking.machine import MachineSampler, sample
from hirl.tracking.record import Recorder, read_record


def test_a_sample_has_processor_and_memory():
    found = sample()
    assert 0 <= found["cpu_utilization_percentage"] <= 100
    assert 0 < found["system_memory_usage_percentage"] < 100


def test_a_machine_without_psutil_has_no_samples(monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert sample() == {}


def test_samples_come_until_they_are_stopped():
    two, taken = threading.Event(), []

    def take(values: dict[str, float]) -> None:
        taken.append(values)
        if len(taken) == 2:
            sampler.stop()
            two.set()

    sampler = MachineSampler(take, seconds=0.01)
    assert two.wait(10)
    assert len(taken) == 2


def test_samples_are_numbered_and_a_resumed_training_drops_those_of_the_epochs_it_repeats(tmp_path):
    path = tmp_path / "record.jsonl"
    recorder = Recorder(path)
    recorder.metrics(0, {"loss": 1.0})
    recorder.system({"cpu_utilization_percentage": 1.0})
    recorder.metrics(1, {"loss": 1.0})
    recorder.system({"cpu_utilization_percentage": 2.0})
    resumed = Recorder(path)
    resumed.truncate_after(1)
    resumed.system({"cpu_utilization_percentage": 3.0})
    found = [record for record in read_record(path) if record["kind"] == "system"]
    assert [record["epoch"] for record in found] == [1, 2]
    assert [record["values"]["sample"] for record in found] == [0, 1]
