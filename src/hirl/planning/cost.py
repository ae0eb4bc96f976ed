"""Estimate the cost of a run: GPU seconds, memory and disk, from counted operations and a machine's rates.

The seconds of a run on one GPU are the sum over its parts of operations / (matmul FLOP/s x MFU), where MFU (model FLOPs
utilisation) is the part of the machine's rate that the training of the network reaches:

    pretraining     epochs x images x operations of an image in a step, its views and teachers included;
                    hirl, from start_epoch on: + 6 L m D^2 for L projections of m layers, + 4 D sum_l K_l for the
                    path loss; the epochs before are those of its baseline, and count there if that is trained too
    trees           snapshots x images x forward, to embed all images, and snapshots x sum_l 2 n_l K_l D (restarts x
                    iterations + 1), to assign n_l images or clusters to K_l clusters; a warm-started tree's finest
                    level takes warm_iterations once; with hierarchy.encode: steps only the first tree embeds images
    evaluations     features: (training + validation images) x forward; linear: epochs x images x forward;
                    fine-tuning: three times that, as a backward pass costs two forward passes; detection: steps x
                    batch x 3 forwards of larger images, times DETECTOR_FLOP_FACTOR for pyramid and heads
    JOB_OVERHEAD_S  seconds until a job computes; they matter in small studies only

On R ranks every part takes 1/R of its seconds. Reading images is not counted, as it overlaps with the steps
(benchmarks/input.py measures how much of it a GPU needs).

Memory of a GPU, in bytes: weights and buffers of all networks; 4 for each gradient; 4 (SGD, LARS) or 8 (AdamW) for the
optimiser's state of each parameter; what autograd keeps (counted in real steps) of batch / R images. hirl: the tree;
with hierarchy.encode: steps a memory bank, 4 N D / R, for invariant features 4 N (D + W) / R; and while it clusters,
two copies of 1/R of the embeddings instead of what autograd keeps. Fused attention needs less.

Disk, in bytes: snapshots, 4 D sum_l K_l + 8 N L each, twice until scratch/ is emptied; features, 4 (N + M) W; weights;
two checkpoints; a baseline's state at each epoch at which HIRL starts, twice until scratch/ is emptied. N training and
M validation images, W channels of a feature.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hirl.config import DataConfig, DetectionConfig, FinetuneConfig, KNNConfig, LinearConfig, RunConfig
from hirl.config.tasks import TASKS
from hirl.data.sources import SOURCES
from hirl.files import read_json
from hirl.planning.count import Counts
from hirl.planning.machine import Machine, matmul_precision

KMEANS_MFU = 0.7  # k-means consists almost only of large matrix products
DETECTOR_FLOP_FACTOR = 3.0  # Mask R-CNN over its backbone: ResNet-50 FPN has 260, ResNet-50 87 GMAC at 800 x 1333
COCO_ASPECT = 4 / 3  # mean width over height
COCO_IMAGES = (117_266, 5_000)  # training images with objects, validation images
JOB_OVERHEAD_S = 4.0
EVALUATION_JOBS = {"memory": 1, "files": 3}  # of a run, by where its images are


@dataclass(frozen=True)
class Cost:
    """The cost of a run: seconds of one GPU for each part, bytes of a GPU's memory, bytes on disk.

    Attributes:
        baseline: the run whose first epochs it takes over, after that is trained.
        taken_over: the seconds of these epochs, which are not part of `pretraining`.
    """

    run: str
    pretraining: float
    embedding: float
    clustering: float
    evaluations: float
    memory: float
    disk: float
    baseline: str | None = None
    taken_over: float = 0.0

    @property
    def trees(self) -> float:
        """Return the seconds of all snapshots."""
        return self.embedding + self.clustering

    @property
    def gpu_seconds(self) -> float:
        """Return the seconds in which a GPU computes."""
        return self.pretraining + self.trees + self.evaluations

    def training_wall(self, ranks: int) -> float:
        """Return the seconds from the run's start to the end of its training."""
        return (self.pretraining + self.trees) / ranks

    def wall(self, ranks: int) -> float:
        """Return the seconds from the run's start to its end."""
        return self.training_wall(ranks) + self.evaluations / ranks


def run_cost(
    config: RunConfig,
    counts: Counts,
    machine: Machine,
    mfu: float,
    ranks: int,
    tasks: Iterable[str],
    data: Path | None = None,
    forks: bool = False,
    stems: int = 0,
) -> Cost:
    """Return one run's cost by the formulas above.

    Args:
        mfu: the part of the machine's rate that the run's network reaches.
        data: prepared data, for a set of unknown size.
        forks: whether the run takes its first epochs over from its baseline.
        stems: how many states a baseline keeps for its HIRL runs.
    """
    images, validation = number_of_images(config.data, data)

    def flops(precision: str) -> float:
        return machine.matmul_flops(matmul_precision(precision, config)) * mfu

    own = flops(config.training.precision)
    stem_epochs = config.stem_epochs
    stem = stem_epochs * images * counts.step / own
    step = counts.step + hirl_operations(config, counts.embedding_dim)
    training = (config.training.epochs - stem_epochs) * images * step / own
    evaluations = sum(
        task_operations(task, config, counts, images, validation) / flops(_task_precision(task, config))
        for task in tasks
    )
    kmeans_flops = machine.matmul_flops("tf32") * KMEANS_MFU
    return Cost(
        run=config.name,
        pretraining=JOB_OVERHEAD_S + training + (0.0 if forks else stem),
        embedding=images * encoded_views(config) * counts.forward / own,
        clustering=kmeans_operations(config, clustered_width(config, counts), images) / kmeans_flops,
        evaluations=JOB_OVERHEAD_S * EVALUATION_JOBS[config.data.storage] + evaluations,
        memory=gpu_memory(config, counts, images, ranks),
        disk=disk_space(config, counts, images, validation) + 2 * stems * counts.checkpoint,
        baseline=config.baseline.name if forks else None,
        taken_over=stem if forks else 0.0,
    )


def _task_precision(task: str, config: RunConfig) -> str:
    return getattr(config.evaluation.of(task), "precision", config.training.precision)


def number_of_images(config: DataConfig, data: Path | None = None) -> tuple[int, int]:
    """Return the numbers of training and validation images: configured, prepared, or known of the data set.

    Raises:
        ValueError: they are neither configured, nor prepared, nor known.
    """
    source = SOURCES.get(config.name)
    known = source.num_images if source else None
    if data is not None:
        splits = read_json(data / "manifest.json")["splits"]
        known = splits["train"], splits["validation"]
    train, validation = config.train_images, config.validation_images
    if known is not None:
        train, validation = train or known[0], validation or known[1]
    if train is None or validation is None:
        raise ValueError(f"the number of images of {config.name!r} is unknown: prepare them, then add --data FOLDER")
    return train, validation


def step_seconds(config: RunConfig, counts: Counts, machine: Machine, mfu: float, batch: int) -> float:
    """Return the seconds of a step on a batch of one GPU, by the formulas above."""
    operations = batch * (counts.step + hirl_operations(config, counts.embedding_dim))
    return operations / (machine.matmul_flops(matmul_precision(config.training.precision, config)) * mfu)


# --- floating-point operations ----------------------------------------------------------------------------------------


def hirl_operations(config: RunConfig, width: int) -> float:
    """Return what HIRL adds to a step per image: projections, forward and backward, and products with all centroids."""
    hierarchy = config.hierarchy
    if hierarchy is None:
        return 0.0
    projections = 6 * len(hierarchy.num_clusters) * hierarchy.mlp_layers * width**2
    return projections + 4 * width * sum(hierarchy.num_clusters)


def num_snapshots(config: RunConfig) -> int:
    """Return how many trees a run makes."""
    hierarchy = config.hierarchy
    if hierarchy is None:
        return 0
    return max(0, math.ceil((config.training.epochs - hierarchy.start_epoch) / hierarchy.snapshot_epochs))


def encoded_views(config: RunConfig) -> int:
    """Return how many views of each image a run's trees encode: one for its embedding, and those of invariant features.

    With `encode: steps` only the first tree encodes any.
    """
    hierarchy = config.hierarchy
    if hierarchy is None:
        return 0
    trees = num_snapshots(config) if hierarchy.encode == "pass" else min(1, num_snapshots(config))
    return trees * (1 + (hierarchy.views if hierarchy.features == "invariant" else 0))


def clustered_width(config: RunConfig, counts: Counts) -> int:
    """Return the width of what a tree's k-means clusters: the embedding's, or the backbone's."""
    hierarchy = config.hierarchy
    return counts.width if hierarchy is not None and hierarchy.features == "invariant" else counts.embedding_dim


def kmeans_operations(config: RunConfig, width: int, images: int) -> float:
    """Return the operations of k-means in all snapshots of a run, summed level by level."""
    made = num_snapshots(config)
    if config.hierarchy is None or made == 0:
        return 0.0
    settings, sizes = config.hierarchy.kmeans, config.hierarchy.num_clusters
    warm = settings.warm_iterations
    later = made - 1 if warm is not None else 0  # trees whose finest level is warm-started from the one before
    total = 0.0
    points = images
    for level, clusters in enumerate(sizes):
        sampled = min(points, clusters * settings.max_points_per_centroid)
        pair = 2 * width * clusters
        random_start = pair * (sampled * settings.iterations * settings.restarts + points)
        warm_start = pair * (sampled * (warm or 0) + points)
        total += (made - later) * random_start + later * (warm_start if level == 0 else random_start)
        points = clusters
    return total


def task_operations(task: str, config: RunConfig, counts: Counts, images: int, validation: int) -> float:
    """Return the operations of one evaluation; those of kNN include extracting the features that others share."""
    settings = config.evaluation.of(task)
    if isinstance(settings, KNNConfig):
        return (images + validation) * counts.forward + 2 * images * validation * counts.width
    if isinstance(settings, LinearConfig):
        return (settings.epochs * images + validation) * counts.forward
    if isinstance(settings, DetectionConfig):
        return _detection_operations(config, counts)
    if not isinstance(settings, FinetuneConfig):
        return 0.0
    if TASKS[task].folder == "transfer":
        images, validation = number_of_images(config.transfer_data)
    labelled = TASKS[task].label_percent / 100 * images
    return (3 * settings.epochs * labelled + validation) * counts.forward


def _detection_operations(config: RunConfig, counts: Counts) -> float:
    settings, scenes = config.evaluation.detection, config.scenes
    train, validation = scenes.train_images, scenes.validation_images
    pixels: float = settings.test_short_side**2
    if scenes.name == "coco":
        train, validation = train or COCO_IMAGES[0], validation or COCO_IMAGES[1]
        pixels *= COCO_ASPECT
    if train is None or validation is None:
        raise ValueError("scenes.train_images and scenes.validation_images must be set for drawn scenes: give numbers")
    steps = settings.epochs * (settings.epoch_steps or train // settings.batch_size)
    forward = counts.forward * DETECTOR_FLOP_FACTOR * pixels / config.data.image_size**2
    return (3 * steps * settings.batch_size + validation) * forward


# --- memory and disk --------------------------------------------------------------------------------------------------


def gpu_memory(config: RunConfig, counts: Counts, images: int, ranks: int) -> float:
    """Return the bytes of the fullest GPU, while it trains or while it clusters."""
    training = counts.static + counts.activations * config.training.batch_size / ranks
    if config.hierarchy is None:
        return training
    tree = snapshot_bytes(config, counts.embedding_dim, images)
    embeddings = 4 * images * counts.embedding_dim / ranks
    means = 4 * images * counts.width / ranks if config.hierarchy.features == "invariant" else 0
    bank = embeddings + means if config.hierarchy.encode == "steps" else 0
    return tree + bank + max(training, counts.static + 2 * embeddings)


def snapshot_bytes(config: RunConfig, width: int, images: int) -> int:
    """Return the bytes of one snapshot: centroids in float32, parents and paths in int64."""
    if config.hierarchy is None:
        return 0
    sizes = config.hierarchy.num_clusters
    return 4 * width * sum(sizes) + 8 * sum(sizes[:-1]) + 8 * images * len(sizes)


def disk_space(config: RunConfig, counts: Counts, images: int, validation: int) -> float:
    """Return the bytes of a run on disk before scratch/ is emptied."""
    trees = 2 * num_snapshots(config) * snapshot_bytes(config, counts.embedding_dim, images)
    return trees + 4 * (images + validation) * counts.width + counts.weights + 2 * counts.checkpoint
