"""How fast is the kNN evaluation?

    python benchmarks/knn.py [--train 20000] [--validation 2000] [--width 2048] [--rounds 2]

Ours is the project's weighted kNN: similarities in chunks, the nearest of each, votes for every k. The peers are an
exact search by faiss (IndexFlatIP) or by scikit-learn (brute force), followed by the same votes. All three take turns
on the same features, unit rows around 100 class directions, and the best round counts. Both ours and faiss multiply the
same matrices.

Memory is the rise of the resident peak (Linux's VmHWM, reset before) in a process of its own that already holds the
features. ImageNet has 1,600 times as many pairs of a training and a validation image: `--train 1281167 --validation
50000`.
"""

from __future__ import annotations

from collections.abc import Callable

import faiss
import numpy as np
from common import Report, best_times, in_own_process, memory_rise_mb, parser
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from hirl.config import KNNConfig
from hirl.evaluation.cache import FeatureCache, unit_rows
from hirl.evaluation.knn import class_rank, knn, percent

CLASSES, CONFIG = 100, KNNConfig()
Search = Callable[[NDArray, NDArray, int], tuple[NDArray, NDArray]]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--train", type=int, default=20000)
    options.add_argument("--validation", type=int, default=2000)
    options.add_argument("--width", type=int, default=2048)
    options.add_argument("--rounds", type=int, default=2)
    args = options.parse_args()
    report, size = Report(args), (args.train, args.validation, args.width)
    cache = make_cache(*size)
    seconds = best_times({name: lambda way=way: way(cache) for name, way in WAYS.items()}, args.rounds)
    ours = seconds["ours"]
    for peer, least in {"faiss": 1, "scikit-learn": 1}.items():
        sides = {"ours": f"{ours:.2f} s", "peer": f"{seconds[peer]:.2f} s"}
        report.goal(f"Speed-up over {peer}", seconds[peer] / ours, least, unit="×", **sides)
    rows = [
        {"": name, "seconds": taken, "speed-up of ours": taken / ours} | in_own_process(measure, name, size)
        for name, taken in seconds.items()
    ]
    report.table(rows, f"{args.train} training and {args.validation} validation images, width {args.width}")


def make_cache(train: int, validation: int, width: int) -> FeatureCache:
    generator = np.random.default_rng(0)
    centers = generator.standard_normal((CLASSES, width), np.float32)
    parts = {}
    for split, count in {"train": train, "validation": validation}.items():
        labels = np.arange(count)[:, None] % CLASSES
        parts[split] = centers[labels[:, 0]] + 6 * generator.standard_normal((count, width), np.float32)
        parts[f"{split}_labels"] = labels
    return FeatureCache(**parts)


def with_search(search: Search) -> Callable[[FeatureCache], dict[str, float]]:
    """Return the evaluation with neighbours found by another search."""

    def evaluate(cache: FeatureCache) -> dict[str, float]:
        ids, cosines = search(unit_rows(cache.train), unit_rows(cache.validation), max(CONFIG.neighbours))
        weights = np.exp((cosines - cosines[:, :1]) / CONFIG.temperature)
        labels, truth = cache.train_labels[ids, 0], cache.validation_labels[:, 0]
        hits = [percent(class_rank(labels[:, :k], weights[:, :k], truth) < 1) for k in CONFIG.neighbours]
        return {"top1": max(hits)}

    return evaluate


def by_faiss(train: NDArray, validation: NDArray, k: int) -> tuple[NDArray, NDArray]:
    index = faiss.IndexFlatIP(train.shape[1])
    index.add(train)
    cosines, ids = index.search(validation, k)
    return ids, cosines


def by_scikit_learn(train: NDArray, validation: NDArray, k: int) -> tuple[NDArray, NDArray]:
    distances, ids = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(train).kneighbors(validation)
    return ids, 1 - distances**2 / 2


WAYS = {
    "ours": lambda cache: knn(cache, CONFIG),
    "faiss": with_search(by_faiss),
    "scikit-learn": with_search(by_scikit_learn),
}


def measure(name: str, size: tuple[int, int, int]) -> dict[str, float]:
    """Return the rise of the resident peak in MB and the accuracy of one evaluation."""
    WAYS[name](make_cache(500, 10, 8))  # libraries load what they load at first use
    cache = make_cache(*size)
    found: dict[str, float] = {}
    rise = memory_rise_mb(lambda: found.update(WAYS[name](cache)))
    return {"MB": rise, "top-1": found["top1"]}


if __name__ == "__main__":
    main()
