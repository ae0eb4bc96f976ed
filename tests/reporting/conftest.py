"""Write a plausible study with known numbers to disk, for the reporting tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from hirl.config.run_name import RunName
from hirl.hierarchy.tree import SemanticTree
from hirl.reporting.figures import draw_trainings, gains
from hirl.reporting.summary import summarise
from hirl.tracking.record import Recorder

BACKBONES = dict.fromkeys(("mocov2", "simsiam", "swav", "swav_800"), "resnet18")
BACKBONES |= dict.fromkeys(("mocov3", "dino", "ibot", "beit"), "vit_tiny")
CLASSES, GROUPS, KINGDOMS, IMAGES, SIZE = 12, 6, 3, 240, 16
TRAINED = ("linear", "finetune", "semisup-1", "semisup-10", "transfer", "detection")
TASKS = ("knn", "probe", "clustering", "hierarchy", *TRAINED)
EPOCHS, START = 6, 2
METHODS, SEEDS = ("mocov2", "ibot"), (0, 1)  # of the study that most tests read
CHOSEN = ("knn", "probe", "finetune")  # the evaluations of most tests of tables
TRAINING = [{"epoch": e, "loss": 3.0 - e, "learning_rate": 0.1 / (e + 1), "seconds": 30.0} for e in range(3)]


def knn(value: float) -> dict[str, dict[str, float]]:
    """Return the evaluations of a run that has kNN alone."""
    return {"knn": {"top1": value}}


def run_names(methods: Sequence[str], seeds: Sequence[int] = (0,)) -> list[str]:
    controls = dict.fromkeys(RunName.control(BACKBONES[method]) for method in methods)
    trained = [RunName(*run) for run in product(methods, ("baseline", "hirl"), seeds)]
    return list(map(str, [*controls, *trained]))


def backbone_of(run: RunName) -> str:
    return run.backbone or BACKBONES.get(run.method, "resnet18")


def write_evaluation(
    study: Path, run: str, task: str, metrics: dict[str, float], history: Sequence[dict[str, float]] = ()
) -> None:
    name = RunName.parse(run)
    found = {"study": study.name, "dataset": "taxonomy", "method": name.method, "variant": name.variant}
    found |= {"backbone": backbone_of(name), "seed": name.seed}
    path = study / "runs" / run / "evaluation" / f"{task}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    found |= {"task": task, "metrics": metrics, "settings": {"neighbours": [10, 20]}}
    path.write_text(json.dumps(found | ({"history": history} if history else {})))


def write_data(study: Path, seed: int = 0) -> torch.Tensor:
    """Write prepared data: an image's hue shows its kingdom, its brightness the group, its stripes the class."""
    generator = np.random.default_rng(seed)
    classes = np.arange(IMAGES) % CLASSES
    labels = np.stack([classes, classes // 2, classes // 4], axis=1)
    images = generator.integers(0, 60, (IMAGES, 3, SIZE, SIZE))
    images[np.arange(IMAGES), labels[:, 2]] += 120 + 60 * (labels[:, 1] % 2)[:, None, None]
    images[classes % 2 == 1, :, ::4] = 250
    folder = study / "data"
    folder.mkdir(parents=True)
    for split in ("train", "validation"):
        tensors = {"images": torch.from_numpy(images.astype(np.uint8)), "labels": torch.from_numpy(labels)}
        save_file(tensors, folder / f"{split}.safetensors")
    names = [[f"{level} {i}" for i in range(n)] for level, n in (("leaf", 12), ("group", 6), ("kingdom", 3))]
    manifest = {
        "dataset": "taxonomy",
        "image_size": SIZE,
        "storage": "memory",
        "root": None,
        "levels": ["class", "group", "kingdom"],
        "class_names": names,
        "parents": [[i // 2 for i in range(12)], [i // 4 for i in range(12)]],
        "splits": {"train": IMAGES, "validation": IMAGES},
        "digest": "0" * 64,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return torch.from_numpy(labels)


def write_snapshot(path: Path, labels: torch.Tensor, noise: float, generator: np.random.Generator) -> None:
    """Write a tree of 24 > 6 > 3 clusters whose finest level follows the classes, except for some random images."""
    fine = labels[:, 0].numpy() * 2 + generator.integers(0, 2, len(labels))
    random = generator.random(len(labels)) < noise
    fine[random] = generator.integers(0, 24, random.sum())
    fine = torch.from_numpy(fine)
    centroids = [torch.nn.functional.normalize(torch.randn(k, 8), dim=1) for k in (24, 6, 3)]
    parents = [torch.arange(24) // 4, torch.arange(6) // 2]
    SemanticTree(centroids, parents, torch.stack([fine, fine // 4, fine // 8], dim=1)).save(path)


def write_training(study: Path, run: str, labels: torch.Tensor, generator: np.random.Generator) -> None:
    """Write the files of a finished training: config, history, record, snapshots."""
    folder = study / "runs" / run
    name = RunName.parse(run)
    has_tree = name.variant == "hirl"
    config = {
        "hash": f"hash of {name.method} {name.variant}",
        "study": study.name,
        "method": name.method,
        "variant": name.variant,
        "seed": name.seed,
        "backbone": {"name": BACKBONES[name.method]},
        "hierarchy": {"num_clusters": [24, 6, 3], "start_epoch": START, "kmeans": {"restarts": 1}}
        if has_tree
        else None,
        "training": {"epochs": EPOCHS, "batch_size": 64, "optimizer": {"name": "sgd", "base_lr": 0.03}},
        "evaluation": {"knn": {"neighbours": [10]}},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    epochs = np.arange(EPOCHS)
    history = pd.DataFrame({"epoch": epochs})
    history["image_loss"] = 4 * np.exp(-epochs / 3) + generator.normal(0, 0.05, EPOCHS) + 1
    history["path_loss"] = np.where(has_tree & (epochs >= START), 2 * np.exp(-epochs / 4), np.nan)
    history["loss"] = history["image_loss"] + history["path_loss"].fillna(0)
    history["learning_rate"], history["images_per_second"], history["memory_mb"] = 0.03, 500.0, 800.0
    history["seconds"], history["feature_std"] = 2.5, 0.05 + 0.02 * epochs / EPOCHS
    history.to_csv(folder / "history.csv", index=False)
    recorder = Recorder(folder / "record.jsonl")
    recorder.params(config)
    for row in history.to_dict("records"):
        epoch = row.pop("epoch")
        recorder.metrics(int(epoch), {key: value for key, value in row.items() if value == value})
        if has_tree and epoch >= START:
            write_snapshot(
                folder / "snapshots" / f"epoch{int(epoch):03d}.safetensors", labels, 0.9 - 0.15 * epoch, generator
            )
            recorder.snapshot(int(epoch), {"clusters_level0": 24.0})
    recorder.close(EPOCHS)


def make_study(folder: Path, methods: Sequence[str], seeds: Sequence[int] = (0,)) -> list[str]:
    """Write a whole study with random but plausible results; return the names of its runs."""
    generator = np.random.default_rng(0)
    labels, runs = write_data(folder), run_names(methods, seeds)
    for run in runs:
        base = 35.0 if run.startswith("untrained") else 60 + generator.normal(0, 4) + 2 * ("hirl" in run)
        knn = {"top1": base, "top5": base + 20, "top1_level1": base + 8, "top1_level2": base + 15}
        write_evaluation(folder, run, "knn", knn)
        write_evaluation(folder, run, "probe", {"top1": base + 3 + generator.normal(0, 2), "top5": base + 25})
        for task in TRAINED[:-1]:
            top1 = base + generator.normal(0, 2) - 20 * (task == "semisup-1")
            write_evaluation(folder, run, task, {"top1": top1, "top5": top1 + 20}, TRAINING)
        boxes = {"ap_box": base / 2, "ap50_box": base * 0.8, "ap_mask": base / 2 - 3, "ap50_mask": base * 0.7}
        write_evaluation(folder, run, "detection", boxes, TRAINING)
        clustering = {"acc": base - 15 + generator.normal(0, 3), "nmi": base - 10, "ami": base - 14}
        write_evaluation(folder, run, "clustering", clustering)
        if not run.startswith("untrained"):
            write_training(folder, run, labels, generator)
        if "hirl" in run:
            finest = {"nmi": 60.0, "ami": 50.0, "purity": 70.0, "clusters": 24.0, "empty": 0.0}
            metrics = {f"{name}_level{level}": value - level for level in range(3) for name, value in finest.items()}
            write_evaluation(folder, run, "hierarchy", metrics | {"empty_level1": 0.0, "empty_level2": 0.0})
    return runs


MakeOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def study(made_once: MakeOnce) -> tuple[Path, list[str]]:
    """Return a study of two methods with two backbones and two seeds, and its runs."""
    folder = made_once("reporting", lambda folder: make_study(folder / "demo", METHODS, SEEDS))
    return folder / "demo", run_names(METHODS, SEEDS)


@pytest.fixture(scope="session")
def drawn(study: tuple[Path, list[str]], made_once: MakeOnce) -> dict[str, Path]:
    """Write the tables and figures of that study; return the figures by name."""
    folder, runs = study

    def draw(done: Path) -> None:
        summarise(folder, runs, TASKS)
        gains(folder, runs, folder / "figures" / "gains.png")
        draw_trainings(folder, runs)
        done.touch()

    made_once("drawn", draw)
    return {path.name: path for path in (folder / "figures").iterdir()}


@pytest.fixture
def evaluations(tmp_path: Path) -> Callable[[dict[str, dict[str, dict[str, float]]]], Path]:
    """Return a function that writes evaluations {run: {task: metrics}} and configs, and returns the study folder."""

    def write(found: dict[str, dict[str, dict[str, float]]]) -> Path:
        study = tmp_path / "demo"
        for run, tasks in found.items():
            for task, metrics in tasks.items():
                write_evaluation(study, run, task, metrics)
            if not (name := RunName.parse(run)).is_control:
                config = {"backbone": {"name": backbone_of(name)}}
                (study / "runs" / run / "config.json").write_text(json.dumps(config))
        return study

    return write


@pytest.fixture(scope="session")
def walked(made_once: MakeOnce) -> Path:
    """Return a study of two methods, whose runs kept their features: a class's images have similar ones."""

    def make(folder: Path) -> None:
        generator = np.random.default_rng(0)
        for run in make_study(folder / "demo", METHODS):
            centers = generator.normal(size=(CLASSES, 8))
            features = centers[np.arange(IMAGES) % CLASSES] + generator.normal(0, 0.5, (IMAGES, 8))
            tensors = {"train": torch.from_numpy(features).float()}
            save_file(tensors, folder / "demo" / "runs" / run / "features.safetensors")

    return made_once("walked", make) / "demo"
