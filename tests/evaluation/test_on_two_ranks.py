"""Evaluations that train, and a tokenizer, on one rank and on two: the same numbers, written once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hirl.config import DetectionConfig, RunConfig, RunName
from hirl.data.label_subsets import choose_labels
from hirl.evaluation import linear
from hirl.evaluation.contracts import EvaluationTarget
from hirl.evaluation.run import evaluate
from hirl.files import read_json
from hirl.models.tokenizer import load_tokenizer
from hirl.training.train_tokenizer import train_tokenizer
from tests.evaluation.test_detection import SETTINGS as DETECTION
from tests.evaluation.test_finetune import ADAMW, BRIEF, MIXED, STRONG
from tests.evaluation.test_linear import SETTINGS as LINEAR
from tests.run_on_ranks import on_ranks
from tests.square_scenes import write_squares

TASKS = ("linear", "finetune", "semisup-10", "detection")  # of eight images with labels a batch is half full
EVALUATIONS = {
    "simsiam": {
        "finetune": BRIEF | {"augmentation": MIXED, "head_lr": 0.1},
        "semisup_10": BRIEF,
    },
    "dino": {
        "finetune": BRIEF | {"optimizer": ADAMW | {"clip_norm": 1.0}, "layer_decay": 0.5, "augmentation": STRONG},
        "semisup_10": BRIEF | {"optimizer": ADAMW, "augmentation": MIXED},
    },
}


def changed(config: RunConfig, **evaluations: Any) -> RunConfig:
    """Return the configuration with other settings of evaluations."""
    return config.model_copy(update={"evaluation": config.evaluation.model_copy(update=evaluations)})


def everything(targets: list[EvaluationTarget], beit: RunConfig, out: Path) -> dict[str, Any]:
    """Write all results and a tokenizer; return what a rank gets that is not written."""
    for target in targets:
        evaluate(TASKS, target, out / target.run.method, out / "scratch")
    data = targets[0].folders["data"]
    return {
        "tokenizer": train_tokenizer(beit, data, out / "tokenizer.safetensors", out / "scratch of the tokenizer"),
        "metrics": evaluate_linear(targets[0].config, data, out / "probe").metrics,
        "refusal": refusal(targets[0], out / "refused"),
    }


def evaluate_linear(config: RunConfig, data: Path, scratch: Path) -> Any:
    return linear.train_and_evaluate("linear", config, None, data, scratch, "run")


def refusal(target: EvaluationTarget, out: Path) -> str:
    """Return the error of a batch of 18 images in pairs."""
    finetune = target.config.evaluation.finetune.model_copy(update={"batch_size": 18})
    target = replace(target, config=changed(target.config, finetune=finetune))
    try:
        evaluate(("finetune",), target, out, out)
    except ValueError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def home(tmp_path_factory, tiny_data) -> Path:
    """Return a folder with the tiny data, its labelled images, and scenes."""
    home = tmp_path_factory.mktemp("ranks")
    write_squares(home / "scenes")
    (home / "data").mkdir()
    for path in tiny_data.iterdir():
        (home / "data" / path.name).symlink_to(path)
    choose_labels(home / "data", 10, None, home / "data" / "labels-10.csv")
    return home


@pytest.fixture(scope="module")
def found(tiny_run, home) -> dict[int, list[dict[str, Any]]]:
    """Return what each rank got, by the number of ranks; their results are in the folder of that number."""
    detection = DetectionConfig(**DETECTION | {"epochs": 1, "drop_path": 0.0})
    folders = {part: home / part for part in ("data", "scenes")}
    targets = [
        EvaluationTarget(
            changed(tiny_run(method, evaluation={"linear": LINEAR} | evaluation), detection=detection),
            RunName(method, "baseline"),
            None,
            folders,
        )
        for method, evaluation in EVALUATIONS.items()
    ]
    return {count: on_ranks(count, everything, targets, tiny_run("beit"), home / str(count)) for count in (1, 2)}


def results(home: Path, method: str, task: str) -> list[dict[str, Any]]:
    return [read_json(home / count / method / f"{task}.json") for count in ("1", "2")]


@pytest.mark.parametrize("method", EVALUATIONS)
@pytest.mark.parametrize("task", TASKS[:3])
def test_losses_and_accuracies_are_those_of_one_rank(found, home, method: str, task: str) -> None:
    one, two = results(home, method, task)
    losses = [[row["loss"] for row in result["history"]] for result in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)  # float32 sums in two parts, carried on by a dozen steps
    assert two["metrics"] == pytest.approx(one["metrics"], abs=1.6)  # one image of 64 on the edge
    assert two["settings"] == one["settings"]


@pytest.mark.parametrize("method", EVALUATIONS)
def test_two_ranks_train_a_detector_to_a_similar_loss(found, home, method: str) -> None:
    one, two = results(home, method, "detection")
    assert two["metrics"].keys() == one["metrics"].keys()
    # three steps on regions that each rank draws on its own
    assert two["history"][0]["loss"] == pytest.approx(one["history"][0]["loss"], rel=0.2)


def test_two_ranks_train_the_tokenizer_of_one(found, home) -> None:
    for rank in found[2]:
        assert rank["tokenizer"] == pytest.approx(found[1][0]["tokenizer"], rel=1e-3)
    one, two = (load_tokenizer(home / count / "tokenizer.safetensors").network.state_dict() for count in ("1", "2"))
    for name, value in one.items():  # float32, through the square roots of Adam
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4)


def test_all_ranks_get_the_same_metrics_and_scratch_keeps_results_alone(found, home) -> None:
    assert found[2][0]["metrics"] == found[2][1]["metrics"]
    assert {path.name for path in (home / "2" / "scratch").glob("*/*")} == {"lock", "result.json"}


def test_one_rank_resumes_the_training_of_two(found, home, tiny_run) -> None:
    config = tiny_run("simsiam", evaluation={"linear": LINEAR})
    alone, together = (home / count / "probe" for count in ("1", "2"))
    (together / "checkpoint00003.pt").unlink()
    kept = torch.load(together / "checkpoint00002.pt", weights_only=False)["history"]
    (result,) = on_ranks(1, evaluate_linear, config, home / "data", together)
    (expected,) = on_ranks(1, evaluate_linear, config, home / "data", alone)
    for row, other in zip(result.history, expected.history, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-4)  # as above
    assert result.history[:2] == kept  # seconds among them: these epochs were not run again


def test_a_batch_that_cannot_be_shared_is_refused(found, home) -> None:
    assert found[1][0]["refusal"] == ""
    for rank in found[2]:
        assert rank["refusal"] == (
            "evaluation.finetune.batch_size is 18, which 2 ranks cannot share evenly in pairs: make it a multiple of 4"
        )
    assert not (home / "2" / "refused").exists()
