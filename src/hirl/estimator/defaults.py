"""Choose the settings of a training on someone's own images: what fits their number, their size and the machine.

A small study comes out, as YAML: `hirl fit` writes it beside its results, where it can be read, changed and run.
Import costs no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

METHODS = ("mocov2", "simsiam", "swav", "mocov3", "dino", "ibot")
VARIANTS: dict[str, dict[str, str] | None] = {
    "hirl": None,  # the paper's
    "baseline": None,
    "hirl-invariant": {"features": "invariant"},  # beyond the paper
}
LEAST_IMAGES = 16
IMAGES_PER_CLUSTER = 43  # of the finest level: ImageNet's 1,281,167 images in the paper's 30,000 clusters
COARSER = (3, 30)  # the paper's 30,000, 10,000 and 1,000 clusters
LEAST_CLUSTERS = (12, 4, 2)  # a tree of fewer shows nothing
LEAST_PER_CLUSTER = 4  # images; it goes before LEAST_CLUSTERS
BATCHES_PER_EPOCH = 4  # at least
MEMORY = 2**31  # bytes of decoded images that are held; more stay in files
SMALL = 48  # pixels: images up to here are taken at 32
VIEWS = {"cpu": 45_000, "gpu": 10_000_000}  # images that a training shows, all epochs together
EPOCHS = {"cpu": (10, 100), "gpu": (50, 200)}
VITS = ("mocov3", "dino", "ibot")


@dataclass(frozen=True)
class Facts:
    """What is known of the images and of the machine.

    Attributes:
        source: data.name, which opens them.
        train: the number of training images.
        side: the typical shorter side, in pixels.
        labelled: whether the folders name classes.
        gpu: whether there is one.
    """

    source: str
    train: int
    side: int
    labelled: bool
    gpu: bool


@dataclass(frozen=True)
class Choices:
    """What the user asks for; None leaves the choice to the defaults."""

    method: str = "mocov2"
    variant: str = "hirl"
    epochs: int | None = None
    image_size: int | None = None
    batch_size: int | None = None
    backbone: str | None = None
    num_clusters: Sequence[int] | None = None


def default_clusters(images: int) -> list[int]:
    """Return the numbers of clusters, fine to coarse, in the paper's proportion to the number of images.

    A fine cluster has about 43 images; the coarser levels have a third and a thirtieth of the fine one's clusters. Few
    images get at least LEAST_CLUSTERS, but no fewer than LEAST_PER_CLUSTER images a cluster.
    """
    fine = min(max(round(images / IMAGES_PER_CLUSTER), LEAST_CLUSTERS[0]), max(2, images // LEAST_PER_CLUSTER))
    middle, coarse = (max(round(fine / f), least) for f, least in zip(COARSER, LEAST_CLUSTERS[1:], strict=True))
    return [fine, min(middle, max(2, fine // 2)), min(coarse, fine)]


def own_study(facts: Facts, choices: Choices) -> dict[str, Any]:
    """Return a study of one run on someone's own images.

    On a CPU it takes over the demo's networks and schedules, on a GPU those of CIFAR-10 for small images, and the
    published ones with smaller networks for others.

    Raises:
        ValueError: there are too few images or more clusters than images, or the method or the variant is unknown here.
    """
    check_choices(choices)
    if facts.train < LEAST_IMAGES and choices.num_clusters is None:
        raise ValueError(
            f"{facts.train} training images are too few for clusters: give at least {LEAST_IMAGES}, or set num_clusters"
        )
    clusters = list(choices.num_clusters or default_clusters(facts.train))
    if clusters[0] > facts.train:
        raise ValueError(f"num_clusters {clusters[0]} is more than the {facts.train} training images: ask for fewer")
    size = choices.image_size or _image_size(facts)
    batch = choices.batch_size or _batch_size(facts)
    epochs = _epochs(facts) if choices.epochs is None else choices.epochs
    small = facts.gpu and size <= SMALL
    start = epochs // 10 if facts.gpu else epochs // 2
    storage = "memory" if facts.train * 3 * size**2 <= MEMORY else "files"
    method: dict[str, Any] = {
        "training": {"epochs": epochs, "batch_size": batch, "schedule": {"warmup_epochs": epochs / 10}},
        "hierarchy": {"start_epoch": start},
        "model": _model(choices.method, facts, batch, epochs),
    }
    if backbone := choices.backbone or _backbone(choices.method, facts, size):
        method["backbone"] = {"name": backbone}
    study = {
        "methods": {choices.method: method},
        "variants": {choices.variant: VARIANTS[choices.variant]},
        "seeds": [0],
        "tasks": ["knn", "hierarchy"] if facts.labelled else [],
        "all": {
            "data": {"name": facts.source, "image_size": size, "storage": storage, "class_tree": None},
            "views": {"global_size": size, "local_size": max(16, size // 2)},
            "hierarchy": {"num_clusters": clusters},
            "evaluation": {"knn": {"neighbours": _neighbours(facts.train)}},
        },
    }
    if not facts.gpu or small:
        study = {"base": "cifar10" if facts.gpu else "demo"} | study
    return study


def check_choices(choices: Choices) -> None:
    """Check the names among the choices.

    Raises:
        ValueError: the method or the variant is unknown here.
    """
    if choices.method not in METHODS:
        reason = " needs a tokenizer, so write a study for it (docs/studies.md)" if choices.method == "beit" else ""
        raise ValueError(f"method {choices.method!r}{reason or ' is unknown'}; here: {', '.join(METHODS)}")
    if choices.variant not in VARIANTS:
        raise ValueError(f"variant {choices.variant!r} is unknown; here: {', '.join(VARIANTS)}")


def _image_size(facts: Facts) -> int:
    if facts.side <= SMALL:
        return 32
    return 128 if facts.gpu else 64


def _batch_size(facts: Facts) -> int:
    """Return the largest power of two that leaves BATCHES_PER_EPOCH, up to 256 on a GPU and 128 on a CPU."""
    fits = [2**power for power in range(2, 9) if 2**power * BATCHES_PER_EPOCH <= facts.train]
    return min(fits[-1] if fits else 4, 256 if facts.gpu else 128)


def _epochs(facts: Facts) -> int:
    machine = "gpu" if facts.gpu else "cpu"
    least, most = EPOCHS[machine]
    return min(max(ceil(VIEWS[machine] / facts.train), least), most)


def _backbone(method: str, facts: Facts, size: int) -> str | None:
    """Return the network for larger images on a GPU; None keeps that of the study below."""
    if not facts.gpu or size <= SMALL:
        return None
    return "vit_small_patch16" if method in VITS else "resnet18"


def _model(method: str, facts: Facts, batch: int, epochs: int) -> dict[str, Any]:
    """Return the hyper-parameters that depend on the number of images: queues, groups and prototypes."""
    if method == "mocov2":  # a queue of at most half the images, so that it has few keys of the queries' own
        longest = 4096 if facts.gpu else 512
        queue = max(batch, min(longest, facts.train // 2 // batch * batch))
        return {"queue_size": queue, "batch_norm_groups": max(1, min(4, batch // 8))}
    if method == "swav":
        return {"prototypes": min(3000, max(16, facts.train // 15)), "frozen_prototype_steps": 0}
    if method in ("dino", "ibot"):
        return {"prototypes": 4096 if facts.gpu else 256, "teacher_temperature_epochs": min(30, epochs)}
    return {}


def _neighbours(train: int) -> list[int]:
    return [k for k in (5, 10, 20, 50) if k <= train // 2]
