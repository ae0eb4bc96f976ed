"""Images x views per CPU second: ours on a batch, torchvision image by image, on PIL images and on tensors.

    python benchmarks/views.py [--images 128] [--size 32] [--rounds 10]

The three take turns on one thread, so that a busy machine slows all of them, and the best round of each counts. PIL
images are blurred by PIL, as in the papers' code, tensors by torchvision. Batches are timed as they run in training,
where large blocks of memory have been freed before: until then, malloc hands a batch's memory back to the system at
every operation.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable

import torch
from PIL import Image, ImageFilter
from torchvision.transforms import v2

from hirl.config import ViewsConfig
from hirl.data.views import MEAN, STD, Views


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--size", type=int, default=32, help="pixels, of the images and of their views")
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.empty(2**23 - 2**10)  # just under the 32 MiB to which glibc's malloc adapts, and freed at once
    config = ViewsConfig(global_size=args.size)
    batch = pictures(args.images, args.size)
    pil_images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in batch]
    views = Views(config)
    on_pil = per_image(config, v2.Lambda(lambda image: pil_blur(image, config.blur_sigma)))
    on_tensors = per_image(config, v2.GaussianBlur(17, config.blur_sigma))
    best = best_times(
        {
            "hirl, batch": lambda: views(batch),
            "torchvision, PIL": lambda: [on_pil(image) for _ in range(2) for image in pil_images],
            "torchvision, tensors": lambda: [on_tensors(image) for _ in range(2) for image in batch],
        },
        args.rounds,
    )
    print(f"{args.images} images of {args.size} x {args.size}, two views of each, one thread\n")
    print(f"{'':22}{'us/view':>10}{'views/s':>10}{'time ratio':>12}")
    for way, seconds in best.items():
        view = seconds / (2 * args.images)
        print(f"{way:22}{view * 1e6:10.1f}{1 / view:10.0f}{seconds / best['hirl, batch']:12.1f}")


def pictures(n: int, size: int) -> torch.Tensor:
    """Coarse noise, enlarged: uint8 [n, 3, size, size]."""
    coarse = torch.rand(n, 3, 4, 4)
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear").mul(255).byte()


def per_image(config: ViewsConfig, blur: Callable) -> v2.Compose:
    """The same views, one image at a time."""
    jitter = config.jitter
    colour_jitter = v2.ColorJitter(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    return v2.Compose(
        [
            v2.RandomResizedCrop(config.global_size, config.global_scale, antialias=True),
            v2.RandomHorizontalFlip(config.flip),
            v2.RandomApply([colour_jitter], jitter.probability),
            v2.RandomGrayscale(config.grayscale),
            v2.RandomApply([blur], config.blur[0]),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )


def pil_blur(image: Image.Image, sigma: tuple[float, float]) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(random.uniform(*sigma)))


def best_times(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The shortest of so many rounds of each way, in CPU seconds; a first one does not count."""
    times = {name: [] for name in ways}
    for _ in range(1 + rounds):
        for name, way in ways.items():
            start = time.process_time()
            way()
            times[name].append(time.process_time() - start)
    return {name: min(seconds[1:]) for name, seconds in times.items()}


if __name__ == "__main__":
    main()
