"""k-means: the torch backend against faiss, at the paper's settings and at cheaper ones, on a mixture of clusters.

Seconds and inertia (the sum of squared distances of all points), each with its ratio to faiss at the paper's settings.
The cases take turns, and the best round of each counts. Where there is a GPU, torch uses it, and faiss the CPU.

    python benchmarks/kmeans.py [--points 20000] [--clusters 500] [--width 128] [--rounds 3]
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F

from hirl.config import KMeansConfig
from hirl.hierarchy.kmeans import kmeans

SETTINGS = {
    "paper": KMeansConfig(),
    "one start": KMeansConfig(restarts=1),
    "one start, 20 points": KMeansConfig(restarts=1, max_points_per_centroid=20),
    "one start, 10 iterations": KMeansConfig(restarts=1, iterations=10),
}


def mixture(count: int, groups: int, width: int) -> torch.Tensor:
    """Unit rows around random directions, about as far from them as from each other."""
    torch.manual_seed(0)
    centres = F.normalize(torch.randn(groups, width), dim=1)
    noise = F.normalize(torch.randn(count, width), dim=1)
    return F.normalize(centres[torch.randint(groups, (count,))] + noise, dim=1)


def measure(points: torch.Tensor, clusters: int, config: KMeansConfig) -> tuple[float, float]:
    start = time.perf_counter()
    inertia = kmeans(points, clusters, config, seed=0)[2]  # a number: the GPU has finished
    return time.perf_counter() - start, inertia


def main() -> None:
    """Prints one row per setting and backend."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=20000)
    parser.add_argument("--clusters", type=int, default=500)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    points = mixture(args.points, 2 * args.clusters, args.width)
    if torch.cuda.is_available():
        points = points.cuda()
    measure(points[:100], 2, KMeansConfig(backend="torch"))  # libraries load
    cases = [(name, backend) for name in SETTINGS for backend in ("faiss", "torch")]
    results = {case: (float("inf"), 0.0) for case in cases}
    for _ in range(args.rounds):
        for name, backend in cases:
            config = SETTINGS[name].model_copy(update={"backend": backend})
            results[name, backend] = min(results[name, backend], measure(points, args.clusters, config))
    print(f"{args.points} points of width {args.width}, {args.clusters} clusters, on {points.device.type}\n")
    print(f"{'settings':26}{'backend':10}{'seconds':>10}{'ratio':>8}{'inertia':>12}{'ratio':>9}")
    base_seconds, base_inertia = results["paper", "faiss"]
    for (name, backend), (seconds, inertia) in results.items():
        print(
            f"{name:26}{backend:10}{seconds:10.3f}{seconds / base_seconds:8.2f}"
            f"{inertia:12.1f}{inertia / base_inertia:9.4f}"
        )


if __name__ == "__main__":
    main()
