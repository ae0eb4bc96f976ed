"""The table of tasks: everything that is known about an evaluation before it runs.

Configuration, evaluation, costs, workflow rules, tables and figures read it; no other file lists tasks. CONTRIBUTING.md
says how to add one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


def labels_file(percent: int) -> str:
    """Return the name of the file, beside the prepared data, that lists the images with labels."""
    return f"labels-{percent}.csv"


@dataclass(frozen=True)
class Metric:
    """A number of a task that tables show, in percent.

    Attributes:
        task: the task's name.
        name: its key in the task's JSON.
        title: its name in tables; `AP^box` is set with a superscript where the format has one.
        is_headline: whether it is counted and drawn; others stand in tables alone.
    """

    task: str
    name: str
    title: str
    is_headline: bool = True


@dataclass(frozen=True)
class Task:
    """An evaluation protocol.

    Attributes:
        name: its name in studies, on the command line and in results.
        title: what it measures, in tables and figures.
        metrics: title of each number that tables show, by its key in the task's JSON.
        module: the file of hirl.evaluation that runs it.
        family: the heading it stands under.
        protocol: "frozen" reads cached features; "trained" trains a classifier, a detector or the whole network.
        trains_backbone: whether the backbone itself is trained; an untrained control is then trained from scratch.
        folder: the folder of the study's results whose images it reads.
        label_percent: percentage of the training labels that it uses.
        reads_tree: whether it evaluates the semantic tree of a HIRL run; other runs have none.
        uncounted: metrics that are neither counted nor drawn, because another one averages over them.
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
    reads_tree: bool = False
    uncounted: tuple[str, ...] = ()

    @property
    def settings(self) -> str:
        """The key of its settings in the evaluation section; a task without settings has none there."""
        return self.name.replace("-", "_")

    @property
    def extra_input(self) -> str | None:
        """The file in the study's results that it needs beside the weights and the study's own data; None for most."""
        if self.label_percent < 100:
            return f"{self.folder}/{labels_file(self.label_percent)}"
        if self.folder != "data":
            return f"{self.folder}/manifest.json"
        return None

    @property
    def shown(self) -> tuple[Metric, ...]:
        """The numbers that tables show."""
        return tuple(Metric(self.name, name, title, name not in self.uncounted) for name, title in self.metrics.items())


DETECTION_METRICS = {
    "ap_box": "AP^box",
    "ap50_box": "AP50^box",
    "ap75_box": "AP75^box",
    "ap_mask": "AP^mask",
    "ap50_mask": "AP50^mask",
    "ap75_mask": "AP75^mask",
}

TABLE = (
    Task(
        name="knn",
        title="kNN",
        metrics={"top1": "kNN top-1"},
        module="knn",
        family="Nearest neighbours",
        protocol="frozen",
    ),
    Task(
        name="probe",
        title="linear probe",
        metrics={"top1": "Linear probe top-1"},
        module="probe",
        family="Linear classification",
        protocol="frozen",
    ),
    Task(
        name="linear",
        title="linear evaluation",
        metrics={"top1": "Linear evaluation top-1"},
        module="linear",
        family="Linear classification",
        protocol="trained",
    ),
    Task(
        name="finetune",
        title="fine-tuning",
        metrics={"top1": "Fine-tuning top-1"},
        module="finetune",
        family="Fine-tuning",
        protocol="trained",
        trains_backbone=True,
    ),
    Task(
        name="semisup-1",
        title="fine-tuning on 1 % of the labels",
        metrics={"top1": "1 % labels top-1"},
        module="finetune",
        family="Fine-tuning",
        protocol="trained",
        trains_backbone=True,
        label_percent=1,
    ),
    Task(
        name="semisup-10",
        title="fine-tuning on 10 % of the labels",
        metrics={"top1": "10 % labels top-1"},
        module="finetune",
        family="Fine-tuning",
        protocol="trained",
        trains_backbone=True,
        label_percent=10,
    ),
    Task(
        name="clustering",
        title="k-means clustering",
        metrics={"acc": "Clustering ACC", "nmi": "Clustering NMI", "ami": "Clustering AMI"},
        module="clustering",
        family="Clustering",
        protocol="frozen",
    ),
    Task(
        name="transfer",
        title="transfer",
        metrics={"top1": "Transfer top-1"},
        module="finetune",
        family="Transfer",
        protocol="trained",
        trains_backbone=True,
        folder="transfer",
    ),
    Task(
        name="detection",
        title="detection and instance segmentation",
        metrics=DETECTION_METRICS,
        module="detection",
        family="Detection",
        protocol="trained",
        trains_backbone=True,
        folder="scenes",
        uncounted=("ap50_box", "ap75_box", "ap50_mask", "ap75_mask"),  # AP is a mean over IoU thresholds
    ),
    Task(
        name="hierarchy",
        title="semantic tree against the true classes",
        metrics={},
        module="hierarchy",
        family="Hierarchy",
        protocol="frozen",
        reads_tree=True,
    ),
)

TASKS: dict[str, Task] = {task.name: task for task in TABLE}
FROZEN = tuple(name for name, task in TASKS.items() if task.protocol == "frozen")
TRAINED = tuple(name for name, task in TASKS.items() if task.protocol == "trained")
METRICS: tuple[Metric, ...] = tuple(metric for task in TABLE for metric in task.shown)
OUTCOMES = (("knn", "top1"), ("clustering", "ami"))  # task and metric of what verdicts are given on
GATE = (("knn", "top1"), ("hierarchy", "ami_level0"))  # the gain that is drawn by a tree's agreement with the classes
LABEL_PERCENTS = tuple(sorted({task.label_percent for task in TABLE} - {100}))  # label subsets that a study draws
