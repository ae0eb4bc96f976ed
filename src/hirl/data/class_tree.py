"""Build the tree over a data set's classes, from nested folders or from a CSV file.

Shapes: N images, L levels, finest first.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hirl.config import CONFIG_ROOT

Lineage = tuple[str, ...]  # a class's name, then those of its ancestors, finest first
Branch = tuple[str, ...]  # the folders of a class below that of its split, coarsest first


@dataclass(frozen=True)
class ClassTree:
    """The levels of a data set's classes; none where the images have no classes.

    Attributes:
        levels: their names, finest first.
        class_names: the names of each level's classes.
        parents: for each level except the coarsest, every class's parent: a class one level up.
    """

    levels: list[str]
    class_names: list[list[str]]
    parents: list[list[int]]

    @classmethod
    def of(cls, classes: Sequence[Lineage], levels: list[str] | None = None) -> ClassTree:
        """Build the tree from every class's lineage; levels without given names are numbered, finest first."""
        columns = list(zip(*classes, strict=True))
        names = [list(dict.fromkeys(column)) for column in columns]
        parents = []
        for fine, coarse, coarse_names in zip(columns, columns[1:], names[1:], strict=False):
            parent_of = dict(zip(fine, coarse, strict=True))
            parents.append([coarse_names.index(parent) for parent in parent_of.values()])
        if levels is None:
            levels = ["class", *(f"level {level}" for level in range(1, len(columns)))][: len(columns)]
        return cls(levels, names, parents)

    def labels(self, fine: Sequence[int]) -> np.ndarray:
        """Return the labels of every level, int64 [N, L], from the finest ones [N]."""
        if not self.levels:
            return np.empty((len(fine), 0), np.int64)
        columns = [np.asarray(fine, np.int64)]
        for parents in self.parents:
            columns.append(np.asarray(parents, np.int64)[columns[-1]])
        return np.stack(columns, axis=1)


def folder_lineages(branches: list[Branch]) -> list[Lineage]:
    """Return the lineages of classes in nested folders; a name that repeats in its level becomes a path."""
    nodes = {branch[: depth + 1] for branch in branches for depth in range(len(branch))}
    times = Counter((len(node), node[-1]) for node in nodes)
    names = {node: node[-1] if times[len(node), node[-1]] == 1 else "/".join(node) for node in nodes}
    return [tuple(names[branch[:depth]] for depth in range(len(branch), 0, -1)) for branch in branches]


def read_class_tree(path: str, classes: list[str]) -> ClassTree:
    """Read the tree over the given classes from a CSV file.

    The first line names the levels, finest first, such as class,kind,realm. Every other line holds the name of a class
    (of its folder, or the data set's own name), then those of its ancestors. A relative path starts at the top of the
    repository.

    Raises:
        ValueError: the file is missing or malformed, its classes are not the given ones, or a name has two parents.
    """
    header, rows = _read_rows(CONFIG_ROOT.parent / path, path)
    listed = {row[0]: row for row in rows}
    if len(listed) < len(rows):
        twice = Counter(row[0] for row in rows).most_common(1)[0][0]
        raise ValueError(f"{path}: class {twice!r} has two rows: remove one")
    if missing := sorted(set(classes) - set(listed)):
        raise ValueError(f"{path}: the data set's class {missing[0]!r} is not in it: add a row")
    if unknown := sorted(set(listed) - set(classes)):
        raise ValueError(f"{path}: class {unknown[0]!r} is not in the data set: remove its row")
    for level in range(1, len(header) - 1):
        parents: dict[str, str] = {}
        for row in rows:
            if parents.setdefault(row[level], row[level + 1]) != row[level + 1]:
                both = f"{parents[row[level]]!r} and {row[level + 1]!r}"
                raise ValueError(f"{path}: {row[level]!r} has the parents {both}: give it one parent")
    return ClassTree.of([listed[name] for name in classes], header)


def _read_rows(file: Path, path: str) -> tuple[list[str], list[Lineage]]:
    if not file.is_file():
        raise ValueError(f"data.class_tree {path} is missing: correct the path")
    with file.open(newline="") as handle:
        header, *rows = list(csv.reader(handle)) or [[]]
    if len(header) < 2 or header[0] != "class" or len(set(header)) < len(header) or not all(header):
        raise ValueError(
            f"{path}: its first line is {','.join(header)!r}: write class, then a name for each coarser level"
        )
    for number, row in enumerate(rows, 2):
        if len(row) != len(header) or not all(row):
            raise ValueError(f"{path}, line {number}: {','.join(row)!r} must be {len(header)} names")
    return header, [tuple(row) for row in rows]
