"""What does k-means cost in our torch backend, compared with faiss, and what a snapshot at the paper's size?

    python benchmarks/kmeans.py [--points 20000] [--clusters 500] [--width 128] [--rounds 3]

Points are unit rows around twice as many directions as there are clusters. Seconds, and inertia (the sum of all points'
squared distances), are compared with faiss at the paper's settings: the best of 5 random starts of 20 iterations. The
cases take turns, and the best round counts. If there is a GPU, torch uses it and faiss uses the CPU.

Growth is the ratio of the times of five iterations, too few to converge, as points, clusters or width double. Memory is
the rise of the peak during one start, without the points: the resident peak of a process of its own on a CPU, what
torch allocates on a GPU.

At the paper's size a snapshot is counted, not run: 2 N K D operations for every pass over the points, 101 passes for a
tree from random starts and 16 for one whose finest level is warm-started from the last tree (`warm_iterations: 15`;
upper levels always start at random). Minutes assume the FLOP/s that torch's assignment of points to clusters reached
here in float32; on a GPU all passes but the last run in TF32 and are faster. Memory is that of the features, their
normalised copy and a chunk of similarities. The GPUs of a run share the minutes and the features.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from common import Report, Row, best_times, memory_rise_mb, parser
from torch import Tensor

from hirl.config import KMeansConfig
from hirl.data.sources import SOURCES
from hirl.distributed.device import choose_device
from hirl.hierarchy.kmeans import SIMILARITIES_PER_CHUNK, kmeans, nearest

SETTINGS = {
    "paper": KMeansConfig(),
    "one start": KMeansConfig(restarts=1),
    "one start, 20 points": KMeansConfig(restarts=1, max_points_per_centroid=20),
    "one start, 10 iterations": KMeansConfig(restarts=1, iterations=10),
}
IMAGENET_IMAGES = SOURCES["imagenet"].num_images[0]
BACKENDS = ("faiss", "torch")
CLUSTERS, WARM = (30000, 10000, 1000), 15
WIDTHS = {"MoCo v2, SwAV": 128, "MoCo v3, DINO, iBOT": 256, "BEiT": 768, "SimSiam": 2048}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--points", type=int, default=20000)
    options.add_argument("--clusters", type=int, default=500)
    options.add_argument("--width", type=int, default=128)
    options.add_argument("--rounds", type=int, default=3)
    args = options.parse_args()
    report, size = Report(args), (args.points, args.clusters, args.width)
    what = f"{args.points} points of width {args.width}, {args.clusters} clusters, {torch.get_num_threads()} threads"
    report.table(settings(size, args.rounds), what)
    half = tuple(length // 2 for length in size)
    report.table(growth(half, args.rounds), "Doubled from {} points, {} clusters, width {}".format(*half))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        report.table([pool.apply(memory, (size,))], "Memory of one start of the torch backend")
    points = mixture(*size)
    seconds = best_times({"": lambda: nearest(points, points[: args.clusters])[1].sum().item()}, args.rounds)[""]
    rate = 2 * args.points * args.clusters * args.width / seconds
    report.table([snapshot(name, width, rate) for name, width in WIDTHS.items()], "A snapshot of ImageNet")
    report.remark(f"k-means assignment here: {rate / 1e9:.0f} GFLOP/s")


def mixture(count: int, clusters: int, width: int) -> Tensor:
    """Draw unit rows around random directions, as far from their direction as random rows are from each other."""
    torch.manual_seed(0)
    centers = F.normalize(torch.randn(2 * clusters, width), dim=1)
    noise = F.normalize(torch.randn(count, width), dim=1)
    return F.normalize(centers[torch.randint(2 * clusters, (count,))] + noise, dim=1).to(choose_device())


def settings(size: tuple[int, int, int], rounds: int) -> list[Row]:
    points, inertias = mixture(*size), {}

    def run(case: tuple[str, str]) -> None:
        config = SETTINGS[case[0]].model_copy(update={"backend": case[1]})
        inertias[case] = kmeans(points, size[1], config, seed=0)[2]  # a number: the GPU has finished

    cases = [(name, backend) for name in SETTINGS for backend in BACKENDS]
    seconds = best_times({case: lambda case=case: run(case) for case in cases}, rounds)
    base = ("paper", "faiss")
    return [
        {
            "settings": case[0],
            "backend": case[1],
            "seconds": seconds[case],
            "time / faiss": seconds[case] / seconds[base],
            "inertia": inertias[case],
            "inertia %": 100 * (inertias[case] / inertias[base] - 1),
        }
        for case in cases
    ]


def growth(size: tuple[int, int, int], rounds: int) -> list[Row]:
    doubled = {
        "points": (2 * size[0], *size[1:]),
        "clusters": (size[0], 2 * size[1], size[2]),
        "width": (*size[:2], 2 * size[2]),
    }
    held = {name: (mixture(*sizes), sizes[1]) for name, sizes in {"base": size, **doubled}.items()}
    ways = {}
    for backend in BACKENDS:
        config = KMeansConfig(restarts=1, iterations=5, backend=backend)
        for name, (points, clusters) in held.items():
            ways[name, backend] = lambda points=points, k=clusters, config=config: kmeans(points, k, config, seed=0)[2]
    seconds = best_times(ways, rounds)
    return [
        {"doubled": name}
        | {f"{backend}, time ratio": seconds[name, backend] / seconds["base", backend] for backend in BACKENDS}
        for name in doubled
    ]


def memory(size: tuple[int, int, int]) -> Row:
    """Measure the memory of k-means beside its points, in MB."""
    config = KMeansConfig(restarts=1, iterations=3, backend="torch")
    kmeans(mixture(100, 2, 8), 2, config, seed=0)  # libraries load what they load at first use
    points = mixture(*size)
    if points.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        kmeans(points, size[1], config, seed=0)
        rise = (torch.cuda.max_memory_allocated() - before) / 2**20
    else:
        rise = memory_rise_mb(lambda: kmeans(points, size[1], config, seed=0))
    return {
        "points MB": points.nbytes / 2**20,
        "all similarities MB": 4 * size[0] * size[1] / 2**20,
        "a chunk's MB": SIMILARITIES_PER_CHUNK[points.device.type] * 4 / 2**20,
        "rise MB": rise,
    }


def snapshot(name: str, width: int, rate: float) -> Row:
    """Return the operations of ImageNet's snapshot, their time at a rate of FLOP/s, and GPU memory."""
    config = KMeansConfig()
    passes = config.iterations * config.restarts + 1  # the last pass assigns all points
    cold = operations((passes, passes, passes), width)
    warm = operations((WARM + 1, passes, passes), width)
    features = 4 * IMAGENET_IMAGES * width
    return {
        "": name,
        "width": width,
        "TFLOP cold": cold / 1e12,
        "TFLOP warm": warm / 1e12,
        "FLOP ratio": cold / warm,
        "minutes cold": cold / rate / 60,
        "minutes warm": warm / rate / 60,
        "GPU memory GB": (2 * features + 4 * SIMILARITIES_PER_CHUNK["cuda"] + 16 * CLUSTERS[0] * width) / 1e9,
    }


def operations(passes: Sequence[int], width: int) -> float:
    """Return the operations of so many passes over the points of each level."""
    points = (IMAGENET_IMAGES, *CLUSTERS)
    return sum(2.0 * times * n * k * width for times, n, k in zip(passes, points, CLUSTERS, strict=False))


if __name__ == "__main__":
    main()
