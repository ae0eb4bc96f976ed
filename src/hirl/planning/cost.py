"""What a study will cost, before it is paid.

Operations are counted: real steps, forward and backward, of every run's real networks, on few images, on this CPU.
Rates are measured: of large products, and the share of them that a network's training reaches (config/hardware.yaml, or
this machine's own). A run's seconds on one GPU are those of its parts, each operations / (rate x share):

    pretraining   epochs x images x operations of an image in a step, its views and teachers included;
                  hirl: + 6 L m D^2 for L projections of m layers, + 4 D sum_l K_l for the path loss
    trees         snapshots x images x forward, to embed all images, and snapshots x sum_l 2 n_l K_l D (restarts x
                  iterations + 1), to put n_l images or clusters into K_l clusters; a later tree's finest level may be
                  one start of warm_iterations
    evaluations   features: (training + validation images) x forward; linear: epochs x images x forward, fine-tuning
                  thrice that (a backward pass is two forward ones); detection: steps x batch x 3 forwards of larger
                  pictures, times DETECTOR for pyramid and heads
    START         seconds for each job, which only small studies notice

On R ranks all takes 1/R of that but the clustering, which one GPU does while the others wait. Runs are independent:
with C GPUs, C // R at a time, the longest first. Reading images is not counted: it goes on beside the steps
(benchmarks/input.py says what it takes not to be waited for).

Memory of a GPU, in bytes: weights and buffers of all networks, 4 for each gradient, 4 (SGD, LARS) or 8 (AdamW) for the
optimiser's state of each, and what autograd keeps (counted in those steps) of batch / R images; hirl: the tree, and on
the first rank, while it clusters, two copies of all embeddings in place of what autograd keeps. Attention that never
holds its [T, T] products, as a GPU's, needs less.
Disk, in bytes: snapshots, 4 D sum_l K_l + 8 N L each, twice until scratch/ is emptied; features, 4 (N + M) W; weights;
two checkpoints.
"""

from __future__ import annotations

import csv
import heapq
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import yaml
from rich.table import Table

from hirl.config import (
    CONFIG_ROOT,
    TASKS,
    DataConfig,
    DetectionConfig,
    FinetuneConfig,
    KNNConfig,
    LinearConfig,
    RunConfig,
    Study,
)
from hirl.files import read_json

if TYPE_CHECKING:
    from hirl.planning.step_benchmark import StepBenchmark

COUNTED_IMAGES = (2, 4)  # in the steps that are counted: what grows with them is an image's, the rest is kept once
MEASURED_IMAGES = 128  # at most, in the steps that are timed on this machine
KMEANS = 0.7  # the share of the rate of large products that k-means reaches, which is little else
DETECTOR = 3.0  # Mask R-CNN over its backbone: of ResNet-50 with FPN, 260 over 87 billion multiplications at 800 x 1333
ASPECT = 4 / 3  # of COCO's pictures
START = 6.0  # seconds until a job computes
JOBS = 4  # of a run: pretraining, features, and its evaluations
TOLD = ("pretraining h", "trees h", "evaluations h", "GPU h", "wall h", "GiB per GPU", "disk GiB")
IMAGES = {  # training and validation, where a study takes all
    "taxonomy": (3600, 1080),
    "sketches": (1800, 720),
    "cifar10": (50_000, 10_000),
    "cifar100": (50_000, 10_000),
    "imagenet": (1_281_167, 50_000),
    "places205": (2_448_873, 20_500),
    "coco": (117_266, 5_000),  # training pictures with objects
}


@dataclass(frozen=True)
class Machine:
    """GPUs, or this machine's cores.

    Attributes:
        tflops: TFLOP/s of large products, by precision.
        share: of that rate, which networks reach, by kind; None: measured, run by run.
    """

    name: str
    memory_gib: float
    tflops: dict[str, float]
    share: dict[str, float] | None

    def rate(self, precision: str) -> float:
        """Operations a second; "auto" is bf16 where that is faster, tf32 is float32 where nothing says otherwise."""
        known = {"auto": max(self.tflops.values()), "tf32": self.tflops["fp32"]} | self.tflops
        return 1e12 * known[precision]


@dataclass(frozen=True)
class Counts:
    """What one image costs a run's networks, and what they are.

    Attributes:
        step: operations of a training step, without what HIRL adds.
        forward: operations of the backbone on an evaluated image.
        activations: bytes kept for the backward pass.
        static: bytes of weights, buffers, gradients, optimiser state, and what a step keeps whatever its images.
        weights: bytes of the backbone.
        checkpoint: bytes of a checkpoint without the tree.
        width: channels of a feature.
        embedding_dim: D.
    """

    step: float
    forward: float
    activations: float
    static: int
    weights: int
    checkpoint: int
    width: int
    embedding_dim: int


@dataclass(frozen=True)
class Cost:
    """A run's: seconds of one GPU for each part, bytes of a GPU's memory, bytes on disk."""

    run: str
    pretraining: float
    embedding: float
    clustering: float
    evaluations: float
    memory: float
    disk: float

    @property
    def trees(self) -> float:
        """Seconds of all snapshots."""
        return self.embedding + self.clustering

    @property
    def gpu_seconds(self) -> float:
        """Without the time in which other ranks wait."""
        return self.pretraining + self.trees + self.evaluations

    def wall(self, ranks: int) -> float:
        """Seconds from its start to its end."""
        return (self.pretraining + self.embedding + self.evaluations) / ranks + self.clustering


# --- the plan ---------------------------------------------------------------------------------------------------------


def plan(
    study: Study, machine: Machine, ranks: int, overrides: dict[str, Any] | None = None, data: Path | None = None
) -> list[Cost]:
    """The cost of every run of a study, each on `ranks` GPUs.

    Args:
        data: prepared data, where the study's set is of unknown size.

    Raises:
        ValueError: a value is wrong, or nobody knows how many images there are.
    """
    asked = study.config
    costs, counted = [], {}
    for method in asked.methods:
        baseline = study.resolve(method, "baseline", 0, overrides)
        training = baseline.training
        kept = (training.optimizer.name, training.precision, training.checkpoint_activations)
        network = repr((baseline.algorithm, baseline.backbone, baseline.model, baseline.views, kept))
        if network not in counted:
            counted[network] = count(baseline, asked.plugins)
        for variant in asked.variants:
            config = study.resolve(method, variant, 0, overrides)
            share = machine.share[kind(config)] if machine.share else measured_share(config, counted[network], machine)
            for seed in asked.seeds:
                run = config.model_copy(update={"seed": seed})
                costs.append(cost(run, counted[network], machine, share, ranks, asked.tasks, data))
    return costs


def cost(
    config: RunConfig,
    counts: Counts,
    machine: Machine,
    share: float,
    ranks: int,
    tasks: Iterable[str],
    data: Path | None = None,
) -> Cost:
    """One run's cost, by the formulas above; `share` of the machine's rate is what its network reaches."""
    images, validation = number_of_images(config.data, data)
    own = _rate(machine, config, config.training.precision) * share
    training = config.training.epochs * images * (counts.step + hirl_operations(config, counts.embedding_dim)) / own
    evaluations = sum(
        task_operations(task, config, counts, images, validation)
        / (_rate(machine, config, _precision(task, config)) * share)
        for task in tasks
    )
    return Cost(
        config.name,
        START + training,
        snapshots(config) * images * counts.forward / own,
        kmeans_operations(config, counts.embedding_dim, images) / (machine.rate("tf32") * KMEANS),
        START * (JOBS - 1) + evaluations,
        memory(config, counts, images, ranks),
        disk(config, counts, images, validation),
    )


def wall_seconds(costs: list[Cost], gpus: int, ranks: int) -> float:
    """From the first run's start to the last one's end: `gpus // ranks` at a time, the longest first."""
    free = [0.0] * (gpus // ranks)
    for seconds in sorted((cost.wall(ranks) for cost in costs), reverse=True):
        heapq.heappush(free, heapq.heappop(free) + seconds)
    return max(free)


# --- operations -------------------------------------------------------------------------------------------------------


def hirl_operations(config: RunConfig, width: int) -> float:
    """Per image and step: the projections, forward and backward, and both products with all centroids."""
    hierarchy = config.hierarchy
    if hierarchy is None:
        return 0.0
    projections = 6 * len(hierarchy.num_clusters) * hierarchy.mlp_layers * width**2
    return projections + 4 * width * sum(hierarchy.num_clusters)


def snapshots(config: RunConfig) -> int:
    """How many trees a run makes."""
    hierarchy = config.hierarchy
    if hierarchy is None:
        return 0
    return max(0, math.ceil((config.training.epochs - hierarchy.start_epoch) / hierarchy.snapshot_epochs))


def kmeans_operations(config: RunConfig, width: int, images: int) -> float:
    """Of all snapshots, level by level."""
    made = snapshots(config)
    if made == 0:
        return 0.0
    settings, sizes = config.hierarchy.kmeans, config.hierarchy.num_clusters
    warm = settings.warm_iterations
    later = made - 1 if warm is not None else 0  # trees whose finest level goes on from the one before
    total = 0.0
    for level, (points, clusters) in enumerate(zip((images, *sizes), sizes, strict=False)):
        learnt_from = min(points, clusters * settings.max_points_per_centroid)
        pair = 2 * width * clusters
        cold = pair * (learnt_from * settings.iterations * settings.restarts + points)
        continued = pair * (learnt_from * (warm or 0) + points)
        total += (made - later) * cold + later * (continued if level == 0 else cold)
    return total


def task_operations(task: str, config: RunConfig, counts: Counts, images: int, validation: int) -> float:
    """Of one evaluation; those on cached features cost their extraction, once, and next to nothing more."""
    settings = config.evaluation.of(task)
    if isinstance(settings, KNNConfig):
        return (images + validation) * counts.forward + 2 * images * validation * counts.width
    if isinstance(settings, LinearConfig):
        return (settings.epochs * images + validation) * counts.forward
    if isinstance(settings, DetectionConfig):
        return _detection(config, counts)
    if not isinstance(settings, FinetuneConfig):
        return 0.0
    if TASKS[task].folder == "transfer":
        images, validation = number_of_images(config.transfer_data)
    labelled = TASKS[task].label_percent / 100 * images
    return (3 * settings.epochs * labelled + validation) * counts.forward


def _detection(config: RunConfig, counts: Counts) -> float:
    settings, name = config.evaluation.detection, config.scenes.name
    known = IMAGES[name]
    asked = (config.scenes.train_images, config.scenes.validation_images)
    train, validation = (given or number for given, number in zip(asked, known, strict=True))
    steps = settings.epochs * (settings.epoch_steps or train // settings.batch_size)
    pixels = settings.test_short_side**2 * (ASPECT if name == "coco" else 1)
    forward = counts.forward * DETECTOR * pixels / config.data.image_size**2
    return (3 * steps * settings.batch_size + validation) * forward


def number_of_images(config: DataConfig, data: Path | None = None) -> tuple[int, int]:
    """Training and validation images: what is asked for, what is prepared, or what the set is known to have.

    Raises:
        ValueError: none of them says.
    """
    known = IMAGES.get(config.name)
    if data is not None:
        splits = read_json(data / "manifest.json")["splits"]
        known = splits["train"], splits["validation"]
    asked = (config.train_images, config.validation_images)
    if known is None and None in asked:
        raise ValueError(f"nobody knows how many images {config.name!r} has: prepare them, and add --data FOLDER")
    return tuple(given or number for given, number in zip(asked, known or asked, strict=True))


def count(config: RunConfig, plugins: tuple[str, ...] = ()) -> Counts:
    """Builds a baseline's networks and takes steps of few images on this CPU, counting."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from hirl.planning.step_benchmark import StepBenchmark

    precision = "fp32" if config.training.precision == "fp32" else "bf16"
    steps, kept = [], []
    for images in COUNTED_IMAGES:
        benchmark = StepBenchmark(_with(config, batch_size=images, precision=precision), torch.device("cpu"), plugins)
        operations, size = _counted_step(benchmark)
        steps.append(operations)
        kept.append(size)
    few, more = COUNTED_IMAGES
    activations = (kept[1] - kept[0]) / (more - few)
    method, optimizer, side = benchmark.method, benchmark.optimizer, config.data.image_size
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        method.backbone.eval()(torch.zeros(1, 3, side, side))
    learning = sum(value.numel() for group in optimizer.param_groups for value in group["params"])
    state = learning * (8 if config.training.optimizer.name == "adamw" else 4)
    everything = sum(value.nbytes for value in (*method.parameters(), *method.buffers()))
    return Counts(
        step=(steps[1] - steps[0]) / (more - few),
        forward=forward.get_total_flops(),
        activations=activations,
        static=int(everything + 4 * learning + state + kept[0] - few * activations),
        weights=sum(value.nbytes for value in method.backbone.parameters()),
        checkpoint=everything + state,
        width=method.backbone.num_features,
        embedding_dim=method.embedding_dim,
    )


def _counted_step(benchmark: StepBenchmark) -> tuple[int, int]:
    """Operations of a step, and the bytes that autograd keeps in it beside the parameters."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    parameters = {value.untyped_storage().data_ptr() for value in benchmark.method.parameters()}
    kept: dict[int, int] = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    with FlopCounterMode(display=False) as step, torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        benchmark.step()
    return step.get_total_flops(), sum(kept.values())


# --- memory and disk --------------------------------------------------------------------------------------------------


def memory(config: RunConfig, counts: Counts, images: int, ranks: int) -> float:
    """Bytes of the fullest GPU: while it trains, or while it clusters."""
    training = counts.static + counts.activations * config.training.batch_size / ranks
    if config.hierarchy is None:
        return training
    tree = snapshot_bytes(config, counts.embedding_dim, images)
    return tree + max(training, counts.static + 2 * 4 * images * counts.embedding_dim)


def snapshot_bytes(config: RunConfig, width: int, images: int) -> int:
    """Of one tree: centroids in float32, parents and paths in int64."""
    sizes = config.hierarchy.num_clusters
    return 4 * width * sum(sizes) + 8 * sum(sizes[:-1]) + 8 * images * len(sizes)


def disk(config: RunConfig, counts: Counts, images: int, validation: int) -> float:
    """Bytes of a run before scratch/ is emptied."""
    trees = 2 * snapshots(config) * snapshot_bytes(config, counts.embedding_dim, images) if config.hierarchy else 0
    return trees + 4 * (images + validation) * counts.width + counts.weights + 2 * counts.checkpoint


# --- rates ------------------------------------------------------------------------------------------------------------


def find_machine(name: str) -> Machine:
    """A machine of config/hardware.yaml, or "here": this one's GPU, or one core of its processor, measured.

    Raises:
        ValueError: it is in no list.
    """
    if name == "here":
        return _this_machine()
    known = yaml.safe_load((CONFIG_ROOT / "hardware.yaml").read_text())
    if name not in known:
        raise ValueError(f"--gpu {name} is unknown: choose {', '.join(known)}, here, or add it to config/hardware.yaml")
    return Machine(name=name, **known[name])


def _this_machine() -> Machine:
    import torch

    from hirl.distributed.device import choose_device
    from hirl.planning.step_benchmark import product_rate

    device = choose_device()
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    else:
        torch.set_num_threads(1)  # as the workflow's jobs, one on each core
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    precisions = ("bf16", "fp32", *["tf32"] * (device.type == "cuda"))
    rates = {precision: product_rate(precision, device) / 1e12 for precision in precisions}
    return Machine("here", memory / 2**30, rates, None)


def measured_share(config: RunConfig, counts: Counts, machine: Machine) -> float:
    """The share of this machine's rate that real steps of a run reach: the best of a few."""
    from hirl.distributed.device import choose_device
    from hirl.planning.step_benchmark import StepBenchmark

    batch = min(config.training.batch_size, MEASURED_IMAGES)
    benchmark = StepBenchmark(_with(config, batch_size=batch), choose_device())
    benchmark.seconds(2)
    seconds = min(benchmark.seconds(1) for _ in range(5))
    operations = batch * (counts.step + hirl_operations(config, counts.embedding_dim))
    return operations / seconds / _rate(machine, config, config.training.precision)


def _rate(machine: Machine, config: RunConfig, precision: str) -> float:
    """Operations a second of large products as the network has them."""
    return machine.rate(multiplied_in(precision, config))


def multiplied_in(precision: str, config: RunConfig) -> str:
    """What a network's products are in; a GPU's convolutions in fp32 are TF32, unless torch is told otherwise."""
    return "tf32" if precision == "fp32" and kind(config) == "resnet" else precision


def kind(config: RunConfig) -> str:
    """Of the backbone: "vit" or "resnet"."""
    return "vit" if config.backbone.name.startswith("vit") else "resnet"


def _precision(task: str, config: RunConfig) -> str:
    return getattr(config.evaluation.of(task), "precision", config.training.precision)


def _with(config: RunConfig, **training: Any) -> RunConfig:
    return config.model_copy(update={"training": config.training.model_copy(update=training)})


# --- checked against what was run -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """Seconds of a finished run's pretraining and trees, as planned and as its own record has them."""

    run: str
    planned: float
    measured: float

    @property
    def ratio(self) -> float:
        """Planned over measured."""
        return self.planned / self.measured

    @property
    def error(self) -> float:
        """How many times too much or too little: at least 1."""
        return max(self.ratio, 1 / self.ratio)


def check(costs: Iterable[Cost], results: Path) -> list[Check]:
    """The plan of a study beside its results, which one GPU, or core, made for each run.

    Raises:
        ValueError: a run is not there.
    """
    return [
        Check(cost.run, cost.pretraining - START + cost.trees, measured_seconds(results / "runs" / cost.run))
        for cost in costs
    ]


def measured_seconds(run: Path) -> float:
    """What all epochs of a finished run took, trees included."""
    history = run / "history.csv"
    if not history.exists():
        raise ValueError(f"{history} is missing: --check wants the results of a study that was run")
    with history.open(newline="") as handle:
        return sum(float(row["seconds"]) for row in csv.DictReader(handle))


# --- telling ----------------------------------------------------------------------------------------------------------


def costs_table(costs: list[Cost], machine: Machine, gpus: int, ranks: int) -> Table:
    """A row for each run, and one for the study; memory beyond the GPU's is marked."""
    table = Table(box=None, pad_edge=False, title=f"{gpus} x {machine.name}, {ranks} for each run")
    table.add_column("run")
    for column in TOLD:
        table.add_column(column, justify="right")
    limit = machine.memory_gib * 2**30
    for cost in costs:
        parts = (cost.pretraining, cost.trees, cost.evaluations, cost.gpu_seconds, cost.wall(ranks))
        table.add_row(cost.run, *map(_hours, parts), _gib(cost.memory) + " !" * (cost.memory > limit), _gib(cost.disk))
    parts = ("pretraining", "trees", "evaluations", "gpu_seconds")
    sums = [sum(getattr(cost, part) for cost in costs) for part in parts]
    total = sum(cost.disk for cost in costs)
    table.add_row("all", *map(_hours, (*sums, wall_seconds(costs, gpus, ranks))), "", _gib(total))
    if any(cost.memory > limit for cost in costs):
        table.caption = (
            f"! more than {machine.memory_gib:g} GiB: share a run among more, or set training.checkpoint_activations"
        )
    return table


def checks_table(checks: list[Check]) -> Table:
    """A row for each run, and the error of the whole."""
    errors = [each.error for each in checks]
    summary = f"off {median(errors):.2f} times (median), {max(errors):.2f} (worst)"
    table = Table(box=None, pad_edge=False, caption=summary)
    table.add_column("run")
    for column in ("planned s", "measured s", "ratio"):
        table.add_column(column, justify="right")
    for each in checks:
        table.add_row(each.run, f"{each.planned:.0f}", f"{each.measured:.0f}", f"{each.ratio:.2f}")
    return table


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.3g}"


def _gib(size: float) -> str:
    return f"{size / 2**30:.3g}"
