"""Each task runs its protocol on its folder; what an earlier call finished or began is not trained again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from hirl.config import KNNConfig, RunConfig, RunName
from hirl.evaluation import run
from hirl.evaluation.cache import FeatureCache
from hirl.evaluation.contracts import EvaluationResult, EvaluationTarget
from hirl.evaluation.run import FrozenFiles, evaluate
from hirl.files import read_json, write_json

TASKS = ("linear", "semisup-1", "transfer", "detection")


@pytest.fixture
def target(tiny_run, tmp_path) -> EvaluationTarget:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"weights")
    folders = {part: tmp_path / part for part in ("data", "transfer", "scenes")}
    for part, folder in folders.items():
        write_json(folder / "manifest.json", {"digest": part})
    (folders["data"] / "labels-1.csv").touch()
    return EvaluationTarget(tiny_run("mocov2"), RunName("mocov2", "baseline"), weights, folders)


@pytest.fixture
def asked(monkeypatch) -> list[tuple[str, str, str]]:
    """Replace every protocol by one that notes (module, task, folder); the first call of detection is interrupted."""
    calls: list[tuple[str, str, str]] = []

    def protocol(module: str) -> SimpleNamespace:
        def train_and_evaluate(task, config, weights, data, scratch, run_name) -> EvaluationResult:
            calls.append((module, task, data.name))
            if task == "detection" and sum(call[1] == task for call in calls) == 1:
                raise KeyboardInterrupt
            return EvaluationResult(
                {"top1": float(len(calls))}, {"epochs": 1}, [{"epoch": 0, "loss": 1.0, "seconds": 1.0}]
            )

        return SimpleNamespace(train_and_evaluate=train_and_evaluate)

    monkeypatch.setattr(run, "import_module", protocol)
    return calls


def test_an_interrupted_call_resumes_with_the_task_it_had_reached(target, asked, tmp_path) -> None:
    out, scratch = tmp_path / "evaluation", tmp_path / "scratch"
    with pytest.raises(KeyboardInterrupt):
        evaluate(TASKS, target, out, scratch)
    assert not out.exists()
    evaluate(TASKS, target, out, scratch)
    assert asked == [
        ("hirl.evaluation.linear", "linear", "data"),
        ("hirl.evaluation.finetune", "semisup-1", "data"),
        ("hirl.evaluation.finetune", "transfer", "transfer"),
        ("hirl.evaluation.detection", "detection", "scenes"),
        ("hirl.evaluation.detection", "detection", "scenes"),
    ]
    results = {task: read_json(out / f"{task}.json") for task in TASKS}
    assert [result["metrics"]["top1"] for result in results.values()] == [1, 2, 3, 5]
    assert results["linear"]["history"] == [{"epoch": 0, "loss": 1.0, "seconds": 1.0}]


def test_a_further_task_trains_alone_and_finished_ones_keep_their_results(target, asked, tmp_path, capsys) -> None:
    out, scratch = tmp_path / "evaluation", tmp_path / "scratch"
    evaluate(["linear"], target, out, scratch)
    (out / "linear.json").unlink()
    evaluate(["linear", "transfer"], target, out, scratch)
    assert [task for _, task, _ in asked] == ["linear", "transfer"]
    assert read_json(out / "linear.json")["metrics"] == {"top1": 1}
    assert "result kept from an earlier call" in capsys.readouterr().out


def test_a_result_of_other_code_is_not_kept(target, asked, tmp_path, monkeypatch) -> None:
    for code in ("before", "after"):
        monkeypatch.setattr(run, "_code", lambda code=code: code)
        evaluate(["linear"], target, tmp_path / "out", tmp_path / "scratch")
    assert len(asked) == 2


def test_a_finished_task_leaves_its_result_alone_in_scratch(target, tmp_path, monkeypatch) -> None:
    def train_and_evaluate(task, config, weights, data, scratch, run_name) -> EvaluationResult:
        scratch.mkdir(parents=True)
        (scratch / "checkpoint00001.pt").touch()
        return EvaluationResult({}, {})

    monkeypatch.setattr(run, "import_module", lambda _: SimpleNamespace(train_and_evaluate=train_and_evaluate))
    evaluate(["linear"], target, tmp_path / "out", tmp_path / "scratch")
    assert [path.name for path in (tmp_path / "scratch").glob("*/*")] == ["result.json"]


def test_other_weights_settings_or_images_do_not_resume(target, tiny_run, tmp_path) -> None:
    other_weights = tmp_path / "other.safetensors"
    other_weights.write_bytes(b"other weights")
    longer = tiny_run("mocov2", evaluation={"linear": {"epochs": 7}})
    targets = [target, replace(target, weights=other_weights), replace(target, config=longer)]
    homes = {run._home("linear", each, tmp_path) for each in targets}
    write_json(target.folders["data"] / "manifest.json", {"digest": "other images"})
    assert len(homes | {run._home("linear", target, tmp_path)}) == 4
    assert run._home("transfer", target, tmp_path) == run._home("transfer", targets[2], tmp_path)


def test_a_hierarchy_is_not_evaluated_without_its_tree(target, asked, tmp_path) -> None:
    with pytest.raises(ValueError, match="needs the run's tree: add --snapshot"):
        evaluate(["linear", "hierarchy"], target, tmp_path / "out", tmp_path / "scratch")
    assert not asked
    assert not (tmp_path / "out").exists()


def test_a_frozen_result_names_its_run_and_task(target, make_cache: Callable[..., FeatureCache], tmp_path) -> None:
    make_cache(60, 50).save(tmp_path / "features.safetensors")
    files = FrozenFiles(features=tmp_path / "features.safetensors")
    evaluate(["clustering"], target, tmp_path / "out", tmp_path / "scratch", files)
    result = read_json(tmp_path / "out" / "clustering.json")
    assert set(result.pop("metrics")) == {"acc", "nmi", "ami"}
    assert result.pop("settings")["kmeans"]["restarts"] == 5
    assert result == {
        "study": "tiny",
        "dataset": "taxonomy",
        "method": "mocov2",
        "variant": "baseline",
        "backbone": "resnet8",
        "seed": 0,
        "task": "clustering",
    }


def test_extracted_features_are_saved_where_asked(target, make_cache, tmp_path, monkeypatch) -> None:
    extracted, files = make_cache(60, 50), FrozenFiles(save_features=tmp_path / "features.safetensors")
    monkeypatch.setattr(run, "extract_features", lambda _: extracted)
    evaluate(["knn"], replace(target, config=with_neighbours(target, 5)), tmp_path / "out", tmp_path / "scratch", files)
    assert np.array_equal(FeatureCache.load(tmp_path / "features.safetensors").validation, extracted.validation)


def with_neighbours(target: EvaluationTarget, count: int) -> RunConfig:
    evaluation = target.config.evaluation.model_copy(update={"knn": KNNConfig(neighbours=(count,))})
    return target.config.model_copy(update={"evaluation": evaluation})


def test_a_control_keeps_its_backbone_apart(target) -> None:
    control = replace(target, run=RunName.control("resnet8", 2), weights=None)
    assert control.name == "untrained-resnet8-s2"
    parts = [control.coordinates[key] for key in ("method", "variant", "backbone", "seed")]
    assert parts == ["untrained", "control", "resnet8", 2]


def test_images_without_classes_are_not_evaluated(target, make_cache, tmp_path, monkeypatch) -> None:
    cache = make_cache(60, 50)
    cache = replace(cache, train_labels=cache.train_labels[:, :0], validation_labels=cache.validation_labels[:, :0])
    monkeypatch.setattr(run, "extract_features", lambda _: cache)
    with pytest.raises(ValueError, match="images have no classes to evaluate: sort them into class folders"):
        evaluate(["knn"], target, tmp_path / "out", tmp_path / "scratch", FrozenFiles())
