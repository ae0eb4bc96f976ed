"""What does the weighted kNN evaluation cost, compared with faiss and scikit-learn?

    python benchmarks/knn.py [--train 50000] [--validation 10000] [--width 2048] [--rounds 1]

Ours is the project's evaluation: similarities in chunks, the nearest of each, votes for every k. The peers are an exact
search, faiss's IndexFlatIP or scikit-learn's brute force, with the same votes for the same k. Features are unit rows
around as many directions as there are classes. They take turns, and the best round counts; memory is the rise of the
resident peak (Linux's VmHWM, reset before) in a process of its own that already holds the features.

Growth is the ratio of our own times as the training images, the validation images or the width double.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable

import faiss
import numpy as np
from common import Report, best_times, memory_rise_mb, parser
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from hirl.config import KNNConfig
from hirl.evaluation.cache import FeatureCache, unit_rows
from hirl.evaluation.knn import class_rank, knn, percent

CLASSES, CONFIG = 100, KNNConfig()
Search = Callable[[NDArray, NDArray, int], tuple[NDArray, NDArray]]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--train", type=int, default=50000)
    options.add_argument("--validation", type=int, default=10000)
    options.add_argument("--width", type=int, default=2048)
    options.add_argument("--rounds", type=int, default=1)
    args = options.parse_args()
    report, size = Report(args), (args.train, args.validation, args.width)
    cache = make_cache(*size)
    seconds = best_times({name: lambda way=way: way(cache) for name, way in WAYS.items()}, args.rounds)
    rows = [
        {"": name, "seconds": taken, "speed-up of ours": taken / seconds["ours"]} | in_own_process(name, size)
        for name, taken in seconds.items()
    ]
    report.table(rows, f"{args.train} training and {args.validation} validation images, width {args.width}")
    small = tuple(length // 4 for length in size)
    doubled = {
        "training images": (2 * small[0], small[1], small[2]),
        "validation images": (small[0], 2 * small[1], small[2]),
        "width": (small[0], small[1], 2 * small[2]),
    }
    caches = {name: make_cache(*sizes) for name, sizes in {"base": small, **doubled}.items()}
    seconds = best_times({name: lambda held=held: knn(held, CONFIG) for name, held in caches.items()}, 3)
    rows = [{"doubled": name, "time ratio": seconds[name] / seconds["base"]} for name in doubled]
    report.table(rows, f"From {small[0]} training and {small[1]} validation images, width {small[2]}")


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


def in_own_process(name: str, size: tuple[int, int, int]) -> dict[str, float]:
    """Return the rise of the resident peak in MB and the accuracy of one evaluation, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (name, size))


def _measure(name: str, size: tuple[int, int, int]) -> dict[str, float]:
    WAYS[name](make_cache(500, 10, 8))  # libraries load what they load at first use
    cache = make_cache(*size)
    found: dict[str, float] = {}
    rise = memory_rise_mb(lambda: found.update(WAYS[name](cache)))
    return {"MB": rise, "top-1": found["top1"]}


if __name__ == "__main__":
    main()
