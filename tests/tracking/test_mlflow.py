"""MLflow holds every record exactly once, live or synced, and its failures never stop a training."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from hirl.config.run_name import RunName
from hirl.tracking.mlflow import KEY, MAX_VALUE, LiveRun, init, live_run, run_tags, sync
from hirl.tracking.record import Recorder, read_record

RUNS = ("mocov2-baseline-s0", "mocov2-hirl-s0", "untrained-resnet18-s0")
EPOCHS = 3


def config_of(run: str, seed: int = 0) -> dict:
    name = RunName.parse(run)
    return {
        "study": "demo",
        "method": name.method,
        "variant": name.variant,
        "seed": seed,
        "data": {"name": "taxonomy", "label_lists": {}},
        "backbone": {"name": "resnet18"},
        "training": {"epochs": EPOCHS, "optimizer": {"base_lr": 0.03}},
        "evaluation": {},
    }


def write_evaluation(folder: Path, task: str, metrics: dict[str, float], history: Sequence[dict] = ()) -> None:
    name = RunName.parse(folder.name)
    found = {
        "study": "demo",
        "dataset": "taxonomy",
        "method": name.method,
        "variant": name.variant,
        "backbone": "resnet18",
        "seed": name.seed,
        "task": task,
    }
    path = folder / "evaluation" / f"{task}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    found |= {"metrics": metrics, "settings": {"neighbours": [10]}} | ({"history": history} if history else {})
    path.write_text(json.dumps(found))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Write two trained runs with a record and two evaluations each, a control, a table and a figure."""
    study = tmp_path / "results" / "demo"
    for run in RUNS:
        folder = study / "runs" / run
        write_evaluation(folder, "knn", {"top1": 50.0, "top5": 80.0})
        if not run.startswith("untrained"):
            write_evaluation(folder, "probe", {"top1": 55.0})
            config = config_of(run)
            (folder / "config.json").write_text(json.dumps({"hash": "0", **config}))
            (folder / "history.csv").write_text("epoch,loss\n0,1.0\n")
            recorder = Recorder(folder / "record.jsonl")
            recorder.params({"config": config})
            for epoch in range(EPOCHS):
                recorder.metrics(epoch, {"epoch": epoch, "loss": 1.0 / (epoch + 1), "images_per_second": 100.0})
            recorder.close(EPOCHS - 1)
    (study / "figures").mkdir()
    (study / "figures" / "gains.png").write_bytes(b"a picture")
    (study / "table.md").write_text("| a table |")
    return study


@pytest.fixture(scope="session")
def made_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a store without runs once: creating its tables takes seconds, copying them does not."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    init(f"sqlite:///{path}", "another")
    return path


@pytest.fixture
def uri(tmp_path: Path, made_store: Path) -> str:
    (tmp_path / "mlflow").mkdir()
    shutil.copy(made_store, tmp_path / "mlflow" / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow/mlflow.db"


def stored(uri: str) -> list:
    """Return every run of the store that is not deleted."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    return list(client.search_runs([client.get_experiment_by_name("demo").experiment_id]))


def contents(uri: str) -> dict:
    """Return all that the store holds by run key: parameters, tags, metrics with their history, artifacts, times."""
    from mlflow import MlflowClient

    client, found = MlflowClient(uri), {}
    for run in stored(uri):
        metrics = {
            key: [(m.step, m.timestamp, m.value) for m in client.get_metric_history(run.info.run_id, key)]
            for key in run.data.metrics
        }
        files = [file.path for file in client.list_artifacts(run.info.run_id)]
        key = run.data.tags[KEY]
        assert key not in found
        found[key] = (
            run.info.run_id,
            run.info.status,
            run.info.end_time,
            run.data.params,
            run.data.tags,
            metrics,
            files,
        )
    return found


def test_init_makes_an_experiment_once_with_its_artifacts_beside_the_store(uri, tmp_path):
    from mlflow import MlflowClient

    experiment = init(uri, "demo")
    assert init(uri, "demo") == experiment
    location = MlflowClient(uri).get_experiment(experiment).artifact_location
    assert location == (tmp_path / "mlflow" / "artifacts" / "demo").as_uri()


def test_sync_replays_each_run_with_its_evaluations_as_children(study, uri):
    sync(study, RUNS, uri)
    runs = {run.info.run_name: run for run in stored(uri)}
    # three runs, five evaluations, one run for the study's tables and figures
    assert len(runs) == 9
    parent, child = runs["mocov2-hirl-s0"], runs["mocov2-hirl-s0 probe"]
    assert parent.data.params["config.training.optimizer.base_lr"] == "0.03"
    assert parent.data.metrics["loss"] == pytest.approx(1 / 3)  # of the last epoch; stored as a double
    assert parent.info.status == "FINISHED"
    wanted = {"study": "demo", "method": "mocov2", "variant": "hirl", "backbone": "resnet18", "seed": "0"}
    wanted["stage"] = "pretrain"
    assert wanted.items() <= parent.data.tags.items()
    assert {"config_hash", "git_commit", "processor"} <= set(parent.data.tags)
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["stage"] == "probe"
    assert child.data.metrics == {"top1": 55.0}
    control = runs["untrained-resnet18-s0 knn"].data
    assert control.metrics == {"top1": 50.0, "top5": 80.0}
    assert [control.tags[key] for key in ("variant", "backbone", "stage")] == ["control", "resnet18", "knn"]


def test_every_epoch_is_there_with_the_time_of_the_record(study, uri):
    sync(study, RUNS, uri)
    records = [r for r in read_record(study / "runs" / RUNS[0] / "record.jsonl") if r["kind"] == "metrics"]
    (key,) = [key for key in contents(uri) if key.startswith(RUNS[0]) and key.count("/") == 1]
    wanted = [(r["epoch"], int(r["time"] * 1000), r["values"]["loss"]) for r in records]
    assert contents(uri)[key][5]["loss"] == wanted


def test_a_trained_evaluation_shows_its_epochs_as_curves(study, uri):
    losses, seconds = [2.0, 1.0, 0.5], [60.0, 30.0, 10.0]
    history = [
        {"epoch": epoch, "loss": loss, "seconds": time}
        for epoch, (loss, time) in enumerate(zip(losses, seconds, strict=True))
    ]
    write_evaluation(study / "runs" / RUNS[0], "finetune", {"top1": 70.0}, history)
    path = study / "runs" / RUNS[0] / "evaluation" / "finetune.json"
    os.utime(path, (1_700_000_100, 1_700_000_100))
    sync(study, RUNS[:1], uri)
    (key,) = [key for key in contents(uri) if key.endswith("/finetune")]
    before = contents(uri)[key]
    # the file was written at the end, 100 s after the start, and the epochs ended 60, 90 and 100 s after the start
    ends = [1_700_000_060_000, 1_700_000_090_000, 1_700_000_100_000]
    assert before[5]["loss"] == list(zip(range(3), ends, losses, strict=True))
    assert before[5]["top1"] == [(2, ends[-1], 70.0)]
    (run,) = [run for run in stored(uri) if run.data.tags[KEY] == key]
    assert (run.info.start_time, run.info.end_time) == (1_700_000_000_000, ends[-1])
    sync(study, RUNS[:1], uri)
    assert contents(uri)[key] == before


def test_settings_that_do_not_change_the_weights_make_no_other_run():
    config = config_of(RUNS[0])
    other = {"evaluation": {"knn": 1}, "scenes": {}, "transfer_data": {}, "hash": "1"}
    other["data"] = config["data"] | {"label_lists": {"1": "list.txt"}}
    same = run_tags(RUNS[0], config | other)
    assert same == run_tags(RUNS[0], config)
    assert run_tags(RUNS[0], config | {"training": {}})[KEY] != same[KEY]


def test_figures_and_tables_are_artifacts(study, uri, tmp_path):
    sync(study, RUNS, uri)
    artifacts = {path.name for path in (tmp_path / "mlflow" / "artifacts").rglob("*") if path.is_file()}
    assert artifacts == {"gains.png", "table.md", "config.json", "history.csv"}


def test_syncing_twice_changes_nothing(study, uri):
    sync(study, RUNS, uri)
    before = contents(uri)
    sync(study, RUNS, uri)
    assert contents(uri) == before


def test_a_new_evaluation_replaces_the_old_one(study, uri):
    sync(study, RUNS, uri)
    write_evaluation(study / "runs" / RUNS[0], "knn", {"top1": 60.0})
    sync(study, RUNS, uri)
    found = [run for run in stored(uri) if run.info.run_name == f"{RUNS[0]} knn"]
    assert [run.data.metrics for run in found] == [{"top1": 60.0}]


def test_two_syncs_at_once_into_a_new_store_lose_and_duplicate_nothing(study, uri, tmp_path):
    program = "import sys; from hirl.tracking.mlflow import sync; sync(sys.argv[1], sys.argv[3:], sys.argv[2])"
    shared = f"sqlite:///{tmp_path}/shared/mlflow.db"
    command = [sys.executable, "-c", program, str(study), shared, *RUNS]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    sync(study, RUNS, uri)
    together, alone = contents(shared), contents(uri)
    # every run once, with the very metrics of a lone sync; the ids are MLflow's own
    assert {key: value[5] for key, value in together.items()} == {key: value[5] for key, value in alone.items()}


def test_a_live_run_and_a_later_sync_are_one_run(study, uri, tmp_path):
    folder = study / "runs" / RUNS[0]
    (folder / "record.jsonl").unlink()
    recorder = Recorder(folder / "record.jsonl", LiveRun(uri, RUNS[0], config_of(RUNS[0])))
    recorder.params({"config": config_of(RUNS[0])})
    recorder.metrics(0, {"loss": 1.0})
    recorder.close()
    (live,) = contents(uri).values()
    sync(study, RUNS[:1], uri)
    after = contents(uri)[f"{RUNS[0]}/{live[4]['config_hash']}"]
    assert after[0] == live[0]
    assert after[5] == live[5]


def test_a_resumed_live_run_continues_the_same_run(uri, tmp_path):
    for epoch in range(2):
        recorder = Recorder(tmp_path / "record.jsonl", LiveRun(uri, RUNS[0], config_of(RUNS[0])))
        recorder.metrics(epoch, {"loss": 1.0})
    (run,) = stored(uri)
    assert run.info.status == "RUNNING"
    (content,) = contents(uri).values()
    assert [step for step, _, _ in content[5]["loss"]] == [0, 1]


def test_an_unfinished_run_is_found_in_the_scratch_folder(study, uri, tmp_path):
    scratch = tmp_path / "scratch"
    (scratch / f"{RUNS[0]}-abc").mkdir(parents=True)
    record = study / "runs" / RUNS[0] / "record.jsonl"
    lines = record.read_text().splitlines(keepends=True)
    (scratch / f"{RUNS[0]}-abc" / "record.jsonl").write_text("".join(lines[:-1]))
    record.unlink()
    sync(study, RUNS[:1], uri, scratch)
    status = {run.info.run_name: run.info.status for run in stored(uri)}
    assert status[RUNS[0]] == "RUNNING"


@pytest.mark.parametrize(
    "store",
    ["sqlite:////proc/nowhere/mlflow.db", "http://127.0.0.1:9", "nonsense://x"],
    ids=["file", "server", "scheme"],
)
def test_a_failing_store_is_named_once_and_training_continues(store, tmp_path, capsys):
    recorder = Recorder(tmp_path / "record.jsonl", LiveRun(store, RUNS[0], config_of(RUNS[0])))
    started = time.monotonic()
    recorder.params({"config": {}})
    for epoch in range(3):
        recorder.metrics(epoch, {"loss": 1.0})
    recorder.close()
    assert time.monotonic() - started < 30  # one timeout of ten seconds and one retry, with room
    assert len(read_record(tmp_path / "record.jsonl")) == 5
    said = [line for line in capsys.readouterr().err.splitlines() if "tracking of" in line]
    assert len(said) == 1
    assert RUNS[0] in said[0]


def test_a_machine_without_mlflow_trains_nevertheless(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "mlflow.db", None)
    monkeypatch.setitem(sys.modules, "mlflow.exceptions", None)
    recorder = Recorder(tmp_path / "record.jsonl", LiveRun("sqlite:///x.db", RUNS[0], config_of(RUNS[0])))
    recorder.params({})
    recorder.close()
    assert "training continues" in capsys.readouterr().err


def test_live_tracking_starts_only_if_the_environment_names_a_store(monkeypatch):
    monkeypatch.delenv("HIRL_TRACKING_URI", raising=False)
    assert live_run("run", {}) is None
    monkeypatch.setenv("HIRL_TRACKING_URI", "sqlite:///x.db")
    assert live_run("run", {}).uri == "sqlite:///x.db"


def test_telemetry_is_off_and_importing_the_module_does_not_import_mlflow():
    program = (
        "import sys, os, hirl.tracking.mlflow; print('mlflow' in sys.modules, os.environ['MLFLOW_DISABLE_TELEMETRY'])"
    )
    clean = {key: value for key, value in os.environ.items() if key not in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK")}
    said = subprocess.run([sys.executable, "-c", program], env=clean, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["False", "true"]


def test_parameters_have_dotted_keys_and_are_cut_to_what_mlflow_takes(uri, tmp_path):
    recorder = Recorder(tmp_path / "record.jsonl", LiveRun(uri, RUNS[0], config_of(RUNS[0])))
    recorder.params({"a": {"b": {"c": 1}}, "none": None, "long": "x" * 10_000})
    (run,) = stored(uri)
    assert run.data.params == {"a.b.c": "1", "none": "None", "long": "x" * MAX_VALUE}
