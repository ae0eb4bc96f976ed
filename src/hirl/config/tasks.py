"""The table of tasks: everything that is known of an evaluation before it runs.

Configuration, evaluation, cost, workflow rules, tables and figures read it; no other file lists tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """A number of a task that tables show, in percent.

    Attributes:
        task: the task's name.
        name: its key in the task's JSON.
        title: its name in tables; `AP^box` is set with a superscript where the format has one.
    """

    task: str
    name: str
    title: str


@dataclass(frozen=True)
class Task:
    """An evaluation protocol.

    Attributes:
        title: what it measures, in tables and figures.
        metrics: title of each number that tables show, by its key.
        module: the file of hirl.evaluation that runs it.
        family: the heading it stands under.
        protocol: "frozen" reads cached features; "trained" trains a classifier, a detector or the whole network.
        trains_backbone: whether the backbone itself is trained; an untrained control is then trained from scratch.
        folder: the folder of the study's results that it reads, beside the weights.
        label_percent: the share of the training labels it sees.
    """

    name: str
    title: str
    metrics: dict[str, str]
    module: str
    family: str
    protocol: Literal["frozen", "trained"]
    trains_backbone: bool = False
    folder: Literal["data", "transfer", "scenes"] = "data"
    label_percent: int = 100

    @property
    def settings(self) -> str:
        """The key of its settings in the evaluation section; a task without settings has none there."""
        return self.name.replace("-", "_")

    @property
    def shown(self) -> tuple[Metric, ...]:
        """The numbers that tables show."""
        return tuple(Metric(self.name, name, title) for name, title in self.metrics.items())


def _frozen(name: str, title: str, metrics: dict[str, str], family: str) -> Task:
    return Task(name, title, metrics, name, family, "frozen")


def _finetuning(name: str, title: str, metric: str, family: str = "Fine-tuning", **facts: object) -> Task:
    return Task(name, title, {"top1": metric}, "finetune", family, "trained", trains_backbone=True, **facts)


DETECTION_METRICS = {
    "ap_box": "AP^box",
    "ap50_box": "AP50^box",
    "ap75_box": "AP75^box",
    "ap_mask": "AP^mask",
    "ap50_mask": "AP50^mask",
    "ap75_mask": "AP75^mask",
}

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        _frozen("knn", "kNN", {"top1": "kNN top-1"}, "Nearest neighbours"),
        _frozen("probe", "linear probe", {"top1": "Linear probe top-1"}, "Linear classification"),
        Task(
            "linear",
            "linear evaluation",
            {"top1": "Linear evaluation top-1"},
            "linear",
            "Linear classification",
            "trained",
        ),
        _finetuning("finetune", "fine-tuning", "Fine-tuning top-1"),
        _finetuning("semisup-1", "fine-tuning on 1 % of the labels", "1 % labels top-1", label_percent=1),
        _finetuning("semisup-10", "fine-tuning on 10 % of the labels", "10 % labels top-1", label_percent=10),
        _frozen(
            "clustering",
            "k-means clustering",
            {"acc": "Clustering ACC", "nmi": "Clustering NMI", "ami": "Clustering AMI"},
            "Clustering",
        ),
        _finetuning("transfer", "transfer", "Transfer top-1", "Transfer", folder="transfer"),
        Task(
            "detection",
            "detection and instance segmentation",
            DETECTION_METRICS,
            "detection",
            "Detection",
            "trained",
            trains_backbone=True,
            folder="scenes",
        ),
        _frozen("hierarchy", "semantic tree against the true classes", {}, "Hierarchy"),
    )
}

FROZEN = tuple(name for name, task in TASKS.items() if task.protocol == "frozen")
TRAINED = tuple(name for name, task in TASKS.items() if task.protocol == "trained")
METRICS: tuple[Metric, ...] = tuple(metric for task in TASKS.values() for metric in task.shown)
