"""What share of an epoch do HIRL's trees take?

    python benchmarks/hirl_cost.py [--methods mocov2 simsiam] [--data results/demo/data] [--epochs 12] [--start 8]

A HIRL run of the demo is trained with new trees before every epoch, as published; its images are drawn if no prepared
data is given. Beside it, other ways make a tree of the same network at the same time: *pass* embeds all images once
more, *steps* takes what the epoch's steps embedded (`hierarchy.encode: steps`); *invariant* are invariant features,
from a pass over 8 views of each image or from the steps; *warm 15* starts the finest level from the way's own last tree
(`hierarchy.kmeans.warm_iterations`), the others are the best of 5 random starts of 20 iterations; *sampled* iterates on
20 images for each cluster (`max_points_per_centroid`). The first tree does not count: it is the same for all ways.

Milliseconds are those of a tree: passes, k-means, and what the steps of an epoch do for the memory bank. Their share is
that of an epoch's steps. AMI compares the clusters of each level with the finest true classes, and the finest clusters
with those of the published tree; all are means over the trees, in per cent. *Other seed* is the published way with
other random starts: it shows how far two equally good trees agree. Inertia, where the pass's embeddings are clustered,
is that of the finest level, in per cent above the published tree's. One run of a method: differences of one or two
points mean nothing, and the seconds of *steps* include the backbone features that only invariant features need.

The second table is counted, not run: operations of the trees over those of the epochs between them, in the studies'
sizes, at the rates that `hirl plan` assumes of an H200. The first tree's passes are included. Ranks share all of it, so
the shares hold for any number of GPUs.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import torch.nn.functional as F
from common import NAMES, Report, Row, parser
from sklearn.metrics import adjusted_mutual_info_score
from torch import Tensor

from hirl.config import RunConfig, TreeKMeansConfig, load_study
from hirl.data.images import prepare
from hirl.data.synthetic.taxonomy import write_taxonomy
from hirl.hierarchy import SemanticTree, hierarchical_kmeans
from hirl.hierarchy.invariant import CovarianceWithin, whiten
from hirl.hierarchy.memory_bank import MemoryBank
from hirl.methods.base import MethodOutput
from hirl.planning.cost import JOB_OVERHEAD_S, num_snapshots, run_cost
from hirl.planning.count import count
from hirl.planning.machine import backbone_family, find_machine
from hirl.tracking.record import Recorder
from hirl.training.loop import Pretrainer

PUBLISHED = "pass (published)"
GOAL_WAYS, MOST = ("steps, warm 15", "invariant, steps, warm 15"), 5  # per cent of an epoch
COLD, WARM, SAMPLED = (
    TreeKMeansConfig(),
    TreeKMeansConfig(warm_iterations=15),
    TreeKMeansConfig(max_points_per_centroid=20),
)
# what is clustered, how, and the seed
WAYS = {
    PUBLISHED: ("pass", COLD, 0),
    "pass, other seed": ("pass", COLD, 100),
    "pass, sampled": ("pass", SAMPLED, 0),
    "pass, warm 15": ("pass", WARM, 0),
    "steps": ("steps", COLD, 0),
    "steps, warm 15": ("steps", WARM, 0),
    "invariant, pass": ("invariant, pass", COLD, 0),
    "invariant, steps": ("invariant, steps", COLD, 0),
    "invariant, steps, warm 15": ("invariant, steps", WARM, 0),
}
COUNTED: dict[str, dict[str, Any]] = {
    "published": {},
    "warm 15": {"hierarchy.kmeans.warm_iterations": 15},
    "steps": {"hierarchy.encode": "steps"},
    "steps, warm 15": {"hierarchy.encode": "steps", "hierarchy.kmeans.warm_iterations": 15},
    "invariant, pass": {"hierarchy.features": "invariant"},
    "invariant, steps, warm 15": {
        "hierarchy.features": "invariant",
        "hierarchy.encode": "steps",
        "hierarchy.kmeans.warm_iterations": 15,
    },
}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--methods", nargs="+", choices=NAMES, default=["mocov2", "simsiam"])
    options.add_argument("--data", type=Path, help="the demo's prepared images; the taxonomy is drawn if not given")
    options.add_argument("--epochs", type=int, default=12)
    options.add_argument("--start", type=int, default=8, help="the epoch of the first tree")
    options.add_argument("--counted", nargs="*", choices=NAMES, default=["mocov2", "simsiam", "dino"])
    args = options.parse_args()
    report, shares = Report(args), {}  # per cent of an epoch, of the ways without passes
    for method in args.methods:
        changed = {"hierarchy.start_epoch": args.start, "training.epochs": args.epochs}
        trainer = train(load_study("demo").resolve(method, "hirl", 0, changed), args.data)
        rows = trainer.rows()
        shares |= {f"demo, {NAMES[method]}: {way}": rows[way]["% of an epoch"] for way in GOAL_WAYS}
        sizes, trees = trainer.run.hierarchy.num_clusters, args.epochs - args.start - 1
        what = f"{len(trainer.images)} images, {'/'.join(map(str, sizes))} clusters, means over {trees} trees"
        report.table(list(rows.values()), f"demo, {NAMES[method]}: {what}")
    for study in ("cifar10", "imagenet"):
        counted = [counted_shares(study, method) for method in args.counted]
        if counted:
            report.table(counted, f"{study}, counted: per cent of an epoch")
        shares |= {f"{study}, {row['']}: {way}": row[way] for row in counted for way in GOAL_WAYS}
    for way in GOAL_WAYS:
        worst = max((name for name in shares if name.endswith(f": {way}")), key=shares.__getitem__)
        report.goal(f"Share of an epoch, {way}", shares[worst], at_most=MOST, unit=" %", limit=worst)


# --- measured ---------------------------------------------------------------------------------------------------------


class Watched(Pretrainer):
    """A training that makes trees in other ways beside its own."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.bank: MemoryBank | None = None
        self.trees: dict[str, SemanticTree] = {}
        self.seconds, self.found = defaultdict(list), defaultdict(list)
        self.method.register_forward_hook(self._keep)

    def _keep(self, _: Any, inputs: tuple[Any, ...], output: MethodOutput) -> None:
        if self.bank is not None:
            started = time.perf_counter()
            self.bank.update(inputs[1].images, output.encoded)
            self.seconds["bank"][-1] += time.perf_counter() - started

    def encode_all(self, *how: Any) -> Tensor:
        """Return the rows of all images, and keep those of the published pass."""
        started = time.perf_counter()
        self.embeddings = super().encode_all(*how)
        self.seconds["pass"].append(time.perf_counter() - started)
        return self.embeddings

    def before_epoch(self, epoch: int) -> None:
        """Make the run's tree, then the others."""
        super().before_epoch(epoch)
        since_start = epoch - self.run.hierarchy.start_epoch
        if since_start < 0:
            return
        if self.bank is None:
            self.bank = MemoryBank(self.embeddings, self._invariant_pass()[0], len(self.images))
            self.trees = dict.fromkeys(WAYS, self.method.tree)
        else:
            self._compare()
        self.seconds["bank"].append(0.0)
        self.method.train()

    def _compare(self) -> None:
        embedded, means, covariance = self.bank.take()
        started = time.perf_counter()
        whitened = whiten(means, covariance, len(means))
        self.seconds["whitening"].append(time.perf_counter() - started)
        of_pass = self._invariant_pass()
        rows = {
            "pass": self.embeddings,
            "steps": embedded,
            "invariant, pass": whiten(*of_pass, len(means)),
            "invariant, steps": whitened,
        }
        for way, (source, config, seed) in WAYS.items():
            started = time.perf_counter()
            tree = hierarchical_kmeans(rows[source], self.run.hierarchy.num_clusters, config, seed, self.trees[way])
            self.seconds[way].append(time.perf_counter() - started)
            self.trees[way] = tree
            self.found[way].append(self._agreement(tree, source))

    @torch.no_grad()
    def _invariant_pass(self) -> tuple[Tensor, Tensor]:
        backbone = self.method.backbone
        covariance = CovarianceWithin(backbone.num_features, self.device)
        started = time.perf_counter()
        means = super().encode_all(
            lambda views: covariance.add(torch.stack([backbone(view) for view in views])), backbone.num_features, 8
        )
        self.seconds["8 views"].append(time.perf_counter() - started)
        return means, covariance.value()

    def _agreement(self, tree: SemanticTree, source: str) -> Row:
        classes, published = self.images.labels[:, 0], self.trees[PUBLISHED]
        found: Row = {
            f"AMI level {level}": ami(classes, tree.assignments[:, level]) for level in range(tree.num_levels)
        }
        found["AMI with published"] = ami(published.assignments[:, 0], tree.assignments[:, 0])
        if source == "pass":
            found["inertia %"] = 100 * (inertia(self.embeddings, tree) / inertia(self.embeddings, published) - 1)
        return found

    def rows(self) -> dict[str, Row]:
        """Return a row for each way."""
        counted = slice(self.run.hierarchy.start_epoch, None)
        epoch = mean(row["images_per_second"] for row in self.history[counted])
        epoch = self.per_epoch * self.config.batch_size / epoch
        rows = {}
        for way, (source, *_) in WAYS.items():
            extra = {
                "pass": mean(self.seconds["pass"]),
                "steps": mean(self.seconds["bank"]),
                "invariant, pass": mean(self.seconds["pass"]) + mean(self.seconds["8 views"]),
                "invariant, steps": mean(self.seconds["bank"]) + mean(self.seconds["whitening"]),
            }[source]
            seconds = extra + mean(self.seconds[way])
            rows[way] = {
                "": way,
                "ms to encode": 1000 * extra,
                "ms of k-means": 1000 * mean(self.seconds[way]),
                "% of an epoch": 100 * seconds / epoch,
                **{column: mean(row[column] for row in self.found[way]) for column in self.found[way][0]},
            }
        return rows


def train(config: RunConfig, data: Path | None) -> Watched:
    """Train a run of the demo, whose trees are watched."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if data is None:
            write_taxonomy(folder / "pictures")
            prepare(config.data, folder / "pictures", data := folder / "data")
        trainer = Watched(config, data, folder, Recorder(folder / "record.jsonl"))
        trainer.train()
    return trainer


def ami(first: Tensor, second: Tensor) -> float:
    """Return the adjusted mutual information of two labellings, in per cent."""
    return 100 * adjusted_mutual_info_score(first.numpy(force=True), second.numpy(force=True))


def inertia(embeddings: Tensor, tree: SemanticTree) -> float:
    """Return the inertia of the finest level: N unit rows minus the sum over clusters of |sum of rows|^2 / size."""
    sums = embeddings.new_zeros(tree.num_clusters[0], embeddings.shape[1])
    sums.index_add_(0, tree.assignments[:, 0], F.normalize(embeddings, dim=1))
    sizes = torch.bincount(tree.assignments[:, 0], minlength=len(sums)).clamp(min=1)
    return len(embeddings) - (sums.square().sum(dim=1) / sizes).sum().item()


# --- counted ----------------------------------------------------------------------------------------------------------


def counted_shares(study: str, method: str) -> Row:
    """Return the share of an epoch that trees take in a study, in per cent, for each way."""
    machine = find_machine("h200")
    counts = count(load_study(study).resolve(method, "baseline", 0))
    row: Row = {"": NAMES[method]}
    for way, changed in COUNTED.items():
        config = load_study(study).resolve(method, "hirl", 0, changed)
        cost = run_cost(config, counts, machine, machine.mfu[backbone_family(config)], 1, [])
        epochs = num_snapshots(config) * (cost.pretraining - JOB_OVERHEAD_S) / config.training.epochs
        row[way] = 100 * cost.trees / epochs
    return row


if __name__ == "__main__":
    main()
