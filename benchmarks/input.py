"""Do 16 CPU cores feed a GPU?

    python benchmarks/input.py [--cores 16] [--tflops 790] [--mfu 0.5] [--resnet-mfu 0.2] [--rounds 2]

Ours is the project's loader: worker processes read, decode and crop; the crops travel as bytes to the trainer; the GPU
changes colours, for a whole batch at once. The peer is a baseline DataLoader with Pillow and torchvision's or timm's
transforms, colours included. Both make the published views of the same files, in one worker, and take turns; the best
turn counts, in seconds of the worker's CPU time, its start included. *Needed* is what the GPU consumes in training,
*given* what this machine's core makes, times the cores.

The files are drawn here: noise at every scale, 500 x 375 pixels, quality 90, about as many bytes as ImageNet's mean of
110 kB.

The images that a GPU needs follow from a network's floating-point operations, as torch counts them: three times a
crop's forward pass with gradients, once without. Heads, tokenizers and HIRL are left out; they would only slow the GPU
down. `--tflops` is the GPU's rate of large matrix products in TFLOP/s; the default is an H200's in bf16. A ViT is
assumed to reach an MFU of `--mfu`, a ResNet of `--resnet-mfu`, as batch norms are bound by memory: NVIDIA's ResNet-50
trains 2470 images/s on an A100, 19 % of its 312 TFLOP/s (DeepLearningExamples, resnet50v1.5). A frozen network would
need more bytes of files than most storage delivers, so the goal holds for training. Both MFUs are targets, higher than
those that `hirl plan` assumes.
"""

from __future__ import annotations

import os
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import Report, Row, best_times, crops, parser
from PIL import Image
from recipes import pil_views
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import InterpolationMode, v2

from hirl.config import AugmentationConfig, BackboneConfig, RunConfig, ViewsConfig, load_study
from hirl.data.images import ImageSet
from hirl.data.loader import PIECE, Crops, Squares, load_in_workers, read_pixels
from hirl.data.supervised_loader import FLIP, Augmented
from hirl.data.views import MEAN, STD, Views, crop_boxes, resize_each
from hirl.models.backbones import build_backbone

WIDTH, HEIGHT, QUALITY, FILES = 500, 375, 90, 64
ROUGHNESS = 0.93  # of an octave's noise, over that of the next coarser
COUNT = {"ours": 384, "Pillow": 128}  # images of a turn: beside them, the start of a worker is little
PRETRAINING = ("mocov2", "simsiam", "swav", "mocov3", "dino", "ibot", "beit")
ONLINE = {"mocov2": 1}  # global crops with gradients, where not all have them
MOMENTUM = {"mocov2": 1, "mocov3": 2, "dino": 2, "ibot": 2}  # global crops of the network without gradients
NETWORKS = {"resnet50": "ResNet-50", "vit_base_patch16": "ViT-B/16"}
RANDAUGMENT = "rand-m9-mstd0.5-inc1"
LABELLED, AUGMENTED, SQUARE = "1 x 224, labelled", "1 x 224, RandAugment", "1 x 224, evaluated"


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--cores", type=int, default=16, help="of a GPU")
    options.add_argument("--tflops", type=float, default=790, help="of large matrix products on the GPU")
    options.add_argument("--mfu", type=float, default=0.5, help="model FLOPs utilisation of a ViT")
    options.add_argument("--resnet-mfu", type=float, default=0.2, help="model FLOPs utilisation of a ResNet")
    options.add_argument("--rounds", type=int, default=2)
    args = options.parse_args()
    report = Report(args)
    torch.set_num_threads(1)  # loaders start one worker per thread
    configs = {method: load_study("imagenet").resolve(method, "baseline") for method in PRETRAINING}
    with tempfile.TemporaryDirectory() as folder:
        files = draw_files(Path(folder))
        size = sum(path.stat().st_size for path in files.paths) / FILES
        rates = {name: compare(*both, args.rounds) for name, both in ways(files, configs).items()}
        rows = [{"": name, **rate, "speed-up": rate["ours"] / rate["Pillow"]} for name, rate in rates.items()]
        what = f"{WIDTH} x {HEIGHT} pixels, {size / 1e3:.0f} kB a file, best of {args.rounds} turns"
        report.table(rows, f"Images/s per core: {what}")
        report.table(parts(files, configs["mocov3"].views, args.rounds), "Where a core's time goes: two views")
    found = {
        f"{job.name}, {NETWORKS[job.network]}": needed_and_given(job, rates[job.made]["ours"], args)
        for job in jobs(configs)
    }
    for kind, training in {"Pretraining": PRETRAINING, "Fine-tuning": ("fine-tuning",)}.items():
        ratios = {name: row["ratio"] for name, row in found.items() if name.startswith(training)}
        least = min(ratios, key=ratios.__getitem__)
        sides = {"ours": f"{found[least]['given']:,.0f} images/s", "peer": f"{found[least]['needed']:,.0f}"}
        limit = f"{least}, {found[least]['crops']}"
        report.goal(f"{kind}: given / needed, lowest", ratios[least], 1, unit="×", limit=limit, **sides)
    speedups = {name: rate["ours"] / rate["Pillow"] for name, rate in rates.items()}
    least = min(speedups, key=speedups.__getitem__)
    sides = {"ours": f"{rates[least]['ours']:,.0f} images/s", "peer": f"{rates[least]['Pillow']:,.0f}"}
    report.goal("Speed-up over Pillow, lowest", speedups[least], 1, unit="×", limit=least, **sides)
    assumed = f"MFU {args.mfu:.0%} (ViT), {args.resnet_mfu:.0%} (ResNet)"
    rows = [{"": name} | row for name, row in found.items()]
    report.table(rows, f"Images/s for a GPU of {args.tflops:g} TFLOP/s from {args.cores} such cores: {assumed}")


# --- the files --------------------------------------------------------------------------------------------------------


def draw_files(folder: Path) -> ImageSet:
    """Draw stand-ins for photographs: noise at every scale, more gray than coloured."""
    generator, paths = torch.Generator().manual_seed(0), []
    for number in range(FILES):
        image = torch.zeros(3, HEIGHT, WIDTH)
        for octave in range(2, 10):
            size = (1, 1, 3 * 2**octave // 4, 2**octave)
            noise = torch.randn(size, generator=generator) + 0.35 * torch.randn(1, 3, *size[2:], generator=generator)
            image += ROUGHNESS**octave * F.interpolate(noise, (HEIGHT, WIDTH), mode="bicubic")[0]
        pixels = (image / image.std() * 56 + 115).clamp(0, 255).byte()
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(paths[-1], quality=QUALITY)
    labels = torch.zeros(FILES, 1, dtype=torch.int64)
    return ImageSet(None, paths, labels, [["any"]], [], 224)


# --- both ways --------------------------------------------------------------------------------------------------------


def ways(files: ImageSet, configs: dict[str, RunConfig]) -> dict[str, tuple[Dataset, Dataset]]:
    """Return our data set and the peer's for every kind of view of a file."""
    normalised = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    plain = v2.Compose([v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(), *normalised])
    squared = v2.Compose([v2.Resize(256, InterpolationMode.BICUBIC), v2.CenterCrop(224), *normalised])
    labelled = ViewsConfig(global_crops=1, global_size=224, global_scale=(0.08, 1.0), flip=FLIP)
    augmented = Augmented(files, AugmentationConfig(randaugment=RANDAUGMENT, random_erasing=0.25), 0, 0)
    timms = create_transform(
        224, is_training=True, auto_augment=RANDAUGMENT, interpolation="bicubic", re_prob=0.25, re_mode="pixel"
    )
    unlabelled = {crops(config.views): config.views for config in configs.values()}
    pairs = {name: (Crops(files, views, 0, 0), Pictures(files, pil_views(views))) for name, views in unlabelled.items()}
    return pairs | {
        LABELLED: (Crops(files, labelled, 0, 0), Pictures(files, plain)),
        AUGMENTED: (augmented, Pictures(files, timms)),
        SQUARE: (Squares(files), Pictures(files, squared)),
    }


def compare(ours: Dataset, peer: Dataset, rounds: int) -> dict[str, float]:
    """Return the images per second of one core."""
    batches = {way: (torch.arange(count) % FILES).split(PIECE) for way, count in COUNT.items()}
    seconds = best_times(
        {
            "ours": lambda: exhaust(load_in_workers(ours, batches["ours"], torch.device("cpu"))),
            "Pillow": lambda: exhaust(DataLoader(peer, batch_sampler=batches["Pillow"], num_workers=1)),
        },
        rounds,
        clock=lambda: sum(os.times()[2:4]),  # CPU time of child processes that have ended: the worker
    )
    return {way: COUNT[way] / taken for way, taken in seconds.items()}


class Pictures(Dataset):
    """A data set of transformed PIL images of files."""

    def __init__(self, files: ImageSet, transform: Callable[[Image.Image], Any]):
        self.paths, self.transform = files.paths, transform

    def __getitem__(self, index: int) -> Any:
        return self.transform(Image.open(self.paths[index]).convert("RGB"))


def exhaust(batches: Iterable[Any]) -> None:
    for _ in batches:
        pass


# --- where time goes --------------------------------------------------------------------------------------------------


def parts(files: ImageSet, views: ViewsConfig, rounds: int) -> list[Row]:
    """Return the milliseconds per image of a worker's steps, and of the colours if there were no GPU."""
    contents = [np.fromfile(path, np.uint8) for path in files.paths]
    images = [read_pixels(path) for path in files.paths]
    boxes, flipped = torch.tensor([[40, 60, 270, 340]] * 2), torch.tensor([True, False])
    batch = [torch.rand(FILES, 3, views.global_size, views.global_size) for _ in range(views.global_crops)]
    dataset, color = Crops(files, views, 0, 0), Views(views).color

    def resized(image: Tensor) -> Tensor:
        return resize_each(image.expand(2, -1, -1, -1), boxes, flipped, views.global_size, views.interpolation)

    steps = {
        "reading the file": lambda: [np.fromfile(path, np.uint8) for path in files.paths],
        "decoding": lambda: [decode_jpeg(torch.from_numpy(c), ImageReadMode.RGB) for c in contents],
        "of which entropy decoding (decoded at an eighth of the size)": lambda: [eighth(c) for c in contents],
        "drawing the boxes": lambda: [crop_boxes(2, HEIGHT, WIDTH, views.global_scale) for _ in images],
        "cropping, flipping and resizing": lambda: [resized(image) for image in images],
        "all of a worker's work except sending": lambda: [dataset[index] for index in range(FILES)],
        "colors, if there is no GPU": lambda: color(batch),
    }
    with torch.random.fork_rng(devices=[]):  # the data set seeds the default generator
        seconds = best_times(steps, rounds, clock=time.process_time)
    return [{"": name, "ms/image": 1e3 * taken / FILES} for name, taken in seconds.items()]


def eighth(content: np.ndarray) -> Image.Image:
    """Decode at an eighth of the size, which reads the same bits and computes almost nothing."""
    image = Image.open(BytesIO(content))
    image.draft("RGB", (WIDTH // 8, HEIGHT // 8))
    return image.convert("RGB")


# --- what a GPU needs -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A GPU's work on images: the operations for one, and the views that are made of its file."""

    name: str
    network: str
    operations: float
    made: str


def jobs(configs: dict[str, RunConfig]) -> list[Job]:
    """Return every method's pretraining, and the evaluations of both networks."""
    found = [
        Job(method, config.backbone.name, training_operations(config), crops(config.views))
        for method, config in configs.items()
    ]
    for backbone in {config.backbone.name: config.backbone for config in configs.values()}.values():
        name, once = backbone.name, forward_operations(backbone, 224)
        found += [
            Job("fine-tuning", name, 3 * once, AUGMENTED if name.startswith("vit") else LABELLED),
            Job("linear, frozen", name, once, LABELLED),
            Job("features, frozen", name, once, SQUARE),
        ]
    return found


def needed_and_given(job: Job, rate: float, args: Namespace) -> Row:
    """Return the images/s that the GPU needs, and those that all cores give at a core's rate."""
    mfu = args.mfu if job.network.startswith("vit") else args.resnet_mfu
    needed, given = args.tflops * 1e12 * mfu / job.operations, args.cores * rate
    return {"crops": job.made, "needed": needed, "given": given, "ratio": given / needed}


def training_operations(config: RunConfig) -> float:
    """Return the backbone's operations for one image in a step of pretraining."""
    v = config.views
    whole = forward_operations(config.backbone, v.global_size)
    passes = 3 * ONLINE.get(config.method, v.global_crops) + MOMENTUM.get(config.method, 0)
    local = 3 * v.local_crops * forward_operations(config.backbone, v.local_size) if v.local_crops else 0
    return passes * whole + local


def forward_operations(config: BackboneConfig, size: int) -> float:
    """Return the operations of a crop's forward pass, counted from shapes alone."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build_backbone(config, 224)(torch.empty(1, 3, size, size))
    return counter.get_total_flops()


if __name__ == "__main__":
    main()
