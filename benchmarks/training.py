"""How many images per second does training reach, compared with lightly's recipes and a baseline loop?

    python benchmarks/training.py [--studies demo cifar10] [--methods mocov2 dino] [--data results/demo/data]

*Ours* is `hirl pretrain`: views of a whole batch are drawn at once, on the device; networks run in bf16 and
channels-last if the processor has the instructions. *lightly* combines that library's transforms, heads, losses and
helpers as its examples do; it has none for MoCo v3 and BEiT. The *baseline loop* (PIL + fp32) trains this project's own
methods with torchvision's transforms, image by image. Both peers make their views from PIL images in as many worker
processes as there are threads, and train in fp32. *HIRL* is ours with HIRL around the method and a tree of the study's
size.

All have the study's backbone and widths, the same batch and optimiser, and the same crops in number, size and scale.
Properties of a recipe are kept: lightly encodes every crop alone, ours and the baseline loop encode local crops of one
size together; lightly clips no gradients; its MoCo v2 does not shuffle keys; its iBOT masks as DINOv2 does and runs the
teacher's head on masked patches only, where the paper's centre averages all. Peers use torch's default optimisers, ours
are the fused ones. Batch norm of MoCo v2 is over the whole batch everywhere; the row with 8 groups is ours with the
published number of groups.

All of torch's threads are used. The loops take turns of a few steps while the workers of the others are stopped; the
best turn counts, in seconds of the clock and of CPU time, workers included. MFU (model FLOPs utilisation) compares the
floating-point operations of our steps, forward and backward, as torch counts them, with those of a large matrix product
that takes turns too, in bf16 if ours trains in bf16. A goal that would need an MFU above 100 % is out of this machine's
reach, as for ResNet-18 in `cifar10`: three times the baseline loop would need 3 x MFU / speed-up.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from common import Report, Row, crops, parser
from PIL import Image
from recipes import RECIPES, baseline_loop, lightly
from torch.utils.flop_counter import FlopCounterMode

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
NAMES = {
    "mocov2": "MoCo v2",
    "simsiam": "SimSiam",
    "swav": "SwAV",
    "mocov3": "MoCo v3",
    "dino": "DINO",
    "ibot": "iBOT",
    "beit": "BEiT",
}
GOALS = {"baseline loop": 3, "lightly": 2}  # speed-ups over them
PEER_NAMES = {"baseline loop": "the baseline loop", "lightly": "lightly"}
STEPS = {"demo": 8, "cifar10": 1, "imagenet": 8}  # steps of a turn
SIDE = {"cpu": 2048, "cuda": 16384}  # rows and columns of the matrix product


def main() -> None:
    gpu = choose_device().type == "cuda"
    options = parser(__doc__)
    options.add_argument("--studies", nargs="+", choices=STEPS, default=["imagenet"] if gpu else ["demo", "cifar10"])
    options.add_argument("--methods", nargs="+", choices=NAMES, default=list(NAMES))
    options.add_argument("--data", type=Path, help="prepared images, of which one epoch lasts; noise if not given")
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--rounds", type=int, default=2)
    args = options.parse_args()
    report = Report(args)
    for study in args.studies:
        rates, work = [], []
        for method in args.methods:
            both = [
                load_study(study).resolve(method, kind, 0, settings(study, method, args.batch))
                for kind in ("baseline", "hirl")
            ]
            for rate, done in compare(*both, args.data, args.rounds):
                rates.append(rate)
                work.append(done)
            print(f"{study}, {NAMES[method]}: measured", flush=True)
        report.table(rates, f"Study {study}, batches of {args.batch}, images/s, best of {args.rounds} turns")
        report.table(work, "What our steps compute")
        for peer, goal in GOALS.items():
            speedups = {rate[""]: rate[f"speed-up over {peer}"] for rate in rates if f"speed-up over {peer}" in rate}
            alike = [name for name in NAMES.values() if name in speedups]  # the row with other groups is left out
            if alike:
                least = min(alike, key=speedups.__getitem__)
                report.goal(f"{study}, lowest speed-up over {PEER_NAMES[peer]} ({least})", speedups[least], goal)


def compare(config: RunConfig, with_tree: RunConfig, data: Path | None, rounds: int) -> list[tuple[Row, Row]]:
    """Return a method's images/s and what its steps compute, with a second pair if the published groups differ."""
    steps, batch, device = STEPS[config.study], config.training.batch_size, choose_device()
    images, free = steps * batch, max(steps, batches_held(config))
    with tempfile.TemporaryDirectory() as folder:
        if data is None:
            needed = images * rounds + batch * (free + 2)
            data = prepare_noise(config.data, max(needed, with_tree.hierarchy.num_clusters[0]), Path(folder))
        ours, peers, hirl = steps_of(config, with_tree, data, Path(folder))
        product = Way(matrix_products(device, choose_precision(config.training.precision, device)))
        operations = take_turns([*ours.values(), *peers.values(), hirl, product], rounds, steps, free)
    rows = []
    for name, way in ours.items():
        rates: Row = {"": name, "ours": images / way.wall}
        if name == NAMES[config.method]:
            rates |= {"HIRL": images / hirl.wall, "HIRL time ratio": hirl.wall / way.wall}
        rates |= {peer: images / theirs.wall for peer, theirs in peers.items()}
        rates |= {f"speed-up over {peer}": theirs.wall / way.wall for peer, theirs in peers.items()}
        rates |= {f"CPU speed-up over {peer}": theirs.cpu / way.cpu for peer, theirs in peers.items()}
        mfu = operations * product.wall / way.wall / (2 * SIDE[device.type] ** 3)
        work: Row = {"": name, "network": config.backbone.name, "crops": crops(config.views)}
        work |= {
            "GFLOP/image": operations / config.training.batch_size / 1e9,
            "MFU": f"{100 * mfu:.0f} %",
        }
        if device.type == "cuda":
            work |= {
                "GB": way.memory / 2**30,
                "h/ImageNet epoch": IMAGENET_IMAGES * way.wall / images / 3600,
            }
        rows.append((rates, work))
    return rows


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
    pieces = PIECE // config.training.batch_size if config.data.storage == "files" else 1
    return 2 * torch.get_num_threads() * max(1, pieces)


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


def take_turns(ways: list[Way], rounds: int, steps: int, free: int) -> int:
    """Give every way its turns, after a first one of `free` steps that does not count.

    Returns:
        The floating-point operations of a step of the first way.
    """
    try:
        for way in ways:
            way.start()
        with FlopCounterMode(display=False) as counter:
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
    return counter.get_total_flops()


def reset_memory() -> int:
    """Reset the GPU's peak memory, and return the bytes in use; 0 without a GPU."""
    if not torch.cuda.is_available():
        return 0
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


if __name__ == "__main__":
    main()
