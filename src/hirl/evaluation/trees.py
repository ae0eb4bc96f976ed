"""Compare trees of every kind, made from one state of a training: agreement with the classes, stability and cost.

Here better trees are found without training: a kind is a variant of a study.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.table import Table
from sklearn.metrics import adjusted_mutual_info_score

from hirl.config import RunConfig
from hirl.distributed.device import seed_step
from hirl.evaluation.hierarchy import hierarchy
from hirl.hierarchy import SemanticTree
from hirl.hierarchy.wrapper import HIRL
from hirl.training.checkpoint import UNREADABLE, read_state
from hirl.training.loop import Pretrainer


@dataclass(frozen=True)
class TreeQuality:
    """The quality of a variant's tree.

    Attributes:
        agreement: the metrics of hirl.evaluation.hierarchy against the true classes.
        stability: AMI of each level with that of a tree from other random starts, in per cent; it needs no labels.
        seconds: to encode all images and cluster them.
    """

    variant: str
    agreement: dict[str, float]
    stability: list[float]
    seconds: float


def compare_trees(
    configs: Sequence[RunConfig],
    state: Path,
    data: Path,
    plugins: tuple[str, ...] = (),
    tokenizer: Path | None = None,
) -> Iterator[TreeQuality]:
    """Yield the quality of the tree that each run would make from a state.

    Args:
        configs: runs of one method and seed under HIRL.
        state: a checkpoint or stem of their baseline, or of one of them.
        data: the prepared data.

    Raises:
        ValueError: the state cannot be read, or is of another network.
    """
    network = _network(state)
    for config in configs:
        with TemporaryDirectory() as scratch:
            trainer = Pretrainer(config, data, Path(scratch), None, plugins, tokenizer)
        method = trainer.method
        assert isinstance(method, HIRL)
        try:
            method.method.load_state_dict(network)
        except RuntimeError as error:
            raise ValueError(f"{state} is of another network than {config.name}: give its baseline's") from error
        started = time.perf_counter()
        tree = _make_tree(trainer, method)
        seconds = time.perf_counter() - started
        method.seed += 1
        stability = _agreement(tree, _make_tree(trainer, method))
        labels = trainer.images.labels.numpy()
        agreement = hierarchy(tree.assignments.numpy(), list(tree.num_clusters), labels)
        yield TreeQuality(config.variant, agreement, stability, seconds)


def _network(path: Path) -> dict[str, Any]:
    """Return the state of the method alone; that of a HIRL run has it under `method.`."""
    try:
        network = read_state(path)["network"]
    except UNREADABLE as error:
        raise ValueError(f"{path} is no readable state ({error}): give one of stems/ or of scratch/") from error
    inner = {key.removeprefix("method."): value for key, value in network.items() if key.startswith("method.")}
    return inner or network


def _make_tree(trainer: Pretrainer, method: HIRL) -> SemanticTree:
    seed_step(method.seed, -1)
    return method.make_tree(trainer.encode_all).to("cpu")


def _agreement(one: SemanticTree, other: SemanticTree) -> list[float]:
    """Return the AMI of two trees of the same images, level by level, in per cent."""
    levels = zip(one.assignments.T.numpy(), other.assignments.T.numpy(), strict=True)
    return [100 * float(adjusted_mutual_info_score(*pair)) for pair in levels]


def qualities_table(qualities: Sequence[TreeQuality]) -> Table:
    """Return a table with a line per variant and level."""
    table = Table(box=None, pad_edge=False)
    for title in ("trees of", "level", "clusters", "AMI", "NMI", "purity", "stability", "seconds"):
        table.add_column(title, justify="left" if title == "trees of" else "right")
    for quality in qualities:
        for level, stability in enumerate(quality.stability):
            shown = [quality.agreement[f"{name}_level{level}"] for name in ("ami", "nmi", "purity")]
            table.add_row(
                "" if level else quality.variant,
                str(level),
                f"{quality.agreement[f'clusters_level{level}']:.0f}",
                *(f"{value:.1f}" for value in (*shown, stability)),
                "" if level else f"{quality.seconds:.1f}",
            )
    return table
