"""Run the evaluations of one network: choose each task's protocol and folder, write each result.

Import costs no torch.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import cast

from hirl.config import TASKS, RunConfig, digest
from hirl.evaluation.cache import FeatureCache
from hirl.evaluation.contracts import (
    EvaluationResult,
    EvaluationTarget,
    FrozenInputs,
    FrozenProtocol,
    TrainedProtocol,
)
from hirl.files import read_json, sha256, write_json


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


def evaluate_frozen(
    tasks: Sequence[str],
    target: EvaluationTarget,
    out: Path,
    features: Path | None = None,
    snapshot: Path | None = None,
) -> None:
    """Run frozen protocols, each into `out/{task}.json`; without cached features the ranks extract them first.

    Raises:
        ValueError: a task evaluates a tree and no snapshot is given, or what the protocols raise.
    """
    for task in tasks:
        if TASKS[task].reads_tree and snapshot is None:
            raise ValueError(f"evaluate {task} needs the run's tree: add --snapshot FILE")
    from hirl.distributed.launch import is_main_process  # known without torch

    extracted = extract_features(target) if features is None else None
    if not is_main_process():
        return
    cache = FeatureCache.load(features) if features is not None else extracted
    assert cache is not None
    cache.check(target.name)
    for task in tasks:
        protocol = cast(FrozenProtocol, import_module(f"hirl.evaluation.{TASKS[task].module}"))
        result = protocol.evaluate_features(FrozenInputs(cache, snapshot), target.config.evaluation.of(task))
        _write_result(out, target, task, result)


def evaluate_trained(tasks: Sequence[str], target: EvaluationTarget, out: Path, scratch: Path) -> None:
    """Run trained protocols, each into `out/{task}.json`; the results are written when all are done.

    A call that was killed resumes with the task and the epoch it had reached: `scratch` keeps them until then.

    Raises:
        ValueError: the ranks cannot share a batch evenly, or what the protocols raise.
    """
    from hirl.distributed.collectives import is_main_process

    for task in tasks:
        _check_batch(task, target.config)
    homes = {task: _home(task, target, scratch) for task in tasks}
    results = {task: _train(task, target, home) for task, home in homes.items()}
    if not is_main_process():
        return
    for task, result in results.items():
        _write_result(out, target, task, result)
    for home in homes.values():
        shutil.rmtree(home)


def print_metrics(folder: Path, tasks: Sequence[str]) -> None:
    """Print the metrics of every task, one line each."""
    for task in tasks:
        metrics = read_json(folder / f"{task}.json")["metrics"]
        print(f"{task}  " + "  ".join(f"{name} {value:.2f}" for name, value in metrics.items()))


def _train(task: str, target: EvaluationTarget, home: Path) -> EvaluationResult:
    """Return a task's result; a call that was killed later may have left it in `home`."""
    from hirl.distributed.collectives import broadcast_object, is_main_process

    kept = home / "result.json"
    if (found := broadcast_object(lambda: read_json(kept) if kept.exists() else None)) is not None:
        return EvaluationResult(**found)
    protocol = cast(TrainedProtocol, import_module(f"hirl.evaluation.{TASKS[task].module}"))
    folder = target.folders[TASKS[task].folder]
    result = protocol.train_and_evaluate(task, target.config, target.weights, folder, home, target.name)
    if is_main_process():
        write_json(kept, asdict(result))
    return result


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
    """Return the folder of a task's progress, named by what decides its result except the images."""
    start = sha256(target.weights) if target.weights else target.config.backbone.model_dump(mode="json")
    return scratch / f"{target.name}-{task}-{digest([start, target.config.task_hash(task)])}"


def _write_result(out: Path, target: EvaluationTarget, task: str, result: EvaluationResult) -> None:
    """Write evaluation/{task}.json of a run."""
    found = {"metrics": result.metrics, "settings": result.settings}
    history = {"history": result.history} if result.history else {}
    write_json(out / f"{task}.json", {**target.coordinates, "task": task, **found, **history})
