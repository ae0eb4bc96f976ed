"""The semantic path loss against its formula read literally, which holds every negative's centroids: [N, M, L, D].

Like the released code, the peer gathers the negatives' centroids, normalises them, and multiplies; unlike it, it does
not copy the embeddings M times. Time is of a forward and backward pass; the losses take turns, so that a busy machine
slows both, and the best round of each counts. "all" is our loss on all paths, exactly. Memory is what the resident peak
rises by in one pass (Linux's VmHWM, reset before it), in a process of its own: no pass can use what another freed.

    python benchmarks/path_loss.py
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hirl.hierarchy import SemanticTree, semantic_path_loss
from hirl.hierarchy.path_loss import sample_negative_paths


class Size(NamedTuple):
    """Images, clusters per level, width, and negative paths per image."""

    n: int
    k: tuple[int, ...]
    d: int
    m: int


PAPER = Size(32, (30000, 10000, 1000), 2048, 1000)  # SimSiam on one of eight GPUs
SWEEP = [
    PAPER,
    PAPER._replace(d=128),
    PAPER._replace(n=128, d=256),
    PAPER._replace(d=256, m=100),
    PAPER._replace(n=8, d=256, m=100),
    PAPER._replace(k=(3000, 1000, 100), d=256),
]
LEAST_SPEEDUP, LEAST_MEMORY_RATIO, LARGEST_DIFFERENCE = 10, 50, 1e-6  # at the paper's size


def direct_loss(embeddings: Tensor, tree: SemanticTree, index: Tensor, negatives: Tensor) -> Tensor:
    """The formula, with one row of centroids per image, negative and level."""
    own = tree.assignments[index]
    units = F.normalize(embeddings, dim=2)

    def score(paths: Tensor) -> Tensor:
        rows = torch.stack([tree.centroids[level][ids] for level, ids in enumerate(paths.unbind(2))], dim=2)
        return ((1 + (units[:, None] * F.normalize(rows, dim=3)).sum(dim=3)) / 2).prod(dim=2)

    counted = (negatives != own[:, None]).any(dim=2)
    positive = -torch.log(score(own[:, None])[:, 0] + 1e-6)
    negative = (counted * -torch.log(1 - score(negatives) + 1e-6)).sum(dim=1) / (counted.sum(dim=1) + 1e-6)
    return (positive + negative).mean() / 2


LOSSES = {"direct": direct_loss, "ours": semantic_path_loss}


def make_inputs(size: Size) -> tuple[Tensor, SemanticTree, Tensor, Tensor]:
    torch.manual_seed(0)
    centroids = [torch.randn(k, size.d) for k in size.k]
    for rows in centroids:
        rows.div_(rows.norm(dim=1, keepdim=True))
    parents = [torch.randint(above, (below,)) for below, above in pairwise(size.k)]
    path = [torch.randint(size.k[0], (size.n,))]
    for parent in parents:
        path.append(parent[path[-1]])
    tree, index = SemanticTree(centroids, parents, torch.stack(path, dim=1)), torch.arange(size.n)
    embeddings = torch.randn(size.n, len(size.k), size.d, requires_grad=True)
    return embeddings, tree, index, sample_negative_paths(tree, index, size.m)


def step(loss: Callable[..., Tensor], embeddings: Tensor, *rest: object) -> tuple[float, Tensor]:
    value = loss(embeddings, *rest)
    (gradient,) = torch.autograd.grad(value, embeddings)
    return value.item(), gradient


def best_times(size: Size, rounds: int) -> dict[str, float]:
    *inputs, negatives = make_inputs(size)
    ways = {name: (loss, *inputs, negatives) for name, loss in LOSSES.items()}
    ways["all"] = (semantic_path_loss, *inputs, None)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            step(*way)
            times[name].append(time.perf_counter() - start)
    return {name: min(taken) for name, taken in times.items()}


def peak_mb(name: str, size: Size) -> float:
    """The rise of the resident peak during one pass, in MB."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_mb_here, (name, size))


def _peak_mb_here(name: str, size: Size) -> float:
    small = Size(4, tuple(8 for _ in size.k), size.d, 8)
    step(LOSSES[name], *make_inputs(small))  # libraries load what they load at first use
    inputs = make_inputs(size)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to the present
    before = _status_kb("VmHWM")
    step(LOSSES[name], *inputs)
    return (_status_kb("VmHWM") - before) / 1024


def _status_kb(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])


def compare(size: Size, rounds: int) -> dict[str, float]:
    inputs = make_inputs(size)
    (expected, expected_gradient), (value, gradient) = (step(loss, *inputs) for loss in LOSSES.values())
    times = best_times(size, rounds)
    memory = {name: peak_mb(name, size) for name in LOSSES}
    return {
        **{f"{name} ms": 1000 * taken for name, taken in times.items()},
        **{f"{name} MB": peak for name, peak in memory.items()},
        "speedup": times["direct"] / times["ours"],
        "memory ratio": memory["direct"] / max(memory["ours"], 0.1),
        "difference": abs(value / expected - 1),
        "gradient": ((gradient - expected_gradient).norm() / expected_gradient.norm()).item(),
    }


def main() -> None:
    """Prints one row per size and fails where the paper's size misses what is claimed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print(f"{torch.get_num_threads()} threads")
    for size in SWEEP:
        row = compare(size, rounds)
        print(f"N {size.n:4} K {'/'.join(map(str, size.k)):16} D {size.d:4} M {size.m:4}  ", end="")
        print("  ".join(f"{name} {value:.3g}" for name, value in row.items()), flush=True)
        if size == PAPER:
            assert row["speedup"] >= LEAST_SPEEDUP, f"at the paper's size less than {LEAST_SPEEDUP} times faster"
            assert row["memory ratio"] >= LEAST_MEMORY_RATIO, f"more than 1/{LEAST_MEMORY_RATIO} of the memory"
            assert row["difference"] <= LARGEST_DIFFERENCE, f"the value differs by more than {LARGEST_DIFFERENCE}"


if __name__ == "__main__":
    main()
