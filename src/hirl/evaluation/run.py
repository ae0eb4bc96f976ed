"""Run the evaluations of one network: choose each task's protocol and folder, write each result.

Import costs no torch.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from hirl.config import TASKS, RunConfig, digest
from hirl.distributed.launch import is_main_process
from hirl.evaluation.cache import FeatureCache
from hirl.evaluation.contracts import (
    EvaluationResult,
    EvaluationTarget,
    FrozenInputs,
    FrozenProtocol,
    TrainedProtocol,
)
from hirl.files import read_json, sha256, write_json
from hirl.tracking.record import record_evaluation

KEPT = "result.json"  # of a trained task, in its folder of scratch


def extract_features(target: EvaluationTarget) -> FeatureCache | None:
    """Return the features of the backbone for all frozen protocols, on rank 0; None on the other ranks."""
    import torch

    from hirl.distributed.device import choose_device
    from hirl.evaluation.features import make_cache
    from hirl.models.backbones import build_backbone
    from hirl.models.weights import load_weights

    config = target.config
    torch.manual_seed(target.run.seed)
    backbone = build_backbone(config.backbone, config.views.global_size)
    if target.weights is not None:
        load_weights(backbone, config.backbone, target.weights)
    return make_cache(backbone, target.folders["data"], choose_device(), config.training.batch_size)


@dataclass(frozen=True)
class FrozenFiles:
    """Files of the frozen protocols.

    Attributes:
        features: cached features to read; None extracts them.
        save_features: where extracted features are written; None does not write them.
        snapshot: the run's semantic tree; only tasks with `reads_tree` need it.
    """

    features: Path | None = None
    save_features: Path | None = None
    snapshot: Path | None = None


def evaluate(
    tasks: Sequence[str], target: EvaluationTarget, out: Path, scratch: Path, files: FrozenFiles = FrozenFiles()
) -> None:
    """Evaluate one network, each task into `out/{task}.json`; the results are written when all are known.

    A call that was killed resumes with the task and the epoch it had reached. `scratch` keeps the results of trained
    tasks, so that a later call with more tasks trains those alone; a change of the code makes all of them train again.

    Raises:
        ValueError: a task evaluates a tree and no snapshot is given, the ranks cannot share a batch evenly, or what the
            protocols raise.
    """
    frozen = [task for task in tasks if TASKS[task].protocol == "frozen"]
    trained = [task for task in tasks if TASKS[task].protocol == "trained"]
    _check_snapshot(frozen, files)
    for task in trained:
        _check_batch(task, target.config)
    results = _evaluate_frozen(frozen, target, files) if frozen or files.save_features else {}
    if trained:
        results |= _evaluate_trained(trained, target, scratch)
    for task, result in results.items():
        _write_result(out, target, task, result)


def print_metrics(folder: Path, tasks: Sequence[str]) -> None:
    """Print the metrics of every task, one line each."""
    for task in tasks:
        metrics = read_json(folder / f"{task}.json")["metrics"]
        print(f"{task}  " + "  ".join(f"{name} {value:.2f}" for name, value in metrics.items()))


def _check_snapshot(tasks: Sequence[str], files: FrozenFiles) -> None:
    for task in tasks:
        if TASKS[task].reads_tree and files.snapshot is None:
            raise ValueError(f"evaluate {task} needs the run's tree: add --snapshot FILE")


def _evaluate_frozen(tasks: Sequence[str], target: EvaluationTarget, files: FrozenFiles) -> dict[str, EvaluationResult]:
    """Return the results of frozen protocols on rank 0, and of none on the others; all ranks extract the features."""
    extracted = extract_features(target) if files.features is None else None
    if not is_main_process():
        return {}
    cache = FeatureCache.load(files.features) if files.features is not None else extracted
    assert cache is not None
    cache.check(target.name)
    if tasks and not cache.train_labels.shape[1]:
        raise ValueError(f"{target.config.data.name} images have no classes to evaluate: sort them into class folders")
    if files.save_features is not None:
        cache.save(files.save_features)
    results = {}
    for task in tasks:
        protocol = cast(FrozenProtocol, import_module(f"hirl.evaluation.{TASKS[task].module}"))
        inputs, settings = FrozenInputs(cache, files.snapshot), target.config.evaluation.of(task)
        start = time.time()
        results[task] = replace(protocol.evaluate_features(inputs, settings), times=(start, time.time()))
    return results


def _evaluate_trained(tasks: Sequence[str], target: EvaluationTarget, scratch: Path) -> dict[str, EvaluationResult]:
    """Return the results of trained protocols on rank 0, and of none on the others; all ranks train."""
    from hirl.distributed.collectives import is_main_process

    results = {task: _train(task, target, _home(task, target, scratch)) for task in tasks}
    return results if is_main_process() else {}


def _train(task: str, target: EvaluationTarget, home: Path) -> EvaluationResult:
    """Return a task's result, which an earlier call may have kept in `home`, instead of its checkpoints."""
    from hirl.distributed.collectives import broadcast_object, is_main_process

    if (found := broadcast_object(lambda: _kept_result(home))) is not None:
        return EvaluationResult(**found)
    protocol = cast(TrainedProtocol, import_module(f"hirl.evaluation.{TASKS[task].module}"))
    folder = target.folders[TASKS[task].folder]
    start = time.time()
    result = protocol.train_and_evaluate(task, target.config, target.weights, folder, home, target.name)
    result = replace(result, times=(start, time.time()))
    if is_main_process():
        write_json(home / KEPT, {"code": _code(), "result": asdict(result)})
        for checkpoint in home.glob("checkpoint*.pt"):
            checkpoint.unlink()
    return result


def _kept_result(home: Path) -> dict[str, Any] | None:
    """Return the result that the same code has left in a task's folder, or None."""
    code = _code()  # now, before a training that may outlast the code
    kept = read_json(home / KEPT) if (home / KEPT).exists() else None
    if kept is None or kept["code"] != code:
        return None
    print(f"{home.name}  result kept from an earlier call", flush=True)
    return kept["result"]


@cache
def _code() -> str:
    """Return the digest of what computes a result beside its settings: this package and the version of torch."""
    return digest([version("torch"), *map(sha256, sorted(Path(__file__).parents[1].rglob("*.py")))])


def _check_batch(task: str, config: RunConfig) -> None:
    """Check that the ranks can share a task's batch, before any task is trained.

    Raises:
        ValueError: they cannot share it evenly; mixup and cutmix mix pairs of images, which stay on one rank.
    """
    from hirl.distributed.collectives import world_size

    ranks, settings = world_size(), config.evaluation.of(task)
    augmentation = getattr(settings, "augmentation", None)
    in_pairs = augmentation is not None and (augmentation.mixup > 0 or augmentation.cutmix > 0)
    divisor = 2 * ranks if in_pairs else ranks
    if ranks > 1 and settings.batch_size % divisor:
        evenly = "evenly in pairs" if in_pairs else "evenly"
        raise ValueError(
            f"evaluation.{TASKS[task].settings}.batch_size is {settings.batch_size}, which {ranks} ranks cannot share "
            f"{evenly}: make it a multiple of {divisor}"
        )


def _home(task: str, target: EvaluationTarget, scratch: Path) -> Path:
    """Return the folder of a task's progress and result, named by what decides them."""
    from hirl.evaluation.supervised import fingerprint

    folder = target.folders[TASKS[task].folder]
    return scratch / f"{target.name}-{task}-{fingerprint(task, target.config, target.weights, folder)}"


def _write_result(out: Path, target: EvaluationTarget, task: str, result: EvaluationResult) -> None:
    """Write evaluation/{task}.json of a run; the record beside it says when it ran, so that equal results are equal."""
    found = {"metrics": result.metrics, "settings": result.settings}
    history = {"history": result.history} if result.history else {}
    write_json(out / f"{task}.json", {**target.coordinates, "task": task, **found, **history})
    assert result.times is not None
    record_evaluation(out, task, *result.times)
