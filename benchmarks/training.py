"""How fast is a training step?

    python benchmarks/training.py [--networks demo ViT-S] [--methods mocov2 dino] [--data results/demo/data]

*Ours* is `hirl pretrain`, *lightly* that library's transforms, heads, losses and helpers, combined as in its examples
(it has none for MoCo v3 and BEiT), and the *baseline loop* trains this project's own methods with torchvision's
transforms, image by image, in fp32. A row's goal is twice lightly's and three times the baseline loop's images/s, or
1.3 times the time of its limit. The *limit* is a roofline: an operation of our step takes at least its FLOP at the rate
of a large matrix product, and at least the bytes that it reads and writes at the rate of a copy of as many bytes; the
limit is the sum, over all operations that torch runs, of the longer of the two. *Bound by FLOP* is the part of the
limit in which the FLOP take longer; in the rest the bytes do. Special functions, such as exponentials, count as free.

Ours draws the views of a whole batch at once, on the device; networks run in bf16 and channels-last if the processor
has the instructions. Both peers make their views from PIL images in as many worker processes as there are threads, and
train in fp32. *HIRL* is ours with HIRL around the method and a tree of the study's size.

All have the study's backbone and widths, the same batch and optimiser, and the same crops in number, size and scale.
Properties of a recipe are kept: lightly encodes every crop alone, ours and the baseline loop encode local crops of one
size together; lightly clips no gradients; its MoCo v2 does not shuffle keys; its iBOT masks as DINOv2 does and runs the
teacher's head on masked patches only, where the paper's centre averages all. Peers use torch's default optimisers, ours
are the fused ones. Batch norm of MoCo v2 is over the whole batch everywhere; the row with 8 groups is ours with the
published number of groups.

All of torch's threads are used. The loops take turns of a few steps while the workers of the others are stopped; the
best turn counts, in seconds of the clock and of CPU time, workers included. MFU (model FLOPs utilisation) compares the
FLOP of our steps, forward and backward, as torch counts them, with those of a large matrix product that takes turns
too, in bf16 if ours trains in bf16.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from common import NAMES, Report, Row, crops, parser, shown
from PIL import Image
from recipes import PREFETCHED, RECIPES, baseline_loop, lightly
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from hirl.config import DataConfig, RunConfig, load_study
from hirl.data.images import prepare
from hirl.data.loader import PIECE
from hirl.data.sources import SOURCES
from hirl.distributed.device import choose_device, choose_precision
from hirl.hierarchy.wrapper import HIRL
from hirl.models.tokenizer import DiscreteVAE, save_tokenizer
from hirl.planning.step_benchmark import random_tree
from hirl.tracking.record import Recorder
from hirl.training.loop import Pretrainer

IMAGENET_IMAGES = SOURCES["imagenet"].num_images[0]
RESNET_METHODS, VIT_METHODS = ("mocov2", "simsiam", "swav"), ("mocov3", "dino", "ibot", "beit")


@dataclass(frozen=True)
class Setting:
    """The networks of a table, and the sizes that fit the benchmark into a few minutes."""

    study: str
    methods: tuple[str, ...]
    batch: int
    steps: int  # of a turn
    backbone: str | None = None  # instead of the study's


SETTINGS = {
    "demo": Setting("demo", (*RESNET_METHODS, *VIT_METHODS[:-1]), batch=64, steps=4),
    "demo, BEiT": Setting("demo_beit", VIT_METHODS[-1:], batch=64, steps=4),
    "ResNet-18, CIFAR stem": Setting("cifar10", RESNET_METHODS, batch=32, steps=1),
    "ResNet-18, ImageNet stem": Setting("cifar10", RESNET_METHODS, batch=64, steps=2, backbone="resnet18"),
    "ViT-S": Setting("cifar10", VIT_METHODS, batch=16, steps=1),
    "imagenet": Setting("imagenet", (*RESNET_METHODS, *VIT_METHODS), batch=64, steps=8),
}
GOALS = {"baseline loop": 3, "lightly": 2}  # speed-ups over them
ANSWER = ("", "ours", *(f"speed-up over {peer}" for peer in GOALS), "time / limit", "goal")
GOAL_OF_LIMIT = 1.3  # times the limit's time
SIDE = {"cpu": 2048, "cuda": 16384}  # rows and columns of the matrix product
GATHERS = (torch.ops.aten.index_select, torch.ops.aten.index, torch.ops.aten.gather, torch.ops.aten.embedding)
COPIES = [2**power for power in range(14, 29)]  # bytes that a copy reads and writes


def main() -> None:
    gpu = choose_device().type == "cuda"
    options = parser(__doc__)
    default = ["imagenet"] if gpu else [name for name in SETTINGS if name != "imagenet"]
    options.add_argument("--networks", nargs="+", choices=SETTINGS, default=default)
    options.add_argument("--methods", nargs="+", choices=NAMES, default=list(NAMES))
    options.add_argument("--data", type=Path, help="prepared images, of which one epoch lasts; noise if not given")
    options.add_argument("--batch", type=int, help="images of a step")
    options.add_argument("--rounds", type=int, default=2)
    args = options.parse_args()
    report = Report(args)
    tables = {name: measure(SETTINGS[name], args) for name in args.networks}
    rows = [rates | {"": f"{name}, {rates['']}"} for name, found in tables.items() for rates, _ in found]
    missed = [row for row in rows if row["goal"] == "missed"]
    report.goal(
        f"Rows of {len(rows)} that reach 3 times the baseline loop and twice lightly, or 1.3 times their limit's time",
        len(rows) - len(missed),
        at_least=len(rows),
        limit="; ".join(f"{row['']}: {shown(row['time / limit'])} times its limit's time" for row in missed),
    )
    for name, found in tables.items():
        rates, work = ([pair[part] for pair in found] for part in (0, 1))
        answer = [{column: row[column] for column in ANSWER if column in row} for row in rates]
        report.table(answer, f"{name}, batches of {args.batch or SETTINGS[name].batch}: images/s", folded=False)
        report.table(rates, f"{name}: images/s of all")
        report.table(work, f"{name}: what our steps compute")


def measure(setting: Setting, args: argparse.Namespace) -> list[tuple[Row, Row]]:
    """Return the rows of a setting's methods."""
    rows = []
    for method in setting.methods:
        if method in args.methods:
            changed = settings(setting.study, method, args.batch or setting.batch)
            changed |= {} if setting.backbone is None else {"backbone.name": setting.backbone}
            study = load_study(setting.study)
            both = [study.resolve(method, variant, 0, changed) for variant in ("baseline", "hirl")]
            rows += compare(*both, args.data, args.rounds, setting.steps)
            print(f"{both[0].backbone.name}, {NAMES[method]}: measured", flush=True)
    return rows


def compare(
    config: RunConfig, with_tree: RunConfig, data: Path | None, rounds: int, steps: int
) -> list[tuple[Row, Row]]:
    """Return a method's images/s and what its steps compute, with a second pair if the published groups differ."""
    batch, device = config.training.batch_size, choose_device()
    images, free = steps * batch, max(steps, batches_held(config))
    with tempfile.TemporaryDirectory() as folder:
        if data is None:
            needed = images * rounds + batch * (free + 2)
            data = prepare_noise(config.data, max(needed, with_tree.hierarchy.num_clusters[0]), Path(folder))
        ours, peers, hirl = steps_of(config, with_tree, data, Path(folder))
        product = Way(matrix_products(device, choose_precision(config.training.precision, device)))
        operations = take_turns([*ours.values(), *peers.values(), hirl, product], rounds, steps, free)
    flops_per_second = 2 * SIDE[device.type] ** 3 * steps / product.wall
    limit, bound_by_flop = operations.limit(flops_per_second, copy_rates(device))
    rows = []
    for name, way in ours.items():
        step = way.wall / steps
        rates: Row = {"": name, "ours": images / way.wall}
        if name == NAMES[config.method]:
            rates |= {"HIRL": images / hirl.wall}
        rates |= {peer: images / theirs.wall for peer, theirs in peers.items()}
        speedups = {peer: theirs.wall / way.wall for peer, theirs in peers.items()}
        rates |= {f"speed-up over {peer}": speedup for peer, speedup in speedups.items()}
        rates |= {"limit": batch / limit, "time / limit": step / limit}
        met = all(speedup >= GOALS[peer] for peer, speedup in speedups.items())
        rates |= {"goal": "met" if met else "at limit" if step <= GOAL_OF_LIMIT * limit else "missed"}
        work: Row = {"": name, "network": config.backbone.name, "crops": crops(config.views)}
        work |= {
            "GFLOP/image": operations.flop / batch / 1e9,
            "MFU": f"{100 * operations.flop / flops_per_second / step:.0f} %",
            "MB/image": operations.moved / batch / 1e6,
            "bound by FLOP": f"{100 * bound_by_flop:.0f} %",
        }
        work |= {f"CPU speed-up over {peer}": theirs.cpu / way.cpu for peer, theirs in peers.items()}
        if device.type == "cuda":
            work |= {
                "GB": way.memory / 2**30,
                "h/ImageNet epoch": IMAGENET_IMAGES * way.wall / images / 3600,
            }
        rows.append((rates, work))
    return rows


# --- the roofline -----------------------------------------------------------------------------------------------------


class Operations(TorchDispatchMode):
    """The FLOP and the bytes of every operation that runs in this context."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, int]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation; note its FLOP and bytes, unless it only makes a view or an empty tensor."""
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        packet, changed = function.overloadpacket, written(function, args)
        inputs, outputs = tensors((args, kwargs)), changed or tensors(result)
        held = {tensor.untyped_storage().data_ptr() for tensor in inputs}
        is_view = not changed and all(tensor.untyped_storage().data_ptr() in held for tensor in outputs)
        if not is_view and "empty" not in function.name():
            flop = flop_registry[packet](*args, **kwargs, out_val=result) if packet in flop_registry else 0
            read = outputs if packet in GATHERS else inputs  # these read a part of their input
            self.found.append((flop, sum(map(size, read)) + sum(map(size, outputs))))
        return result

    @property
    def flop(self) -> int:
        """Return the FLOP of all operations."""
        return sum(flop for flop, _ in self.found)

    @property
    def moved(self) -> int:
        """Return the bytes of all operations."""
        return sum(moved for _, moved in self.found)

    def limit(self, flops_per_second: float, bytes_per_second: dict[int, float]) -> tuple[float, float]:
        """Return the least seconds of all operations, and the part of them in which the FLOP take longer."""
        seconds = bound_by_flop = 0.0
        for flop, moved in self.found:
            nearest = min(COPIES, key=lambda copied: abs(math.log(copied / max(moved, 1))))
            computing, moving = flop / flops_per_second, moved / bytes_per_second[nearest]
            seconds += max(computing, moving)
            bound_by_flop += computing if computing > moving else 0
        return seconds, bound_by_flop / seconds


def written(function: Any, args: tuple[Any, ...]) -> list[Tensor]:
    """Return the arguments that an operation changes."""
    arguments = zip(function._schema.arguments, args, strict=False)
    return tensors([value for argument, value in arguments if argument.alias_info and argument.alias_info.is_write])


def tensors(values: Any) -> list[Tensor]:
    """Return all tensors within nested values."""
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def size(tensor: Tensor) -> int:
    """Return the bytes of a tensor; an expanded one has those of its storage."""
    return min(tensor.nbytes, tensor.untyped_storage().nbytes())


def copy_rates(device: torch.device) -> dict[int, float]:
    """Return the bytes/s, read and written, of copies that move so many bytes: the best of five."""
    rates = {}
    for moved in COPIES:
        source, target = (torch.zeros(moved // 2, dtype=torch.uint8, device=device) for _ in range(2))
        best = float("inf")
        for _ in range(5):
            started = time.perf_counter()
            target.copy_(source)
            if device.type == "cuda":
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - started)
        rates[moved] = moved / best
    return rates


# --- the ways ---------------------------------------------------------------------------------------------------------


def settings(study: str, method: str, batch: int) -> dict[str, Any]:
    """Return overrides: the published views in the study's sizes, and batch norm over the whole batch."""
    views = load_study("imagenet").resolve(method, "baseline", 0).views
    kept = ("global_scale", "local_crops", "local_scale", "interpolation", "jitter", "grayscale", "blur", "solarize")
    published = {f"views.{key}": value for key, value in views.model_dump().items() if key in kept}
    groups = {"model.batch_norm_groups": 1} if method == "mocov2" else {}
    if study != "imagenet":
        published["views.local_size"] = load_study(study).resolve(method, "baseline", 0).views.global_size // 2
    return published | groups | {"training.batch_size": batch, "training.precision": "auto"}


def steps_of(
    config: RunConfig, with_tree: RunConfig, data: Path, folder: Path
) -> tuple[dict[str, Way], dict[str, Way], Way]:
    """Return our loops by the names of their rows, the peers', and HIRL's; each is built at its first step."""
    tokenizer = make_tokenizer(config, folder / "tokenizer.safetensors") if config.uses_tokenizer else None
    name = NAMES[config.method]
    ours = {name: our_steps(config, data, folder / "ours", tokenizer)}
    if config.method == "mocov2":
        published = config.model_copy(update={"model": config.model.model_copy(update={"batch_norm_groups": 8})})
        ours[f"{name}, 8 groups"] = our_steps(published, data, folder / "groups")
    peers = {"baseline loop": baseline_loop(config, data, tokenizer)}
    if config.method in RECIPES:
        peers["lightly"] = lightly(config, data)
    ours, peers = ({name: Way(steps) for name, steps in ways.items()} for ways in (ours, peers))
    return ours, peers, Way(our_steps(with_tree, data, folder / "hirl", tokenizer))


def our_steps(config: RunConfig, data: Path, scratch: Path, tokenizer: Path | None = None) -> Iterator[None]:
    """Yield after each step of the project's loop."""
    trainer = Pretrainer(config, data, scratch, Recorder(scratch / "record.jsonl"), tokenizer=tokenizer)
    trainer.method.train()
    if isinstance(trainer.method, HIRL):
        trainer.method.tree = random_tree(trainer.method, len(trainer.images)).to(trainer.device)
    for scalars in trainer.steps(epoch=0):
        scalars["loss"].item()
        yield


def batches_held(config: RunConfig) -> int:
    """Return how many batches the workers may have ready, which cost no time at first."""
    if config.data.storage == "memory":
        return PREFETCHED * torch.get_num_threads()
    return 2 * torch.get_num_threads() * max(1, PIECE // config.training.batch_size)


def matrix_products(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Compute large matrix products, one at a time."""
    factor = torch.randn(SIDE[device.type], SIDE[device.type], device=device, dtype=dtype)
    while True:
        (factor @ factor)[0, 0].item()  # waits for the device
        yield


def make_tokenizer(config: RunConfig, path: Path) -> Path:
    """Write an untrained tokenizer, which costs as much as a trained one."""
    c = config.model.tokenizer
    save_tokenizer(DiscreteVAE(c.vocabulary, c.width, c.patch_size), path)
    return path


def prepare_noise(config: DataConfig, count: int, folder: Path) -> Path:
    """Prepare enlarged noise in the size of the study's pictures, or of photographs if they stay files."""
    in_memory = config.storage == "memory"
    height, width = (config.image_size, config.image_size) if in_memory else (375, 500)
    generator = torch.Generator().manual_seed(0)
    for split, number in {"train": count, "val": 1}.items():
        (folder / "pictures" / split / "any").mkdir(parents=True)
        for position in range(number):
            coarse = torch.rand(1, 3, height // 8, width // 8, generator=generator)
            noise = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
            picture = Image.fromarray(noise.mul(255).byte().permute(1, 2, 0).numpy())
            picture.save(folder / "pictures" / split / "any" / f"{position}.{'png' if in_memory else 'jpg'}")
    held = DataConfig(name="folder", image_size=config.image_size, storage=config.storage)
    prepare(held, folder / "pictures", folder / "data")
    return folder / "data"


# --- time -------------------------------------------------------------------------------------------------------------


@dataclass
class Way:
    """A loop's steps, the worker processes that it started, and what its best turn took."""

    steps: Iterator[None]
    workers: list[psutil.Process] = field(default_factory=list)
    wall: float = float("inf")  # seconds of the best turn
    cpu: float = float("inf")
    memory: int = 0  # bytes of the GPU

    def start(self) -> None:
        """Take the first step, which builds the loop and starts its workers."""
        before, allocated = psutil.Process().children(), reset_memory()
        next(self.steps)
        self.workers = [child for child in psutil.Process().children() if child not in before]
        if torch.cuda.is_available():
            self.memory = torch.cuda.max_memory_allocated() - allocated
        self.hold()

    def hold(self) -> None:
        """Suspend the workers."""
        for worker in self.workers:
            worker.suspend()

    def release(self) -> None:
        """Resume the workers."""
        for worker in self.workers:
            worker.resume()

    def turn(self, steps: int) -> tuple[float, float]:
        """Take steps; return their seconds by the clock and of CPU time."""
        self.release()
        wall, cpu = time.perf_counter(), self.cpu_seconds()
        for _ in range(steps):
            next(self.steps)
        taken = time.perf_counter() - wall, self.cpu_seconds() - cpu
        self.hold()
        return taken

    def cpu_seconds(self) -> float:
        """Return the seconds of CPU time of this process and of the workers so far."""
        times = [worker.cpu_times() for worker in self.workers]
        return time.process_time() + sum(taken.user + taken.system for taken in times)


def take_turns(ways: list[Way], rounds: int, steps: int, free: int) -> Operations:
    """Give every way its turns, after a first one of `free` steps that does not count.

    Returns:
        The operations of a step of the first way.
    """
    try:
        for way in ways:
            way.start()
        with Operations() as operations:
            ways[0].turn(1)
        for turn in range(1 + rounds):
            for way in ways:
                wall, cpu = way.turn(steps if turn else free)
                if turn:
                    way.wall, way.cpu = min(way.wall, wall), min(way.cpu, cpu)
    finally:
        for way in ways:
            way.release()
            way.steps.close()
    return operations


def reset_memory() -> int:
    """Reset the GPU's peak memory, and return the bytes in use; 0 without a GPU."""
    if not torch.cuda.is_available():
        return 0
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


if __name__ == "__main__":
    main()
