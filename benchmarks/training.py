"""Training of MoCo v2 in images per CPU second: this project's loop against the straightforward one.

    python benchmarks/training.py [--data results/cifar10/data] [--rounds 4]

Both train a ResNet-18 on 32-pixel images in batches of 128, with the same views, loss and SGD. Ours is `hirl pretrain`
as it stands: views drawn for a whole batch at once, networks in bf16 and channels-last where the processor has the
instructions. The peer makes its views from PIL images with torchvision's transforms in two worker processes, and runs
networks as they come, in fp32. They take turns, a step each on one thread, and the best step of each counts, in seconds
of CPU, to which the peer's workers are added: a busy machine changes little.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch
from PIL import Image, ImageFilter
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from hirl.config import RunConfig, ViewsConfig, resolve
from hirl.data.images import load_images
from hirl.data.views import MEAN, STD
from hirl.files import write_json
from hirl.methods.base import Step
from hirl.record import Recorder
from hirl.training.device import choose_device
from hirl.training.loop import Trainer, build_method
from hirl.training.optimizers import set_rates

BATCH, LEAST_SPEEDUP = 128, 2
PEER = "torchvision, PIL"
SETTINGS = {
    "backbone.name": "resnet18_small_images",
    "data.image_size": 32,
    "views.global_size": 32,
    "views.blur": [0.5, 0.5, 0.0],  # MoCo v2's published views, which the study lightens
    "model.batch_norm_groups": 1,  # the straightforward loop has none
    "training.batch_size": BATCH,
    "training.epochs": 1,
    "training.precision": "auto",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="prepared images; random ones if not given")
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = resolve("cifar10", "mocov2", "baseline", 0, SETTINGS)
    images = random_images() if args.data is None else load_images(args.data, "train").images
    with tempfile.TemporaryDirectory() as folder:
        write_data(images, BATCH * (1 + args.rounds), Path(folder) / "data")
        ways = {
            "hirl": our_steps(config, Path(folder) / "data", Path(folder) / "scratch"),
            PEER: peer_steps(config, Path(folder) / "data"),
        }
        seconds = best_steps(ways, args.rounds)
    print(f"MoCo v2, ResNet-18, batches of {BATCH} images of 32 x 32\n")
    print(f"{'':18}{'images/CPU s':>14}{'speed-up':>10}")
    for way, value in seconds.items():
        print(f"{way:18}{BATCH / value:14.0f}{seconds[PEER] / value:10.2f}")
    speedup = seconds[PEER] / seconds["hirl"]
    print(f"\ngoal: at least {LEAST_SPEEDUP}, {'met' if speedup >= LEAST_SPEEDUP else 'missed'}")


def best_steps(ways: dict[str, Iterator[None]], rounds: int) -> dict[str, float]:
    """CPU seconds of the best step of each way; the first does not count.

    Workers run ahead at any time: theirs is the mean of the rounds, and only the peer has any.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    workers: list[float] = []
    for _ in range(1 + rounds):
        for name, way in ways.items():
            started = time.process_time()
            next(way)
            times[name].append(time.process_time() - started)
        children = [child.cpu_times() for child in psutil.Process().children()]
        workers.append(sum(child.user + child.system for child in children))
    best = {name: min(seconds[1:]) for name, seconds in times.items()}
    return best | {PEER: best[PEER] + (workers[-1] - workers[0]) / rounds}


def our_steps(config: RunConfig, data: Path, scratch: Path) -> Iterator[None]:
    """The project's loop, one step at a time."""
    trainer = Trainer(config, data, scratch, Recorder(scratch / "record.jsonl"))
    trainer.method.train()
    for number, (index, views) in trainer._batches(0):
        set_rates(trainer.optimizer, 0.03, 0.03, 1e-4)
        trainer._step(views, Step(number, trainer.per_epoch, 1, index))["loss"].item()
        yield


def peer_steps(config: RunConfig, data: Path) -> Iterator[None]:
    """The same method in the loop that everyone writes first."""
    device = choose_device()
    method = build_method(config).to(device).train()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4)
    two_views = TwoViews(load_images(data, "train").images, config.views)
    loader = DataLoader(two_views, BATCH, shuffle=True, num_workers=2, drop_last=True, pin_memory=device.type == "cuda")
    for number, (index, *views) in enumerate(loader):
        step = Step(number, len(loader), 1, index)
        method.before_step(step)
        loss = method([view.to(device) for view in views], step).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        yield


class TwoViews(Dataset):
    """(index, view 1, view 2) of PIL images; MoCo v2's augmentation, image by image."""

    def __init__(self, images: Tensor, config: ViewsConfig):
        self.images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
        jitter = config.jitter
        colours = v2.ColorJitter(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(config.global_size, config.global_scale),
                v2.RandomHorizontalFlip(config.flip),
                v2.RandomApply([colours], jitter.probability),
                v2.RandomGrayscale(config.grayscale),
                v2.RandomApply([v2.Lambda(lambda image: blur(image, config.blur_sigma))], config.blur[0]),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[int, Tensor, Tensor]:
        return index, self.transform(self.images[index]), self.transform(self.images[index])


def blur(image: Image.Image, sigma: tuple[float, float]) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(random.uniform(*sigma)))


def random_images() -> Tensor:
    """Coarse noise, enlarged: uint8 [1024, 3, 32, 32]."""
    coarse = torch.rand(1024, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear").mul(255).byte()


def write_data(images: Tensor, count: int, folder: Path) -> None:
    """Prepared data of `count` of the images, again from the first where they do not suffice."""
    folder.mkdir()
    chosen = images[torch.arange(count) % len(images)].contiguous()
    save_file({"images": chosen, "labels": torch.zeros(count, 1, dtype=torch.long)}, folder / "train.safetensors")
    facts = {"storage": "memory", "image_size": 32, "class_names": [["any"]], "parents": [], "digest": "benchmark"}
    write_json(folder / "manifest.json", facts)


if __name__ == "__main__":
    main()
