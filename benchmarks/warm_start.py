"""How good are warm-started trees, and what do they save?

    python benchmarks/warm_start.py [--methods mocov2 swav] [--study demo] [--start 2] [--data results/demo/data]

A HIRL run is trained with new trees before every epoch, as published, and keeps the embeddings that it clustered; its
images are drawn if no prepared data is given. Then each setting clusters them epoch by epoch: *published* is the best
of 5 random starts of 20 iterations; *warm n* starts from the finest clusters of its own last tree and takes n
iterations (`hierarchy.kmeans.warm_iterations`); its first tree is the published one. Upper levels always start at
random.

Inertia is the sum of squared distances between the images' normalised embeddings and their finest clusters' means, in
per cent above the published setting's on the same embeddings: the mean over the epochs, the worst, and the first and
last epoch of the chain. NMI compares consecutive trees, in per cent. Time is that of whole trees; the settings take
turns.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import torch.nn.functional as F
from common import Report, Row, parser
from torch import Tensor

from hirl.config import RunConfig, TreeKMeansConfig, load_study
from hirl.data.images import prepare
from hirl.data.synthetic.taxonomy import write_taxonomy
from hirl.hierarchy import SemanticTree, hierarchical_kmeans
from hirl.hierarchy.diagnostics import snapshot_metrics
from hirl.tracking.record import Recorder
from hirl.training.loop import Pretrainer

PUBLISHED = "published"
WAYS = {
    PUBLISHED: TreeKMeansConfig(),
    "one start": TreeKMeansConfig(restarts=1),
    **{f"warm {n}": TreeKMeansConfig(warm_iterations=n) for n in (3, 5, 10, 15)},
}
GOAL_SETTING, LEAST_SPEEDUP, MOST_INERTIA = "warm 15", 5, 0.1  # times, per cent


class Watched(Pretrainer):
    """A training that keeps the embeddings of every snapshot."""

    def encode_all(self, *how: Any) -> Tensor:
        """Return the rows of all images, and keep a copy."""
        embeddings = super().encode_all(*how)
        self.snapshots.append(embeddings.clone())
        return embeddings


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--methods", nargs="+", default=["mocov2", "swav"])
    options.add_argument("--study", default="demo")
    options.add_argument("--start", type=int, default=2, help="the epoch of the first tree")
    options.add_argument("--data", type=Path, help="the study's prepared images; the taxonomy is drawn if not given")
    args = options.parse_args()
    report = Report(args)
    for method in args.methods:
        config = load_study(args.study).resolve(method, "hirl", 0, {"hierarchy.start_epoch": args.start})
        snapshots = train(config, args.data)
        sizes = config.hierarchy.num_clusters
        rows = compare(snapshots, sizes)
        count, width = snapshots[0].shape
        what = f"{count} images, width {width}, {'/'.join(map(str, sizes))} clusters, {len(snapshots)} epochs"
        report.table(list(rows.values()), f"{args.study}, {method}: {what}")
        report.goal(f"{method}, {GOAL_SETTING}: speed-up", rows[GOAL_SETTING]["speed-up"], LEAST_SPEEDUP)
        report.goal(
            f"{method}, {GOAL_SETTING}: per cent of inertia saved, mean",
            -rows[GOAL_SETTING]["inertia %"],
            -MOST_INERTIA,
        )


def train(config: RunConfig, data: Path | None) -> list[Tensor]:
    """Train a run; return the embeddings that each of its snapshots clustered."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if data is None:
            write_taxonomy(folder / "pictures")
            prepare(config.data, folder / "pictures", data := folder / "data")
        trainer = Watched(config, data, folder, Recorder(folder / "record.jsonl"))
        trainer.snapshots = []
        trainer.train()
    return trainer.snapshots


def compare(snapshots: Sequence[Tensor], sizes: Sequence[int]) -> dict[str, Row]:
    """Return a row for each setting, from its trees of all snapshots but the first, which all settings share."""
    first = hierarchical_kmeans(snapshots[0], sizes, WAYS[PUBLISHED])
    last = dict.fromkeys(WAYS, first)
    seconds, inertias, stabilities = defaultdict(list), defaultdict(list), defaultdict(list)
    for embeddings in snapshots[1:]:
        for name, config in WAYS.items():
            started = time.perf_counter()
            tree = hierarchical_kmeans(embeddings, sizes, config, last=last[name])
            tree.assignments.cpu()  # waits for the device
            seconds[name].append(time.perf_counter() - started)
            inertias[name].append(inertia(embeddings, tree))
            metrics = snapshot_metrics(tree, last[name])
            stabilities[name].append([metrics[f"stability_level{level}"] for level in range(len(sizes))])
            last[name] = tree
    rows = {}
    for name in WAYS:
        above = [100 * (ours / base - 1) for ours, base in zip(inertias[name], inertias[PUBLISHED], strict=True)]
        rows[name] = {
            "": name,
            "ms a tree": 1000 * mean(seconds[name]),
            "speed-up": sum(seconds[PUBLISHED]) / sum(seconds[name]),
            "inertia %": mean(above),
            "worst": max(above),
            "first": above[0],
            "last": above[-1],
            **{f"NMI level {level}": mean(values) for level, values in enumerate(zip(*stabilities[name], strict=True))},
        }
    return rows


def inertia(embeddings: Tensor, tree: SemanticTree) -> float:
    """Return the inertia of the finest level: N unit rows minus the sum over clusters of |sum of rows|^2 / size."""
    sums = embeddings.new_zeros(tree.centroids[0].shape)
    sums.index_add_(0, tree.assignments[:, 0], F.normalize(embeddings, dim=1))
    sizes = torch.bincount(tree.assignments[:, 0], minlength=len(sums)).clamp(min=1)
    return len(embeddings) - (sums.square().sum(dim=1) / sizes).sum().item()


if __name__ == "__main__":
    main()
