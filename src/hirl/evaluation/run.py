"""Which protocol evaluates what: one network, its folders, its results. Import costs no torch."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from hirl.config import RunConfig, digest
from hirl.evaluation.cache import EvaluationResult, FeatureCache, write_result
from hirl.files import read_json, sha256, write_json

FOLDERS = {"transfer": "transfer", "detection": "scenes"}  # all others look at the study's own data
MODULES = {"linear": "linear", "detection": "detection"}  # all other trainings are fine-tuning


@dataclass(frozen=True)
class EvaluationTarget:
    """A network to evaluate: a run's, or an untrained one (method "untrained", variant its backbone)."""

    config: RunConfig
    method: str
    variant: str
    seed: int
    weights: Path | None
    folders: dict[str, Path]  # data, transfer, scenes

    @property
    def name(self) -> str:
        """The run's name."""
        return f"{self.method}-{self.variant}-s{self.seed}"

    @property
    def run(self) -> dict[str, Any]:
        """The coordinates that stand in each result."""
        where = {"study": self.config.study, "dataset": self.config.data.name}
        return where | {"method": self.method, "variant": self.variant, "seed": self.seed}


def extract_features(target: EvaluationTarget) -> FeatureCache | None:
    """The features of the backbone, for every protocol that needs no more; None for all ranks but the first."""
    import torch

    from hirl.distributed.device import choose_device
    from hirl.evaluation.features import make_cache
    from hirl.models.backbones import build_backbone
    from hirl.models.weights import load_weights

    config = target.config
    torch.manual_seed(target.seed)
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
    """The protocols on cached features, each into `out/{task}.json`; without a cache the ranks make it for this call.

    Raises:
        ValueError: hierarchy is asked for, without the snapshot it looks at.
    """
    if "hierarchy" in tasks and snapshot is None:
        raise ValueError("evaluate hierarchy looks at a tree: give the run's with --snapshot")
    from hirl.distributed.collectives import is_main_process

    with tempfile.TemporaryDirectory() as folder:
        if features is None and (extracted := extract_features(target)) is not None:
            features = Path(folder) / "features.safetensors"
            extracted.save(features)
        if not is_main_process():
            return
        for task in tasks:
            protocol = import_module(f"hirl.evaluation.{task}")
            looked_at = snapshot if task == "hierarchy" else target.config.evaluation.of(task)
            protocol.evaluate(features, out / f"{task}.json", target.run, looked_at)


def evaluate_trained(tasks: Sequence[str], target: EvaluationTarget, out: Path, scratch: Path) -> None:
    """The protocols that train the network, each into `out/{task}.json`, all at the end.

    A call that was killed goes on with the task, and the epoch, it had reached: `scratch` keeps them until then.

    Raises:
        ValueError: a batch cannot be shared evenly by the ranks, or what the protocol raises.
    """
    from hirl.distributed.collectives import is_main_process

    for task in tasks:
        _check_batch(task, target.config)
    homes = {task: _home(task, target, scratch) for task in tasks}
    results = {task: _result(task, target, home) for task, home in homes.items()}
    if not is_main_process():
        return
    for task, result in results.items():
        write_result(out / f"{task}.json", target.run, task, result.metrics, result.settings, result.history)
    for home in homes.values():
        shutil.rmtree(home)


def _result(task: str, target: EvaluationTarget, home: Path) -> EvaluationResult:
    """What a task finds, or has found before its call was killed; its history tells the seconds of each rank."""
    from hirl.distributed.collectives import broadcast_object, is_main_process

    kept = home / "outcome.json"
    if (found := broadcast_object(lambda: read_json(kept) if kept.exists() else None)) is not None:
        return EvaluationResult(**found)
    protocol = import_module(f"hirl.evaluation.{MODULES.get(task, 'finetune')}")
    folder = target.folders[FOLDERS.get(task, "data")]
    result = protocol.evaluate(task, target.config, target.weights, folder, home, target.name)
    if is_main_process():
        write_json(kept, vars(result))
    return result


def _check_batch(task: str, config: RunConfig) -> None:
    """Looks at a task's batch before another task is trained."""
    from hirl.distributed.collectives import world_size

    settings = config.evaluation.of(task)
    augmentation = getattr(settings, "augmentation", None)
    mixed = augmentation is not None and bool(augmentation.mixup or augmentation.cutmix)
    if world_size() > 1 and settings.batch_size % (world_size() * (1 + mixed)):
        raise ValueError(
            f"evaluation.{task.replace('-', '_')}.batch_size is {settings.batch_size}, which {world_size()} ranks "
            f"cannot share evenly{' in pairs' * mixed}: make it a multiple of {world_size() * (1 + mixed)}"
        )


def _home(task: str, target: EvaluationTarget, scratch: Path) -> Path:
    """Where a task keeps its progress; the name says what decides its result, but for the images."""
    start = sha256(target.weights) if target.weights else target.config.backbone.model_dump(mode="json")
    return scratch / f"{target.name}-{task}-{digest([start, target.config.task_hash(task)])}"


def print_metrics(folder: Path, tasks: Sequence[str]) -> None:
    """Prints what was found, one line a task."""
    for task in tasks:
        metrics = read_json(folder / f"{task}.json")["metrics"]
        print(f"{task}  " + "  ".join(f"{name} {value:.2f}" for name, value in metrics.items()))
