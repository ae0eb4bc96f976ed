"""Studies and stores for the tests of MLflow."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from hirl.config.run_name import RunName
from hirl.tracking.mlflow import init
from hirl.tracking.mlflow.texts import KEY
from hirl.tracking.record import Recorder

BASELINE, HIRL, CONTROL = RUNS = ("mocov2-baseline-s0", "mocov2-hirl-s0", "untrained-resnet8-s0")
EPOCHS = 3
BACKBONE = {
    "name": "resnet8",
    "zero_init_residual": False,
    "drop_path": 0.0,
    "position_embedding": "learned",
    "layer_scale": None,
}


def config_of(run: str, seed: int = 0) -> dict:
    name = RunName.parse(run)
    return {
        "study": "demo",
        "method": name.method,
        "variant": name.variant,
        "seed": seed,
        "data": {"name": "taxonomy", "image_size": 16, "label_lists": {}},
        "views": {"global_size": 16},
        "backbone": BACKBONE,
        "hierarchy": {"num_clusters": [4, 2]} if name.variant == "hirl" else None,
        "training": {"epochs": EPOCHS, "batch_size": 8, "optimizer": {"base_lr": 0.03}},
        "evaluation": {"knn": {"neighbours": [10]}},
    }


def write_evaluation(folder: Path, task: str, metrics: dict[str, float], history: Sequence[dict] = ()) -> Path:
    name = RunName.parse(folder.name)
    found = {
        "study": "demo",
        "dataset": "taxonomy",
        "method": name.method,
        "variant": name.variant,
        "backbone": "resnet8",
        "seed": name.seed,
        "task": task,
    }
    path = folder / "evaluation" / f"{task}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    found |= {"metrics": metrics, "settings": {"neighbours": [10]}} | ({"history": history} if history else {})
    path.write_text(json.dumps(found))
    return path


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Write two trained runs with a record and two evaluations each, a control, a data set, a table and two figures."""
    study = tmp_path / "results" / "demo"
    for run in RUNS:
        folder = study / "runs" / run
        write_evaluation(folder, "knn", {"top1": 50.126 if run == HIRL else 40.0, "top5": 80.0})
        if run != CONTROL:
            write_evaluation(folder, "probe", {"top1": 55.0})
            config = config_of(run)
            (folder / "config.json").write_text(json.dumps({"hash": "0", **config}))
            (folder / "history.csv").write_text("epoch,loss\n0,1.0\n")
            recorder = Recorder(folder / "record.jsonl")
            recorder.params({"config": config})
            for epoch in range(EPOCHS):
                recorder.metrics(epoch, {"epoch": epoch, "loss": 1.0 / (epoch + 1), "images_per_second": 100.0})
            recorder.close(EPOCHS - 1)
    (study / "data").mkdir()
    manifest = {"dataset": "taxonomy", "digest": "0123456789abcdef" * 4, "splits": {"train": 8, "validation": 4}}
    (study / "data" / "manifest.json").write_text(json.dumps(manifest))
    (study / "figures").mkdir()
    for figure in ("gains", f"atlas-{HIRL}"):
        (study / "figures" / f"{figure}.png").write_bytes(b"a picture")
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


def stored(uri: str) -> dict:
    """Return every run of the store that is not deleted, by its key without the hash of the configuration."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("demo").experiment_id])
    found = {name_of(run.data.tags[KEY]): run for run in runs}
    assert len(found) == len(runs)
    return found


def name_of(key: str) -> str:
    """Return `mocov2-hirl-s0` or `mocov2-hirl-s0 knn` for a run's key."""
    run, *rest = key.split("/")
    task = [part for part in rest if part in ("knn", "probe", "finetune")]
    return " ".join([run, *task])


def contents(uri: str) -> dict:
    """Return all that the store holds of each run: identity, times, parameters, tags, metrics with history, files."""
    from mlflow import MlflowClient

    client, found = MlflowClient(uri), {}
    for name, run in stored(uri).items():
        metrics = {
            key: [(m.step, m.timestamp, m.value) for m in client.get_metric_history(run.info.run_id, key)]
            for key in run.data.metrics
        }
        files = [file.path for file in client.list_artifacts(run.info.run_id)]
        info = (run.info.run_id, run.info.status, run.info.start_time, run.info.end_time)
        found[name] = {
            "info": info,
            "params": run.data.params,
            "tags": run.data.tags,
            "metrics": metrics,
            "files": files,
        }
    return found
