"""A run in MLflow has the record's numbers and times, its evaluations' headlines, its data and its files."""

from __future__ import annotations

import os

import pytest

from hirl.tracking.mlflow.runs import Files
from hirl.tracking.mlflow.store import MAX_VALUE, milliseconds
from hirl.tracking.mlflow.studies import sync
from hirl.tracking.record import Recorder, read_record, record_evaluation
from tests.tracking.mlflow.conftest import BASELINE, CONTROL, EPOCHS, HIRL, RUNS, contents, stored, write_evaluation


@pytest.fixture
def synced(study, uri):
    sync(study, RUNS, uri)
    return stored(uri)


def test_a_training_shows_the_headlines_of_its_evaluations_to_two_decimals(synced):
    assert synced[HIRL].data.metrics["eval/knn_top1"] == 50.13
    assert synced[HIRL].data.metrics["eval/probe_top1"] == 55.0
    assert "eval/knn_top5" not in synced[HIRL].data.metrics  # no table shows it
    assert synced[CONTROL].data.metrics == {"eval/knn_top1": 40.0}


def test_an_evaluation_is_a_child_with_all_its_numbers_and_its_settings(synced):
    child = synced[f"{HIRL} knn"]
    assert child.data.tags["mlflow.parentRunId"] == synced[HIRL].info.run_id
    assert child.data.tags["stage"] == "knn"
    assert child.data.metrics == {"top1": 50.126, "top5": 80.0}
    assert child.data.params == {"neighbours": "[10]"}


def test_settings_that_decide_the_weights_are_parameters_of_the_training(synced):
    params = synced[HIRL].data.params
    assert params["training.optimizer.base_lr"] == "0.03"
    assert params["hierarchy.num_clusters"] == "[4, 2]"
    assert not [key for key in params if key.startswith("evaluation")]


def test_a_training_says_who_made_it_from_which_commit_and_data(synced):
    run = synced[HIRL]
    assert run.data.tags["mlflow.source.name"] == "hirl pretrain"
    assert run.data.tags["mlflow.user"]
    assert run.data.tags["git_commit"].startswith(run.data.tags["mlflow.source.git.commit"])
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("taxonomy", "0123456789ab")
    assert used.tags[0].value == "training"
    wanted = {"study": "demo", "method": "mocov2", "variant": "hirl", "backbone": "resnet8", "stage": "pretrain"}
    assert wanted.items() <= run.data.tags.items()


def test_every_epoch_is_there_with_the_time_of_the_record(study, uri):
    sync(study, RUNS, uri)
    records = [r for r in read_record(study / "runs" / BASELINE / "record.jsonl") if r["kind"] == "metrics"]
    wanted = [(r["epoch"], milliseconds(r["time"]), r["values"]["loss"]) for r in records]
    assert contents(uri)[BASELINE]["metrics"]["train/loss"] == wanted


def test_a_training_lasts_from_its_first_record_to_its_last(study, synced):
    records = read_record(study / "runs" / BASELINE / "record.jsonl")
    times = synced[BASELINE].info.start_time, synced[BASELINE].info.end_time
    assert times == (milliseconds(records[0]["time"]), milliseconds(records[-1]["time"]))


def test_an_evaluation_lasts_as_long_as_its_record_says(study, uri):
    record_evaluation(study / "runs" / HIRL / "evaluation", "knn", 1_700_000_000.0, 1_700_000_002.5)
    sync(study, RUNS, uri)
    info = stored(uri)[f"{HIRL} knn"].info
    assert (info.start_time, info.end_time) == (1_700_000_000_000, 1_700_000_002_500)


def test_a_trained_evaluation_shows_its_epochs_as_curves(study, uri):
    losses, seconds = [2.0, 1.0, 0.5], [60.0, 30.0, 10.0]
    history = [
        {"epoch": epoch, "loss": loss, "seconds": time}
        for epoch, (loss, time) in enumerate(zip(losses, seconds, strict=True))
    ]
    path = write_evaluation(study / "runs" / BASELINE, "finetune", {"top1": 70.0}, history)
    os.utime(path, (1_700_000_100, 1_700_000_100))
    sync(study, RUNS[:1], uri)
    found = contents(uri)[f"{BASELINE} finetune"]
    # there is no record of it: its file was written at the end, 100 s after the start
    ends = [1_700_000_060_000, 1_700_000_090_000, 1_700_000_100_000]
    assert found["metrics"]["train/loss"] == list(zip(range(3), ends, losses, strict=True))
    assert found["metrics"]["top1"] == [(2, ends[-1], 70.0)]
    assert found["info"][2:] == (1_700_000_000_000, ends[-1])


def test_an_unfinished_run_is_found_in_the_scratch_folder(study, uri, tmp_path):
    scratch = tmp_path / "scratch"
    (scratch / f"{BASELINE}-abc").mkdir(parents=True)
    record = study / "runs" / BASELINE / "record.jsonl"
    lines = record.read_text().splitlines(keepends=True)
    (scratch / f"{BASELINE}-abc" / "record.jsonl").write_text("".join(lines[:-1]))
    for file in (study / "runs" / BASELINE).glob("*.*"):
        file.unlink()
    sync(study, [BASELINE], uri, scratch)
    run = stored(uri)[BASELINE]
    assert run.info.status == "RUNNING"
    assert run.data.metrics["train/loss"] == pytest.approx(1 / EPOCHS)


def test_a_run_that_has_nothing_yet_is_left_out(study, uri):
    sync(study, ["dino-hirl-s0"], uri)
    assert set(stored(uri)) == {"report"}


def test_samples_of_the_machine_are_numbered(study, uri):
    recorder = Recorder(study / "runs" / BASELINE / "record.jsonl")
    for load in (10.0, 20.0):
        recorder.system({"cpu_utilization_percentage": load})
    sync(study, [BASELINE], uri)
    rows = contents(uri)[BASELINE]["metrics"]["system/cpu_utilization_percentage"]
    assert [(step, value) for step, _, value in rows] == [(0, 10.0), (1, 20.0)]


def test_a_change_of_any_stored_file_is_seen(study):
    before = Files(study / "runs" / HIRL, None).digest()
    for file in ("record.jsonl", "evaluation/knn.json", "config.json", "tree.safetensors", "evaluation/record.jsonl"):
        with (study / "runs" / HIRL / file).open("a") as handle:
            handle.write(" ")
        after = Files(study / "runs" / HIRL, None).digest()
        assert after != before
        before = after


def test_parameters_have_dotted_keys_and_are_cut_to_what_mlflow_takes(study, uri):
    recorder = Recorder(study / "runs" / BASELINE / "record.jsonl")
    recorder.truncate_after(-1)
    recorder.params({"a": {"b": {"c": 1}}, "none": None, "long": "x" * 10_000})
    recorder.close()
    sync(study, [BASELINE], uri)
    assert stored(uri)[BASELINE].data.params == {"a.b.c": "1", "none": "None", "long": "x" * MAX_VALUE}
