"""What does the path loss cost?

    python benchmarks/path_loss.py [--rounds 5] [--draws 16]

The peer is the literal formula: like the released code, it gathers, normalises and multiplies every negative's
centroids, [N, M, L, D]; unlike it, it does not copy the embeddings M times. Time is that of a forward and backward
pass; both take turns on the same negatives, and the best round counts. Memory is the rise of the resident peak in one
pass (Linux's VmHWM, reset before it), each in a process of its own. Sizes are the paper's of one
of eight GPUs, and the demo's; N is the batch, M the negative paths per image, L the levels, D the width.

*All* is our loss on all paths, which is exact. Noise is the distance of the gradient of sampled paths from that of all
paths, |g - g_all| / |g_all|, root mean square over draws, in per cent, for one step's batch. There, embeddings lie
around their image's centroids, and centroids around their parents, half as far apart as at random.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from common import Report, Row, best_times, in_own_process, memory_rise_mb, parser
from torch import Tensor

from hirl.hierarchy import SemanticTree, semantic_path_loss
from hirl.hierarchy.path_loss import sample_negative_paths
from hirl.hierarchy.tree import follow_parents


class Size(NamedTuple):
    """Images, clusters per level, width, and negative paths per image."""

    n: int
    k: tuple[int, ...]
    d: int
    m: int


SIZES = {
    "SimSiam": Size(32, (30000, 10000, 1000), 2048, 1000),
    "MoCo v2": Size(32, (30000, 10000, 1000), 128, 1000),
    "iBOT": Size(32, (30000, 10000, 1000), 256, 100),
    "demo": Size(128, (108, 36, 12), 128, 100),
}
LEAST_SPEEDUP, LEAST_MEMORY_RATIO, LARGEST_DIFFERENCE = 10, 50, 1e-6  # for SimSiam, the largest


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--draws", type=int, default=16, help="of negative paths, for the noise")
    args = options.parse_args()
    report = Report(args)
    rows = {name: compare(size, args.rounds) for name, size in SIZES.items()}
    largest = rows["SimSiam"]
    assert largest["difference"] <= LARGEST_DIFFERENCE, f"the value differs by more than {LARGEST_DIFFERENCE}"
    sides = {way: f"{largest[f'{name} ms']:,.0f} ms" for way, name in (("ours", "ours"), ("peer", "formula"))}
    report.goal("Speed-up over the formula, SimSiam", largest["speed-up"], LEAST_SPEEDUP, unit="×", **sides)
    sides = {way: f"{largest[f'{name} MB']:,.0f} MB" for way, name in (("ours", "ours"), ("peer", "formula"))}
    report.goal("Memory of the formula / ours, SimSiam", largest["memory ratio"], LEAST_MEMORY_RATIO, unit="×", **sides)
    for unit, ratio in (("ms", "speed-up"), ("MB", "memory ratio")):
        columns = (f"ours {unit}", f"formula {unit}", ratio)
        table = [{"": name} | {column: row[column] for column in columns} for name, row in rows.items()]
        report.table(table, f"Sampled paths, against the formula: {ratio}")
    most = {key: max(row[key] for row in rows.values()) for key in ("difference", "of gradient")}
    report.remark(
        f"Largest relative difference from the formula: {most['difference']:.1g}, gradient {most['of gradient']:.1g}."
    )
    for name, size in SIZES.items():
        what = f"N {size.n}, M {size.m}, {'/'.join(map(str, size.k))} clusters, width {size.d}"
        report.table(
            exactness(size, sorted({100, size.m}), args.rounds, args.draws), f"Cost of all paths, {name}: {what}"
        )


# --- the losses -------------------------------------------------------------------------------------------------------


def formula(embeddings: Tensor, tree: SemanticTree, index: Tensor, negatives: Tensor) -> Tensor:
    """Return the loss by its formula, with one row of centroids per image, negative and level."""
    own = tree.assignments[index]
    units = F.normalize(embeddings, dim=2)

    def probability(paths: Tensor) -> Tensor:
        rows = torch.stack([tree.centroids[level][ids] for level, ids in enumerate(paths.unbind(2))], dim=2)
        return ((1 + (units[:, None] * F.normalize(rows, dim=3)).sum(dim=3)) / 2).prod(dim=2)

    counted = (negatives != own[:, None]).any(dim=2)
    positive = -torch.log(probability(own[:, None])[:, 0] + 1e-6)
    negative = (counted * -torch.log(1 - probability(negatives) + 1e-6)).sum(dim=1) / (counted.sum(dim=1) + 1e-6)
    return (positive + negative).mean() / 2


LOSSES = {"formula": formula, "ours": semantic_path_loss}


def make_inputs(size: Size, nested: bool = False) -> tuple[Tensor, SemanticTree, Tensor, Tensor]:
    """Return embeddings, tree, the images' rows, and negatives: all random, or nested around the parents."""
    torch.manual_seed(0)
    parents = [torch.randint(above, (below,)) for below, above in pairwise(size.k)]
    paths = follow_parents(torch.randint(size.k[0], (size.n,)), parents)
    centroids = [random_units(size.k[-1], size.d)]
    for parent in reversed(parents):
        around = centroids[0][parent] if nested else 0
        centroids.insert(0, F.normalize(around + random_units(len(parent), size.d), dim=1))
    tree, index = SemanticTree(centroids, parents, paths), torch.arange(size.n)
    embeddings = torch.stack([random_units(size.n, size.d) for _ in size.k], dim=1)
    if nested:
        embeddings += torch.stack([rows[ids] for rows, ids in zip(centroids, paths.unbind(1), strict=True)], dim=1)
    return embeddings.requires_grad_(), tree, index, sample_negative_paths(tree, index, size.m)


def random_units(count: int, width: int) -> Tensor:
    return F.normalize(torch.randn(count, width), dim=1)


def step(loss: Callable[..., Tensor], embeddings: Tensor, *rest: object) -> tuple[float, Tensor]:
    value = loss(embeddings, *rest)
    (gradient,) = torch.autograd.grad(value, embeddings)
    return value.item(), gradient


# --- what is measured -------------------------------------------------------------------------------------------------


def compare(size: Size, rounds: int) -> Row:
    """Compare ours with the formula, on the same negatives."""
    inputs = make_inputs(size)
    (expected, expected_gradient), (value, gradient) = (step(loss, *inputs) for loss in LOSSES.values())
    seconds = best_times({name: lambda loss=loss: step(loss, *inputs) for name, loss in LOSSES.items()}, rounds)
    rise = {name: in_own_process(rise_mb, name, size) for name in LOSSES}
    return {
        **{f"{name} ms": 1000 * taken for name, taken in seconds.items()},
        "speed-up": seconds["formula"] / seconds["ours"],
        **{f"{name} MB": taken for name, taken in rise.items()},
        "memory ratio": rise["formula"] / max(rise["ours"], 0.1),
        "difference": abs(value / expected - 1),
        "of gradient": ((gradient - expected_gradient).norm() / expected_gradient.norm()).item(),
    }


def exactness(size: Size, numbers: list[int], rounds: int, draws: int) -> list[Row]:
    """Compare ours with sampled paths and ours with all paths."""
    *inputs, _ = make_inputs(size, nested=True)
    _, tree, index = inputs
    negatives = {str(m): sample_negative_paths(tree, index, m) for m in numbers} | {"all": None}
    ways = {name: lambda paths=paths: step(semantic_path_loss, *inputs, paths) for name, paths in negatives.items()}
    seconds = best_times(ways, rounds)
    exact = step(semantic_path_loss, *inputs, None)[1]
    rows = []
    for m in numbers:
        rise, far = in_own_process(rise_mb, "ours", size._replace(m=m)), noise(inputs, exact, m, draws)
        rows.append({"paths": str(m), "ms": 1000 * seconds[str(m)], "MB": rise, "noise %": 100 * far})
    rows.append(
        {"paths": "all", "ms": 1000 * seconds["all"], "MB": in_own_process(rise_mb, "ours", size, True), "noise %": 0}
    )
    return [row | {"time / all": row["ms"] / rows[-1]["ms"]} for row in rows]


def noise(inputs: Sequence, exact: Tensor, m: int, draws: int) -> float:
    """Return the root mean square distance of sampled gradients from the exact one, over its length."""
    _, tree, index = inputs
    gradients = (step(semantic_path_loss, *inputs, sample_negative_paths(tree, index, m))[1] for _ in range(draws))
    squares = torch.stack([(gradient - exact).square().sum() for gradient in gradients])
    return (squares.mean().sqrt() / exact.norm()).item()


def rise_mb(name: str, size: Size, exact: bool = False) -> float:
    """Return the rise of the resident peak during one pass, in MB."""
    small = Size(4, tuple(8 for _ in size.k), size.d, 8)
    step(LOSSES[name], *make_inputs(small))  # libraries load what they load at first use
    *inputs, negatives = make_inputs(size)
    return memory_rise_mb(lambda: step(LOSSES[name], *inputs, None if exact else negatives))


if __name__ == "__main__":
    main()
