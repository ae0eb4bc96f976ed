"""Experiments are made once, batches keep MLflow's limits, and artifacts on this machine are links."""

from __future__ import annotations

from mlflow.entities import Metric

from hirl.tracking.mlflow.store import MAX_METRICS, MAX_PARAMS, Content, init, local_folder, open_store, place


def test_init_makes_an_experiment_once_with_its_artifacts_beside_the_store(uri, tmp_path):
    from mlflow import MlflowClient

    experiment = init(uri, "demo")
    assert init(uri, "demo") == experiment
    location = MlflowClient(uri).get_experiment(experiment).artifact_location
    assert location == (tmp_path / "mlflow" / "artifacts" / "demo").as_uri()


def test_an_experiment_says_what_it_is_and_keeps_what_its_readers_wrote(uri):
    store = open_store(uri, "demo")
    tags = store.client.get_experiment(store.experiment).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert f"#/experiments/{store.experiment}/runs" in tags["mlflow.note.content"]
    store.client.set_experiment_tag(store.experiment, "mlflow.note.content", "my notes")
    again = open_store(uri, "demo")
    assert again.client.get_experiment(store.experiment).tags["mlflow.note.content"] == "my notes"


def test_more_than_a_batch_is_stored_whole(uri):
    store = open_store(uri, "demo")
    run = store.create("run", {}, 0.0)
    params = {f"p{number}": number for number in range(2 * MAX_PARAMS + 5)}
    metrics = [Metric("loss", 1.0, 0, step) for step in range(2 * MAX_METRICS)]
    store.log(run, Content(params, metrics, {"a": "b"}))
    data = store.client.get_run(run).data
    assert data.params == {key: str(value) for key, value in params.items()}
    assert len(store.client.get_metric_history(run, "loss")) == 2 * MAX_METRICS
    assert data.tags["a"] == "b"


def test_weights_are_linked_and_other_files_copied(tmp_path):
    for name, is_linked in (("weights.safetensors", True), ("table.md", False)):
        (tmp_path / name).write_text("old")
        for _ in range(2):
            place(tmp_path / name, tmp_path / "artifacts" / name)
        assert (tmp_path / "artifacts" / name).samefile(tmp_path / name) is is_linked
        assert [path.name for path in (tmp_path / "artifacts").iterdir() if path.name.startswith(".")] == []


def test_a_replaced_file_leaves_the_stored_one_as_it_was(tmp_path):
    weights, stored = tmp_path / "weights.safetensors", tmp_path / "artifacts" / "weights.safetensors"
    weights.write_text("old")
    place(weights, stored)
    (tmp_path / "new").write_text("new")
    (tmp_path / "new").replace(weights)
    assert stored.read_text() == "old"


def test_artifacts_of_a_server_have_no_folder(tmp_path):
    assert local_folder((tmp_path / "a b").as_uri()) == tmp_path / "a b"
    assert local_folder("mlflow-artifacts:/1") is None
