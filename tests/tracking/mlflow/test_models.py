"""Each trained run has one model, linked to its weights; the best model of each method is named."""

from __future__ import annotations

import json

import pytest

from hirl.tracking.mlflow import sync
from tests.tracking.mlflow.conftest import BASELINE, HIRL, RUNS, stored, write_evaluation


@pytest.fixture
def trained(study):
    """The study, with files that stand for weights: nothing here reads them."""
    for run in (BASELINE, HIRL):
        (study / "runs" / run / "weights.safetensors").write_text(f"weights of {run}")
    return study


@pytest.fixture
def client(uri):
    from mlflow import MlflowClient

    return MlflowClient(uri)


def versions(client) -> dict:
    return {version.tags["hirl.key"].split("/")[0]: version for version in client.search_model_versions("")}


def test_a_run_has_one_model_with_the_numbers_of_its_evaluations(trained, uri, client):
    sync(trained, RUNS, uri)
    (output,) = stored(uri)[HIRL].outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    assert (model.name, model.status.value) == (HIRL, "READY")
    assert {metric.key: metric.value for metric in model.metrics} == {"eval/knn_top1": 50.13, "eval/probe_top1": 55.0}


def test_the_best_of_a_methods_models_is_named_and_moves_with_the_numbers(trained, uri, client):
    sync(trained, RUNS, uri)
    assert set(versions(client)) == {BASELINE, HIRL}
    best = client.get_model_version_by_alias("demo-mocov2", "best")
    assert best.version == versions(client)[HIRL].version
    write_evaluation(trained / "runs" / BASELINE, "knn", {"top1": 90.0})
    sync(trained, RUNS, uri)
    best = client.get_model_version_by_alias("demo-mocov2", "best")
    assert best.version == versions(client)[BASELINE].version


def test_other_weights_make_another_version_which_alone_counts(trained, uri, client):
    sync(trained, RUNS, uri)
    folder = trained / "runs" / HIRL
    (folder / "weights.safetensors").unlink()
    (folder / "weights.safetensors").write_text("trained again")
    write_evaluation(folder, "knn", {"top1": 10.0})
    for _ in range(2):
        sync(trained, RUNS, uri)
    assert len(client.search_model_versions("name = 'demo-mocov2'")) == 3
    best = client.get_model_version_by_alias("demo-mocov2", "best")
    assert best.version == versions(client)[BASELINE].version


def test_a_model_holds_its_weights_as_a_link_and_no_pickle(trained, uri, tmp_path):
    sync(trained, RUNS, uri)
    models = tmp_path / "mlflow" / "artifacts" / "demo" / "models"
    weights = trained / "runs" / HIRL / "weights.safetensors"
    assert [path for path in models.rglob("weights.safetensors") if path.samefile(weights)]
    kinds = {path.suffix for path in models.rglob("*") if path.is_file()}
    assert kinds == {"", ".yaml", ".txt", ".py", ".json", ".safetensors"}  # "" is MLmodel


def test_published_weights_have_registered_models_of_their_own(trained, uri, client):
    sync(trained, RUNS, uri)
    trained.rename(trained.with_name("demo-published"))
    sync(trained.with_name("demo-published"), RUNS, uri)
    assert {model.name for model in client.search_registered_models()} == {"demo-mocov2", "demo-published-mocov2"}


def test_a_model_names_its_registered_version(trained, uri, client):
    sync(trained, RUNS, uri)
    (output,) = stored(uri)[HIRL].outputs.model_outputs
    (named,) = json.loads(client.get_logged_model(output.model_id).tags["mlflow.modelVersions"])
    assert named == {"name": "demo-mocov2", "version": versions(client)[HIRL].version}
