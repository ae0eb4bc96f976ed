"""How fast are augmented views made?

    python benchmarks/views.py [--images 128] [--size 32] [--rounds 5]

Ours makes the views of a whole batch at once; the peer is torchvision's transforms, image by image, on PIL images (as
in the papers' code) and on tensors. The three take turns on one thread, and the best round of each counts, in seconds
of CPU time. PIL images are blurred by PIL, tensors by torchvision.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import torch
from common import Report, best_times, parser
from PIL import Image, ImageFilter
from torchvision.transforms import v2

from hirl.config import ViewsConfig
from hirl.data.views import MEAN, STD, Views
from hirl.distributed.device import choose_device

OURS = "ours, batch"


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=128)
    options.add_argument("--size", type=int, default=32, help="pixels, of the images and of their views")
    options.add_argument("--rounds", type=int, default=5)
    args = options.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    choose_device()  # as in training, malloc keeps the memory of a batch
    config = ViewsConfig(global_size=args.size)
    batch = pictures(args.images, args.size)
    pil_images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in batch]
    views = Views(config)
    on_pil = per_image(config, v2.Lambda(lambda image: pil_blur(image, config.blur_sigma)))
    on_tensors = per_image(config, v2.GaussianBlur(17, config.blur_sigma))
    best = best_times(
        {
            OURS: lambda: views(batch),
            "torchvision, PIL": lambda: [on_pil(image) for _ in range(2) for image in pil_images],
            "torchvision, tensors": lambda: [on_tensors(image) for _ in range(2) for image in batch],
        },
        args.rounds,
        clock=time.process_time,
    )
    report, rates = Report(args), {way: 2 * args.images / seconds for way, seconds in best.items()}
    for peer in ("torchvision, PIL", "torchvision, tensors"):
        sides = {"ours": f"{rates[OURS]:,.0f} views/s", "peer": f"{rates[peer]:,.0f} views/s"}
        report.goal(f"Speed-up over {peer}", rates[OURS] / rates[peer], 5, unit="×", **sides)
    rows = [{"": way, "views/s": rate, "us/view": 1e6 / rate} for way, rate in rates.items()]
    what = f"{args.images} images of {args.size} x {args.size}, two views of each, best of {args.rounds} rounds"
    report.table(rows, what)


def pictures(n: int, size: int) -> torch.Tensor:
    """Draw enlarged noise, uint8 [n, 3, size, size]."""
    coarse = torch.rand(n, 3, 4, 4)
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear").mul(255).byte()


def per_image(config: ViewsConfig, blur: Callable) -> v2.Compose:
    """Return the transform that draws the same views of one image."""
    jitter = config.jitter
    color_jitter = v2.ColorJitter(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    return v2.Compose(
        [
            v2.RandomResizedCrop(config.global_size, config.global_scale, antialias=True),
            v2.RandomHorizontalFlip(config.flip),
            v2.RandomApply([color_jitter], jitter.probability),
            v2.RandomGrayscale(config.grayscale),
            v2.RandomApply([blur], config.blur[0]),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )


def pil_blur(image: Image.Image, sigma: tuple[float, float]) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(random.uniform(*sigma)))


if __name__ == "__main__":
    main()
