"""One run's folder, read: the only place of the reporting room that knows where a run keeps what."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hirl.files import read_json

METHOD_NAMES = {
    "mocov2": "MoCo v2",
    "simsiam": "SimSiam",
    "swav": "SwAV",
    "swav_800": "SwAV (800 epochs)",
    "mocov3": "MoCo v3",
    "dino": "DINO",
    "ibot": "iBOT",
    "beit": "BEiT",
    "untrained": "Untrained",
}
BACKBONE_NAMES = {"resnet": "ResNet-", "vit_": "ViT-", "vitc_": "ViT-C-"}


def method_title(method: str) -> str:
    """The method's name as its paper writes it; a method of your own keeps its own name."""
    return METHOD_NAMES.get(method, method)


def backbone_title(name: str) -> str:
    """`resnet50` -> ResNet-50, `vit_base_patch16` -> ViT-base patch16; other names as they are."""
    for prefix, title in BACKBONE_NAMES.items():
        if name.startswith(prefix):
            return title + name.removeprefix(prefix).replace("_", " ")
    return name


@dataclass(frozen=True)
class Run:
    """A run of a study, by its folder `{study_folder}/runs/{name}`."""

    study_folder: Path
    name: str

    @property
    def folder(self) -> Path:
        """Where the run's results lie."""
        return self.study_folder / "runs" / self.name

    @cached_property
    def coordinates(self) -> tuple[str, str, int]:
        """Method, variant, seed: what the name says.

        Raises:
            ValueError: the name is not `{method}-{variant}-s{seed}`.
        """
        rest, _, seed = self.name.rpartition("-s")
        parts = rest.partition("-") if rest.startswith("untrained-") else rest.rpartition("-")
        if not (parts[0] and parts[2] and seed.isdigit()):
            raise ValueError(f"run name {self.name!r}: give it as method-variant-sSEED, such as mocov2-hirl-s0")
        return parts[0], parts[2], int(seed)

    @property
    def method(self) -> str:
        """The method's registered name."""
        return self.coordinates[0]

    @property
    def variant(self) -> str:
        """Baseline or hirl; of an untrained control, its backbone."""
        return self.coordinates[1]

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.coordinates[2]

    @property
    def trained(self) -> bool:
        """Whether this run was trained at all: controls are not."""
        return self.method != "untrained"

    @property
    def title(self) -> str:
        """The run in words, such as MoCo v2 hirl."""
        variant = self.variant if self.trained else backbone_title(self.variant)
        return f"{method_title(self.method)} {variant}"

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration, as stored."""
        return read_json(self.folder / "config.json")

    @property
    def backbone(self) -> str:
        """The backbone's name."""
        return self.config["backbone"]["name"] if self.trained else self.variant

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row per epoch; blank where a number does not exist."""
        return pd.read_csv(self.folder / "history.csv")

    @property
    def snapshots(self) -> list[Path]:
        """The semantic trees kept during training, oldest first."""
        return sorted((self.folder / "snapshots").glob("epoch*.safetensors"))

    def evaluation(self, task: str) -> dict[str, Any] | None:
        """What one evaluation found; None where it was not run.

        Raises:
            ValueError: the file speaks of another run.
        """
        path = self.folder / "evaluation" / f"{task}.json"
        if not path.exists():
            return None
        found = read_json(path)
        named = f"{found['method']}-{found['variant']}-s{found['seed']}"
        if named != self.name or found["task"] != task:
            raise ValueError(f"{path} speaks of {named}, {found['task']}: delete it and evaluate this run again")
        return found


def open_runs(study_folder: str | Path, names: Iterable[str]) -> list[Run]:
    """The runs of a study, in the order given."""
    return [Run(Path(study_folder), name) for name in names]


def pairs(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """The trained runs of each method, methods in the order of the runs."""
    grouped: dict[str, list[Run]] = {}
    for run in runs:
        if run.trained:
            grouped.setdefault(run.method, []).append(run)
    return grouped


def level_names(study_folder: str | Path) -> list[str]:
    """Names of the data's class levels, finest first; empty where the data was not prepared here."""
    manifest = Path(study_folder) / "data" / "manifest.json"
    return read_json(manifest)["levels"] if manifest.exists() else []


def assignments(snapshot: Path) -> np.ndarray:
    """A snapshot's clusters, int [N, L], finest first."""
    from hirl.hierarchy.tree import SemanticTree

    return SemanticTree.load(snapshot).assignments.numpy()
