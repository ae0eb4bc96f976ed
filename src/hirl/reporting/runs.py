"""Read one run's folder: no other module of this package knows where a run keeps its files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.torch import load_file

from hirl.config.run_name import RunName
from hirl.files import read_json
from hirl.reporting.titles import backbone_title, method_title, variant_title
from hirl.tracking.record import read_record


@dataclass(frozen=True)
class Run:
    """A run of a study, by its folder `{study_folder}/runs/{name}`."""

    study_folder: Path
    name: str

    @property
    def folder(self) -> Path:
        """The folder of the run's results."""
        return self.study_folder / "runs" / self.name

    @cached_property
    def run_name(self) -> RunName:
        """Method, variant and seed, read from the name.

        Raises:
            ValueError: the name is no run's name.
        """
        return RunName.parse(self.name)

    @property
    def method(self) -> str:
        """The method's name; `untrained` for a control."""
        return self.run_name.method

    @property
    def variant(self) -> str:
        """`baseline`, `hirl` or a variant of the study's own; `control` for a control."""
        return self.run_name.variant

    @property
    def has_tree(self) -> bool:
        """Whether the run was trained under HIRL."""
        return self.trained and self.variant != "baseline"

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.run_name.seed

    @property
    def trained(self) -> bool:
        """Whether this run was trained; controls are not."""
        return not self.run_name.is_control

    @property
    def title(self) -> str:
        """The run's title, such as `MoCo v2 baseline`, `MoCo v2 + HIRL` or `Untrained ResNet-50`."""
        if not self.trained:
            return f"{method_title(self.method)} {backbone_title(self.backbone)}"
        joined = " + " if self.has_tree else " "
        return f"{method_title(self.method)}{joined}{variant_title(self.variant)}"

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration that the run stored."""
        return read_json(self.folder / "config.json")

    @cached_property
    def backbone(self) -> str:
        """The backbone's name."""
        return self.run_name.backbone or self.config["backbone"]["name"]

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row per epoch; NaN where a number does not exist."""
        return pd.read_csv(self.folder / "history.csv")

    @cached_property
    def epochs_taken_over(self) -> int:
        """The number of epochs that the run took over from its baseline, whose time is in the history too."""
        starts = (record for record in read_record(self.folder / "record.jsonl") if record["kind"] == "params")
        return max((start["values"].get("stem", {}).get("epochs", 0) for start in starts), default=0)

    @property
    def own_seconds(self) -> float:
        """The seconds of the epochs that the run trained itself."""
        return float(self.history["seconds"].iloc[self.epochs_taken_over :].sum())

    @property
    def snapshots(self) -> list[Path]:
        """The saved semantic trees, oldest first."""
        return sorted((self.folder / "snapshots").glob("epoch*.safetensors"))

    def features(self) -> NDArray[np.float32] | None:
        """Return the backbone's features of the training images, [N, D]; None where they were not kept.

        The file is mapped into memory, not read: features of many images may be larger than the memory.
        """
        path = self.folder / "features.safetensors"
        return load_file(path)["train"].numpy() if path.exists() else None

    def evaluation(self, task: str) -> dict[str, Any] | None:
        """Return the result of one evaluation; None where it was not run.

        Raises:
            ValueError: the file belongs to another run.
        """
        path = self.folder / "evaluation" / f"{task}.json"
        if not path.exists():
            return None
        found = read_json(path)
        expected = {"method": self.method, "variant": self.variant, "backbone": self.backbone, "seed": self.seed}
        for key, value in {**expected, "task": task}.items():
            if found.get(key) != value:
                raise ValueError(
                    f"{path} belongs to another run: its {key} is {found.get(key)}, not {value}; "
                    "delete it and evaluate this run again"
                )
        return found


def open_runs(study_folder: str | Path, names: Iterable[str]) -> list[Run]:
    """Return the runs of a study, in the order given."""
    return [Run(Path(study_folder), name) for name in names]


def trained_by_method(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Group the trained runs by method, in the order of the runs."""
    grouped: dict[str, list[Run]] = {}
    for run in runs:
        if run.trained:
            grouped.setdefault(run.method, []).append(run)
    return grouped


def level_names(study_folder: str | Path) -> list[str]:
    """Return the names of the data's class levels, finest first; empty without a data manifest."""
    manifest = Path(study_folder) / "data" / "manifest.json"
    return read_json(manifest)["levels"] if manifest.exists() else []


def assignments(snapshot: Path) -> np.ndarray:
    """Return the cluster of every image in a snapshot, int [N, L], finest level first."""
    from hirl.hierarchy.tree import SemanticTree

    return SemanticTree.load(snapshot).assignments.numpy()
