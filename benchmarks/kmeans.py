"""How fast is k-means?

    python benchmarks/kmeans.py [--points 20000] [--clusters 500] [--width 128] [--rounds 3]

Ours is `hirl.hierarchy.kmeans`, of trees and of the clustering evaluation, at the paper's settings: the best of 5
random starts of 20 iterations. Its backend is faiss on a CPU and torch on a GPU; the torch backend is measured on both.
The peers are faiss itself, on the CPU, and scikit-learn, which stops earlier when nothing moves. All take turns on the
same points, unit rows around twice as many directions as there are clusters, and the best round counts. 0.9 counts as
equal, as two runs differ by as much.

Inertia is the sum of all points' squared distances. Memory is the rise of the peak during one start of the torch
backend, without the points: the resident peak of a process of its own on a CPU, what torch allocates on a GPU.

At the paper's size a tree is counted, not run: 2 N K D operations for every pass over the points, 101 passes for a
tree from random starts and 16 for one whose finest level is warm-started from the last tree (`warm_iterations: 15`;
upper levels always start at random). GPU memory is that of the features, their normalised copy and a chunk of
similarities. The GPUs of a run share the operations and the features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import faiss
import torch
import torch.nn.functional as F
from common import Report, Row, best_times, in_own_process, memory_rise_mb, parser
from sklearn.cluster import KMeans
from torch import Tensor

from hirl.config import KMeansConfig
from hirl.data.sources import SOURCES
from hirl.distributed.device import choose_device
from hirl.hierarchy.kmeans import SIMILARITIES_PER_CHUNK, kmeans

PAPER = KMeansConfig()
IMAGENET_IMAGES = SOURCES["imagenet"].num_images[0]
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
    points, inertia = mixture(*size), {}

    def run(name: str, way: Callable[[Tensor, int], float]) -> None:
        inertia[name] = way(points, args.clusters)  # a number: the GPU has finished

    seconds = best_times({name: lambda name=name, way=way: run(name, way) for name, way in WAYS.items()}, args.rounds)
    early = "it stops when nothing moves"
    for what, ours, peer, least, limit in (
        ("Speed-up over scikit-learn", "ours", "scikit-learn", 1, early),
        ("Speed-up over faiss", "ours", "faiss", 0.9, ""),
        ("Torch backend over faiss", "torch backend", "faiss", 0.9, ""),
    ):
        sides = {"ours": f"{seconds[ours]:.2f} s", "peer": f"{seconds[peer]:.2f} s"}
        report.goal(what, seconds[peer] / seconds[ours], least, unit="×", limit=limit, **sides)
    worst = max(inertia["ours"], inertia["torch backend"])
    sides = {"ours": f"{worst:,.0f}", "peer": f"{inertia['scikit-learn']:,.0f}"}
    report.goal("Inertia over scikit-learn's", worst / inertia["scikit-learn"], at_most=1.01, unit="×", **sides)
    rows = [{"": name, "seconds": seconds[name], "inertia": inertia[name]} for name in WAYS]
    report.table(rows, f"{args.points} points of width {args.width}, {args.clusters} clusters")
    report.table([in_own_process(memory, size)], "Memory of one start of the torch backend")
    report.table([tree_cost(name, width) for name, width in WIDTHS.items()], "A tree of ImageNet")


def mixture(count: int, clusters: int, width: int) -> Tensor:
    """Draw unit rows around random directions, as far from their direction as random rows are from each other."""
    torch.manual_seed(0)
    centers = F.normalize(torch.randn(2 * clusters, width), dim=1)
    noise = F.normalize(torch.randn(count, width), dim=1)
    return F.normalize(centers[torch.randint(2 * clusters, (count,))] + noise, dim=1).to(choose_device())


def by_faiss(points: Tensor, clusters: int) -> float:
    rows = points.numpy(force=True)
    found = faiss.Kmeans(
        rows.shape[1], clusters, niter=PAPER.iterations, nredo=PAPER.restarts, max_points_per_centroid=1000, seed=0
    )
    found.train(rows)
    return float(found.index.search(rows, 1)[0].sum())


def by_scikit_learn(points: Tensor, clusters: int) -> float:
    settings = {"init": "random", "n_init": PAPER.restarts, "max_iter": PAPER.iterations, "tol": 0}
    return float(KMeans(clusters, random_state=0, **settings).fit(points.numpy(force=True)).inertia_)


WAYS: dict[str, Callable[[Tensor, int], float]] = {
    "ours": lambda points, clusters: kmeans(points, clusters, PAPER, seed=0)[2],
    "torch backend": lambda points, clusters: kmeans(points, clusters, KMeansConfig(backend="torch"), seed=0)[2],
    "faiss": by_faiss,
    "scikit-learn": by_scikit_learn,
}


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


def tree_cost(name: str, width: int) -> Row:
    """Return the operations of a tree of ImageNet, cold and warm, and its GPU memory."""
    passes = PAPER.iterations * PAPER.restarts + 1  # the last pass assigns all points
    features = 4 * IMAGENET_IMAGES * width
    return {
        "": name,
        "width": width,
        "TFLOP": operations((passes, passes, passes), width) / 1e12,
        "TFLOP, warm": operations((WARM + 1, passes, passes), width) / 1e12,
        "GPU GB": (2 * features + 4 * SIMILARITIES_PER_CHUNK["cuda"] + 16 * CLUSTERS[0] * width) / 1e9,
    }


def operations(passes: Sequence[int], width: int) -> float:
    """Return the operations of so many passes over the points of each level."""
    points = (IMAGENET_IMAGES, *CLUSTERS)
    return sum(2.0 * times * n * k * width for times, n, k in zip(passes, points, CLUSTERS, strict=False))


if __name__ == "__main__":
    main()
